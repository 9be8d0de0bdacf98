package semantic

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompareSignatures(t *testing.T) {
	const before = "struct s { int a; }; struct o { long b; }; typedef unsigned int u32;\n"
	for _, c := range []struct{ name, pre, post, want string }{
		{"equal", "int f(struct s *p, u32 n) { return p->a + n; }", "int f(struct s *q, unsigned int m) { return q->a - m; }", ""},
		{"a new parameter", "int f(struct s *p) { return p->a; }", "int f(struct s *p, long n) { return p->a + n; }",
			"function f (f.c:2): it is int (struct s *, long int), was int (struct s *)"},
		{"a parameter's type", "int f(struct s *p) { return p->a; }", "int f(struct o *p) { return p->b; }",
			"function f (f.c:2): it is int (struct o *), was int (struct s *)"},
		{"a wider parameter", "int f(int n) { return n; }", "int f(long n) { return n; }", "function f (f.c:2): it is int (long int), was int (int)"},
		{"a result", "void f(struct s *p) { p->a++; }", "int f(struct s *p) { return p->a++; }", "function f (f.c:2): it is int (struct s *), was void (struct s *)"},
		{"no parameters, more of them", "int f(void) { return 1; }", "int f(int n, ...) { return n; }", "function f (f.c:2): it is int (int, ...), was int (void)"},
		{"inlined and compiled by itself", "int f(int n) { return n * 3; } int g(int n) { return f(n) + 1; }", "int f(long n) { return n * 3; } int g(int n) { return f(n) + 1; }",
			"function f (f.c:2): it is int (long int), was int (int)"},
		{"not asked for", "int other(int n) { return n; }", "int other(long n) { return n; }", ""},
		{"static", "static __attribute__((noinline, used)) int f(int n) { return n; }", "static __attribute__((noinline, used)) int f(long n) { return n; }", ""},
		{"only called", "int f(int n); int g(int n) { return f(n); }", "int f(long n); int g(int n) { return f(n); }", ""},
	} {
		changes, err := CompareSignatures(object(t, "f", before+c.pre), object(t, "f", before+c.post), map[string]bool{"f": true, "g": true})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := ""
		for _, x := range changes {
			got += x.String()
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
	if changes, err := CompareSignatures(object(t, "f", "int f(int n) { return n; }", "-g0"), object(t, "f", "int f(long n) { return n; }"), nil); err == nil || changes != nil {
		t.Errorf("an object without types: %v, %v", changes, err)
	}
}
