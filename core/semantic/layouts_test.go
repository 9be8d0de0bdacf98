package semantic

import (
	"bytes"
	"debug/dwarf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/update"
)

// layoutLines writes each layout as a line: "struct s: struct 8 {a int at 0; b int at 4.3 of 5}".
func layoutLines(layouts update.Layouts) []string {
	var lines []string
	for name, a := range layouts {
		line := fmt.Sprintf("%s: %s %d", name, a.Kind, a.Size)
		if a.Signed {
			line += " signed"
		}
		if a.Kind == update.LayoutPointer || a.Kind == update.LayoutArray {
			line += fmt.Sprintf(" of %q", a.Of)
		}
		if a.Kind == update.LayoutArray {
			line += fmt.Sprintf(" times %d", a.Count)
		}
		if len(a.Members) > 0 {
			var members []string
			for _, m := range a.Members {
				text := fmt.Sprintf("%s %s at %d", m.Name, m.Type, m.Offset)
				if m.Bits != 0 {
					text += fmt.Sprintf(".%d of %d", m.Bit, m.Bits)
				}
				members = append(members, text)
			}
			line += " {" + strings.Join(members, "; ") + "}"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func TestLayouts(t *testing.T) {
	for _, c := range []struct {
		name, source     string
		types, variables []string
		of               string // the variables' types
		want             []string
	}{
		{"numbers", "typedef unsigned u32; u32 a; long b; signed char c; unsigned char d; _Bool e; double f;",
			[]string{"u32"}, []string{"a", "b", "c", "d", "e", "f"},
			"a: unsigned int, b: long int, c: signed char, d: unsigned char, e: _Bool, f: double",
			[]string{"_Bool: number 1", "double: other 8", "long int: number 8 signed", "signed char: number 1 signed", "u32: number 4",
				"unsigned char: number 1", "unsigned int: number 4"}},
		{"enums", "enum e { A, B } e; enum n { N = -1 } n; enum big { L = 1ULL << 63 } big; enum { X } x; typedef enum { Y } y_t; y_t y; enum tiny { T } __attribute__((packed)) tiny;",
			[]string{"enum e", "enum tiny", "y_t"}, []string{"n", "big", "x", "y"},
			"big: enum big, n: enum n, x: x, y: y_t",
			[]string{"enum big: number 8", "enum e: number 4", "enum n: number 4 signed", "enum tiny: number 1", "x: number 4", "y_t: number 4"}},
		{"a type reached twice, and itself", "struct list_head { struct list_head *next, *prev; }; struct s { struct list_head a, b; const char *name; char *text; } s;",
			[]string{"struct s", "struct list_head"}, []string{"s"}, "s: struct s",
			[]string{`char *: pointer 8 of "char"`, `struct list_head *: pointer 8 of "struct list_head"`,
				"struct list_head: struct 16 {next struct list_head * at 0; prev struct list_head * at 8}",
				"struct s: struct 48 {a struct list_head at 0; b struct list_head at 16; name char * at 32; text char * at 40}"}},
		{"pointers", "struct far; typedef struct { int n; } a_t; struct s { void *v; char **p; int (*call)(int); struct { int n; } *u; struct far *far; void (**calls)(void); const a_t *a; int (*row)[3]; struct { int n; } **uu; } s;",
			[]string{"struct s"}, nil, "",
			[]string{`a_t *: pointer 8 of "a_t"`, `char **: pointer 8 of "char *"`, `int[3] *: pointer 8 of "int[3]"`, `struct far *: pointer 8 of "struct far"`,
				"struct s: struct 72 {v void * at 0; p char ** at 8; call void (*)() at 16; u void * at 24; far struct far * at 32; " +
					"calls void (*)() * at 40; a a_t * at 48; row int[3] * at 56; uu void ** at 64}",
				`void (*)() *: pointer 8 of "void (*)()"`, `void (*)(): pointer 8 of "void ()"`, `void **: pointer 8 of "void *"`, `void *: pointer 8 of ""`}},
		{"arrays", "struct one { char c; }; typedef short row_t[3]; struct one *many[4]; struct one same[2][3]; row_t grid[2]; const int (*const table[2])(int);",
			nil, []string{"many", "same", "grid", "table"},
			"grid: short int[2][3], many: struct one *[4], same: struct one[2][3], table: void (*)()[2]",
			[]string{"char: number 1 signed", "short int: number 2 signed", `short int[2][3]: array 12 of "short int[3]" times 2`, `short int[3]: array 6 of "short int" times 3`,
				`struct one *: pointer 8 of "struct one"`, `struct one *[4]: array 32 of "struct one *" times 4`, "struct one: struct 1 {c char at 0}",
				`struct one[2][3]: array 6 of "struct one[3]" times 2`, `struct one[3]: array 3 of "struct one" times 3`,
				`void (*)(): pointer 8 of "void ()"`, `void (*)()[2]: array 16 of "void (*)()" times 2`}},
		{"flexible arrays", "struct s { int n; struct { char c; } open[]; } s; struct z { int n; int none[0]; } z;",
			[]string{"struct s", "struct z"}, nil, "",
			[]string{"char: number 1 signed", "int: number 4 signed", `int[0]: array 0 of "int" times 0`, "struct s.open: struct 1 {c char at 0}",
				`struct s.open[0]: array 0 of "struct s.open" times 0`, "struct s: struct 4 {n int at 0; open struct s.open[0] at 4}",
				"struct z: struct 4 {n int at 0; none int[0] at 4}"}},
		{"unnamed members", "struct s { char first; union { long whole; struct { int low; union { int high; char c; }; }; }; int last; } s; union u { struct { int a, b; }; long l; } u;",
			[]string{"struct s", "union u"}, nil, "",
			[]string{"char: number 1 signed", "int: number 4 signed", "long int: number 8 signed",
				"struct s: struct 24 {first char at 0; whole long int at 8; low int at 8; high int at 12; c char at 12; last int at 16}",
				"union u: union 8 {a int at 0; b int at 4; l long int at 0}"}},
		{"structures without a name", "struct s { union { struct { struct { int i; } in; int j; } at; long l; }; union { int k; } two[2], other; enum { M } mode; } s;",
			nil, []string{"s"}, "s: struct s",
			[]string{"int: number 4 signed", "long int: number 8 signed", "struct s.at.in: struct 4 {i int at 0}", "struct s.at: struct 8 {in struct s.at.in at 0; j int at 4}",
				"struct s.mode: number 4", "struct s.other: union 4 {k int at 0}", `struct s.two[2]: array 8 of "struct s.two" times 2`, "struct s.two: union 4 {k int at 0}",
				"struct s: struct 24 {at struct s.at at 0; l long int at 0; two struct s.two[2] at 8; other struct s.other at 16; mode struct s.mode at 20}"}},
		{"bit fields", "struct s { int a : 3; unsigned b : 7; _Bool c : 1; unsigned : 6; unsigned d : 9; struct { unsigned e : 2, f : 12; }; char whole; } s;",
			[]string{"struct s"}, nil, "",
			[]string{"_Bool: number 1", "char: number 1 signed", "int: number 4 signed",
				"struct s: struct 12 {a int at 0.0 of 3; b unsigned int at 0.3 of 7; c _Bool at 1.2 of 1; d unsigned int at 2.1 of 9; " +
					"e unsigned int at 4.0 of 2; f unsigned int at 4.2 of 12; whole char at 8}", "unsigned int: number 4"}},
		{"bit fields beyond their type", "struct s { char c; int a : 31; unsigned b : 9; } __attribute__((packed)) s;",
			[]string{"struct s"}, nil, "",
			[]string{"char: number 1 signed", "int: number 4 signed",
				"struct s: struct 6 {c char at 0; a int at 1.0 of 31; b unsigned int at 4.7 of 9}", "unsigned int: number 4"}},
		{"typedefs", "typedef struct { int counter; } atomic_t; typedef atomic_t ref_t; typedef struct lock { char c; } lock_t; typedef const struct { short n; } const_t; typedef struct { int n; } pair_t[2]; typedef char *text_t; struct s { volatile ref_t users; lock_t lock; const_t c; } s; pair_t pair; text_t text;",
			[]string{"atomic_t", "ref_t", "lock_t", "const_t", "pair_t", "text_t", "struct s"}, []string{"pair", "text"}, "pair: pair[2], text: char *",
			[]string{"atomic_t: struct 4 {counter int at 0}", "char *: pointer 8 of \"char\"", "char: number 1 signed", "const_t: struct 2 {n short int at 0}",
				"element of pair_t: struct 4 {n int at 0}", "int: number 4 signed", "lock_t: struct 1 {c char at 0}", `pair[2]: array 8 of "pair" times 2`,
				"pair: struct 4 {n int at 0}", `pair_t: array 8 of "element of pair_t" times 2`, "ref_t: struct 4 {counter int at 0}", "short int: number 2 signed",
				"struct lock: struct 1 {c char at 0}", "struct s: struct 8 {users atomic_t at 0; lock struct lock at 4; c const_t at 6}", `text_t: pointer 8 of "char"`}},
		{"variables", `struct far; extern struct far thing; extern int open[], grows[], known[4]; int grows[7]; extern const void here; void take(const void *, ...);
static struct { struct { int i; } in; } plain[2];
void f(void); void f(void) { extern short block; take(&thing, open, grows, known, &here, plain, &block); }`,
			nil, []string{"thing", "open", "grows", "known", "here", "plain", "block"},
			"block: short int, grows: int[7], here: void, known: int[4], open: int[0], plain: plain[2], thing: struct far",
			[]string{"int: number 4 signed", `int[0]: array 0 of "int" times 0`, `int[4]: array 16 of "int" times 4`, `int[7]: array 28 of "int" times 7`,
				"plain.in: struct 4 {i int at 0}", `plain[2]: array 8 of "plain" times 2`, "plain: struct 4 {in plain.in at 0}", "short int: number 2 signed",
				"struct far: other 0", "void: other 0"}},
		{"variables of functions", `void take(void *, ...); static long count;
static inline void in(void) { static short last; take(&last); }
__attribute__((noinline)) static void g(void) { static struct st { char c; } count; typedef struct { int n; } own_t; static own_t own; if (count.c) { static int twice; take(&twice); } else { static int twice; take(&twice); } take(&count, &own); }
void f(void); void f(void) { static struct { int n; } count; in(); g(); take(&count); }
void h(void); void h(void) { in(); take(&count); }`,
			nil, []string{"count", "f.count", "g.count", "in.last", "g.own", "g.twice"},
			"count: long int, f.count: f.count, g.count: struct st, g.own: own_t, g.twice: int, in.last: short int",
			[]string{"char: number 1 signed", "f.count: struct 4 {n int at 0}", "int: number 4 signed", "long int: number 8 signed", "own_t: struct 4 {n int at 0}",
				"short int: number 2 signed", "struct st: struct 1 {c char at 0}"}},
		{"nothing", "int x;", nil, nil, "", nil},
	} {
		for _, flag := range []string{"-gdwarf-5", "-gdwarf-4", "-gdwarf-2"} {
			t.Run(c.name+flag, func(t *testing.T) {
				t.Parallel()
				layouts, of, err := Layouts(object(t, "u", c.source, flag, "-fno-eliminate-unused-debug-types"), c.types, c.variables)
				if err != nil {
					t.Fatal(err)
				}
				var types []string
				for name, to := range of {
					types = append(types, name+": "+to)
				}
				slices.Sort(types)
				if got := strings.Join(types, ", "); got != c.of {
					t.Errorf("types of variables: %s\nwant %s", got, c.of)
				}
				slices.Sort(c.want)
				if d := cmp.Diff(c.want, layoutLines(layouts)); d != "" {
					t.Errorf("layouts (-want +got):\n%s", d)
				}
			})
		}
	}
}

func TestLayoutsErrors(t *testing.T) {
	path := object(t, "u", `struct far; struct s { struct far *far; int n; } s; typedef struct far far_t; far_t *use; struct o { int n; } o; void take(void *, ...);
void f(int n);
void f(int n) { int automatic[2]; struct in { int n; } in; static struct o { long l; } own; take(automatic, &in, &own); if (n) { static int x; take(&x); } else { static long x; take(&x); } }`)
	for _, c := range []struct{ asked, want string }{
		{"type struct none", "does not describe one"},
		{"type s", "does not describe one"},
		{"type union s", "does not describe one"},
		{"type struct in", "does not describe one"},
		{"type ", "does not describe one"},
		{"type struct far", "only declares it"},
		{"type far_t", "only declares it"},
		{"variable none", "does not describe one"},
		{"variable automatic", "does not describe one"},
		{"variable f.automatic", "does not describe one"},
		{"variable own", "does not describe one"},
		{"variable f.x", "describes it in two ways"},
	} {
		kind, name, _ := strings.Cut(c.asked, " ")
		types, variables := []string{"struct s"}, []string{"s"}
		if kind == "type" {
			types = append(types, name)
		} else {
			variables = append(variables, name)
		}
		layouts, of, err := Layouts(path, types, variables)
		if want := c.asked + ": " + path + " " + c.want; err == nil || err.Error() != want || layouts != nil || of != nil {
			t.Errorf("%s: %v, %v, %v; want %s", c.asked, layouts, of, err, want)
		}
	}
	// A function's own type hides the outer one.
	if _, _, err := Layouts(path, []string{"struct o"}, []string{"f.own"}); err == nil || !strings.Contains(err.Error(), "describes struct o in two ways") {
		t.Errorf("two types of one name: %v, want an error", err)
	}
	for _, c := range []struct{ path, want string }{
		{path + ".missing", "no such file"},
		{object(t, "u", "struct s { int n; } s;", "-g0"), ErrNoTypes.Error()},
		{strings.TrimSuffix(path, "o") + "c", "read object"},
	} {
		if _, _, err := Layouts(c.path, []string{"struct s"}, nil); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: %v, want %q", c.path, err, c.want)
		}
	}
}

// TestLayoutsSigned: not every compiler writes an encoding for enums.
func TestLayoutsSigned(t *testing.T) {
	layouts, _, err := Layouts(object(t, "u", "enum p { A } p; enum n { N = -1 } n;", "-gdwarf-2", "-gstrict-dwarf"), []string{"enum p", "enum n"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"enum n: number 4 signed", "enum p: number 4"}, layoutLines(layouts)); d != "" {
		t.Errorf("layouts (-want +got):\n%s", d)
	}
	u, err := os.ReadFile(object(t, "u", "int i; unsigned u;"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := openELF(bytes.NewReader(u))
	if err != nil {
		t.Fatal(err)
	}
	l := &layouter{places: map[*typ]dwarf.Offset{}}
	if l.unit, err = load(file); err != nil {
		t.Fatal(err)
	}
	for at, b := range l.types {
		l.places[b] = at
		if got, want := l.signed(&typ{kind: kindEnum, elem: b}), b.name == "int"; got != want {
			t.Errorf("an enum that is made of %s: signed %v, want %v", b.name, got, want)
		}
	}
}

// TestLayoutsJoined: an object of several units has each type several times.
func TestLayoutsJoined(t *testing.T) {
	const common = "struct in { int n; }; struct s { struct in in[2]; struct in *to; }; "
	a := object(t, "a", common+"struct far; extern struct far thing; struct own { int n; } own_a; void *get(void); void *get(void) { return &thing; } struct s first;")
	b := object(t, "b", common+"struct far { struct s s; } thing; struct own { long l; } own_b; extern struct s first; struct s *at = &first; static int x; int *px = &x;")
	path := filepath.Join(t.TempDir(), "joined.o")
	if text, err := exec.Command("ld", "-r", "-o", path, a, b).CombinedOutput(); err != nil {
		t.Fatalf("ld -r: %v\n%s", err, text)
	}
	layouts, of, err := Layouts(path, []string{"struct s", "struct far"}, []string{"first", "thing"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"first": "struct s", "thing": "struct far"}, of); d != "" {
		t.Errorf("types of variables (-want +got):\n%s", d)
	}
	want := []string{"int: number 4 signed", `struct in *: pointer 8 of "struct in"`, "struct far: struct 16 {s struct s at 0}", "struct in: struct 4 {n int at 0}",
		`struct in[2]: array 8 of "struct in" times 2`, "struct s: struct 16 {in struct in[2] at 0; to struct in * at 8}"}
	slices.Sort(want)
	if d := cmp.Diff(want, layoutLines(layouts)); d != "" {
		t.Errorf("layouts (-want +got):\n%s", d)
	}
	if _, _, err := Layouts(path, []string{"struct own"}, nil); err == nil || !strings.Contains(err.Error(), "describes struct own in two ways") {
		t.Errorf("two types of one name: %v, want an error", err)
	}
}

// TestLayoutsEndless: what damaged debug information can say, and C cannot.
func TestLayoutsEndless(t *testing.T) {
	itself := &typ{kind: kindStruct, complete: true, name: "s", size: 8}
	itself.members = []member{{name: "a", t: itself}, {name: "b", t: itself}}
	unnamed := &typ{kind: kindStruct, complete: true, size: 8}
	unnamed.members = []member{{t: unnamed}, {t: unnamed}}
	pointer := &typ{kind: kindPointer, complete: true, size: 8}
	pointer.elem = pointer
	array := &typ{kind: kindArray, complete: true, dims: []int64{2}}
	array.elem = array
	alias := &typ{kind: kindAlias, complete: true, name: "t"}
	alias.elem = alias
	number := &typ{kind: kindInt, complete: true, name: "int", size: 4}
	for _, c := range []struct {
		name string
		t    *typ
		want string
	}{
		{"a structure in itself", itself, "nests types without end"},
		{"an unnamed structure in itself", unnamed, "nests types without end"},
		{"a pointer to itself", pointer, "nests types without end"},
		{"an array of itself", array, "nests types without end"},
		{"a typedef of itself", alias, "nests types without end"},
		{"a huge array", &typ{kind: kindArray, complete: true, elem: number, dims: []int64{1 << 40, 1 << 40}}, "describes an array without end"},
		{"a member before", &typ{kind: kindUnion, complete: true, name: "u", members: []member{{name: "a", t: number, off: -8}}}, "describes a member before its structure: u.a"},
	} {
		l := &layouter{unit: &unit{}, layouts: update.Layouts{}, done: map[described]bool{}, places: map[*typ]dwarf.Offset{}}
		if l.add(c.t, "v", 0); l.err == nil || l.err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.name, l.err, c.want)
		}
	}
}

func TestLayoutsDamaged(t *testing.T) {
	path := object(t, "u", "struct s { int a:3; struct s *n; struct { long l[3]; } x[2]; union { int i; }; } g; enum e { A } ge; typedef struct { int n; } a_t; a_t ga;", "-gdwarf-5")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(good); n += 7 {
		bad := bytes.Clone(good)
		bad[n] ^= 0x55
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, _ = Layouts(path, []string{"struct s", "a_t"}, []string{"g", "ge"}) // no panic, no hang; many bytes mean nothing here
	}
}
