package create

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/semantic"
)

// exports lists what an object exports, with how: the section of the entry, or the licence and the name space that it asks for.
// include/linux/export.h: until Linux 6.4 there is an entry __ksymtab_NAME of a section ___ksymtab+NAME or ___ksymtab_gpl+NAME; since then
// modpost makes it of what __export_symbol_NAME says, two strings.
func exports(f *objfile.File) map[string]string {
	out := map[string]string{}
	for _, y := range f.Symbols {
		if y.Section == nil {
			continue
		}
		if name, ok := strings.CutPrefix(y.Name, "__ksymtab_"); ok {
			kind, _, _ := strings.Cut(strings.TrimLeft(y.Section.Name, "_"), "+")
			out[name] = kind
		}
		if name, ok := strings.CutPrefix(y.Name, "__export_symbol_"); ok && y.Value <= uint64(len(y.Section.Data)) {
			licence, rest, _ := bytes.Cut(y.Section.Data[y.Value:], []byte{0})
			space, _, _ := bytes.Cut(rest, []byte{0})
			out[name] = fmt.Sprintf("ksymtab %s %s", licence, space)
		}
	}
	return out
}

// sayExports notes exports that come, go or are offered otherwise: the tables of the running kernel stay. It returns reasons against
// exported functions that are called otherwise from now on: modules that are not built from this tree would go on as before, and
// the running kernel's checksums let them.
func (r *run) sayExports() ([]string, error) {
	was, is := map[string]string{}, map[string]string{}
	for _, u := range r.units {
		maps.Copy(was, exports(u.pre.diff.File))
		maps.Copy(is, exports(u.post.diff.File))
	}
	note := func(name, what string) { r.report.Notes = append(r.report.Notes, "the export "+name+" "+what) }
	for _, name := range slices.Sorted(maps.Keys(is)) {
		switch how, ok := was[name]; {
		case !ok:
			note(name, "is new: the running kernel's table of exports stays as it is, modules that want it load after the next boot only")
		case how != is[name]:
			note(name, "is offered otherwise: modules find it in the running kernel as it was")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if _, ok := is[name]; !ok {
			note(name, "goes: modules that want it go on finding it in the running kernel")
		}
	}
	var reasons []string
	for _, u := range r.units {
		names := map[string]bool{}
		for _, f := range u.result.Functions {
			if _, ok := was[f.Name]; ok && f.Kind == diff.Changed {
				names[f.Name] = true
			}
		}
		if len(names) == 0 {
			continue
		}
		for _, o := range r.units {
			if o != u && !slices.ContainsFunc(o.result.Functions, func(f diff.FunctionChange) bool { return f.Kind == diff.MovedHere && names[f.Name] }) ||
				o.post.nothing {
				continue
			}
			changes, err := semantic.CompareSignatures(u.pre.object.Path, o.post.object.Path, names)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", o.Object, err)
			}
			for _, c := range changes {
				reasons = append(reasons, fmt.Sprintf("%s: the exported function %s is called otherwise (%s: %s): modules that were built against it call it as it was, "+
					"and the running kernel lets them; give the new form a name of its own, and leave the old one", o.Object, c.Name, c.Where, c.Detail))
			}
		}
	}
	return reasons, nil
}
