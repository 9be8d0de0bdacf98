package diff_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/diff/difftest"
)

// common begins every source: what the tests' functions use.
const common = `
extern int ext(int), other(int);
extern void use(const void *), say(const char *, ...);
#define noinline __attribute__((noinline))
#define section(s) __attribute__((section(s)))
`

func compare(t *testing.T, pre, post string, flags ...string) *diff.Result {
	t.Helper()
	object := func(name, source string) *diff.Object {
		f, d := difftest.Compile(t, name, common+source, flags...)
		return &diff.Object{Name: name, File: f, Desc: d}
	}
	r, err := diff.Compare(object("pre", pre), object("post", post))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func say(r *diff.Result) []string {
	out := []string{}
	for _, f := range r.Functions {
		out = append(out, fmt.Sprintf("%s function %s: %s", f.Kind, f.Name, f.Why))
	}
	for _, d := range r.Data {
		out = append(out, fmt.Sprintf("%s data %s: %s", d.Kind, d.Name, d.Why))
	}
	for _, p := range r.Pairs {
		out = append(out, fmt.Sprintf("pair %s = %s", p.Pre.Name, p.Post.Name))
	}
	for _, x := range r.Refusals {
		out = append(out, fmt.Sprintf("refused %s: %s", x.Where, x.Reason))
	}
	for _, n := range r.Notes {
		out = append(out, "note "+n)
	}
	return out
}

func TestCompare(t *testing.T) {
	tests := []struct {
		name, pre, post string
		want            []string
	}{
		{"equal", `int f(int x) { return ext(x) + 1; }`, `int f(int x) { return ext(x) + 1; }`, nil},
		{"bytes", `int f(int x) { return ext(x) + 1; }`, `int f(int x) { return ext(x) + 2; }`,
			[]string{"changed function f: bytes at +0x7"}},
		{"callee", `int f(int x) { return ext(x) + 1; }`, `int f(int x) { return other(x) + 1; }`,
			[]string{"changed function f: reference at +0x1: ext -> other"}},
		{"code without a symbol",
			`asm(".section .text.loose,\"ax\"\n.type f,@function\nf: ret\n.size f,1\n.fill 40,1,0xcc"); int g(int x) { return x; }`,
			`asm(".section .text.loose,\"ax\"\n.type f,@function\nf: ret\n.size f,1\n.fill 40,1,0xcd"); int g(int x) { return x; }`,
			[]string{"refused .text.loose: code that belongs to no function changed: bytes at +0x0"}},
		{"an entry in the middle of a function",
			`asm(".text\n.globl f, inner\n.type f,@function\nf: push %rax\ninner: pop %rax\nret\n.size f,.-f\n"); int g(int x) { return x; }`,
			`asm(".text\n.globl f, inner\n.type f,@function\nf: push %rax\ninner: pop %rdx\nret\n.size f,.-f\n"); int g(int x) { return x; }`,
			[]string{"changed function f: bytes at +0x1", "refused f: it changes, and other code enters it at inner, 0x1 bytes behind its beginning, where no redirect can be"}},
		{"a weak function and one of a COMDAT group",
			`asm(".section .text.c,\"axG\",@progbits,c,comdat\n.weak c\n.type c,@function\nc: nop\nret\n.size c,.-c\n.previous"); __attribute__((weak)) int w(int x) { return ext(x) + 1; } int g(int x) { return w(x) * 3; }`,
			`asm(".section .text.c,\"axG\",@progbits,c,comdat\n.weak c\n.type c,@function\nc: cld\nret\n.size c,.-c\n.previous"); __attribute__((weak)) int w(int x) { return ext(x) + 2; } int g(int x) { return w(x) * 3; }`,
			[]string{"changed function c: bytes at +0x0", "changed function w: bytes at +0x7"}},
		{"moved string",
			`void f(void) { say("b"); } void g(void) { say("zz"); }`,
			`void g(void) { say("zz"); } void f(void) { say("b"); }`, nil},
		{"string",
			`void f(void) { say("b"); } void g(void) { say("zz"); }`,
			`void f(void) { say("c"); } void g(void) { say("zz"); }`,
			[]string{`changed function f: reference at +0x3: "b" -> "c"`}},
		{"func name",
			`int h(int x) { use(__func__); return x; } void f(void) { use(__func__); }`,
			`int n(int x) { use(__func__); return ext(x); } int h(int x) { use(__func__); return x; } void f(void) { use(__func__); }`,
			[]string{"new function n: not in pre"}},
		{"static locals keep their values",
			`int f(void) { static int count; return ++count; } int g(void) { static int count; return count += 2; }`,
			`int f(void) { static int count; return ++count; } int g(void) { static int count; return count += 3; } int n(void) { static int count; return count -= 3; }`,
			[]string{"changed function g: bytes at +0x8", "new function n: not in pre", "new data count.0: not in pre",
				"pair count.0 = count.1", "pair count.1 = count.2"}},
		{"initialiser", `int v = 1; int f(void) { return v; }`, `int v = 2; int f(void) { return v; }`,
			[]string{"changed data v: bytes at +0x0", "refused v: changed initialiser of live data, bytes 0x0 to 0x1: bytes at +0x0: the running kernel's datum was initialised long ago"}},
		{"ops", `static int a(int x) { return ext(x); } struct { int (*o)(int); } ops = { a };`,
			`static int a(int x) { return ext(x); } struct { int (*o)(int); } ops = { other };`,
			[]string{"removed function a: not in post", "changed data ops: reference at +0x0: a -> other",
				"refused ops: changed initialiser of live data, bytes 0x0 to 0x8: reference at +0x0: a -> other: the running kernel's datum was initialised long ago"}},
		{"constant table", `static const int t[] = {1,2,3,4,5,6,7,8}; int f(int i) { return t[i]; } int g(int x) { return x; }`,
			`static const int t[] = {1,2,3,4,5,6,7,9}; int f(int i) { return t[i]; } int g(int x) { return x; }`,
			[]string{"changed function f: reference at +0x6: constant t: bytes at +0x1c", "changed data t: bytes at +0x1c"}},
		{"size", `int v[2]; int f(int i) { return v[i]; }`, `int v[3]; int f(int i) { return v[i]; }`,
			[]string{"changed data v: size 8 -> 12", "refused v: the datum's size 8 -> 12: the running kernel has the old one"}},
		{"table of devices", `struct id { long a; }; static const struct id ids[] = {{1}, {0}}; extern typeof(ids) __mod_x__ids_device_table __attribute__((alias("ids"))); struct driver { const struct id *ids; } driver = { ids };`,
			`struct id { long a; }; static const struct id ids[] = {{1}, {2}, {0}}; extern typeof(ids) __mod_x__ids_device_table __attribute__((alias("ids"))); struct driver { const struct id *ids; } driver = { ids };`,
			[]string{"changed data driver: reference at +0x0: constant ids: size 16 -> 24", "changed data ids: size 16 -> 24",
				"refused driver: changed initialiser of live data, bytes 0x0 to 0x8: reference at +0x0: constant ids: size 16 -> 24: the running kernel's datum was initialised long ago"}},
		{"constant becomes writable", `int v[2]; const int t[] = {1, 2}; int f(int i) { return t[i]; }`, `int v[2]; int t[] = {1, 2}; int f(int i) { return t[i]; }`,
			[]string{"refused t: the datum becomes writable: in the running kernel it is write-protected"}},
		{"per-CPU", `int v; void f(void) { v = 1; }`, `section(".data..percpu") int v; void f(void) { v = 1; }`,
			[]string{"refused v: the datum becomes a per-CPU variable: in the running kernel it is none"}},
		{"outlives the boot", `section(".init.data") int v = 1; section(".init.text") int f(void) { return v; } int g(int x) { return x; }`,
			`int v = 1; section(".init.text") int f(void) { return v; } int g(int x) { return x + v; }`,
			[]string{"changed function g: size 3 -> 9", "refused v: the datum outlives the boot now: the running kernel freed it",
				"note section .init.data changed (1 sections -> 0): it counts only when the kernel boots or a module loads"}},
		{"code outlives the boot", `section(".init.text") noinline int f(int x) { return ext(x); } int g(int x) { return x; }`,
			`noinline int f(int x) { return ext(x); } int g(int x) { return f(x); }`,
			[]string{"new function f: not in pre", "changed function g: size 3 -> 5",
				"note f is removed: code of section .init.text runs when the kernel boots or a module loads or goes: what has run is not replaced"}},
		{"an alias leaves", `int f(int x) { return ext(x); } int g(int x) __attribute__((alias("f")));`,
			`int f(int x) { return ext(x); } int g(int x) { return ext(x) + 1; }`,
			[]string{"new function g: not in pre", "refused g: the name is g's now, it was f's: other code of the running kernel uses it as it was"}},
		{"an alias comes", `int f(int x) { return ext(x); } int g(int x) { return ext(x) + 1; }`,
			`int f(int x) { return ext(x); } int g(int x) __attribute__((alias("f")));`,
			[]string{"removed function g: not in post", "refused g: the name is f's now, it was g's: other code of the running kernel uses it as it was"}},
		{"a debug message says something else",
			`struct d { const char *text; int line; }; int f(int x) { section("__dyndbg") static struct d descriptor = { "old", 1 }; use(&descriptor); return x; }
			 int g(int x) { section("__dyndbg") static struct d descriptor = { "g", 2 }; use(&descriptor); return x; }`,
			`struct d { const char *text; int line; }; int f(int x) { section("__dyndbg") static struct d descriptor = { "new", 1 }; use(&descriptor); return x; }
			 int g(int x) { section("__dyndbg") static struct d descriptor = { "g", 2 }; use(&descriptor); return x; }`,
			[]string{"changed function f: reference at +0x6: descriptor.1 -> descriptor.1", "new data descriptor.1: not in pre", "removed data descriptor.1: not in post"}},
		{"a static function becomes global", `noinline static int s(int x) { return ext(x) + 1; } int f(int x) { return s(x) * 3; }`,
			`noinline int s(int x) { return ext(x) + 1; } int f(int x) { return s(x) * 3; }`, nil},
		{"shared section",
			`section(".sched.text") noinline int a(int x) { return x + 1; } section(".sched.text") int b(int x) { return a(x) * 3; }`,
			`section(".sched.text") noinline int a(int x) { return x * 7 + ext(x); } section(".sched.text") int b(int x) { return a(x) * 3; }`,
			[]string{"changed function a: size 4 -> 23"}},
		{"init code", `section(".init.text") int f(void) { return 1; }`, `section(".init.text") int f(void) { return 2; }`,
			[]string{"note f is changed: code of section .init.text runs when the kernel boots or a module loads or goes: what has run is not replaced"}},
		{"unknown section", `section("linkset") int v = 1;`, `section("linkset") int v = 2;`,
			[]string{"changed data v: bytes at +0x0",
				"refused linkset: section changed and no rule says what that means: its bytes",
				"refused v: changed initialiser of live data, bytes 0x0 to 0x1: bytes at +0x0: the running kernel's datum was initialised long ago"}},
		{"table",
			`int f(int *p) { int x; asm volatile("1: mov (%1), %0\n2:\n" : "=r"(x) : "r"(p)); return x; }`,
			`int f(int *p) { int x; asm volatile("1: mov (%1), %0\n2:\n.pushsection __ex_table,\"a\"\n.long 1b - ., 2b - ., 3\n.popsection\n" : "=r"(x) : "r"(p)); return x; }`,
			[]string{"changed function f: table __ex_table: 0 entries -> 1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			if want == nil {
				want = []string{}
			}
			if d := cmp.Diff(want, say(compare(t, tt.pre, tt.post))); d != "" {
				t.Errorf("Compare: (-want +got)\n%s", d)
			}
		})
	}
}

// fault is a function with an entry in the exception table.
func fault(name string) string {
	return `noinline int ` + name + `(int *p) { int x; asm volatile("1: mov (%1), %0\n2:\n.pushsection __ex_table,\"a\"\n.long 1b - ., 2b - ., 3\n.popsection\n" : "=r"(x) : "r"(p)); return x; } `
}

func TestClosure(t *testing.T) {
	tests := []struct {
		name, pre, post      string
		pieces, new, escapes []string
	}{
		{"function and its string",
			`int v; void f(void) { say("old %d", v); } void g(void) { say("g"); }`,
			`int v; void f(void) { say("new %d", v); } void g(void) { say("g"); }`,
			[]string{".rodata.f.str1.1", ".text.f"}, nil, nil},
		{"new function, called",
			`int f(int x) { return x; }`,
			`noinline static int n(int x) { return ext(x) + 1; } int f(int x) { return n(x) + 2; }`,
			[]string{".text.n", ".text.f"}, []string{"n"}, nil},
		{"new function, address taken, and new data",
			`int f(int x) { return x; }`,
			`static int n(int x) { return ext(x) + 1; } static int last; int f(int x) { use(n); last = x; return 2; }`,
			[]string{".text.n", ".text.f"}, []string{"n"}, []string{"n"}},
		{"new variable",
			`int f(int x) { return x; }`,
			`int f(int x) { static int last; use(&last); return last += x; }`,
			[]string{".text.f", ".bss.last.0"}, []string{"last.0"}, []string{"last.0"}},
		{"object without size",
			`struct key {}; int f(int x) { static struct key k; use(&k); return ext(x); }`,
			`struct key {}; int f(int x) { static struct key k; use(&k); return ext(x) + 2; }`,
			[]string{".text.f"}, nil, nil},
		{"one of several in a section",
			`section(".sched.text") noinline int a(int x) { return x + 1; } section(".sched.text") int b(int x) { return a(x) * 3; }`,
			`section(".sched.text") noinline int a(int x) { return x + 1; } section(".sched.text") int b(int x) { return a(x) * 5; }`,
			[]string{".sched.text"}, nil, nil},
		{"table entries of changed code, not of other code",
			fault("g") + `int f(int x) { return x; }`,
			fault("g") + fault("n") + `int f(int x) { return n(&x) + 2; }`,
			[]string{"__ex_table", ".text.n", ".text.f"}, []string{"n"}, nil},
		{"new per-CPU variable, of which no address is taken",
			`int f(int x) { return x; }`,
			`section(".data..percpu") int hits; int f(int x) { asm("incl %%gs:%0" : "+m"(hits)); return x; }`,
			[]string{".text.f", ".data..percpu"}, []string{"hits"}, nil},
		{"new export",
			`int f(int x) { return x; }`,
			`int n(int x) { return ext(x) + 1; } asm(".section \"___ksymtab+n\",\"a\"\n.long n - .\n"); int f(int x) { return x + 2; }`,
			[]string{".text.n", ".text.f"}, []string{"n"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := compare(t, tt.pre, tt.post).Closure()
			if err != nil {
				t.Fatal(err)
			}
			var pieces []string
			for _, p := range c.Pieces {
				pieces = append(pieces, p.Section.Name)
			}
			if d := cmp.Diff(tt.pieces, pieces); d != "" {
				t.Errorf("Pieces: (-want +got)\n%s", d)
			}
			if !slices.Equal(tt.new, c.New) || !slices.Equal(tt.escapes, c.Escapes) {
				t.Errorf("New, Escapes = %q, %q, want %q, %q", c.New, c.Escapes, tt.new, tt.escapes)
			}
		})
	}
}

// TestLanding: the address of a function that had no landing pad, because nobody took it, is the replacement's.
func TestLanding(t *testing.T) {
	const text = `noinline static int s(int x) { return ext(x) + 1; } int f(int x) { return s(x) + 2; } int g(int x) { return s(x) * 3; } `
	target := func(flag string) *diff.Target {
		t.Helper()
		c, err := compare(t, text, text+`void h(void) { use(s); }`, flag).Closure()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range c.Pieces {
			for i := range p.References {
				if x := &p.References[i]; p.Section.Name == ".text.h" && (x.Target.Name == "s" || x.Target.Piece != nil) {
					if flag == "-fcf-protection=branch" && !slices.Contains(c.Escapes, "s") {
						t.Errorf("Escapes = %q, want s among them", c.Escapes)
					}
					return &x.Target
				}
			}
		}
		t.Fatal("nothing takes the address")
		return nil
	}
	if x := target("-fcf-protection=branch"); x.Piece == nil || x.Piece.Section.Name != ".text.s" || !x.Address {
		t.Errorf("with landing pads the address is %+v, want the replacement", x)
	}
	if x := target("-fcf-protection=none"); x.Pre == nil {
		t.Errorf("without landing pads the address is %+v, want the function's in run", x)
	}
}

func TestClosureOfRefused(t *testing.T) {
	_, err := compare(t, `int v = 1;`, `int v = 2;`).Closure()
	if err == nil || !strings.Contains(err.Error(), "changed initialiser of live data") {
		t.Errorf("Closure: error %v, want one that names the initialiser", err)
	}
}

// TestTableOwner wants the entry that goes along to be that of the changed function, though another's comes first.
func TestTableOwner(t *testing.T) {
	c, err := compare(t, fault("g")+fault("f"), fault("g")+fault("f")+`int h(int *p) { return f(p) + 1; }`+strings.Replace(fault("k"), ", 3", ", 1", 1)).Closure()
	if err != nil {
		t.Fatal(err)
	}
	var owners []string
	for _, p := range c.Pieces {
		if p.Table {
			owners = append(owners, fmt.Sprintf("%s at %d of %s", p.Section.Name, p.Start, p.Owner.Section.Name))
		}
	}
	if d := cmp.Diff([]string{"__ex_table at 24 of .text.k"}, owners); d != "" {
		t.Errorf("entries: (-want +got)\n%s", d)
	}
}

// TestUncarried: a set of BTF ids is numbered by the kernel's final link; new code cannot bring one of its own.
func TestUncarried(t *testing.T) {
	_, err := compare(t, `int f(int x) { return x; }`,
		`asm(".section .BTF_ids,\"a\"\n.type ids,@object\nids: .zero 8\n.size ids,8\n.previous"); extern char ids[]; int f(int x) { use(ids); return x; }`).Closure()
	if err == nil || !strings.Contains(err.Error(), "section .BTF_ids, which cannot be carried in a part") {
		t.Errorf("Closure: error %v, want one that names the section", err)
	}
}

// TestBorders: the end of one datum of a shared section is the start of the next.
func TestBorders(t *testing.T) {
	const rm = `section(".data..read_mostly") `
	tests := []struct {
		name, pre, post string
		section         string // of the piece whose references are shown
		want            []string
		err             string
	}{
		{"the end of a global that stays, a new one behind it",
			rm + `int a[4]; int f(void) { int s = 0; for (int *p = a; p < a + 4; p++) s += ext(*p); return s; }`,
			rm + `int a[4]; ` + rm + `int n[4]; int f(void) { int s = 1; for (int *p = a; p < a + 4; p++) s += ext(*p); return s + n[2]; }`,
			".text.f", []string{"run a+0", "run ext-4", "run a+16", "new +4"}, ""},
		{"the end of a static one that stays, a new one behind it",
			`asm(".section .data..read_mostly,\"aw\"\n.type a,@object\n.size a,16\na: .zero 16\n.previous"); extern int a[4]; int f(void) { int s = 0; for (int *p = a; p < a + 4; p++) s += ext(*p); return s; }`,
			`asm(".section .data..read_mostly,\"aw\"\n.type a,@object\n.size a,16\na: .zero 16\n.type n,@object\n.size n,4\nn: .zero 4\n.previous"); extern int a[4]; int f(void) { int s = 1; for (int *p = a; p < a + 4; p++) s += ext(*p); return s; }`,
			".text.f", nil, "it leads to n or to a+0x10, and the running kernel does not have them as near to each other: give what is new in section .data..read_mostly another section"},
		{"scalars beside a new one", // per-CPU variables, as a rule
			`static long z = 1; ` + rm + `static int b; int *f(void) { use(&z); return &b; } void g(int x) { b = x; }`,
			`static long z = 1; ` + rm + `static int n; ` + rm + `static int b; int *f(void) { use(&z); use(&n); return &b; } void g(int x) { b = x; }`,
			".text.f", []string{"run z+0", "run use-4", "new +0", "run b+0"}, ""},
		{"neighbours that stay",
			rm + `static int a[4]; ` + rm + `static int b[4]; int f(void) { int s = 0; for (int *p = a; p < a + 4; p++) s += ext(*p); b[0] = a[0] = s; return s; }`,
			rm + `static int a[4]; ` + rm + `static int b[4]; int f(void) { int s = 1; for (int *p = a; p < a + 4; p++) s += ext(*p); b[0] = a[0] = s; return s; }`,
			".text.f", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := diff.Compare(difftest.Object(t, "u", common+tt.pre), difftest.Object(t, "u", common+tt.post))
			if err != nil {
				t.Fatal(err)
			}
			c, err := r.Closure()
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("Closure: error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == nil {
				return
			}
			var got []string
			for _, p := range c.Pieces {
				for _, x := range p.References {
					s := fmt.Sprintf("run %s%+d", x.Target.Name, x.Target.Addend)
					if x.Target.Piece != nil {
						s = fmt.Sprintf("new %+d", x.Target.Addend)
					}
					if p.Section.Name == tt.section && !slices.Contains(got, s) {
						got = append(got, s)
					}
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("references: (-want +got)\n%s", d)
			}
		})
	}
}
