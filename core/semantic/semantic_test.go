package semantic

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// object compiles C source with debug information and returns the object's path.
func object(t testing.TB, name, source string, flags ...string) string {
	t.Helper()
	gcc := need.Program(t, "gcc")
	dir := t.TempDir()
	path := filepath.Join(dir, name+".c")
	if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, name+".o")
	if len(flags) == 0 {
		flags = []string{"-g"}
	}
	args := append([]string{"-O2", "-c", "-ffunction-sections", "-o", out, name + ".c"}, flags...)
	cmd := exec.Command(gcc, args...)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc %s: %v\n%s\n%s", strings.Join(args, " "), err, text, source)
	}
	return out
}

func TestCompare(t *testing.T) {
	const use = "\nstruct s; int f(struct s *p);\nint f(struct s *p) { return sizeof(*p) + 1; }\nstruct s gs;\n"
	for _, c := range []struct {
		name, pre, post string
		want            []string // of String(), without the file's name
	}{
		{"equal", "struct s { int a; };", "struct s { int a; };", nil},
		{"lines and order of definition", "struct q { long l; }; struct s { int a; struct q *q; }; struct q gq;",
			"\n\n\nstruct s { int a; struct q *q; };\nstruct q { long l; }; struct q gq;", nil},
		{"grows", "struct s { int a; };", "struct s { int a; int b; };",
			[]string{"struct s (:1): size 4 becomes 8; new member b at 4"}},
		{"a hole is filled", "struct s { char a; int b; };", "struct s { char a; char n; int b; };",
			[]string{"struct s (:1): new member n at 1"}},
		{"members change places", "struct s { int a, b; };", "struct s { int b, a; };",
			[]string{"struct s (:1): member a moves from 0 to 4; member b moves from 4 to 0"}},
		{"a member takes another's place", "struct s { int a, pad; };", "struct s { int a, flags; };",
			[]string{"struct s (:1): member pad at 4 becomes flags"}},
		{"a member goes", "struct s { int a, b; };", "struct s { int a; };",
			[]string{"struct s (:1): size 8 becomes 4; member b at 4 goes"}},
		{"a member's type", "struct s { int a; long b; };", "struct s { int a; double b; };",
			[]string{"struct s (:1): member b at 8 is double, was long int"}},
		{"signs, const and typedefs do not matter", "typedef unsigned int u32; struct s { int a; char *b; };",
			"typedef unsigned int u32; struct s { u32 a; const unsigned char *b; };", nil},
		{"a pointer's target", "struct x { int i; }; struct y { long l; }; struct s { struct x *p; }; struct x gx; struct y gy;",
			"struct x { int i; }; struct y { long l; }; struct s { struct y *p; }; struct x gx; struct y gy;",
			[]string{"struct s (:1): member p at 0 is struct y *, was struct x *"}},
		{"raw pointers", "struct x { int i; }; struct s { void *p; int (*f)(int); }; struct x gx;",
			"struct x { int i; }; struct s { struct x *p; int (*f)(int, int); }; struct x gx;", nil},
		{"another name for the same memory", "typedef struct { int counter; } atomic_t; struct s { long l; atomic_t r; };",
			"typedef struct { int counter; } atomic_t; typedef struct { atomic_t refs; } refcount_t; struct s { long l; refcount_t r; };",
			[]string{"struct s (:1): member r is refcount_t, was atomic_t: the same memory"}},
		{"a number becomes atomic", "struct s { long l; int n; };", "typedef struct { int counter; } atomic_t; struct s { long l; atomic_t n; };",
			[]string{"struct s (:1): member n is atomic_t, was int: the same memory"}},
		{"a number becomes a count of users", "struct s { int n; };", "typedef struct { int refs; } refcount_t; struct s { refcount_t n; };",
			[]string{"struct s (:1): member n at 0 is refcount_t, was int"}},
		{"a number becomes a lock", "struct s { int n; };", "struct raw { union { int val; struct { char locked, pending; }; }; }; struct s { struct raw n; };",
			[]string{"struct s (:1): member n at 0 is struct raw, was int"}},
		{"another name for other memory", "typedef struct { int a, b; } one; struct s { one r; };",
			"typedef struct { float a, b; } two; struct s { two r; };",
			[]string{"struct s (:1): member r at 0 is two, was one"}},
		{"bit fields", "struct s { unsigned a:3, b:5, c:2; };", "struct s { unsigned a:3, b:6, c:2; };",
			[]string{"struct s (:1): member b has 6 bits, had 5 bits; member c moves from 1 bit 0 to 1 bit 1"}},
		{"an array", "struct s { int a[4][2]; };", "struct s { int a[2][4]; };", nil},
		{"an array grows", "struct s { char a[4]; char b[4]; };", "struct s { char a[5]; char b[3]; };",
			[]string{"struct s (:1): member a at 0 is char[5], was char[4]; member b moves from 4 to 5"}},
		{"open arrays", "struct s { int n; int a[0]; };", "struct s { int n; int a[]; };", nil},
		{"nested without a name", "struct s { int a; union { int u; struct { short x, y; }; }; struct { int i; } in[2]; };",
			"struct s { int a; union { int u; struct { short y, x; }; }; struct { float i; } in[2]; };",
			[]string{"struct s (:1): member x moves from 4 to 6; member y moves from 6 to 4; member in at 8 is struct[2], was struct[2]"}},
		{"nested with a member's name", "struct s { struct { int i, j; } in; };", "struct s { struct { int j, i; } in; };",
			[]string{"struct s (:1): member in.i moves from 0 to 4; member in.j moves from 4 to 0"}},
		{"what holds it changes too", "struct i { int a; }; struct s { struct i i; int n; };",
			"struct i { int a, b; }; struct s { struct i i; int n; };",
			[]string{"struct i (:1): size 4 becomes 8; new member b at 4", "struct s (:1): size 8 becomes 12; member n moves from 4 to 8"}},
		{"inside keeps its size", "struct i { int a; float b; }; struct s { struct i i[3]; };",
			"struct i { float b; int a; }; struct s { struct i i[3]; };",
			[]string{"struct i (:1): member a moves from 0 to 4; member b moves from 4 to 0"}},
		{"alignment", "struct s { int a; int b; };",
			"struct s { int a; int b; } __attribute__((aligned(8)));",
			[]string{"struct s (:1): alignment by its members becomes 8"}},
		{"packed", "struct s { char a; int b; };", "struct s { char a; int b; } __attribute__((packed));",
			[]string{"struct s (:1): size 8 becomes 5; member b moves from 4 to 1"}},
		{"a union", "union u { int a; }; struct s { union u *u; }; union u gu;", "union u { int a; long b; }; struct s { union u *u; }; union u gu;",
			[]string{"union u (:1): size 4 becomes 8; new member b at 0"}},
		{"a struct becomes a union", "struct s { int a; }; struct t { int a, b; }; struct t gt;",
			"struct s { int a; }; union t { int a, b; }; union t gt;",
			[]string{"struct t (:1): the struct becomes a union; size 8 becomes 4; member b moves from 4 to 0"}},
		{"a typedef", "typedef struct { int a; } tt; struct s { tt *p; }; tt g;", "typedef struct { long a; } tt; struct s { tt *p; }; tt g;",
			[]string{"struct tt (:1): size 4 becomes 8; member a at 0 is long int, was int"}},
		{"a variable", "struct s { int a; }; static struct { int a, b; } v[2]; int *gv = &v[1].a;",
			"struct s { int a; }; static struct { int b, a; } v[2]; int *gv = &v[1].b;",
			[]string{"struct of variable v (:1): member a moves from 0 to 4; member b moves from 4 to 0"}},
		{"a variable's own type", "struct a { long x; }; struct b { long *y; }; struct s { int a; }; static struct a *gv; struct a *get(struct a *p); struct a *get(struct a *p) { struct a *o = gv; gv = p; return o; }",
			"struct a { long x; }; struct b { long *y; }; struct s { int a; }; static struct b *gv; struct b *get(struct b *p); struct b *get(struct b *p) { struct b *o = gv; gv = p; return o; }",
			[]string{"variable gv (:1): it is struct b *, was struct a *"}},
		{"a static variable's own type", "struct s { int a; }; int f2(int); int f2(int n) { static int last[2]; last[n & 1] += n; return last[0]; }",
			"struct s { int a; }; int f2(int); int f2(int n) { static float last[2]; last[n & 1] += n; return last[0]; }",
			[]string{"variable f2.last (:1): it is float[2], was int[2]"}},
		{"a type inside of a static variable", "struct s { int a; }; int f2(int); int f2(int n) { static struct st { int a, b; } last; last.b += n; return last.a++ + last.b; }",
			"struct s { int a; }; int f2(int); int f2(int n) { static struct st { int b, a; } last; last.b += n; return last.a++ + last.b; }",
			[]string{"variable f2.last (:1): member a moves from 0 to 4; member b moves from 4 to 0"}},
		{"new constants of an enum", "enum e { A, B }; struct s { enum e e; };", "enum e { A, B, C }; struct s { enum e e; };", nil},
		{"an enum", "enum e { A, B }; struct s { enum e e; };", "enum e { A, N, B = 5 }; struct s { enum e e; };",
			[]string{"enum e (:1): B is 5, was 1"}},
		{"an enum loses a constant", "enum e { A, B }; struct s { enum e e; };", "enum e { A }; struct s { enum e e; };",
			[]string{"enum e (:1): B (1) goes"}},
		{"an enum's count", "enum e { A, B, E_MAX }; struct s { enum e e; };", "enum e { A, B, C, E_MAX }; struct s { enum e e; };",
			[]string{"enum e (:1): E_MAX is 3, was 2 (bound)"}},
		{"an enum's count, of another kind", "enum e { A, B, __E_MAX, E_MAX = __E_MAX - 1 }; struct s { enum e e; };", "enum e { A, B, E_MAX }; struct s { enum e e; };",
			[]string{"enum e (:1): E_MAX is 2, was 1; __E_MAX (2) goes (bound)"}},
		{"an enum's count and another", "enum e { A, B, E_MAX }; struct s { enum e e; };", "enum e { A, C, B, E_MAX }; struct s { enum e e; };",
			[]string{"enum e (:1): B is 2, was 1; E_MAX is 3, was 2"}},
		{"an enum's least", "enum e { A, E_MAX, B }; struct s { enum e e; };", "enum e { A, C, B = 2, E_MAX }; struct s { enum e e; };",
			[]string{"enum e (:1): E_MAX is 3, was 1"}},
		{"an enum grows", "enum e { A, B = 2 } __attribute__((packed)); struct s { enum e *e; }; enum e ge;",
			"enum e { A, B = 2, C = 300 } __attribute__((packed)); struct s { enum e *e; }; enum e ge;",
			[]string{"enum e (:1): size 1 becomes 2"}},
		{"constants without a name", "enum { A, B }; struct s { int a[B]; };int k(void);int k(void){return B;}",
			"enum { A, N, B }; struct s { int a[1]; };int k(void);int k(void){return B;}",
			[]string{"enum with A (:1): B is 2, was 1"}},
		{"inside a function", "struct s { int a; }; int f2(int); int f2(int n) { struct loc { int x; } l = { n }; return l.x; }",
			"struct s { int a; }; int f2(int); int f2(int n) { struct loc { long y, x; } l = { n, n }; return l.x + l.y; }", nil},
		{"new and gone types", "struct s { int a; }; struct was { int i; } gwas;", "struct s { int a; }; struct is { long l; } gis;", nil},
		{"a name inside hides the outer", "struct s { int a; }; struct o { int a; } go; int f2(int); int f2(int n) { struct o { long z; } l = { n }; return l.z; }",
			"struct s { int a; }; struct o { int a; } go; int f2(int); int f2(int n) { struct o { int q, z; } l = { n, n }; return l.z; }", nil},
		{"only declared", "struct far; struct s { struct far *p; };", "struct far { int i; }; struct s { struct far *p; }; struct far gfar;", nil},
		{"a list of itself", "struct s { struct s *next, **prev; int a; };", "struct s { struct s *next, **prev; int a; };", nil},
	} {
		flags := []string{"-gdwarf-5"}
		if strings.Contains(c.pre, ":") || strings.Contains(c.pre, "[") {
			flags = append(flags, "-gdwarf-4", "-gdwarf-2") // where versions differ
		}
		for _, flag := range flags {
			t.Run(c.name+flag, func(t *testing.T) {
				t.Parallel()
				changes, err := CompareFiles(object(t, "u", c.pre+use, flag), object(t, "u", c.post+use, flag))
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, ch := range changes {
					got = append(got, strings.ReplaceAll(ch.String(), "u.c:", ":")+map[bool]string{true: " (bound)"}[ch.Bound])
				}
				if d := cmp.Diff(c.want, got); d != "" {
					t.Errorf("changes (-want +got):\n%s", d)
				}
			})
		}
	}
}

// TestStatics: the names of symbols say neither which function a static variable belongs to nor which of several it is.
func TestStatics(t *testing.T) {
	const source = `extern int ext(int); extern void use(int *);
static inline int in(int x)
{
	static int last;
	return last += x;
}
__attribute__((noinline)) static int const_prop(int x, int y)
{
	static int last;
	use(&last);
	return ext(x) + y;
}
int f(int x)
{
	if (x) {
		static int count;
		use(&count);
	} else {
		static int count;
		use(&count);
	}
	return in(x) + const_prop(x, 3);
}
int g(int x) { return in(x) + const_prop(x, 3); }
static int *__attribute__((used)) __UNIQUE_ID_p7;
__attribute__((section(".data..read_mostly"))) static int here, there;
void h(void) { use(&here); use(&there); }
`
	for _, flag := range []string{"-gdwarf-5", "-gdwarf-4"} {
		m, err := Statics(object(t, "u", source, flag, "-fdata-sections"))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for n, s := range m {
			if n = strings.TrimRight(n, "0123456789"); n == "__UNIQUE_ID_p" || strings.HasSuffix(n, ".") {
				n += "*"
			}
			got = append(got, fmt.Sprintf("%s: %s.%s %s:%d", n, s.Function, s.Name, s.File, s.Line))
		}
		slices.Sort(got)
		want := []string{"__UNIQUE_ID_p*: .__UNIQUE_ID_p7 u.c:25", "count.*: f.count u.c:16", "count.*: f.count u.c:19", "here: .here u.c:26",
			"last.*: const_prop.last u.c:9", "last.*: in.last u.c:4", "there: .there u.c:26"}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: statics (-want +got):\n%s", flag, d)
		}
	}
	if m, err := Statics(object(t, "u", source, "-g0")); err != nil || len(m) != 0 {
		t.Errorf("without -g: %v, %v, want none", m, err)
	}
}

// A description where types are huge: enough is told, not all.
func TestManyDifferences(t *testing.T) {
	pre, post := "struct s { char first;", "struct s { long first;"
	for _, n := range strings.Split("abcdefghijklmnop", "") {
		pre += " long " + n + ";"
		post += " short " + n + ";"
	}
	changes, err := CompareFiles(object(t, "u", pre+"} g;"), object(t, "u", post+"} g;"))
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) != 1 || !strings.Contains(changes[0].Detail, "; and ") || len(changes[0].Detail) > 500 {
		t.Errorf("changes = %q, want one with some details and their number", changes)
	}
}

func TestNoTypes(t *testing.T) {
	with, without := object(t, "u", "int f(void) { return 1; }"), object(t, "u", "int f(void) { return 2; }", "-g0")
	if _, err := CompareFiles(with, without); !errors.Is(err, ErrNoTypes) {
		t.Errorf("without -g: %v, want ErrNoTypes", err)
	}
	reduced := object(t, "u", "int f(void) { return 2; }", "-g", "-femit-struct-debug-baseonly")
	if _, err := CompareFiles(with, reduced); !errors.Is(err, ErrNoTypes) {
		t.Errorf("reduced: %v, want ErrNoTypes", err)
	}
	asm := filepath.Join(t.TempDir(), "a.S")
	if err := os.WriteFile(asm, []byte(".globl f\nf: ret\n.section .note.GNU-stack,\"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := strings.TrimSuffix(asm, ".S") + ".o"
	if text, err := exec.Command("gcc", "-c", "-o", out, asm).CombinedOutput(); err != nil {
		t.Fatalf("assemble: %v\n%s", err, text)
	}
	if got, err := CompareFiles(out, out); err != nil || len(got) > 0 {
		t.Errorf("assembly = %v, %v, want no changes", got, err)
	}
	if _, err := CompareFiles(with, with+".missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestDamaged(t *testing.T) {
	path := object(t, "u", "struct s { int a; struct s *n; struct { long l; }; } g; enum e { A } ge;", "-gdwarf-5")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(good); n += 7 {
		bad := bytes.Clone(good)
		bad[n] ^= 0x55
		_, _ = Compare(bytes.NewReader(good), bytes.NewReader(bad)) // no panic, no hang; many bytes mean nothing here
		_, _ = Compare(bytes.NewReader(bad), bytes.NewReader(good))
		_, _ = statics(bad)
	}
	if _, err := Compare(bytes.NewReader(good), bytes.NewReader(good[:len(good)/2])); err == nil {
		t.Error("half an object is accepted")
	}
}

func FuzzCompare(f *testing.F) {
	object := func(src string) []byte {
		b, err := os.ReadFile(object(f, "u", src, "-gdwarf-5"))
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	good := object("struct s { int a:3; struct s *n; struct { long l[3]; } x[2]; } g; enum e { A } ge; typedef union { int i; } u; u gu;")
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = Compare(bytes.NewReader(good), bytes.NewReader(b))
		_, _ = statics(bytes.Clone(b))
	})
}
