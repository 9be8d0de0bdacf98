package build

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// headerTree has units of which every third calls a function of a header that all include.
func headerTree(t *testing.T, units int) (*backend.Tree, []backend.Unit) {
	t.Helper()
	tree := newTree(t)
	writeTest(t, filepath.Join(tree.Root, "h/inline.h"), headerText(1))
	writeTest(t, filepath.Join(tree.Root, "Makefile"), "all:")
	var list []backend.Unit
	for i := range units {
		name := fmt.Sprintf("u/%03d.c", i)
		text := fmt.Sprintf("include h/inline.h\nint g%d(void) { return %d; }", i, i)
		if i%3 == 0 {
			text += "\nint k(void) { return f(); }"
		}
		writeTest(t, filepath.Join(tree.Root, name), text)
		list = append(list, unitOf(name))
	}
	return tree, list
}

func headerText(n int) string { return fmt.Sprintf("static inline int f(void) { return %d; }", n) }

// TestUnaffected: the units that need no new code are found by their preprocessed text, and once.
func TestUnaffected(t *testing.T) {
	tree, units := headerTree(t, 2*sampled+3)
	before := contents(t, tree.Root)
	f := &fake{}
	b := New(f, t.TempDir(), nil)
	ask := func(pre, post map[string][]byte, jobs int) []bool {
		t.Helper()
		var last plugin.Progress
		same, err := b.Unaffected(t.Context(), tree, CompileInput{Files: pre, Units: units, Flags: []string{";"}, Jobs: jobs}, CompileInput{Files: post},
			func(p plugin.Progress) {
				if p.Done < last.Done || p.Total != int64(2*len(units)) {
					t.Errorf("the progress goes from %+v to %+v", last, p)
				}
				last = p
			})
		if err != nil {
			t.Fatal(err)
		}
		return same
	}
	var want []bool
	for i := range units {
		want = append(want, i%3 != 0)
	}
	for _, jobs := range []int{1, 2, 5} {
		if diff := cmp.Diff(want, ask(nil, files("h/inline.h", headerText(1+jobs)), jobs)); diff != "" {
			t.Errorf("with %d jobs (-want +got):\n%s", jobs, diff)
		}
	}
	if n := 3 * 2 * len(units); len(f.compiled) != n {
		t.Errorf("%d texts were made, want %d", len(f.compiled), n)
	}
	f.compiled = nil
	if diff := cmp.Diff(want, ask(nil, files("h/inline.h", headerText(3)), 2)); diff != "" || len(f.compiled) > 0 {
		t.Errorf("again, %d texts were made: (-want +got)\n%s", len(f.compiled), diff)
	}
	ask(files("h/inline.h", headerText(3)), files("h/inline.h", headerText(4)), 2)
	if len(f.compiled) == 0 {
		t.Errorf("from another base, nothing is looked at")
	}
	f.compiled = nil
	if same := ask(nil, files("h/inline.h", headerText(2), "Makefile", "all: x"), 2); slices.Contains(same, true) || len(f.compiled) > 0 {
		t.Errorf("a makefile is patched, and units are proved to be the same: %v", same)
	}
	if same := ask(nil, files("h/inline.h", headerText(2)+"\nint everybody(void) { return 1; }"), 2); slices.Contains(same, true) || len(f.compiled) != 2*sampled {
		t.Errorf("every unit changes: %d texts are made, want %d; %v", len(f.compiled), 2*sampled, same)
	}
	if diff := cmp.Diff(before, contents(t, tree.Root)); diff != "" {
		t.Errorf("the tree changed: %s", diff)
	}
}

// TestUnaffectedByObjects: a backend that makes objects though texts are asked for proves nothing, and neither does a unit that cannot be
// preprocessed.
func TestUnaffectedByObjects(t *testing.T) {
	tree, units := headerTree(t, 5)
	objects := &nonsense{change: func(r *backend.CompileResponse) {
		for i := range r.Results {
			if err := os.WriteFile(r.Results[i].Object, []byte("\x7fELF and so on"), 0o644); err != nil {
				t.Error(err)
			}
		}
	}}
	failing := &nonsense{change: func(r *backend.CompileResponse) {
		for i := range r.Results {
			r.Results[i].Object = ""
		}
	}}
	for name, n := range map[string]*nonsense{"objects": objects, "failing": failing} {
		same, err := New(n, t.TempDir(), nil).Unaffected(t.Context(), tree, CompileInput{Units: units}, CompileInput{Files: files("h/inline.h", headerText(2))}, nil)
		if err != nil || slices.Contains(same, true) {
			t.Errorf("%s: %v, %v", name, same, err)
		}
	}
}

// TestCompileAll: several inputs at once give what they give one by one; objects are kept batch by batch.
func TestCompileAll(t *testing.T) {
	tree, units := headerTree(t, batch+5)
	var ins []CompileInput
	for i := range 2 {
		ins = append(ins, CompileInput{Name: fmt.Sprint(i), Files: files("h/inline.h", headerText(i+2)), Units: units})
	}
	one, both := New(&fake{}, t.TempDir(), nil), &fake{}
	b := New(both, t.TempDir(), nil)
	var last plugin.Progress
	got, err := b.CompileAll(t.Context(), tree, ins, func(p plugin.Progress) { last = p })
	if err != nil {
		t.Fatal(err)
	}
	if n := int64(2 * len(units)); last.Total != n {
		t.Errorf("the progress ends with %+v, want the total %d", last, n)
	}
	for i, in := range ins {
		want, err := one.Compile(t.Context(), tree, in, nil)
		if err != nil {
			t.Fatal(err)
		}
		for n := range want {
			if got[i][n].SHA256 != want[n].SHA256 || got[i][n].Unit != units[n] {
				t.Fatalf("input %d, unit %d: %+v, alone %+v", i, n, got[i][n], want[n])
			}
		}
	}
	// The last unit of the second input fails: all but that are in the cache then.
	bad := files("h/inline.h", headerText(9), units[len(units)-1].Source, "error")
	_, err = b.CompileAll(t.Context(), tree, []CompileInput{ins[0], {Name: "second", Files: bad, Units: units}}, nil)
	if err == nil || err.Error()[:8] != "second: " {
		t.Errorf("an input with an error gives %v", err)
	}
	both.compiled = nil
	if _, err := b.CompileAll(t.Context(), tree, []CompileInput{{Files: bad, Units: units[:len(units)-1]}}, nil); err != nil || len(both.compiled) > 0 {
		t.Errorf("after the error %d units are compiled again, %v", len(both.compiled), err)
	}
}

// TestMergeProgress: the sum of several, those that have not spoken yet taken for as much.
func TestMergeProgress(t *testing.T) {
	var got []string
	f := mergeProgress(2, func(p plugin.Progress) {
		got = append(got, fmt.Sprintf("%s %s %d/%d", p.Stage, p.Message, p.Done, p.Total))
	})
	f[0](plugin.Progress{Stage: "compile", Total: 10})
	f[0](plugin.Progress{Stage: "compile", Message: "a", Done: 1, Total: 10})
	f[1](plugin.Progress{Stage: "compile", Message: "b", Done: 2, Total: 4})
	within(f[0], 3, 10)(plugin.Progress{Stage: "compile", Message: "c", Done: 2, Total: 7})
	want := []string{"compile  0/20", "compile a 1/20", "compile b 3/14", "compile c 7/14"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
