package create

import (
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/update"
)

// TestInits: which changes of a module's init a part for before it carries.
func TestInits(t *testing.T) {
	const common = `int ext(int); int f(int x) { return ext(x); } `
	const init, exit = `__attribute__((section(".init.text"))) int `, `__attribute__((section(".exit.text"))) int `
	tests := []struct {
		name, pre, post, module string
		base                    *update.Update
		carried                 bool
		note                    string
		after                   bool // the other part must not come before init
	}{
		{name: "init", module: "m", pre: init + `i(void) { return 1; }`, post: init + `i(void) { return 2; }`, carried: true},
		{name: "nothing of init", module: "m", pre: init + `i(void) { return 1; } int g(void) { return 1; }`, post: init + `i(void) { return 1; } int g(void) { return 2; }`},
		{name: "of the kernel proper", pre: init + `i(void) { return 1; }`, post: init + `i(void) { return 2; }`},
		{name: "what exit undoes", module: "m", pre: init + `i(void) { return 1; } ` + exit + `e(void) { return 1; }`, post: init + `i(void) { return 2; } ` + exit + `e(void) { return 2; }`,
			note: "u.o: the module's exit changes with it", after: true},
		{name: "a variable", module: "m", pre: `__attribute__((section(".init.data"))) int v = 1; ` + init + `i(void) { return v; }`,
			post: `__attribute__((section(".init.data"))) int v = 2; ` + init + `i(void) { return v++; }`, note: "u.o: v: changed initialiser", after: true},
		{name: "an init that the base changes and leaves", module: "m", pre: init + `i(void) { return 1; }`, post: init + `i(void) { return 2; }`,
			base: &update.Update{Manifest: update.Manifest{ID: "0123abcd", Parts: []update.Part{{Target: "m", AfterInit: true}}}},
			note: "update 0123abcd, which this one stands on, changes it too", after: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, u := localRun(t, common+tt.pre, common+tt.post, false)
			u.Module = tt.module
			if tt.base != nil {
				r.o.Base = append(r.o.Base, tt.base)
			}
			var err error
			if u.result, err = diff.Compare(u.pre.diff, u.post.diff); err != nil {
				t.Fatal(err)
			}
			if err := r.inits(); err != nil {
				t.Fatal(err)
			}
			r.settleInits()
			if got := u.init != nil; got != tt.carried {
				t.Errorf("carried: %v, want %v (%q)", got, tt.carried, r.report.Notes)
			}
			if notes := strings.Join(r.report.Notes, "\n"); !strings.Contains(notes, tt.note) || (notes == "") != (tt.note == "") {
				t.Errorf("notes %q, want %q", notes, tt.note)
			}
			if got := r.afterInit("m"); got != tt.after {
				t.Errorf("after init: %v, want %v", got, tt.after)
			}
		})
	}
}
