package diff_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/diff/difftest"
)

// TestStatics: a static variable of a function is the running kernel's as long as its declaration is the same, whatever becomes
// of the functions around it.
func TestStatics(t *testing.T) {
	tests := []struct {
		name, pre, post string
		// known is with debug information, unknown without.
		known, unknown []string
	}{
		{"a clone becomes the function again",
			`noinline static int helper(int x, int y) { static int count; use(&x); return count += x; } int f(int x) { return helper(x, 1); } int g(int x) { return helper(x, 1); }`,
			`noinline static int helper(int x, int y) { static int count; use(&y); return count += x + y; } int f(int x) { return helper(x, 1); } int g(int x) { return helper(x, 2); }`,
			nil, []string{"new data count.0: not in pre", "removed data count.0: not in post", "refused count.0: it may be the running kernel's count.0 under another name, or a new variable"}},
		{"no longer inlined",
			`static inline int helper(int x) { static int count; return count += x; } int f(int x) { return helper(x); }`,
			`noinline static int helper(int x) { static int count; return count += x; } int f(int x) { return helper(x); }`,
			nil, []string{"new data count.0: not in pre", "removed data count.0: not in post", "refused count.0: it may be the running kernel's count.0 under another name, or a new variable"}},
		{"one of a name goes",
			"int f(int x) {\n if (x) { static int last; use(&last); }\n if (ext(x)) { static int last; use(&last); }\n return x; }",
			"int f(int x) {\n\n if (ext(x)) { static int last; use(&last); }\n return x; }",
			[]string{"removed data last.1: not in post"},
			[]string{"new data last.0: not in pre", "removed data last.0: not in post", "removed data last.1: not in post",
				"refused last.0: it may be the running kernel's last.0 or last.1 under another name, or a new variable"}},
		{"one of a name comes before",
			"int f(int x) {\n\n if (ext(x)) { static int last; use(&last); }\n return x; }",
			"int f(int x) {\n if (x) { static int last; use(&last); }\n if (ext(x)) { static int last; use(&last); }\n return x; }",
			[]string{"new data last.1: not in pre"}, nil},
		{"a declaration moves",
			"int f(int x) {\n static int last; use(&last);\n\n return x; }",
			"int f(int x) {\n\n static int last; use(&last); use(&last);\n return x; }",
			[]string{"note last of f (u.c:8) is taken for the running kernel's, though its line changed: there is one of that name before and after"}, nil},
		{"one of two is declared anew, and both move",
			"int f(int x) {\n if (x) { static int last; use(&last); }\n if (ext(x)) { static int last; use(&last); }\n\n\n return x; }",
			"int f(int x) {\n\n\n if (x) { static int last; use(&last); use(&x); }\n if (ext(x)) { static int last; use(&last); }\n return x; }",
			[]string{"new data last.0: not in pre", "removed data last.0: not in post", "new data last.1: not in pre", "removed data last.1: not in post",
				"refused last of f (u.c:10): it may be the running kernel's last of f (u.c:7) or last of f (u.c:8) under another name, or a new variable"}, nil},
		{"a static variable leaves its function",
			`int f(int x) { static int count; return count += x; } int g(int x) { return x; }`,
			`static int count; int f(int x) { return count += x; } int g(int x) { return count -= x; }`,
			[]string{"new data count: not in pre", "removed data count.0: not in post", "refused count: it may be the running kernel's count of f (u.c:6) under another name, or a new variable"}, nil},
		{"one goes, another of its name comes, a third stays",
			"int f(int x) {\n if (x) { static int last; use(&last); }\n\n if (ext(x)) { static int last; use(&last); }\n return x; }",
			"int f(int x) {\n\n\n if (ext(x)) { static int last; use(&last); }\n if (ext(x + 1)) { static int last; use(&last); }\n return x; }",
			[]string{"new data last.0: not in pre", "removed data last.1: not in post", "pair last.0 = last.1",
				"refused last of f (u.c:10): it may be the running kernel's last of f (u.c:7) under another name, or a new variable"}, nil},
		{"nothing refers to them",
			`int f(int x) { { section("__tracepoint_str") __attribute__((used)) static const char *s = "a"; } { section("__tracepoint_str") __attribute__((used)) static const char *s = "b"; } return x; }`,
			`int f(int x) { { section("__tracepoint_str") __attribute__((used)) static const char *s = "a"; } { section("__tracepoint_str") __attribute__((used)) static const char *s = "b"; } return x; }`,
			nil, []string{"new data s.0: not in pre", "removed data s.0: not in post", "new data s.1: not in pre", "removed data s.1: not in post"}},
		{"what printk_once remembers may be forgotten",
			"int f(int x) {\n if (x) { static _Bool __already_done; use(&__already_done); }\n if (ext(x)) { static _Bool __already_done; use(&__already_done); }\n\n\n return x; }",
			"int f(int x) {\n\n\n if (x) { static _Bool __already_done; use(&__already_done); use(&x); }\n if (ext(x)) { static _Bool __already_done; use(&__already_done); }\n return x; }",
			[]string{"new data __already_done.0: not in pre", "removed data __already_done.0: not in post",
				"new data __already_done.1: not in pre", "removed data __already_done.1: not in post"}, nil},
	}
	only := func(lines []string) []string {
		out := []string{}
		for _, l := range lines {
			if !strings.Contains(l, " function ") {
				out = append(out, l)
			}
		}
		return out
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := diff.Compare(difftest.Object(t, "u", common+tt.pre), difftest.Object(t, "u", common+tt.post))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(append([]string{}, tt.known...), only(say(r))); d != "" {
				t.Errorf("with declarations: (-want +got)\n%s", d)
			}
			if tt.unknown == nil {
				return
			}
			if d := cmp.Diff(tt.unknown, only(say(compare(t, tt.pre, tt.post)))); d != "" {
				t.Errorf("without: (-want +got)\n%s", d)
			}
		})
	}
}

// TestLabels: a table of places inside a function goes where the function goes.
func TestLabels(t *testing.T) {
	const text = `int f(const char *p) { static %s void *%s jt[] = {&&a, &&b, &&c}; int n = 0; goto *jt[*p & 3]; a: n += ext(1); goto *jt[*++p & 3];
b: n += ext(2) * n; goto *jt[*++p & 3]; c: return n %s; }`
	source := func(a, b, c string) string {
		return strings.NewReplacer("%s void", a+" void", "*%s", "*"+b, "n %s", "n"+c).Replace(text)
	}
	c, err := compare(t, source("const", "const", "+1"), source("const", "const", "+2")).Closure()
	if err != nil {
		t.Fatal(err)
	}
	var pieces []string
	for _, p := range c.Pieces {
		pieces = append(pieces, p.Section.Name)
		for _, x := range p.References {
			if x.Target.Pre != nil && x.Target.Name != "ext" {
				t.Errorf("%s+%#x refers to %s of the running kernel", p.Section.Name, x.At, x.Target.Name)
			}
		}
	}
	if d := cmp.Diff([]string{".text.f", ".rodata.jt.0"}, pieces); d != "" {
		t.Errorf("pieces: (-want +got)\n%s", d)
	}
	writable := func(n string) string { return source("", "", n+"+ext((long)jt)") }
	got := say(compare(t, writable("+1"), writable("+2")))
	if d := cmp.Diff([]string{"changed function f: bytes at +0x32",
		"refused f: it changes, and jt.0 holds the address of a place inside it, in the running kernel too"}, got); d != "" {
		t.Errorf("a table that can be written: (-want +got)\n%s", d)
	}
	asm := func(n string) string {
		return `asm(".text\n.globl f\n.type f,@function\nf: push %rax\npop %rax\n1: ret\n.size f,.-f\n.globl places\n.section .rodata\n.type places,@object\n.size places,8\nplaces: .quad 1b\n.previous");` +
			"int g(int x) { return x + " + n + "; }"
	}
	if got := say(compare(t, asm("1"), asm("2"))); len(got) != 1 {
		t.Errorf("another function changes: %q", got)
	}
	if got := say(compare(t, asm("1"), strings.Replace(asm("1"), "push %rax\\npop %rax", "push %rdx\\npop %rdx", 1))); len(got) != 2 || !strings.Contains(got[1], "refused f: it changes, and places holds") {
		t.Errorf("the function changes: %q", got)
	}
}
