// Package patch is a source patch: the unified diff that a hot update is made from. The create pipeline parses it,
// asks what its files mean to a running kernel, applies it strictly and keeps line numbers where they were.
package patch

import (
	"errors"
	"strings"
)

// ErrBinary says that a patch changes a file that is not text.
var ErrBinary = errors.New("binary patches are not supported: make the patch of text files only")

// Patch is a parsed patch.
type Patch struct {
	// Header is the text before the first file: a commit message, usually.
	Header string
	// Files are the changes in the order of the patch; a file may be changed more than once.
	Files []*File
}

// File is the change of one file.
type File struct {
	// Old and New are the file's paths before and after, relative to the top of the source and with slashes;
	// empty where the file does not exist. They differ when the patch renames the file.
	Old, New string
	Hunks    []*Hunk
	// Added and Removed count lines.
	Added, Removed int
}

// Hunk is one block of changed lines with their context.
type Hunk struct {
	// Number counts the hunks of a file from 1.
	Number int
	// OldStart and NewStart are line numbers, counted from 1; OldLines and NewLines count lines.
	OldStart, OldLines int
	NewStart, NewLines int
	Lines              []Line
	// PatchLine is the line of the patch on which the hunk begins, counted from 1.
	PatchLine int
}

// Op says what a hunk does with a line.
type Op byte

// The operations.
const (
	Context Op = ' '
	Add     Op = '+'
	Remove  Op = '-'
)

// Line is one line of a hunk.
type Line struct {
	Op Op
	// Text is the line with its newline; without one where it ends a file that lacks it.
	Text string
}

// Path is the file's path: after the change, or before it where the patch deletes the file.
func (f *File) Path() string {
	if f.New != "" {
		return f.New
	}
	return f.Old
}

// Paths returns the paths that the file has before and after, one where it keeps its name.
func (f *File) Paths() []string {
	if f.Old == "" || f.New == "" || f.Old == f.New {
		return []string{f.Path()}
	}
	return []string{f.Old, f.New}
}

// Reverse returns the patch that takes this one back.
func (p *Patch) Reverse() *Patch {
	r := &Patch{Header: p.Header, Files: make([]*File, 0, len(p.Files))}
	for i := len(p.Files) - 1; i >= 0; i-- {
		f := p.Files[i]
		g := &File{Old: f.New, New: f.Old, Added: f.Removed, Removed: f.Added}
		for _, h := range f.Hunks {
			g.Hunks = append(g.Hunks, h.reverse())
		}
		r.Files = append(r.Files, g)
	}
	return r
}

func (h *Hunk) reverse() *Hunk {
	r := &Hunk{
		Number: h.Number, PatchLine: h.PatchLine,
		OldStart: h.NewStart, OldLines: h.NewLines, NewStart: h.OldStart, NewLines: h.OldLines,
		Lines: make([]Line, len(h.Lines)),
	}
	for i, l := range h.Lines {
		switch l.Op {
		case Add:
			l.Op = Remove
		case Remove:
			l.Op = Add
		}
		r.Lines[i] = l
	}
	return r
}

// Under puts the files of the patch into a directory of the source.
func (p *Patch) Under(dir string) {
	for _, f := range p.Files {
		for _, name := range []*string{&f.Old, &f.New} {
			if *name != "" {
				*name = dir + "/" + *name
			}
		}
	}
}

// Subject returns the patch's title: the Subject of a mail without its [PATCH] tag, else the first line of the
// header that says something, else nothing.
func (p *Patch) Subject() string {
	lines := strings.Split(p.Header, "\n")
	for i, l := range lines {
		s, ok := strings.CutPrefix(l, "Subject:")
		if !ok {
			continue
		}
		for _, more := range lines[i+1:] { // a folded header goes on in lines that begin with white space
			if !strings.HasPrefix(more, " ") && !strings.HasPrefix(more, "\t") {
				break
			}
			s += " " + strings.TrimSpace(more)
		}
		s = strings.TrimSpace(s)
		for strings.HasPrefix(s, "[") {
			_, rest, ok := strings.Cut(s, "]")
			if !ok {
				break
			}
			s = strings.TrimSpace(rest)
		}
		return s
	}
	for _, l := range lines {
		if l = strings.TrimSpace(l); l != "" && !isHeaderLine(l) {
			return l
		}
	}
	return ""
}

// isHeaderLine knows lines of git's and of diff's own that are no title.
func isHeaderLine(l string) bool {
	for _, p := range []string{"commit ", "From ", "From:", "Author:", "Date:", "Merge:", "AuthorDate:", "CommitDate:", "Commit:", "diff ", "Index: ", "==="} {
		if strings.HasPrefix(l, p) {
			return true
		}
	}
	return false
}
