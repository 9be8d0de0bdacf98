package create

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/diff/difftest"
	"github.com/ksplice/ksplice/sdk/backend"
)

// Exports as the kernel's headers make them: until Linux 6.4, and since.
const (
	entryForm = `
#define EXPORT(sec, name) asm(".section \"___ksymtab" sec "+" #name "\",\"a\"\n__ksymtab_" #name ": .long " #name " - .\n.long 0, 0\n.previous");
#define GPL "_gpl"
#define ALL ""
`
	saidForm = `
#define EXPORT(lic, name) asm(".section .export_symbol,\"a\"\n__export_symbol_" #name ": .asciz \"" lic "\"\n.asciz \"\"\n.balign 8\n.quad " #name "\n.previous");
#define GPL "GPL"
#define ALL ""
`
)

func TestSayExports(t *testing.T) {
	const a, b = `int f(int n) { return n; } int g(int n) { return n * 2; } EXPORT(ALL, f) EXPORT(GPL, g)`, `int k(int n) { return n * 5; }`
	for _, c := range []struct {
		name          string
		a, b          string
		notes, reason []string
	}{
		{"nothing of them changes", `int f(int n) { return n + 1; } int g(int n) { return n * 2; } EXPORT(ALL, f) EXPORT(GPL, g)`, b, nil, nil},
		{"one comes, one goes", `int f(int n) { return n; } int g(int n) { return n * 2; } EXPORT(ALL, f)`, `int k(int n) { return n * 5; } EXPORT(GPL, k)`,
			[]string{"the export k is new: the running kernel's table of exports stays as it is, modules that want it load after the next boot only",
				"the export g goes: modules that want it go on finding it in the running kernel"}, nil},
		{"another licence", `int f(int n) { return n; } int g(int n) { return n * 2; } EXPORT(GPL, f) EXPORT(GPL, g)`, b,
			[]string{"the export f is offered otherwise: modules find it in the running kernel as it was"}, nil},
		{"another signature", `int f(int n, int m) { return n + m; } int g(int n) { return n * 2; } EXPORT(ALL, f) EXPORT(GPL, g)`, b, nil,
			[]string{"fs/a.o: the exported function f is called otherwise (u.c:5: it is int (int, int), was int (int)): modules that were built against it call it as it was, " +
				"and the running kernel lets them; give the new form a name of its own, and leave the old one"}},
		{"it moves", `int f(int n) { return n; } EXPORT(ALL, f)`, `int k(int n) { return n * 5; } int g(int n) { return n * 2; } EXPORT(GPL, g)`, nil, nil},
		{"it moves and has another signature", `int f(int n) { return n; } EXPORT(ALL, f)`, `int k(int n) { return n * 5; } int g(long n) { return n * 2; } EXPORT(GPL, g)`, nil,
			[]string{"fs/b.o: the exported function g is called otherwise (u.c:5: it is int (long int), was int (int)): modules that were built against it call it as it was, " +
				"and the running kernel lets them; give the new form a name of its own, and leave the old one"}},
	} {
		for form, text := range map[string]string{"entries": entryForm, "said": saidForm} {
			t.Run(c.name+", "+form, func(t *testing.T) {
				r := &run{}
				var compared []diff.Unit
				for object, sources := range map[string][2]string{"fs/a.o": {a, c.a}, "fs/b.o": {b, c.b}} {
					u := &unit{Unit: backend.Unit{Object: object}}
					for i, s := range []**side{&u.pre, &u.post} {
						path := difftest.CompileDebug(t, "u", text+sources[i])
						*s = &side{}
						(*s).object.Path = path
						(*s).diff = difftest.Object(t, "u", text+sources[i])
					}
					var err error
					if u.result, err = diff.Compare(u.pre.diff, u.post.diff); err != nil {
						t.Fatal(err)
					}
					if len(u.result.Refusals)+len(u.result.Notes) > 0 {
						t.Errorf("%s: %+v %q", object, u.result.Refusals, u.result.Notes)
					}
					compared = append(compared, diff.Unit{Object: object, Result: u.result})
					r.units = append(r.units, u)
				}
				if refused := diff.Moved(compared); len(refused) > 0 {
					t.Errorf("refused: %+v", refused)
				}
				reasons, err := r.sayExports()
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(c.reason, reasons); d != "" {
					t.Errorf("reasons (-want +got):\n%s", d)
				}
				if d := cmp.Diff(c.notes, r.report.Notes); d != "" {
					t.Errorf("notes (-want +got):\n%s", d)
				}
			})
		}
	}
}
