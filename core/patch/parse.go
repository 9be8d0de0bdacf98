package patch

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Parse reads a unified diff: git's, or that of diff -u. Paths lose their first component, as with patch -p1. A text without a
// diff, a hunk whose header miscounts its lines, a path that leaves the tree, and binary changes are errors, which name the line.
func Parse(text []byte) (*Patch, error) {
	p := &parser{lines: strings.SplitAfter(string(text), "\n"), patch: &Patch{}}
	if n := len(p.lines); p.lines[n-1] == "" {
		p.lines = p.lines[:n-1]
	}
	for p.at < len(p.lines) {
		if err := p.next(); err != nil {
			return nil, fmt.Errorf("parse patch: line %d: %w", p.at+1, err)
		}
	}
	if err := p.finish(); err != nil {
		return nil, fmt.Errorf("parse patch: %w", err)
	}
	return p.patch, nil
}

// parser walks over the lines of a patch.
type parser struct {
	lines []string
	at    int // the line that is looked at, counted from 0
	patch *Patch
	file  *File // the file that hunks belong to
	git   bool  // it has a git header, and no "---" line yet
}

// line returns a line without its end; nothing behind the last.
func (p *parser) line(i int) string {
	if i >= len(p.lines) {
		return ""
	}
	return strings.TrimRight(p.lines[i], "\r\n")
}

// next reads what begins on the current line.
func (p *parser) next() error {
	l := p.line(p.at)
	switch {
	case strings.HasPrefix(l, "diff --git "):
		return p.gitHeader(l)
	case strings.HasPrefix(l, "--- ") && strings.HasPrefix(p.line(p.at+1), "+++ "):
		return p.names(l, p.line(p.at+1))
	case strings.HasPrefix(l, "@@ -"):
		return p.hunk(l)
	case strings.HasPrefix(l, "GIT binary patch"), strings.HasPrefix(l, "Binary files ") && strings.HasSuffix(l, " differ"):
		return ErrBinary
	case p.file == nil:
		p.patch.Header += p.lines[p.at]
	}
	p.at++
	return nil
}

// begin starts a file.
func (p *parser) begin(git bool) {
	p.file, p.git = &File{}, git
	p.patch.Files = append(p.patch.Files, p.file)
}

// gitHeader reads "diff --git" and the extended header lines that follow (git-diff(1), "Generating patch text with -p").
func (p *parser) gitHeader(l string) error {
	if err := p.settle(); err != nil {
		return err
	}
	p.begin(true)
	name, created, deleted := gitName(strings.TrimPrefix(l, "diff --git ")), false, false
header:
	for p.at++; p.at < len(p.lines); p.at++ {
		l := p.line(p.at)
		key, value := "", ""
		for _, k := range []string{"old mode ", "new mode ", "index ", "similarity index ", "dissimilarity index ",
			"new file mode ", "deleted file mode ", "rename from ", "rename to ", "copy from ", "copy to "} {
			if v, ok := strings.CutPrefix(l, k); ok {
				key, value = k, v
			}
		}
		var err error
		switch key {
		case "":
			break header
		case "new file mode ":
			created = true
		case "deleted file mode ":
			deleted = true
		case "rename from ":
			p.file.Old, err = path(value, 0)
		case "rename to ":
			p.file.New, err = path(value, 0)
		case "copy from ", "copy to ":
			err = fmt.Errorf("copies of files are not supported: make the patch with git diff --no-renames")
		}
		if err != nil {
			return err
		}
	}
	if p.file.Old == "" && !created {
		p.file.Old = name
	}
	if p.file.New == "" && !deleted {
		p.file.New = name
	}
	return nil
}

// gitName returns the name that both halves of a "diff --git" line give, or nothing.
func gitName(s string) string {
	for i := range s {
		if s[i] != ' ' {
			continue
		}
		old, oldErr := path(s[:i], 1)
		name, newErr := path(s[i+1:], 1)
		if oldErr == nil && newErr == nil && old == name {
			return name
		}
	}
	return ""
}

// names reads the two lines that name a file.
func (p *parser) names(oldLine, newLine string) error {
	if !strings.HasPrefix(p.line(p.at+2), "@@ -") {
		p.at += 2
		return fmt.Errorf("no hunk follows the names of a file")
	}
	from, err := headerPath(strings.TrimPrefix(oldLine, "--- "))
	if err != nil {
		return err
	}
	to, err := headerPath(strings.TrimPrefix(newLine, "+++ "))
	if err != nil {
		p.at++
		return err
	}
	if from == "" && to == "" {
		return fmt.Errorf("a file that exists neither before nor after")
	}
	if p.git && p.file != nil && len(p.file.Hunks) == 0 {
		if (p.file.Old != "" && from != "" && p.file.Old != from) || (p.file.New != "" && to != "" && p.file.New != to) {
			return fmt.Errorf("the names %s and %s are not those of the git header", from, to)
		}
		p.git = false
	} else {
		if err := p.settle(); err != nil {
			return err
		}
		p.begin(false)
		switch {
		case from == to || from == "" || to == "":
		case strings.HasPrefix(from, to): // x.c.orig and x.c
			from = to
		case strings.HasPrefix(to, from):
			to = from
		default:
			return fmt.Errorf("it renames %s to %s without a git header that says so", from, to)
		}
	}
	p.file.Old, p.file.New = from, to
	p.at += 2
	return nil
}

// hunk reads a hunk's header and lines.
func (p *parser) hunk(l string) error {
	if p.file == nil {
		return fmt.Errorf("a hunk before the names of its file")
	}
	h := &Hunk{Number: len(p.file.Hunks) + 1, PatchLine: p.at + 1}
	ranges, _, ok := strings.Cut(l[len("@@ -"):], " @@")
	from, to, ok2 := strings.Cut(ranges, " +")
	var ok3, ok4 bool
	h.OldStart, h.OldLines, ok3 = parseRange(from)
	h.NewStart, h.NewLines, ok4 = parseRange(to)
	if !ok || !ok2 || !ok3 || !ok4 {
		return fmt.Errorf("bad hunk header %q, want @@ -line,count +line,count @@", l)
	}
	p.at++
	oldLeft, newLeft, changes := h.OldLines, h.NewLines, p.file.Added+p.file.Removed
	for oldLeft > 0 || newLeft > 0 {
		if p.at >= len(p.lines) {
			return fmt.Errorf("hunk %d of %s ends early: %d old and %d new lines are missing", h.Number, p.file.Path(), oldLeft, newLeft)
		}
		raw := p.lines[p.at]
		if !strings.HasSuffix(raw, "\n") {
			raw += "\n"
		}
		line := Line{Op: Op(raw[0]), Text: raw[1:]}
		switch line.Op {
		case '\n', '\r': // mailers and newer diffs leave the blank out of an empty context line
			line = Line{Op: Context, Text: raw}
			oldLeft, newLeft = oldLeft-1, newLeft-1
		case Context:
			oldLeft, newLeft = oldLeft-1, newLeft-1
		case Remove:
			oldLeft--
			p.file.Removed++
		case Add:
			newLeft--
			p.file.Added++
		case '\\':
			if err := h.noNewline(); err != nil {
				return err
			}
			p.at++
			continue
		default:
			return fmt.Errorf("hunk %d of %s: line %q is neither context nor change", h.Number, p.file.Path(), p.line(p.at))
		}
		if oldLeft < 0 || newLeft < 0 {
			return fmt.Errorf("hunk %d of %s: its header counts fewer lines than it has", h.Number, p.file.Path())
		}
		h.Lines = append(h.Lines, line)
		p.at++
	}
	if strings.HasPrefix(p.line(p.at), `\ `) {
		if err := h.noNewline(); err != nil {
			return err
		}
		p.at++
	}
	if p.file.Added+p.file.Removed == changes {
		return fmt.Errorf("hunk %d of %s changes nothing", h.Number, p.file.Path())
	}
	p.file.Hunks = append(p.file.Hunks, h)
	return p.after(h)
}

// after refuses a line behind a hunk that looks like one of its own.
func (p *parser) after(h *Hunk) error {
	l := p.line(p.at)
	if l == "" || l == "-- " || l == "--" { // the end, or the signature of a mail
		return nil
	}
	if strings.HasPrefix(l, "--- ") && strings.HasPrefix(p.line(p.at+1), "+++ ") {
		return nil
	}
	switch Op(l[0]) {
	case Add, Remove, Context:
		return fmt.Errorf("hunk %d of %s: its header counts fewer lines than it has", h.Number, p.file.Path())
	}
	return nil
}

// noNewline takes the newline from the last line read.
func (h *Hunk) noNewline() error {
	if len(h.Lines) == 0 {
		return fmt.Errorf("no line is before the mark of a missing newline")
	}
	last := &h.Lines[len(h.Lines)-1]
	last.Text = strings.TrimSuffix(last.Text, "\n")
	return nil
}

// parseRange reads "line" or "line,count".
func parseRange(s string) (start, count int, ok bool) {
	first, second, two := strings.Cut(s, ",")
	a, err := strconv.ParseUint(first, 10, 31)
	if err != nil {
		return 0, 0, false
	}
	b := uint64(1)
	if two {
		if b, err = strconv.ParseUint(second, 10, 31); err != nil {
			return 0, 0, false
		}
	}
	return int(a), int(b), a > 0 || b == 0
}

// settle checks the file before the next begins.
func (p *parser) settle() error {
	f := p.file
	if f == nil {
		return nil
	}
	if f.Old == "" && f.New == "" {
		return fmt.Errorf("the file before has no name")
	}
	for _, h := range f.Hunks {
		if f.Old == "" && h.OldLines > 0 || f.New == "" && h.NewLines > 0 {
			return fmt.Errorf("%s: a hunk of a new file has old lines, or one of a deleted file new lines", f.Path())
		}
	}
	if (f.Old == "" || f.New == "") && len(f.Hunks) > 1 {
		return fmt.Errorf("%s: a new or deleted file has %d hunks, want 1", f.Path(), len(f.Hunks))
	}
	return nil
}

func (p *parser) finish() error {
	if len(p.patch.Files) == 0 {
		return fmt.Errorf("it holds no unified diff (make one with git diff or diff -u)")
	}
	return p.settle()
}

// headerPath reads a path of a "---" or "+++" line. A time of 1970 says that the file does not exist, as diff -N writes it.
func headerPath(s string) (string, error) {
	name, stamp, ok := strings.Cut(s, "\t")
	if t, err := time.Parse("2006-01-02 15:04:05.999999999 -0700", strings.TrimSpace(stamp)); ok && err == nil && t.Unix() == 0 {
		return "", nil
	}
	if name == "/dev/null" {
		return "", nil
	}
	return path(name, 1)
}

// path unquotes a path, takes components from its front, and refuses what is not below the top of the source.
func path(s string, strip int) (string, error) {
	name := s
	if strings.HasPrefix(s, `"`) {
		var err error
		if name, err = strconv.Unquote(s); err != nil {
			return "", fmt.Errorf("bad quoted path %s", s)
		}
	}
	rest := name
	for range strip {
		first, after, ok := strings.Cut(rest, "/")
		if !ok || first == "" {
			return "", fmt.Errorf("path %q: it must begin with one folder to drop, as in a/mm/mmap.c", name)
		}
		rest = after
	}
	for _, c := range strings.Split(rest, "/") {
		if c == "" || c == "." || c == ".." || strings.ContainsAny(c, "\x00\\") {
			return "", fmt.Errorf("path %q does not name a file inside the source", name)
		}
	}
	return rest, nil
}
