package transfer

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/update"
)

// sides are the types of two versions, of which each has members of struct s that the other has not, and struct wide in a size of its own.
func sides() (before, after update.Layouts) {
	word, pointer := update.Layout{Kind: update.LayoutNumber, Size: 4}, update.Layout{Kind: update.LayoutPointer, Size: 8, Of: "struct s"}
	before = update.Layouts{
		"int": word, "struct s *": pointer, "void *": {Kind: update.LayoutPointer, Size: 8},
		"struct far *": {Kind: update.LayoutPointer, Size: 8, Of: "struct far"},
		"struct in":    {Kind: update.LayoutStruct, Size: 8, Members: []update.LayoutMember{{Name: "x", Type: "int"}, {Name: "y", Type: "int", Offset: 4}}},
		"struct in[2]": {Kind: update.LayoutArray, Size: 16, Of: "struct in", Count: 2},
		"int[3]":       {Kind: update.LayoutArray, Size: 12, Of: "int", Count: 3},
		"int[2][3]":    {Kind: update.LayoutArray, Size: 24, Of: "int[3]", Count: 2},
		"struct wide":  {Kind: update.LayoutStruct, Size: 4, Members: []update.LayoutMember{{Name: "x", Type: "int"}}},
		"struct absent": {Kind: update.LayoutStruct, Size: 4, Members: []update.LayoutMember{
			{Name: "x", Type: "struct nowhere"}, {Name: "y", Type: "struct nowhere[2]"}}},
		"struct nowhere[2]": {Kind: update.LayoutArray, Size: 8, Of: "struct nowhere", Count: 2},
		"struct s": {Kind: update.LayoutStruct, Size: 96, Members: []update.LayoutMember{
			{Name: "n", Type: "int"}, {Name: "low", Type: "int", Offset: 4, Bits: 3}, {Name: "high", Type: "int", Offset: 5, Bit: 1, Bits: 9},
			{Name: "next", Type: "struct s *", Offset: 8}, {Name: "in", Type: "struct in", Offset: 16}, {Name: "many", Type: "struct in[2]", Offset: 24},
			{Name: "grid", Type: "int[2][3]", Offset: 40}, {Name: "any", Type: "void *", Offset: 64}, {Name: "far", Type: "struct far *", Offset: 72},
			{Name: "gone", Type: "int", Offset: 80}, {Name: "open", Type: "int[0]", Offset: 96},
		}},
		"int[0]": {Kind: update.LayoutArray, Of: "int"},
	}
	after = update.Layouts{
		"int": word, "struct s *": pointer,
		"struct wide": {Kind: update.LayoutStruct, Size: 8, Members: []update.LayoutMember{{Name: "x", Type: "int"}}},
		"struct new":  {Kind: update.LayoutStruct, Size: 4, Members: []update.LayoutMember{{Name: "x", Type: "int"}}},
		"struct s": {Kind: update.LayoutStruct, Size: 96, Members: []update.LayoutMember{
			{Name: "n", Type: "int", Offset: 4}, {Name: "come", Type: "int", Offset: 80}, {Name: "wide", Type: "struct wide", Offset: 84},
			{Name: "new", Type: "struct new", Offset: 92}, {Name: "bit", Type: "int", Offset: 3, Bit: 7, Bits: 1},
		}},
	}
	return before, after
}

// TestPath: a path is what C means by it.
func TestPath(t *testing.T) {
	before, after := sides()
	types := newTypes(before, after)
	for _, c := range []struct {
		typ, text string
		want      path
	}{
		{"struct s", "", path{hops: []uint64{0}, typ: "struct s"}},
		{"struct nobody", "", path{hops: []uint64{0}, typ: "struct nobody"}},
		{"struct s", "n", path{hops: []uint64{0}, typ: "int"}},
		{"struct s", ".n", path{hops: []uint64{0}, typ: "int"}},
		{"struct s", "low", path{hops: []uint64{4}, typ: "int", bits: 3}},
		{"struct s", "high", path{hops: []uint64{5}, typ: "int", bit: 1, bits: 9}},
		{"struct s", "in", path{hops: []uint64{16}, typ: "struct in"}},
		{"struct s", "in.y", path{hops: []uint64{20}, typ: "int"}},
		{"struct s", "many[0].x", path{hops: []uint64{24}, typ: "int"}},
		{"struct s", "many[1].y", path{hops: []uint64{36}, typ: "int"}},
		{"struct s", "grid", path{hops: []uint64{40}, typ: "int[2][3]"}},
		{"struct s", "grid[1]", path{hops: []uint64{52}, typ: "int[3]"}},
		{"struct s", "grid[1][2]", path{hops: []uint64{60}, typ: "int"}},
		{"struct s", "open[7]", path{hops: []uint64{124}, typ: "int"}},
		{"struct s", "next", path{hops: []uint64{8}, typ: "struct s *"}},
		{"struct s", "next->in.y", path{hops: []uint64{8, 20}, typ: "int"}},
		{"struct s", "next->next->high", path{hops: []uint64{8, 8, 5}, typ: "int", bit: 1, bits: 9}},
		{"struct s", "next->next->many[1]", path{hops: []uint64{8, 8, 32}, typ: "struct in"}},
		{"struct s *", "->in", path{hops: []uint64{0, 16}, typ: "struct in"}},
		{"struct in[2]", "[1]", path{hops: []uint64{8}, typ: "struct in"}},
		{"struct in[2]", "[1].y", path{hops: []uint64{12}, typ: "int"}},
		// What the other version has, where this one has it not.
		{"struct s", "gone", path{hops: []uint64{80}, typ: "int"}},
		{"struct s", "come", path{hops: []uint64{80}, typ: "int"}},
		{"struct s", "new", path{hops: []uint64{92}, typ: "struct new"}},
		{"struct s", "new.x", path{hops: []uint64{92}, typ: "int"}},
		{"struct s", "bit", path{hops: []uint64{3}, typ: "int", bit: 7, bits: 1}},
		{"struct new", "x", path{hops: []uint64{0}, typ: "int"}},
		{"struct absent", "x", path{hops: []uint64{0}, typ: "struct nowhere"}},
	} {
		for range 2 { // the second time it is known
			p, err := types.path(c.typ, c.text)
			if err != nil {
				t.Errorf("%s of %s: %v", c.text, c.typ, err)
				continue
			}
			if d := cmp.Diff(&c.want, p, cmp.AllowUnexported(path{})); d != "" {
				t.Errorf("%s of %s (-want +got):\n%s", c.text, c.typ, d)
			}
			if p.inside() != !strings.Contains(c.text, "->") {
				t.Errorf("%s of %s lies inside: %v", c.text, c.typ, p.inside())
			}
		}
	}
}

// TestPathOfOther: the version that comes first is the one that is asked first.
func TestPathOfOther(t *testing.T) {
	before, after := sides()
	for text, want := range map[string]uint64{"n": 4, "come": 80, "gone": 80, "low": 4, "in.y": 20} {
		if p, err := newTypes(after, before).path("struct s", text); err != nil || p.hops[0] != want {
			t.Errorf("%s: %+v, %v, want %d", text, p, err, want)
		}
	}
}

// TestPathRefused: what C would not compile is an error that says why.
func TestPathRefused(t *testing.T) {
	before, after := sides()
	types := newTypes(before, after)
	for _, c := range []struct{ typ, text, want string }{
		{"struct s", ".", `. of struct s: struct s has no member ""`},
		{"struct s", "none", `struct s has no member "none"`},
		{"struct s", "in.", `struct in has no member ""`},
		{"struct s", "in..x", `struct in has no member ""`},
		{"struct s", "in x", `struct s has no member "in x"`},
		{"struct s", " n", `struct s has no member " n"`},
		{"struct s", "in.z", `struct in has no member "z"`},
		{"struct s", "next.n", "struct s * is a pointer: its members are written with ->"},
		{"struct s", "in->x", "struct in is no pointer"},
		{"struct s", "->n", "struct s is no pointer"},
		{"struct s", "next->", `struct s has no member ""`},
		{"struct s", "next->[0]", `struct s has no member ""`},
		{"struct s", "next-", `"-" is neither .MEMBER, ->MEMBER nor [NUMBER]`},
		{"struct s", "next-in", `"-in" is neither`},
		{"struct s", "many[0]x", `"x" is neither`},
		{"struct s", "many[2]", "struct in[2] has no element 2"},
		{"struct s", "many[0][0]", "struct in has no element 0"},
		{"struct s", "grid[1][3]", "int[3] has no element 3"},
		{"struct s", "next[0]", "struct s * has no element 0"},
		{"struct s", "many[", `"[" is no [NUMBER]`},
		{"struct s", "many[]", "is no [NUMBER]"},
		{"struct s", "many[0", "is no [NUMBER]"},
		{"struct s", "many[-1]", "is no [NUMBER]"},
		{"struct s", "many[x]", "is no [NUMBER]"},
		{"struct s", "many[0x1]", "is no [NUMBER]"},
		{"struct s", "open[4294967296]", "is no [NUMBER]"},
		{"struct s", "many]", `struct s has no member "many]"`},
		{"struct s", "low.x", "follows a bit field"},
		{"struct s", "low[0]", "follows a bit field"},
		{"struct s", "low->x", "follows a bit field"},
		{"struct s", "any->n", "the step needs a type"},
		{"struct s", "far->n", `type "struct far" is not described: the plan must name it`},
		{"struct nobody", "n", `type "struct nobody" is not described`},
		{"struct nobody", "[0]", `type "struct nobody" is not described`},
		{"struct nobody", "->n", `type "struct nobody" is not described`},
		{"struct absent", "x.n", `type "struct nowhere" is not described`},
		{"struct absent", "y[0]", `type "struct nowhere" is not described`},
		// Of a size that is another in this version.
		{"struct s", "wide", `struct s has no member "wide"`},
		{"int", "n", `int has no member "n"`},
	} {
		for range 2 {
			if p, err := types.path(c.typ, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s of %s: %+v, %v, want %s", c.text, c.typ, p, err, c.want)
			}
		}
	}
}

// FuzzPath: no text makes a path panic, and what is understood lies where it should.
func FuzzPath(f *testing.F) {
	for _, text := range []string{"", "n", "low", "in.y", "many[1].x", "grid[1][2]", "next->next->high", "far->x", "wide.x", "new.x", "gone", "a..b",
		"next->[0]", "->->",
		"many[18446744073709551616]", "many[4294967295]", "grid[0]]", "[", "-", ".", "in.x.y", "any->"} {
		f.Add("struct s", text)
		f.Add("struct s *", "->"+text)
		f.Add("struct in[2]", "[1]."+text)
	}
	before, after := sides()
	delete(before, "int[0]") // the only one that has no end
	f.Fuzz(func(t *testing.T, typ, text string) {
		types := newTypes(before, after)
		p, err := types.path(typ, text)
		if err != nil {
			return
		}
		if q, err := types.path(typ, text); q != p || err != nil {
			t.Errorf("the second time it is %+v, %v, not %+v", q, err, p)
		}
		if len(p.hops) != 1+strings.Count(text, "->") {
			t.Errorf("%d hops", len(p.hops))
		}
		whole, in := before[typ], before[p.typ]
		size := in.Size
		if p.bits > 0 {
			size = (p.bit + p.bits + 7) / 8
		}
		if whole.Size > 0 && p.inside() && p.hops[0]+size > whole.Size {
			t.Errorf("%+v ends at %d of %d", p, p.hops[0]+size, whole.Size)
		}
	})
}

// TestNumbers: a number is encoded where it fits, signed or not, and decoded to what it was.
func TestNumbers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		v := uint64(int64(r.Uint64()) >> r.IntN(64))
		for _, n := range []uint64{1, 2, 4, 8} {
			small, large := uint64(int64(v<<(64-8*n))>>(64-8*n)), v<<(64-8*n)>>(64-8*n)
			for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
				b, ok := encode(order, v, n, true)
				if u, also := encode(order, v, n, false); ok != also || string(u) != string(b) {
					t.Fatalf("%#x in %d bytes is % x %v with a sign and % x %v without", v, n, b, ok, u, also)
				}
				if ok != (v == small || v == large) {
					t.Fatalf("%#x fits into %d bytes: %v", v, n, ok)
				}
				if got := number(order, b, true); got != small {
					t.Fatalf("%#x in %d bytes is read as %#x, with a sign", v, n, got)
				}
				if got := number(order, b, false); got != large {
					t.Fatalf("%#x in %d bytes is read as %#x, without", v, n, got)
				}
			}
		}
		bit, bits := r.Uint64N(8), 1+r.Uint64N(64)
		b := make([]byte, (bit+bits+7)/8)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		for i := range bits {
			at := bit + i
			b[at/8] = b[at/8]&^(1<<(at%8)) | byte(v>>i&1)<<(at%8)
		}
		if got := field(b, bit, bits, false); got != v<<(64-bits)>>(64-bits) {
			t.Fatalf("%#x in %d bits at %d is read as %#x, without a sign", v, bits, bit, got)
		}
		if got := field(b, bit, bits, true); got != uint64(int64(v<<(64-bits))>>(64-bits)) {
			t.Fatalf("%#x in %d bits at %d is read as %#x, with one", v, bits, bit, got)
		}
	}
	for _, n := range []uint64{0, 3, 16} {
		if b, ok := encode(binary.LittleEndian, 0, n, false); ok {
			t.Errorf("a number of %d bytes: % x", n, b)
		}
	}
}
