package csource

import (
	"strings"
	"testing"
)

const inline = "static inline __attribute__((__gnu_inline__)) __attribute__((__unused__)) __attribute__((no_instrument_function)) "

// base is a unit with a function that nobody refers to (dead), one that another such refers to (deeper), and some that mean something.
const base = `typedef unsigned int u32;
struct s { int (*dead_like)(u32); int a; };
enum e { A, B = (1 << 3), };
extern int printk(const char *fmt, ...) __attribute__((__format__(__printf__, 1, 2)));
` + inline + `int deeper(int x)
{
	return x + 1;
}
` + inline + `int dead(struct s *p, int x)
{
	if (x) { printk("dead %d", x); }
	return deeper(p->a);
}
static inline int used(int x) { return x * 2; }
static int called(int x) { return used(x) ? x : 0; }
static const struct s table = { .dead_like = (void *)called, .a = A };
int entry(int x)
{
	asm volatile("call thunk" : : "r" (x));
	return called(x) + table.a;
}
`

func TestSame(t *testing.T) {
	re := func(pairs ...string) string {
		text := base
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(text, pairs[i]) {
				t.Fatalf("the unit has no %q", pairs[i])
			}
			text = strings.Replace(text, pairs[i], pairs[i+1], 1)
		}
		return text
	}
	add := func(text string) string { return base + text }
	for _, tt := range []struct {
		name string
		post string
		want bool
	}{
		{"as it is", base, true},
		{"blanks", re("return x * 2;", "return   x\n\t* 2;"), true},
		{"the body of one that nobody refers to", re(`"dead %d", x`, `"alive %d", x + 1`), true},
		{"of one that only such a one refers to", re("return x + 1;", "return x + 2;"), true},
		{"one less", re(inline+"int dead(struct s *p, int x)\n{\n\tif (x) { printk(\"dead %d\", x); }\n\treturn deeper(p->a);\n}\n", ""), true},
		{"one more", add(inline + "int more(struct s *p) { return dead(p, 1); }\n"), true},
		{"an assertion in it", re("if (x) {", `do { __attribute__((__noreturn__)) extern void __compiletime_assert_9(void) __attribute__((__error__("x"))); if (!(1)) __compiletime_assert_9(); } while (0); if (x) {`), true},

		{"the body of one that is used", re("return x * 2;", "return x * 3;"), false},
		{"a constant", re("(1 << 3)", "(1 << 4)"), false},
		{"a layout", re("int a; };", "int a; int b; };"), false},
		{"data", re(".a = A", ".a = B"), false},
		{"a declaration", re("const char *fmt", "char *fmt"), false},
		{"operators that were apart", re("x + 1", "x + +1", "return called(x) +", "return called(x) + +"), false},
		{"a string", re(`"call thunk"`, `"call  thunk"`), false},
		{"something more", add("int more;\n"), false},
		{"something less", strings.TrimSuffix(base, "int entry(int x)\n{\n\tasm volatile(\"call thunk\" : : \"r\" (x));\n\treturn called(x) + table.a;\n}\n"), false},
		{"another order", re("static inline int used(int x) { return x * 2; }\n", "", "int entry(int x)", "static inline int used(int x) { return x * 2; }\nint entry(int x)"), false},

		{"now it is referred to", re("return called(x)", "return deeper(x)"), false},
		{"a function that is not static", add("int more(void) { return 1; }\n"), false},
		{"extern inline", add("extern inline __attribute__((__gnu_inline__)) int more(void) { return 1; }\n"), false},
		{"one that is kept", add("static __attribute__((__used__)) int more(void) { return 1; }\n"), false},
		{"one in a section", add(`static __attribute__((__section__(".init.text"))) int more(void) { return 1; }` + "\n"), false},
		{"a constructor", add("static void __attribute__((constructor)) more(void) { entry(1); }\n"), false},
		{"one attribute of several", add("static void __attribute__((unused, retain)) more(void) { entry(1); }\n"), false},
		{"a kept datum in it", add(`static inline int more(void) { static int x __attribute__((used)) = 1; return x; }` + "\n"), false},
		{"a declaration in it that reaches beyond", add("static inline int more(void) { extern int printk(const char *, ...) __attribute__((cold)); return 1; }\n"), false},
		{"a pragma in it", add("static inline int more(void) {\n#pragma GCC optimize (\"O0\")\n return 1; }\n"), false},
		{"a pragma", "#pragma pack(1)\n" + base, false},
		{"a new type", add("static inline int more(struct unknown *p) { return 1; }\n"), false},
		{"a type in it", add("static inline struct named { int i; } more(void) { struct named n = { 1 }; return n; }\n"), false},
		{"no C", add("}}}\n"), false},
		{"half a string", add(`"half`), false},
	} {
		if got := Same([]byte(base), []byte(tt.post)); got != tt.want {
			t.Errorf("%s: Same = %t, want %t", tt.name, got, tt.want)
		}
		if got := Same([]byte(tt.post), []byte(base)); got != tt.want {
			t.Errorf("%s, backwards: Same = %t, want %t", tt.name, got, tt.want)
		}
	}
}

// TestReferred: whatever refers to a function keeps it among what must be the same.
func TestReferred(t *testing.T) {
	const f = "static inline int f(int x) { return x + %; }\n"
	for name, rest := range map[string]string{
		"a call":                "int g(void) { return f(1); }",
		"an address":            "int (*g)(int) = f;",
		"an alias":              `int g(int) __attribute__((alias("f")));`,
		"assembly":              `asm("jmp f");`,
		"pieces of a string":    `asm("jm" "p " "\t" "f" "\n");`,
		"a level before it":     `asm("\001" "f" "\n");`,
		"letters by number":     `asm("jmp \x66");`,
		"and in another base":   `asm("jmp \146\40");`,
		"assembly of function":  `void g(void) { asm volatile("call f@plt"); }`,
		"a pragma":              "#pragma weak f",
		"a prototype":           "static int f(int);",
		"a type":                "typeof(f) *g;",
		"through another":       "static inline int h(void) { return f(2); }\nint g(void) { return h(); }",
		"through a static one":  "static int h(void) { return f(2); }\nstatic int (*table[])(void) = { h };",
		"a cleanup":             "int g(void) { int x __attribute__((cleanup(f))) = 1; return x; }",
		"through a kept one":    "static __attribute__((used)) int h(void) { return f(2); }",
		"a name of a parameter": "int g(int f) { return f; }",
	} {
		pre, post := strings.Replace(f, "%", "1", 1)+rest+"\n", strings.Replace(f, "%", "2", 1)+rest+"\n"
		if Same([]byte(pre), []byte(post)) {
			t.Errorf("%s: f counts as referred to by nobody", name)
		}
		if !Same([]byte(pre), []byte(pre)) {
			t.Errorf("%s: a text is not itself", name)
		}
	}
	for name, rest := range map[string]string{
		"nothing":               "int g(void) { return 1; }",
		"one without a meaning": "static inline int h(void) { return f(2); }",
		"each other":            "static inline int h(int x) { return k(f(x)); }\nstatic inline int k(int x) { return h(x); }",
		"part of a word":        `int ff = 1; asm("jmp f1");`,
		"types around it":       "struct s { int x; } __attribute__((packed)); struct __attribute__((packed)) u { int x; } v = { 1 }; typedef struct { int f2; } w; union { int y; } z;",
	} {
		pre, post := strings.Replace(f, "%", "1", 1)+rest+"\n", strings.Replace(f, "%", "2", 1)+rest+"\n"
		if !Same([]byte(pre), []byte(post)) {
			t.Errorf("%s: f counts as referred to", name)
		}
	}
}

// TestAssembler: what the text does not say is not proved.
func TestAssembler(t *testing.T) {
	for text, want := range map[string]bool{"nop\n": true, ".incbin \"table.bin\"\n": false} {
		if got := SameText([]byte(text), []byte(text)); got != want {
			t.Errorf("SameText(%q) = %t", text, got)
		}
	}
	if SameText([]byte("nop"), []byte("nop ")) {
		t.Errorf("other assembly is the same")
	}
	for _, text := range []string{`asm(".incbin \"x\"");`, "int x = __builtin_LINE();", "\x7fELF"} {
		if Same([]byte(text), []byte(text)) {
			t.Errorf("%q is proved to be the same", text)
		}
	}
}

// FuzzSame: no text makes it panic, and a text is itself; one with a function more that somebody refers to is not.
func FuzzSame(f *testing.F) {
	f.Add([]byte(base))
	f.Add([]byte("#pragma x\n{}();\"a\\\"\"'b'static int f(){}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		Same(text, append([]byte("static int f(void) { return 1; }\n"), text...))
		if u, ok := parse(text); ok {
			n := 0
			for _, it := range u.items {
				n += len(it.tokens)
			}
			if tokens, _ := lex(text); len(tokens) != n {
				t.Errorf("%d tokens in items, %d in all", n, len(tokens))
			}
		}
		more := append([]byte("int ksplice_g(void) { return ksplice_f(); } static int ksplice_f(void) { return 1; }\n"), text...)
		less := append([]byte("int ksplice_g(void) { return ksplice_f(); } static int ksplice_f(void) { return 2; }\n"), text...)
		if Same(more, less) {
			t.Errorf("a function that is referred to counts as nothing")
		}
	})
}
