package diff_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/diff/difftest"
)

// hookMacro is <ksplice.h>'s, as far as an object shows it.
const hookMacro = common + `
#define HOOK(n, w, o, fn) static const struct { unsigned when, order; void *function; } n __attribute__((used, aligned(8))) section(".ksplice.hooks") = { w, o, (void *)fn };
`

// TestHooks: the functions of hooks go along, in the source's order, and those that would call what is replaced are told.
func TestHooks(t *testing.T) {
	const code = `int ext2(int x); noinline int g(int x) { return x + 1; } noinline int k(int x) { return x * 3; } `
	changes := strings.Replace(code, "x + 1", "x + 2", 1)
	tests := []struct {
		name, pre, post string
		hooks           []string
		refused         string // the only reason
		calls           []string
	}{
		{"in order", code, changes + `static void b(void) { ext2(1); } static void a(void) { ext2(2); } HOOK(x, 2, 1, b) HOOK(y, 3, 0, a)`,
			[]string{"post_apply a", "apply b"}, "", []string{"", ""}},
		{"they change nothing", code, code + `static void a(void) { ext2(2); } HOOK(y, 0, 0, a)`, []string{"pre_apply a"}, "", []string{""}},
		{"what is replaced", code, changes + `noinline static int mid(int x) { return g(x) + 1; } static void a(void) { ext2(mid(2)); } HOOK(y, 1, 0, a)`,
			[]string{"check_apply a"}, "", []string{"g"}},
		{"what is replaced, by then", code, changes + `static void a(void) { ext2(g(2)); } HOOK(y, 3, 0, a) HOOK(z, 7, 1, a)`,
			[]string{"post_apply a", "reverse a"}, "", []string{"", ""}},
		{"what stays", code, changes + `static void a(void) { ext2(k(2)); } HOOK(y, 8, 0, a)`, []string{"post_reverse a"}, "", []string{""}},
		{"those of the base", changes + `static void a(void) { ext2(2); } HOOK(y, 0, 0, a)`,
			code + `static void a(void) { ext2(2); } static void b(void) { ext2(3); } HOOK(y, 0, 0, a) HOOK(z, 2, 1, b)`, []string{"apply b"}, "", []string{""}},
		{"a function that was there", code + `noinline void a(void) { ext2(2); }`, code + `noinline void a(void) { ext2(2); } HOOK(y, 2, 0, a)`, nil,
			"it is a hook (apply), and a function that was there before", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := diff.Compare(difftest.Object(t, "u", hookMacro+tt.pre), difftest.Object(t, "u", hookMacro+tt.post))
			if err != nil {
				t.Fatal(err)
			}
			var hooks []string
			for _, h := range r.Hooks {
				hooks = append(hooks, h.When+" "+h.Function.Name)
			}
			if d := cmp.Diff(tt.hooks, hooks); d != "" {
				t.Errorf("hooks (-want +got):\n%s", d)
			}
			if tt.refused != "" {
				if len(r.Refusals) != 1 || r.Refusals[0].Reason != tt.refused {
					t.Errorf("refusals %+v, want %q", r.Refusals, tt.refused)
				}
				return
			}
			if !r.Defines() {
				t.Error("nothing of the unit would go into a part")
			}
			c, err := r.Closure()
			if err != nil {
				t.Fatal(err)
			}
			var calls []string
			for i := range c.Hooks {
				h := &c.Hooks[i]
				if !slices.Contains(c.Pieces, h.Piece) {
					t.Errorf("%s is not in the part", h.Piece.Symbols[0].Name)
				}
				calls = append(calls, h.Calls(func(x *diff.Target) bool {
					return slices.ContainsFunc(r.Functions, func(f diff.FunctionChange) bool { return f.Kind == diff.Changed && f.Pre == x.Pre })
				}))
			}
			if d := cmp.Diff(tt.calls, calls); d != "" {
				t.Errorf("replaced functions that hooks call too early (-want +got):\n%s", d)
			}
			if len(c.Escapes) > 0 {
				t.Errorf("%q escape", c.Escapes)
			}
		})
	}
}

// TestBadHooks: a section of hooks that is none is an error.
func TestBadHooks(t *testing.T) {
	for name, post := range map[string]string{
		"no such time":    `static void a(void) {} HOOK(y, 10, 0, a)`,
		"no function":     `extern void a(void); HOOK(y, 1, 0, a)`,
		"too short":       `const int y __attribute__((used)) section(".ksplice.hooks") = 1;`,
		"a number":        `HOOK(y, 1, 0, 17)`,
		"a place in code": `void a(void) {} HOOK(y, 1, 0, ((char *)a + 4))`,
	} {
		if _, err := diff.Compare(difftest.Object(t, "u", hookMacro), difftest.Object(t, "u", hookMacro+post)); err == nil || !strings.Contains(err.Error(), ".ksplice.hooks") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestRewritable: ksplice_assume_rodata names data of the source file.
func TestRewritable(t *testing.T) {
	const code = "struct s { int a, b; }; struct s limits = { 1, 2 }, others = { 1, 2 }; int f(void) { return limits.a + others.a; } "
	const says = `static const void *const x __attribute__((used)) section(".ksplice.rodata") = &limits; static const void *const y __attribute__((used)) section(".ksplice.rodata") = &others.b;`
	r, err := diff.Compare(difftest.Object(t, "u", common+code), difftest.Object(t, "u", common+strings.Replace(code, "1, 2", "1, 3", 1)+says))
	if err != nil {
		t.Fatal(err)
	}
	if !r.Rewritable("limits") || r.Rewritable("others") || len(r.Refusals) != 1 || r.Refusals[0].Where != "limits" {
		t.Errorf("limits %v, others %v, refusals %+v", r.Rewritable("limits"), r.Rewritable("others"), r.Refusals)
	}
}
