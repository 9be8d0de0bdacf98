package diff_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/diff/difftest"
)

// TestCompareInit: where a module's init has not run, its code and data count like the rest.
func TestCompareInit(t *testing.T) {
	const init, data, rodata = `section(".init.text") `, `section(".init.data") `, `section(".init.rodata") `
	tests := []struct {
		name, pre, post string
		want            []string
		functions       []string // of init
		differs         bool
	}{
		{"its code", init + `int f(void) { return 1; } int g(int x) { return x; }`, init + `int f(void) { return 2; } int g(int x) { return x; }`,
			[]string{"changed function f: bytes at +0x1"}, []string{"f"}, true},
		{"code beside it", init + `int f(void) { return 1; } int g(int x) { return x; }`, init + `int f(void) { return 1; } int g(int x) { return x + 1; }`,
			[]string{"changed function g: size 3 -> 4"}, nil, false},
		{"new code", init + `int f(int x) { return x; }`, init + `noinline int n(int x) { return ext(x); } ` + init + `int f(int x) { return n(x + 1); }`,
			[]string{"changed function f: size 3 -> 5", "new function n: not in pre"}, []string{"f"}, true},
		{"a table", rodata + `static const int t[] = {1,2,3,4,5,6,7,8}; ` + init + `int f(int i) { return t[i]; }`,
			rodata + `static const int t[] = {1,2,3,4,5,6,7,9}; ` + init + `int f(int i) { return t[i]; }`,
			[]string{"changed function f: reference at +0x6: constant t: bytes at +0x1c", "changed data t: bytes at +0x1c"}, []string{"f"}, true},
		{"a variable", data + `int v = 1; ` + init + `int f(void) { return v; }`, data + `int v = 2; ` + init + `int f(void) { return v; }`,
			[]string{"changed data v: bytes at +0x0", "refused v: changed initialiser of live data, bytes 0x0 to 0x1: bytes at +0x0: the running kernel's datum was initialised long ago"}, nil, true},
		{"a function leaves it", init + `noinline int f(int x) { return ext(x); } int g(int x) { return x; }`, `noinline int f(int x) { return ext(x); } int g(int x) { return f(x); }`,
			[]string{"new function f: not in pre", "removed function f: not in post", "changed function g: size 3 -> 5",
				"refused f: the name is f's now, it was f's: other code of the running kernel uses it as it was"}, nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pre, post := difftest.Object(t, "u", common+tt.pre), difftest.Object(t, "u", common+tt.post)
			without, err := diff.Compare(pre, post)
			if err != nil {
				t.Fatal(err)
			}
			if without.Init != tt.differs {
				t.Errorf("Compare says that init differs: %v", without.Init)
			}
			r, err := diff.CompareInit(pre, post)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, say(r)); d != "" {
				t.Errorf("CompareInit (-want +got):\n%s", d)
			}
			if got := r.InitFunctions(); !slices.Equal(got, tt.functions) {
				t.Errorf("functions of init %q, want %q", got, tt.functions)
			}
		})
	}
}
