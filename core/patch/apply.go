package patch

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// HunkError says which hunk does not apply, and where source and patch part.
type HunkError struct {
	// File is the path, Hunk the hunk's number in its file and PatchLine its line in the patch.
	File      string
	Hunk      int
	PatchLine int
	// Line is the line of the source where they part, counted from 1; 0 where the place itself is in doubt.
	Line int
	// Expected is the line that the patch has there and Found the source's; Found is empty behind the end of the file.
	Expected, Found string
	// Reason says why in words.
	Reason string
	// Applied says that the whole patch could be taken out of the source: it is in there already.
	Applied bool
}

func (e *HunkError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: hunk %d (line %d of the patch) does not apply: %s", e.File, e.Hunk, e.PatchLine, e.Reason)
	if e.Line > 0 {
		fmt.Fprintf(&b, ": line %d: expected %q, found %q", e.Line, e.Expected, e.Found)
	}
	if e.Applied {
		b.WriteString("; the source has this patch already: reversed, it would apply")
	}
	return b.String()
}

// Offset says that a hunk was applied at another line than its header says.
type Offset struct {
	File string
	Hunk int
	// Lines is the distance in lines from where the header says, changes of earlier hunks taken into account.
	Lines int
}

// Result is what a patch makes of a source.
type Result struct {
	// Files are the changed files by path with their content; nil for a file that the patch deletes or renames.
	Files map[string][]byte
	// Offsets are the hunks that were applied elsewhere than they say.
	Offsets []Offset
}

// Apply applies the patch to the source that read gives and returns the changed files by path; nil content: the file is
// gone. read gets a path and returns fs.ErrNotExist, wrapped or not, for a file that the source does not have. Context must be equal to the
// letter (what patch calls fuzz 0). A hunk may lie at another line than its header says, as long as there is no second place for
// it. A hunk that does not apply is a *HunkError.
func (p *Patch) Apply(read func(path string) ([]byte, error)) (map[string][]byte, error) {
	r, err := p.ApplyTo(read)
	if err != nil {
		return nil, err
	}
	return r.Files, nil
}

// ApplyTo is Apply with a report of the hunks that were applied at an offset.
func (p *Patch) ApplyTo(read func(path string) ([]byte, error)) (*Result, error) {
	r, err := p.apply(read)
	if err == nil {
		return r, nil
	}
	var hunk *HunkError
	if errors.As(err, &hunk) {
		_, reverse := p.Reverse().apply(read)
		hunk.Applied = reverse == nil
	}
	return nil, fmt.Errorf("apply patch: %w", err)
}

func (p *Patch) apply(read func(path string) ([]byte, error)) (*Result, error) {
	r := &Result{Files: map[string][]byte{}}
	content := func(path string) ([]byte, error) {
		if b, ok := r.Files[path]; ok {
			if b == nil {
				return nil, fs.ErrNotExist
			}
			return b, nil
		}
		return read(path)
	}
	for _, f := range p.Files {
		var old []byte
		var err error
		if f.Old != "" {
			if old, err = content(f.Old); err != nil {
				return nil, fmt.Errorf("read %s (paths are taken without their first folder, as with patch -p1): %w", f.Old, err)
			}
		}
		if f.New != "" && f.New != f.Old {
			switch _, err := content(f.New); {
			case err == nil:
				return nil, f.refuse(0, "it makes a file that exists")
			case !errors.Is(err, fs.ErrNotExist):
				return nil, fmt.Errorf("read %s: %w", f.New, err)
			}
		}
		made, offsets, err := f.apply(string(old))
		if err != nil {
			return nil, err
		}
		r.Offsets = append(r.Offsets, offsets...)
		if f.New == "" && made != "" {
			return nil, f.refuse(0, "it deletes a file that has more lines")
		}
		if f.Old != f.New && f.Old != "" {
			r.Files[f.Old] = nil
		}
		if f.New != "" && (f.Old != f.New || len(f.Hunks) > 0) {
			r.Files[f.New] = []byte(made)
		}
	}
	return r, nil
}

// refuse makes the error of a hunk.
func (f *File) refuse(hunk int, reason string) *HunkError {
	e := &HunkError{File: f.Path(), Reason: reason}
	if hunk < len(f.Hunks) {
		e.Hunk, e.PatchLine = f.Hunks[hunk].Number, f.Hunks[hunk].PatchLine
	}
	return e
}

// apply applies the file's hunks to its content.
func (f *File) apply(old string) (string, []Offset, error) {
	lines := strings.SplitAfter(old, "\n")
	if n := len(lines); lines[n-1] == "" {
		lines = lines[:n-1]
	}
	var b strings.Builder
	var offsets []Offset
	done, shift := 0, 0 // lines taken over so far; offset of the last hunk
	for i, h := range f.Hunks {
		at, err := f.locate(i, lines, done, shift)
		if err != nil {
			return "", nil, err
		}
		shift = at - h.start()
		if shift != 0 {
			offsets = append(offsets, Offset{f.Path(), h.Number, shift})
		}
		for _, l := range lines[done:at] {
			b.WriteString(l)
		}
		for _, l := range h.Lines {
			if l.Op != Remove {
				b.WriteString(l.Text)
			}
		}
		done = at + h.OldLines
	}
	for _, l := range lines[done:] {
		b.WriteString(l)
	}
	return b.String(), offsets, nil
}

// start is the index of the hunk's first old line. A hunk without old lines names the line that it goes behind.
func (h *Hunk) start() int {
	if h.OldLines == 0 {
		return h.OldStart
	}
	return h.OldStart - 1
}

// old returns the lines that the source must have.
func (h *Hunk) old() []string {
	old := make([]string, 0, h.OldLines)
	for _, l := range h.Lines {
		if l.Op != Add {
			old = append(old, l.Text)
		}
	}
	return old
}

// context counts the unchanged lines at the hunk's start and end.
func (h *Hunk) context() (before, after int) {
	for before < len(h.Lines) && h.Lines[before].Op == Context {
		before++
	}
	for after < len(h.Lines) && h.Lines[len(h.Lines)-1-after].Op == Context {
		after++
	}
	return before, after
}

// locate returns the index of the source's line where hunk i begins: where its header says (shift lines further, as the hunk
// before it was), else at the one other place that fits. Less context on one side than on the other says that
// the hunk touches that end of the file.
func (f *File) locate(i int, lines []string, done, shift int) (int, error) {
	h := f.Hunks[i]
	old := h.old()
	guess := h.start() + shift
	if len(old) == 0 {
		if len(lines) > 0 {
			return 0, f.refuse(i, "it has no context that says where it belongs (make the patch with three lines of it)")
		}
		return 0, nil
	}
	before, after := h.context()
	atStart := before < after && h.OldStart <= 1
	atEnd := after < before
	fits := func(at int) bool {
		if at < done || len(lines)-at < len(old) || atStart && at != 0 || atEnd && at+len(old) != len(lines) {
			return false
		}
		for j, l := range old {
			if lines[at+j] != l {
				return false
			}
		}
		return true
	}
	if fits(guess) {
		return guess, nil
	}
	found := -1
	for at := done; at <= len(lines)-len(old); at++ {
		if !fits(at) {
			continue
		}
		if found >= 0 {
			e := f.refuse(i, fmt.Sprintf("it is not where it says (line %d), and fits both line %d and line %d", h.OldStart, found+1, at+1))
			return 0, e
		}
		found = at
	}
	if found >= 0 {
		return found, nil
	}
	return 0, f.mismatch(i, lines, guess, old)
}

// mismatch explains a hunk that fits nowhere by the first line that differs where it should be.
func (f *File) mismatch(i int, lines []string, guess int, old []string) error {
	e := f.refuse(i, "its context is not in the source")
	if guess < 0 {
		return e
	}
	for j, want := range old {
		found := ""
		if guess+j < len(lines) {
			found = lines[guess+j]
		}
		if found == want {
			continue
		}
		e.Line, e.Expected, e.Found = guess+j+1, want, found
		if found != "" && strings.Join(strings.Fields(want), " ") == strings.Join(strings.Fields(found), " ") {
			e.Reason = "the source differs in white space (was the patch mailed or pasted?)"
		}
		return e
	}
	e.Reason = "its lines are in the source, but not next to the end of the file that its context says"
	return e
}
