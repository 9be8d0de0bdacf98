package kbuild

import (
	"path"
	"regexp"
	"strings"
)

// Marks of lines in the index that are not of a source.
const (
	ruleMark   = "="
	forcedMark = "-"
)

// sourceRule is a makefile's rule that makes objects of sources in another place, both relative to the root, with at most one %
// (kernel/bpf/Makefile: relo_core.o; drivers/gpu/drm/xe/Makefile: i915-display/%.o).
type sourceRule struct {
	target, prerequisite string
}

// object is what the rule makes of a source.
func (r sourceRule) object(source string) (string, bool) {
	return substitute(r.prerequisite, r.target, source)
}

// from is what the rule makes an object of.
func (r sourceRule) from(object string) (string, bool) {
	return substitute(r.target, r.prerequisite, object)
}

// substitute fits a name to one pattern and gives what the other makes of it.
func substitute(pattern, other, name string) (string, bool) {
	before, after, ok := strings.Cut(pattern, "%")
	if !ok {
		return other, name == pattern
	}
	if len(name) <= len(before)+len(after) || !strings.HasPrefix(name, before) || !strings.HasSuffix(name, after) {
		return "", false
	}
	return strings.Replace(other, "%", name[len(before):len(name)-len(after)], 1), true
}

// ruleForm is a rule with an object of this directory and a source by path.
var ruleForm = regexp.MustCompile(`(?m)^\$\(obj\)/([\w%./+-]+\.o)[ \t]*:[ \t]*(\$\((?:srctree|src|obj)\)/[\w%./+-]+\.[cS])(?:[ \t]|$)`)

// forcedForm is a header that a makefile has the compiler include.
var forcedForm = regexp.MustCompile(`-include[ \t]+(\$\((?:srctree|src)\)/)?([\w./+-]+\.h)`)

// scanMakefile finds what a makefile says about sources that stand elsewhere: lines of the index. Headers that some units are
// compiled with count as included by all.
func scanMakefile(name, text string) []string {
	dir := path.Dir(name)
	place := func(p string) string {
		switch base, rest, _ := strings.Cut(p, "/"); base {
		case "$(srctree)":
			return path.Clean(rest)
		case "$(src)", "$(obj)":
			return path.Join(dir, rest)
		}
		return path.Clean(p)
	}
	var lines []string
	for _, m := range ruleForm.FindAllStringSubmatch(text, -1) {
		target, prerequisite := path.Join(dir, m[1]), place(m[2])
		if strings.TrimSuffix(target, ".o") != strings.TrimSuffix(prerequisite, path.Ext(prerequisite)) {
			lines = append(lines, ruleMark+"\t"+target+"\t"+prerequisite)
		}
	}
	for _, m := range forcedForm.FindAllStringSubmatch(text, -1) {
		lines = append(lines, forcedMark+"\t"+place(m[1]+m[2]))
	}
	return lines
}
