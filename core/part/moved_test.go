package part

import (
	"slices"
	"testing"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/update"
)

// TestMoved: a function that leaves one unit for another is replaced by the other's code; both units, and what the function says of itself,
// name its place in the running kernel.
func TestMoved(t *testing.T) {
	in := input(t,
		"__attribute__((noinline)) int f(int n) { return n * 54321; } int a(int n) { return f(n) + 1; }",
		"extern int f(int); int a(int n) { return f(n) + 2; }")
	other := input(t, "int b(int n) { return n * 54321; }",
		"extern void keep(void *); __attribute__((noinline)) int f(int n) { keep(f); return n * 12345; } int b(int n) { return f(n) + 3; }")
	in.Units = append(in.Units, other.Units[0])
	a, b := &in.Units[0], &in.Units[1]
	a.Unit.Object, b.Unit.Object, b.Index = "fs/a.o", "fs/b.o", 1
	if refused := diff.Moved([]diff.Unit{{Object: "fs/a.o", Result: a.Result}, {Object: "fs/b.o", Result: b.Result}}); len(refused) > 0 {
		t.Fatalf("refused: %+v", refused)
	}
	for _, u := range []*UnitInput{a, b} {
		var err error
		if u.Closure, err = u.Result.Closure(); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.Closure.New) > 0 || len(b.Closure.Escapes) > 0 {
		t.Errorf("new %q, escaping %q: the function is not new", b.Closure.New, b.Closure.Escapes)
	}
	o := build(t, in)
	i := slices.IndexFunc(o.Functions, func(f update.Function) bool { return f.Name == "f" })
	if i < 0 || len(o.Functions) != 3 {
		t.Fatalf("functions %+v, want a, b and f", o.Functions)
	}
	f := o.Functions[i]
	if f.Unit != 0 || a.Pre.File.Symbols[f.Symbol].Name != "f" || f.Why != "moved to fs/b.o" || f.Replacement == "" {
		t.Errorf("f is %+v", f)
	}
	if o.Objects[0].Symbol(f.Replacement) != nil || o.Objects[1].Symbol(f.Replacement) == nil || o.Objects[1].Symbol("f.ksplice") == nil {
		t.Errorf("the replacement %s is not in the object of fs/b.o", f.Replacement)
	}
	named := 0
	for n, s := range o.Slots {
		if s.Name != "f" || s.Kind != update.SlotSymbol {
			continue
		}
		if s.Unit != 0 || !s.AddressTaken {
			t.Errorf("slot %+v, want that of fs/a.o with the address taken", s)
		}
		for _, object := range o.Objects {
			for _, section := range object.Sections {
				for _, r := range section.Relocs {
					if r.Symbol.Name == slotName(n) {
						named++
					}
				}
			}
		}
	}
	if named != 3 {
		t.Errorf("the objects name f's slot %d times, want 3: the call in a, the address in f, the call in b", named)
	}
	link(t, o)
}
