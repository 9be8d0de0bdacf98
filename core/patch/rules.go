package patch

import (
	"fmt"
	pathpkg "path"
	"regexp"
	"slices"
	"strings"
)

// objectList is a line of a makefile that lists objects and directories, whole or its beginning (Documentation/kbuild/makefiles.rst):
// `obj-y += new.o`, `foo-$(CONFIG_BAR) := a.o b.o \`.
var objectList = regexp.MustCompile(`^[\w./-]+-(?:y|m|objs|\$\(CONFIG_\w+\))\s*(?:[:+]?=)\s*(.*)$`)

// ofObject is a line about one object of the directory: `CFLAGS_new.o := -DDEBUG`, `KASAN_SANITIZE_new.o := n`.
var ofObject = regexp.MustCompile(`^[A-Z]+(?:_[A-Z]+)*_([\w./-]+)\.o\s*[:+]?=`)

// RulesProblem says why the patch's change of a makefile cannot be brought into a running kernel; empty where it can. Lists may gain
// and lose objects, and what else is said may be said of objects of new files only: all others must be built as they were.
// Which objects the lists then make, and of what, kbuild says. A makefile that comes or goes says nothing of files that stay, whatever is in it.
func (p *Patch) RulesProblem(f *File) string {
	if f.Old == "" || f.New == "" {
		return ""
	}
	if f.Old != f.New {
		return "the makefile gets another name: " + rulesStay
	}
	for _, h := range f.Hunks {
		for i, l := range h.Lines {
			if l.Op == Context {
				continue
			}
			if text := strings.TrimSpace(l.Text); !p.listsObjects(f, text, continues(h.Lines[:i], l.Op)) {
				return fmt.Sprintf("line %d of the patch, %q: %s; only lists of objects may change", h.PatchLine+1+i, text, rulesStay)
			}
		}
	}
	return ""
}

// continues says that the line before, of the file that a line of op belongs to, goes on in the next.
func continues(before []Line, op Op) bool {
	for _, l := range slices.Backward(before) {
		if l.Op == Context || l.Op == op {
			return strings.HasSuffix(strings.TrimRight(l.Text, " \t\r\n"), `\`)
		}
	}
	// The hunk does not show it; then only what can be nothing else counts as a list.
	return true
}

// listsObjects says that a line of a makefile can do no more than list objects, or tells of a new file's object.
func (p *Patch) listsObjects(f *File, text string, continued bool) bool {
	if text == "" || strings.HasPrefix(text, "#") {
		return !continued || text == ""
	}
	if m := ofObject.FindStringSubmatch(text); m != nil {
		stem := pathpkg.Join(pathpkg.Dir(f.Path()), m[1])
		return slices.ContainsFunc(p.Files, func(g *File) bool { return g.Old == "" && (g.New == stem+".c" || g.New == stem+".S") })
	}
	words := text
	if m := objectList.FindStringSubmatch(text); m != nil {
		words = m[1]
	} else if !continued {
		return false
	}
	words = strings.TrimSpace(strings.TrimSuffix(words, `\`))
	words, _, _ = strings.Cut(words, "#")
	for _, w := range strings.Fields(words) {
		if !strings.HasSuffix(w, ".o") && !strings.HasSuffix(w, "/") || strings.ContainsAny(w, "$()=:%") {
			return false
		}
	}
	return true
}
