package diff_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/diff/difftest"
)

// TestMoved: what one unit has new and another had before.
func TestMoved(t *testing.T) {
	tests := []struct {
		name        string
		a, b        [2]string // pre and post of two units
		otherModule bool
		want        []string
	}{
		{"a global function", [2]string{`int f(int x) { return ext(x); } int k(int x) { return x; }`, `int k(int x) { return x; }`},
			[2]string{`int g(int x) { return x; }`, `int f(int x) { return ext(x); } int g(int x) { return f(x); }`}, false,
			[]string{"a.o: changed f, moved to b.o", "b.o: moved here f, from a.o", "b.o: changed g, size 3 -> 5"}},
		{"a global function to another module", [2]string{`int f(int x) { return ext(x); } int k(int x) { return x; }`, `int k(int x) { return x; }`},
			[2]string{`int g(int x) { return x; }`, `int f(int x) { return ext(x); } int g(int x) { return f(x); }`}, true,
			[]string{"b.o: f moved here from a.o: the running kernel has it there"}},
		{"a function without its alias", [2]string{`int f(int x) { return ext(x); } int k(int x) __attribute__((alias("f")));`, `int k(int x) { return x; }`},
			[2]string{`int g(int x) { return x; }`, `int f(int x) { return ext(x); } int g(int x) { return f(x); }`}, false,
			[]string{"b.o: f moved here from a.o: the running kernel has it there"}},
		{"a global variable", [2]string{`int v; int k(int x) { return v += x; }`, `extern int v; int k(int x) { return v += x; }`},
			[2]string{`int g(int x) { return x; }`, `int v; int g(int x) { return v + x; }`}, false,
			[]string{"b.o: v moved here from a.o: the running kernel has it there (state)"}},
		{"a global function that another module keeps", [2]string{`int f(int x) { return ext(x); }`, `int f(int x) { return ext(x) + 1; }`},
			[2]string{`int g(int x) { return x; }`, `int f(int x) { return ext(x); } int g(int x) { return f(x); }`}, true,
			[]string{"a.o: changed f, size 5 -> 9", "b.o: new f, not in pre", "b.o: changed g, size 3 -> 5"}},
		{"a strong one where a weak one is", [2]string{`__attribute__((weak)) int f(int x) { return ext(x); } int k(int x) { return x; }`,
			`__attribute__((weak)) int f(int x) { return ext(x); } int k(int x) { return x + 1; }`},
			[2]string{`int g(int x) { return x; }`, `int f(int x) { return x; } int g(int x) { return f(x) + 1; }`}, false,
			[]string{"b.o: f moved here from a.o: the running kernel has it there"}},
		{"a static function", [2]string{`noinline static int f(int x) { return ext(x); } int k(int x) { return f(x); }`, `int k(int x) { return x; }`},
			[2]string{`int g(int x) { return x; }`, `noinline static int f(int x) { return ext(x); } int g(int x) { return f(x); }`}, false, nil},
		{"a static variable becomes global", [2]string{`static int v; int k(int x) { return v += x; }`, `extern int v; int k(int x) { return v += x; }`},
			[2]string{`int g(int x) { return x; }`, `int v; int g(int x) { return v + x; }`}, false,
			[]string{"b.o: v moved here from a.o: the running kernel has it there (state)"}},
		{"a static variable stays, another unit has one of the name", [2]string{`static int v; int k(int x) { return v += x; }`, `static int v; int k(int x) { return v -= x; }`},
			[2]string{`int g(int x) { return x; }`, `static int v; int g(int x) { return v += x; }`}, false, nil},
		{"a static variable moves with its function", [2]string{`noinline int f(int x) { static int n; return n += x; } int k(int x) { return x; }`, `int k(int x) { return x; }`},
			[2]string{`int g(int x) { return x; }`, `noinline static int f(int x) { static int n; return n += x; } int g(int x) { return f(x); }`}, false,
			[]string{"b.o: n of f (u.c:6) moved here from a.o: the running kernel has it there (state)"}},
		{"static variables of two functions", [2]string{`int f(int x) { static int n; return n += x; }`, `int f(int x) { return x; }`},
			[2]string{`int g(int x) { return x; }`, `int g(int x) { static int n; return n += x; }`}, false, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			result := func(s [2]string) *diff.Result {
				r, err := diff.Compare(difftest.Object(t, "u", common+s[0]), difftest.Object(t, "u", common+s[1]))
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			units := []diff.Unit{{Object: "a.o", Result: result(tt.a)}, {Object: "b.o", Result: result(tt.b)}}
			if tt.otherModule {
				units[1].Module = "other"
			}
			var got []string
			for _, x := range diff.Moved(units) {
				text := x.Where + ": " + x.Reason
				if x.State {
					text += " (state)"
				}
				got = append(got, text)
			}
			if strings.Contains(tt.name, "a global function") && len(got) == 0 {
				for _, u := range units {
					for _, f := range u.Result.Functions {
						got = append(got, fmt.Sprintf("%s: %s %s, %s", u.Object, f.Kind, f.Name, f.Why))
					}
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("Moved: (-want +got)\n%s", d)
			}
		})
	}
}
