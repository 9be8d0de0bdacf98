package diff_test

import (
	"debug/elf"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/diff/difftest"
	"github.com/ksplice/ksplice/core/objfile"
)

// wholeUnit has functions and data of every kind that a new file may bring.
const wholeUnit = `
int shown; int limit = 3;
static section(".data..percpu") long calls;
static const char *const names[] = { "no", "one" };
noinline static int count(int x) { static int n; return n += x; }
void show(int x) { shown++; calls++; say(names[x & 1], count(x), limit); }
section(".init.text") int start(void) { return limit = 1; }
`

// TestWholeUnits: a unit whose source a patch brings is compared with an object that has nothing, and so is one whose source goes.
func TestWholeUnits(t *testing.T) {
	nothing := func() *diff.Object {
		path := filepath.Join(t.TempDir(), "nothing.o")
		if err := objfile.New(elf.EM_X86_64).WriteFile(path); err != nil {
			t.Fatal(err)
		}
		f, err := objfile.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return &diff.Object{Name: "u.o", File: f, Desc: difftest.Describe(t, f)}
	}
	unit := func() *diff.Object { return difftest.Object(t, "u", common+wholeUnit) }

	comes, err := diff.Compare(nothing(), unit())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"new function count: not in pre", "new function show: not in pre", "new data calls: not in pre", "new data limit: not in pre", "new data n.0: not in pre",
		"new data names: not in pre", "new data shown: not in pre", "note start is new: code of section .init.text runs when the kernel boots or a module loads or goes: what has run is not replaced"}
	got := say(comes)
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("a unit that comes (-want +got):\n%s", d)
	}
	c, err := comes.Closure()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"calls", "count", "limit", "n.0", "names", "show", "shown"}, c.New); d != "" {
		t.Errorf("the part has (-want +got):\n%s", d)
	}
	for _, p := range c.Pieces {
		for _, r := range p.References {
			if r.Target.Pre != nil {
				t.Errorf("%s refers to %s of pre, which has nothing", p.Section.Name, r.Target.Name)
			}
		}
	}

	goes, err := diff.Compare(unit(), nothing())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range goes.Functions {
		if f.Kind != diff.Removed {
			t.Errorf("a unit that goes: %s function %s", f.Kind, f.Name)
		}
	}
	if len(goes.Functions) != 2 || len(goes.Refusals) > 0 {
		t.Errorf("a unit that goes: %q", say(goes))
	}
	if c, err := goes.Closure(); err != nil || len(c.Pieces) > 0 {
		t.Errorf("a unit that goes: %v, and the part has %d pieces", err, len(c.Pieces))
	}
}
