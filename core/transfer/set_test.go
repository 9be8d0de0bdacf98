package transfer_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/transfer"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/transform"
)

// set runs a transfer that gives the only object of a walk other values.
func (w *world) set(undo bool, walk *transform.Walk, sets ...transform.Set) error {
	return w.run(undo, walk, func(found []transform.Object) transform.TransferResponse {
		for i := range sets {
			if sets[i].Object.Type == "" {
				sets[i].Object = found[0]
			}
		}
		return transform.TransferResponse{Sets: sets}
	})
}

// TestSet: a member gets its value, and nothing around it changes.
func TestSet(t *testing.T) {
	for _, c := range []struct {
		path   string
		number uint64
		bytes  string
	}{
		{"s8", minus(1), ""}, {"s8", minus(128), ""}, {"s8", 255, ""}, {"u8", 200, ""}, {"u8", minus(1), ""}, {"s16", minus(300), ""}, {"u16", 65535, ""},
		{"s32", minus(1 << 31), ""}, {"u32", 1<<32 - 1, ""}, {"s64", minus(1), ""}, {"u64", minus(1), ""}, {"yes", 1, ""}, {"plain", 7, ""},
		{"minus", minus(1), ""}, {"tiny", 255, ""}, {"name[1]", minus(2), ""}, {"pair.y", 77, ""}, {"grid[1][1]", 12, ""}, {"either.part", 0xff, ""},
		{"either.whole", 9, ""},
		{"name", 0, "ksplic"}, {"pair", 0, "abcd"}, {"real", 0, "12345678"}, {"grid[1]", 0, "abcdefghijkl"}, {"grid", 0, "abcdefghijklmnopqrstuvwx"},
		{"either", 0, "wxyz"}, {"huge", 0, "0123456789abcdef"}, {"s32", 0, "\xff\xfe\xfd\xfc"}, {"u8", 0, "\x07"}, {"minus", 0, "\x01\x00\x00\x00"},
		{"a", 7, ""}, {"a", 2, ""}, {"b", 15, ""}, {"b", minus(16), ""}, {"b", minus(1), ""}, {"c", 511, ""}, {"c", 256, ""}, {"flag", 1, ""},
		{"wide", 1<<40 - 1, ""}, {"wide", minus(1 << 40), ""}, {"full", minus(1), ""}, {"full", 1, ""},
	} {
		for _, fill := range []byte{0, 0x5a} {
			w, n, walk := numbers(t)
			size := w.before["struct numbers"].Size
			for i := range size {
				w.at(n)[i] = fill
			}
			want := newWorld(t)
			copy(want.data, w.data)
			if c.bytes != "" {
				copy(want.at(n+w.offset("struct numbers", c.path)), c.bytes)
			} else {
				want.put(n, "struct numbers", c.path, c.number)
			}
			if err := w.set(false, walk, transform.Set{Path: c.path, Number: c.number, Bytes: []byte(c.bytes)}); err != nil {
				t.Errorf("%s = %#x %q: %v", c.path, c.number, c.bytes, err)
				continue
			}
			x := w.changes()
			if w.session.Stats.Sets != len(x.Sets) || len(x.Sets) == 0 != bytes.Equal(w.data, want.data) {
				t.Errorf("%s = %#x %q: %d sets, of which %d are counted", c.path, c.number, c.bytes, len(x.Sets), w.session.Stats.Sets)
			}
			w.write(x.Sets)
			if !bytes.Equal(w.data, want.data) {
				t.Errorf("%s = %#x %q: the object is\n% x, want\n% x", c.path, c.number, c.bytes, w.at(n)[:200], want.at(n)[:200])
			}
		}
	}
}

// TestSetPointer: a pointer is given nothing, or what this attempt has found or read.
func TestSetPointer(t *testing.T) {
	w, n, walk := numbers(t)
	w.put(n, "struct numbers", "any", base+0x1234)
	w.put(w.root, "struct root", "one", w.item(1))
	w.put(w.item(1), "struct item", "data", base+0x5678)
	walk.Read = []string{"any"}
	refused(t, w.set(false, walk, transform.Set{Path: "item", Number: w.item(1)}), fmt.Sprintf("no walk has found or read the address %#x", w.item(1)))
	// A pointer that was followed only is none that was read.
	one := w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.Follow("one", "")}, Read: []string{"data"}})[0]
	for _, v := range []uint64{one.Address, one.Values[0].Number, base + 0x1234, n, 0} {
		if err := w.set(false, walk, transform.Set{Path: "item", Number: v}); err != nil {
			t.Errorf("a pointer to %#x: %v", v, err)
		}
	}
	for _, v := range []uint64{one.Address + 4, 1, ^uint64(0), base + 0x1235} {
		refused(t, w.set(false, walk, transform.Set{Path: "item", Number: v}), fmt.Sprintf("no walk has found or read the address %#x", v))
	}
	// The next attempt knows nothing of it.
	w.session = transfer.New(&w.arena)
	refused(t, w.set(false, walk, transform.Set{Path: "item", Number: one.Address}), "no walk has found or read")
}

// TestSetRefused: a set that cannot be meant is an error that names the member and the object.
func TestSetRefused(t *testing.T) {
	w, n, walk := numbers(t)
	w.put(n, "struct numbers", "item", w.item(1))
	object := transform.Object{Address: n, Type: "struct numbers"}
	for _, c := range []struct {
		set  transform.Set
		want string
	}{
		{transform.Set{Path: "u8", Number: 256}, "0x100 does not fit into its 1 bytes"},
		{transform.Set{Path: "s8", Number: 256}, "does not fit into its 1 bytes"},
		{transform.Set{Path: "s8", Number: minus(129)}, "does not fit into its 1 bytes"},
		{transform.Set{Path: "u16", Number: 1 << 16}, "does not fit into its 2 bytes"},
		{transform.Set{Path: "s16", Number: minus(1<<15 + 1)}, "does not fit into its 2 bytes"},
		{transform.Set{Path: "u32", Number: 1 << 32}, "does not fit into its 4 bytes"},
		{transform.Set{Path: "s32", Number: minus(1<<31 + 1)}, "does not fit into its 4 bytes"},
		{transform.Set{Path: "yes", Number: 256}, "does not fit into its 1 bytes"},
		{transform.Set{Path: "tiny", Number: 256}, "does not fit into its 1 bytes"},
		{transform.Set{Path: "minus", Number: 1 << 32}, "does not fit into its 4 bytes"},
		{transform.Set{Path: "huge", Number: 1}, "does not fit into its 16 bytes"},
		{transform.Set{Path: "a", Number: 8}, "0x8 does not fit into its 3 bits"},
		{transform.Set{Path: "b", Number: 32}, "does not fit into its 5 bits"},
		{transform.Set{Path: "b", Number: minus(17)}, "does not fit into its 5 bits"},
		{transform.Set{Path: "c", Number: 512}, "does not fit into its 9 bits"},
		{transform.Set{Path: "flag", Number: 2}, "does not fit into its 1 bits"},
		{transform.Set{Path: "wide", Number: 1 << 41}, "does not fit into its 41 bits"},
		{transform.Set{Path: "name", Bytes: []byte("short")}, "it has 6 bytes, not 5"},
		{transform.Set{Path: "name", Bytes: []byte("long one")}, "it has 6 bytes, not 8"},
		{transform.Set{Path: "s32", Bytes: []byte{1, 2}}, "it has 4 bytes, not 2"},
		{transform.Set{Path: "pair", Bytes: make([]byte, 5)}, "it has 4 bytes, not 5"},
		{transform.Set{Path: "huge", Bytes: make([]byte, 8)}, "it has 16 bytes, not 8"},
		{transform.Set{Path: "any", Bytes: make([]byte, 8)}, "it is a pointer: it is set by its number"},
		{transform.Set{Path: "any", Bytes: make([]byte, 3)}, "it is a pointer: it is set by its number"},
		{transform.Set{Path: "c", Bytes: make([]byte, 4)}, "it is a bit field: it is set by its number"},
		{transform.Set{Path: "name"}, "it is no number: it is set by its bytes"},
		{transform.Set{Path: "pair", Number: 1}, "it is no number: it is set by its bytes"},
		{transform.Set{Path: "real", Number: 1}, "it is no number: it is set by its bytes"},
		{transform.Set{Path: "either", Number: 1}, "it is no number: it is set by its bytes"},
		{transform.Set{Path: "grid", Number: 1}, "it is no number: it is set by its bytes"},
		{transform.Set{Path: "big", Bytes: make([]byte, 4097)}, "it has 4097 bytes: 4096 can be set at once"},
		{transform.Set{Path: "nothing", Bytes: []byte{1}}, "it has 0 bytes"},
		{transform.Set{Path: "", Number: 1}, "4096 can be set at once"},
		{transform.Set{Path: "item->id", Number: 1}, "it does not lie in the object"},
		{transform.Set{Path: "item.id", Number: 1}, "its members are written with ->"},
		{transform.Set{Path: "none", Number: 1}, `struct numbers has no member "none"`},
		{transform.Set{Path: "grid[2][0]", Number: 1}, "unsigned int[2][3] has no element 2"},
		{transform.Set{Path: "a[0]", Number: 1}, "follows a bit field"},
		{transform.Set{Path: "id", Object: transform.Object{Address: w.item(1), Type: "struct item"}}, "no walk has found a struct item at"},
		{transform.Set{Path: "id", Object: transform.Object{Address: n, Type: "struct item"}}, "no walk has found a struct item at"},
		{transform.Set{Path: "u8", Object: transform.Object{Address: n + 8, Type: "struct numbers"}}, "no walk has found a struct numbers at"},
	} {
		if c.set.Object.Type == "" {
			c.set.Object = object
		}
		w.session = transfer.New(&w.arena)
		refused(t, w.set(false, walk, c.set), c.want,
			fmt.Sprintf("set %s of the %s at %#x: ", c.set.Path, c.set.Object.Type, c.set.Object.Address), "transfer:test:it by transform plugin test")
	}
	// A path that leads nowhere is not needed to know that it is not inside.
	w.put(n, "struct numbers", "item", 0)
	refused(t, w.set(false, walk, transform.Set{Path: "item->id"}), "it does not lie in the object")
}

// TestSetBehind: what lies behind an object, or would if the patch made it larger, is another's.
func TestSetBehind(t *testing.T) {
	w := furnished(t)
	size := w.before["struct root"].Size
	for _, path := range []string{"open[0]", "open[5]", "open[1000]"} {
		refused(t, w.set(false, &transform.Walk{Global: "root"}, transform.Set{Path: path, Number: 1}),
			fmt.Sprintf("it lies behind the %d bytes that the object has", size))
	}
	// Elements of an open array are objects where a walk has found them.
	walk := &transform.Walk{Global: "root", Steps: []transform.Step{transform.Each("open", "1")}}
	if err := w.set(false, walk, transform.Set{Number: 1}); err != nil {
		t.Error(err)
	}
	number, half := update.Layout{Kind: update.LayoutNumber, Size: 4}, update.Layout{Kind: update.LayoutNumber, Size: 2}
	small := update.Layout{Kind: update.LayoutStruct, Size: 6, Members: []update.LayoutMember{{Name: "a", Type: "int"}, {Name: "whole", Type: "short", Offset: 4}}}
	large := small
	large.Size = 8
	large.Members = append(slices.Clone(small.Members), update.LayoutMember{Name: "across", Type: "int", Offset: 4},
		update.LayoutMember{Name: "b", Type: "short", Offset: 6}, update.LayoutMember{Name: "bit", Type: "int", Offset: 6, Bits: 1})
	w.bound.Before = update.Layouts{"int": number, "short": half, "struct grows": small}
	w.bound.After = update.Layouts{"int": number, "short": half, "struct grows": large}
	w.bound.Globals, w.bound.Addresses = []update.Global{{Name: "it", Type: "struct grows"}}, []uint64{w.root}
	for _, undo := range []bool{false, true} {
		for _, path := range []string{"across", "b", "bit"} {
			refused(t, w.set(undo, &transform.Walk{Global: "it"}, transform.Set{Path: path, Number: 1}), "it lies behind the 6 bytes that the object has")
		}
		if err := w.set(undo, &transform.Walk{Global: "it"}, transform.Set{Path: "whole", Number: 1}); err != nil {
			t.Error(err)
		}
	}
}

// TestSetMoved: an object that nothing was read of may be gone.
func TestSetMoved(t *testing.T) {
	for _, path := range []string{"id", "bits"} {
		w := newWorld(t)
		w.put(w.root, "struct root", "one", 0x1000)
		of := map[string]string{"id": "struct item", "bits": "struct root"}[path]
		err := w.set(false, &transform.Walk{Global: "root", Steps: []transform.Step{transform.Follow("one", of)}}, transform.Set{Path: path, Number: 1})
		moved(t, err, "set "+path+" of the "+of+" at 0x1000: ", "no memory there")
	}
}

// TestSetUnchanged: what a member has already is not written, but must stay so until the others are.
func TestSetUnchanged(t *testing.T) {
	w, n, walk := numbers(t)
	for path, v := range map[string]uint64{"u16": 7, "a": 5, "c": 300, "item": w.item(1)} {
		w.put(n, "struct numbers", path, v)
	}
	walk.Read = []string{"item"}
	err := w.set(false, walk, transform.Set{Path: "u16", Number: 7}, transform.Set{Path: "a", Number: 5}, transform.Set{Path: "c", Number: 300},
		transform.Set{Path: "item", Number: w.item(1)}, transform.Set{Path: "name", Bytes: make([]byte, 6)})
	if err != nil {
		t.Fatal(err)
	}
	x := w.changes()
	if len(x.Sets) > 0 || w.session.Stats.Sets > 0 {
		t.Errorf("sets: %+v", x.Sets)
	}
	for _, path := range []string{"u16", "a", "c", "item", "name"} {
		at, m := w.member(w.before, "struct numbers", path)
		size := w.before[m.Type].Size
		if m.Bits > 0 {
			size = (m.Bit + m.Bits + 7) / 8
		}
		if !inside(x.Guards, n+at, size) {
			t.Errorf("%s is not guarded", path)
		}
	}
}

// inside says that guards have all bytes of some memory.
func inside(guards []engine.Piece, address, size uint64) bool {
	for _, g := range guards {
		if end := g.Address + uint64(len(g.Bytes)); address >= g.Address && address < end {
			n := min(size, end-address)
			address, size = address+n, size-n
		}
	}
	return size == 0
}

// TestSetBits: bit fields that share bytes are written at once, with what else is in those.
func TestSetBits(t *testing.T) {
	w, n, walk := numbers(t)
	for path, v := range map[string]uint64{"a": 1, "b": minus(3), "c": 0x155, "flag": 0, "wide": 0x123456789a} {
		w.put(n, "struct numbers", path, v)
	}
	at := n + w.offset("struct numbers", "a")
	b := bytes.Clone(w.at(at)[:8])
	if err := w.set(false, walk, transform.Set{Path: "b", Number: 9}, transform.Set{Path: "a", Number: 6}, transform.Set{Path: "flag", Number: 1}); err != nil {
		t.Fatal(err)
	}
	// 3 and 5 bits make the first byte; the flag is the second bit of the third.
	want := []engine.Piece{{Address: at, Bytes: []byte{6 | 9<<3}}, {Address: at + 2, Bytes: []byte{b[2] | 2}}}
	if d := cmp.Diff(want, w.changes().Sets); d != "" {
		t.Errorf("sets (-want +got):\n%s", d)
	}
	// Another transfer may have the rest of a byte, but none may have the same again.
	if err := w.set(false, walk, transform.Set{Path: "c", Number: 0}); err != nil {
		t.Fatal(err)
	}
	want[1].Bytes[0] &^= 1
	want = slices.Insert(want, 1, engine.Piece{Address: at + 1, Bytes: []byte{0}})
	if d := cmp.Diff(want, w.changes().Sets); d != "" {
		t.Errorf("sets (-want +got):\n%s", d)
	}
	for _, path := range []string{"a", "c"} {
		refused(t, w.set(false, walk, transform.Set{Path: path, Number: 1}), "it is set twice, or with ", fmt.Sprintf("of the struct numbers at %#x", n))
	}
	w.session = transfer.New(&w.arena)
	refused(t, w.set(false, walk, transform.Set{Path: "wide", Number: 1}, transform.Set{Path: "wide", Number: 1}), "it is set twice, or with wide of")
}

// TestSetOver: two transfers, or one, may not change the same memory.
func TestSetOver(t *testing.T) {
	for _, c := range []struct {
		first, second transform.Set
		over          bool
	}{
		{transform.Set{Path: "u16", Number: 1}, transform.Set{Path: "u16", Number: 1}, true},
		{transform.Set{Path: "u16", Number: 1}, transform.Set{Path: "u16", Number: 2}, true},
		{transform.Set{Path: "grid[1][2]", Number: 1}, transform.Set{Path: "grid", Bytes: bytes.Repeat([]byte{1}, 24)}, true},
		{transform.Set{Path: "grid[1]", Bytes: bytes.Repeat([]byte{1}, 12)}, transform.Set{Path: "grid[1][0]", Number: 1}, true},
		{transform.Set{Path: "pair", Bytes: []byte("abcd")}, transform.Set{Path: "pair.y", Number: 3}, true},
		{transform.Set{Path: "either.part", Number: 1}, transform.Set{Path: "either.whole", Number: 2}, true},
		{transform.Set{Path: "grid[0]", Bytes: bytes.Repeat([]byte{1}, 12)}, transform.Set{Path: "grid[1][0]", Number: 1}, false},
		{transform.Set{Path: "pair.x", Number: 1}, transform.Set{Path: "pair.y", Number: 3}, false},
		{transform.Set{Path: "name[0]", Number: 1}, transform.Set{Path: "name[1]", Number: 3}, false},
	} {
		for _, two := range []bool{false, true} {
			for _, sets := range [][]transform.Set{{c.first, c.second}, {c.second, c.first}} {
				w, n, walk := numbers(t)
				var err error
				if two {
					err = errors.Join(w.set(false, walk, sets[0]), w.set(false, walk, sets[1]))
				} else {
					err = w.set(false, walk, sets...)
				}
				if err == nil {
					_, err = w.session.Changes()
				}
				if c.over {
					at := fmt.Sprintf(" of the struct numbers at %#x", n)
					refused(t, err, c.first.Path+at, c.second.Path+at)
				} else if err != nil {
					t.Errorf("%s and %s: %v", sets[0].Path, sets[1].Path, err)
				}
			}
		}
	}
	// A bit field and all that it lies in.
	w := newWorld(t)
	err := w.set(false, &transform.Walk{Global: "subject"}, transform.Set{Path: "gone", Number: 1}, transform.Set{Path: "old", Number: 1},
		transform.Set{Path: "", Bytes: bytes.Repeat([]byte{0xff}, 16)})
	if err == nil {
		_, err = w.session.Changes()
	}
	refused(t, err, "of the struct subject at")
}

// TestSetOrder: sets of all transfers come in order of address, whatever the order in which they were made.
func TestSetOrder(t *testing.T) {
	w, n, walk := numbers(t)
	err := w.set(false, walk, transform.Set{Path: "full", Number: 1}, transform.Set{Path: "u64", Number: 2}, transform.Set{Path: "flag", Number: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.set(false, &transform.Walk{Global: "root"}, transform.Set{Path: "n", Number: 3}); err != nil {
		t.Fatal(err)
	}
	if err := w.set(false, walk, transform.Set{Path: "s8", Number: 4}); err != nil {
		t.Fatal(err)
	}
	bits := n + w.offset("struct numbers", "a")
	want := []engine.Piece{{Address: w.root, Bytes: []byte{3, 0, 0, 0}}, {Address: n, Bytes: []byte{4}},
		{Address: n + w.offset("struct numbers", "u64"), Bytes: []byte{2, 0, 0, 0, 0, 0, 0, 0}}, {Address: bits + 2, Bytes: []byte{2}},
		{Address: n + w.offset("struct numbers", "full"), Bytes: []byte{1}}}
	if d := cmp.Diff(want, w.changes().Sets); d != "" {
		t.Errorf("sets (-want +got):\n%s", d)
	}
}

// TestUndo: paths mean what they mean to the old code when objects are read and to the new code when they are set, at undo the other way round;
// what only one of them has is found both times.
func TestUndo(t *testing.T) {
	for _, undo := range []bool{false, true} {
		w := newWorld(t)
		subject := w.bound.Addresses[2]
		for i := range uint64(4) {
			order.PutUint32(w.at(subject+4*i), uint32(10+i))
		}
		w.at(subject + 12)[0] = 0xb
		// Before: kept, moved, gone, old; after: kept, fresh, moved, young.
		read, set := []uint64{10, 11, 12, 11, 0xb, 0xb}, []uint64{0, 8, 8, 4}
		if undo {
			read, set = []uint64{10, 12, 12, 11, 0xb, 0xb}, []uint64{0, 4, 8, 4}
		}
		walk := &transform.Walk{Global: "subject", Read: []string{"kept", "moved", "gone", "fresh", "old", "young"}}
		for i, path := range walk.Read[:4] {
			w.session = transfer.New(&w.arena)
			var got []uint64
			err := w.run(undo, walk, func(found []transform.Object) transform.TransferResponse {
				for _, v := range found[0].Values {
					got = append(got, v.Number)
				}
				return transform.TransferResponse{Sets: []transform.Set{{Object: found[0], Path: path, Number: 99}}}
			})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, read) {
				t.Errorf("undo %v: %s are %d, want %d", undo, walk.Read, got, read)
			}
			if d := cmp.Diff([]engine.Piece{{Address: subject + set[i], Bytes: []byte{99, 0, 0, 0}}}, w.changes().Sets); d != "" {
				t.Errorf("undo %v, %s: sets (-want +got):\n%s", undo, path, d)
			}
		}
		for _, path := range []string{"old", "young"} {
			w.session = transfer.New(&w.arena)
			if err := w.set(undo, walk, transform.Set{Path: path, Number: 3}); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff([]engine.Piece{{Address: subject + 12, Bytes: []byte{3}}}, w.changes().Sets); d != "" {
				t.Errorf("undo %v, %s: sets (-want +got):\n%s", undo, path, d)
			}
		}
		refused(t, w.set(undo, walk, transform.Set{Path: "never", Number: 3}), `struct subject has no member "never"`)
	}
}

// TestAttach: objects that walks have found get shadow fields, and only when an update is applied.
func TestAttach(t *testing.T) {
	w := furnished(t)
	walk := &transform.Walk{Global: "root", Steps: []transform.Step{transform.List("list", "struct item", "list")}}
	attach := func(found []transform.Object) (out transform.TransferResponse) {
		for i, o := range found {
			out.Attaches = append(out.Attaches, transform.Attach{Object: o, Field: "item.count", Data: []byte{byte(i), 0}})
		}
		return out
	}
	refused(t, w.run(true, walk, attach), "it attaches shadow fields at undo", "transfer:test:it by transform plugin test")
	if err := w.run(false, walk, attach); err != nil {
		t.Fatal(err)
	}
	if err := w.run(false, &transform.Walk{Global: "root"}, attach); err != nil {
		t.Fatal(err)
	}
	want := []engine.Attach{{Field: "item.count", Object: w.item(1), Data: []byte{0, 0}}, {Field: "item.count", Object: w.item(2), Data: []byte{1, 0}},
		{Field: "item.count", Object: w.item(6), Data: []byte{2, 0}}, {Field: "item.count", Object: w.root, Data: []byte{0, 0}}}
	x := w.changes()
	if d := cmp.Diff(want, x.Attaches); d != "" {
		t.Errorf("attached (-want +got):\n%s", d)
	}
	if len(x.Sets) > 0 || w.session.Stats.Attaches != len(want) {
		t.Errorf("sets %+v, stats %+v", x.Sets, w.session.Stats)
	}
	for _, o := range []transform.Object{{}, {Address: w.item(3), Type: "struct item"}, {Address: w.item(1), Type: "struct header"}} {
		refused(t, w.run(false, walk, func([]transform.Object) transform.TransferResponse {
			return transform.TransferResponse{Attaches: []transform.Attach{{Object: o, Field: "item.count"}}}
		}), "attach item.count: no walk has found a "+o.Type+" at", fmt.Sprintf("%#x", o.Address))
	}
}

// TestMaxChanges: a transfer has so many sets, and as many attachments.
func TestMaxChanges(t *testing.T) {
	for _, resp := range []transform.TransferResponse{{Sets: make([]transform.Set, transform.MaxChanges+1)},
		{Attaches: make([]transform.Attach, transform.MaxChanges+1)}} {
		w := newWorld(t)
		err := w.run(false, &transform.Walk{Global: "root"}, func([]transform.Object) transform.TransferResponse { return resp })
		refused(t, err, "more than 1048576")
		if e := new(transform.TooManyError); !errors.As(err, &e) {
			t.Errorf("%v is no TooManyError", err)
		}
	}
}
