package diff_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/diff"
)

const opsPre = `
struct ops { const char *name; int (*peek)(int); int number; } ;
noinline static int old(int x) { return ext(x); }
struct ops ops = { "plug", old, 1 }; int f(int x) { return ops.peek(x) + ops.number; }`

var opsPost = strings.NewReplacer(`"plug", old, 1`, `"flag", fresh, 2`, "struct ops ops", "noinline static int fresh(int x) { return other(x); } void g(void) { use(old); }\nstruct ops ops").Replace(opsPre)

func opsFields() []diff.Field {
	return []diff.Field{{Name: ".name", Offset: 0, Size: 8}, {Name: ".peek", Offset: 8, Size: 8}, {Name: ".number", Offset: 16, Size: 4}}
}

// TestRewrite: a changed initialiser becomes writes to run's datum; what they lead to goes along, and its address escapes.
func TestRewrite(t *testing.T) {
	r := compare(t, opsPre, opsPost)
	if len(r.Refusals) != 1 || !r.Refusals[0].Initialiser {
		t.Fatalf("refusals: %+v", r.Refusals)
	}
	if err := r.Rewrite("ops", opsFields()); err != nil {
		t.Fatal(err)
	}
	if len(r.Refusals) > 0 || !r.Defines() || fmt.Sprint(r.Sets()) != "[ops.name ops.peek ops.number]" {
		t.Errorf("refusals %+v, sets %q", r.Refusals, r.Sets())
	}
	c, err := r.Closure()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Writes) != 3 {
		t.Fatalf("writes: %+v", c.Writes)
	}
	name, peek, number := c.Writes[0], c.Writes[1], c.Writes[2]
	if name.Datum.Name != "ops" || string(name.OldText) != "plug\x00" || name.OldAddress != nil || name.NewAddress == nil || name.NewAddress.Piece == nil {
		t.Errorf("the string's address: %+v", name)
	}
	if peek.Offset != 8 || peek.OldAddress == nil || peek.OldAddress.Pre == nil || peek.OldAddress.Name != "old" || peek.NewAddress == nil ||
		peek.NewAddress.Piece == nil || peek.NewAddress.Piece.Symbols[0].Name != "fresh" {
		t.Errorf("the function's address: %+v", peek)
	}
	if !bytes.Equal(number.Old, []byte{1, 0, 0, 0}) || !bytes.Equal(number.New, []byte{2, 0, 0, 0}) || number.OldAddress != nil || number.NewAddress != nil {
		t.Errorf("the number: %+v", number)
	}
	if got := fmt.Sprint(c.Escapes); got != "[fresh ops.name]" {
		t.Errorf("escapes %s", got)
	}
}

// TestRewriteRefused: what does not describe the change, or cannot be written, is refused, and the refusal stands.
func TestRewriteRefused(t *testing.T) {
	fields := func(edit func(f []diff.Field) []diff.Field) []diff.Field { return edit(opsFields()) }
	for name, c := range map[string]struct {
		datum  string
		fields []diff.Field
		want   string
	}{
		"nobody":       {"nobody", opsFields(), "nobody has no changed initialiser"},
		"a byte alone": {"ops", fields(func(f []diff.Field) []diff.Field { return f[:2] }), "ops+0x10 differs, and no field is there"},
		"half an address": {"ops", fields(func(f []diff.Field) []diff.Field {
			return append([]diff.Field{{Name: ".a", Offset: 0, Size: 4}, {Name: ".b", Offset: 4, Size: 4}}, f[1:]...)
		}), "is no address as wide as the field"},
		"beyond":  {"ops", fields(func(f []diff.Field) []diff.Field { f[2].Size = 80; return f }), "are no field of its own"},
		"overlap": {"ops", fields(func(f []diff.Field) []diff.Field { f[2].Offset, f[2].Size = 12, 8; return f }), "are no field of its own"},
	} {
		r := compare(t, opsPre, opsPost)
		if err := r.Rewrite(c.datum, c.fields); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if len(r.Refusals) != 1 {
			t.Errorf("%s: the refusal is gone", name)
		}
	}
	for name, c := range map[string][2]string{
		"per-CPU":    {`section(".data..percpu") int v = 1; int f(void) { return v; }`, `section(".data..percpu") int v = 2; int f(void) { return v; }`},
		"other size": {`int v[2] = {1}; int f(int i) { return v[i]; }`, `int v[3] = {1}; int f(int i) { return v[i]; }`},
	} {
		r := compare(t, c[0], c[1])
		if len(r.Refusals) != 1 || r.Refusals[0].Initialiser {
			t.Errorf("%s: %+v", name, r.Refusals)
		}
	}
}
