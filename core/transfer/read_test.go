package transfer_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/ksplice/ksplice/core/transfer"
	"github.com/ksplice/ksplice/sdk/transform"
)

// minus is a negative number.
func minus(n uint64) uint64 { return -n }

// numbers is a world with a struct numbers, and the walk that finds it.
func numbers(t testing.TB) (w *world, address uint64, walk *transform.Walk) {
	t.Helper()
	w = newWorld(t)
	address = w.alloc("struct numbers", 1)
	w.put(w.root, "struct root", "many[2]", address)
	return w, address, &transform.Walk{Global: "root", Steps: []transform.Step{transform.Follow("many[2]", "")}}
}

// value reads a member of what a walk finds, as memory is now.
func (w *world) value(walk transform.Walk, path string) transform.Value {
	w.Helper()
	w.session = transfer.New(&w.arena)
	walk.Read = []string{path}
	found := w.find(&walk)
	if len(found) != 1 || len(found[0].Values) != 1 {
		w.Fatalf("%s: found %+v", path, found)
	}
	return found[0].Values[0]
}

// TestReadNumber: a number comes with the sign that its type has, and with its bytes.
func TestReadNumber(t *testing.T) {
	w, n, walk := numbers(t)
	for _, c := range []struct {
		path  string
		value uint64
	}{
		{"s8", minus(5)}, {"s8", 127}, {"u8", 251}, {"s16", minus(300)}, {"u16", 65236}, {"s32", minus(70000)}, {"u32", 1<<32 - 70000},
		{"s64", 1 << 63}, {"u64", minus(2)}, {"yes", 1}, {"plain", 1 << 31}, {"minus", minus(1)}, {"minus", 1}, {"tiny", 200},
		{"any", 0xffffffffc0001234}, {"item", base + 8}, {"name[5]", minus(3)}, {"pair.x", 1}, {"pair.y", 0x8403}, {"grid[1][2]", 0xfffffff0},
		{"grid[0][2]", 7}, {"either.whole", 0x12345683}, {"either.part", 0x83}, {".u8", 3},
		{"a", 5}, {"b", minus(16)}, {"c", 511}, {"flag", 1}, {"wide", minus(1 << 40)}, {"full", minus(3)},
		// What lies around them is no part of bit fields.
		{"a", 2}, {"b", 15}, {"c", 256}, {"flag", 0}, {"wide", 1<<40 - 1}, {"full", 1}, {"a", 7}, {"b", minus(1)}, {"c", 0}, {"wide", minus(1)},
	} {
		w.put(n, "struct numbers", c.path, c.value)
		v := w.value(*walk, c.path)
		if v.Number != c.value || v.Int() != int64(c.value) || v.Missing {
			t.Errorf("%s is %#x, missing: %v; want %#x", c.path, v.Number, v.Missing, c.value)
		}
		at, m := w.member(w.before, "struct numbers", c.path)
		if want := w.at(n + at)[:w.before[m.Type].Size]; m.Bits == 0 && !bytes.Equal(v.Bytes, want) {
			t.Errorf("the bytes of %s are % x, want % x", c.path, v.Bytes, want)
		}
	}
}

// TestReadBytes: what is no number comes as the bytes that it has in memory.
func TestReadBytes(t *testing.T) {
	w, n, walk := numbers(t)
	for _, path := range []string{"name", "pair", "real", "grid", "grid[0]", "grid[1]", "either", "huge"} {
		at, m := w.member(w.before, "struct numbers", path)
		want := w.at(n + at)[:w.before[m.Type].Size]
		for i := range want {
			want[i] = byte(i) ^ 0xa5
		}
		if v := w.value(*walk, path); !bytes.Equal(v.Bytes, want) || v.Number != 0 || v.Missing {
			t.Errorf("%s is %+v, want % x", path, v, want)
		}
	}
	// An object itself is a value where it is small enough.
	walk.Steps = append(walk.Steps, transform.Inside("pair"))
	if v := w.value(*walk, ""); !bytes.Equal(v.Bytes, w.at(n + w.offset("struct numbers", "pair"))[:4]) {
		t.Errorf("the object is %+v", v)
	}
}

// TestReadThrough: a path goes through pointers, and a member behind one that is NULL is missing; a pointer that is NULL is not.
func TestReadThrough(t *testing.T) {
	w, n, walk := numbers(t)
	w.put(n, "struct numbers", "item", w.item(1))
	w.put(w.item(1), "struct item", "chain.next", w.item(2))
	w.put(w.item(1), "struct item", "list.next", w.item(2)+w.offset("struct item", "list"))
	w.put(w.item(2), "struct item", "list.prev", base)
	for _, c := range []struct {
		path    string
		value   uint64
		missing bool
	}{
		{"item", w.item(1), false},
		{"item->id", 1, false},
		{"item->chain.next", w.item(2), false},
		{"item->chain.next->id", 2, false},
		{"item->list.next->prev", base, false},
		{"item->list.next->next->prev", 0, true},
		{"item->chain.next->chain.next", 0, false},
		{"item->chain.next->chain.next->id", 0, true},
		{"item->chain.next->chain.next->chain.next->id", 0, true},
		{"any", 0, false},
	} {
		v := w.value(*walk, c.path)
		if v.Number != c.value || v.Missing != c.missing || c.missing == (len(v.Bytes) > 0) {
			t.Errorf("%s is %+v, want %#x, missing: %v", c.path, v, c.value, c.missing)
		}
	}
	// An object that is a pointer is followed in the same way.
	walk.Steps = append(walk.Steps, transform.Inside("item"))
	if v := w.value(*walk, "->chain.next->id"); v.Number != 2 {
		t.Errorf("what a pointer leads to is %+v", v)
	}
}

// TestReadTogether: the values of an object come in the order in which they were asked for.
func TestReadTogether(t *testing.T) {
	w, n, walk := numbers(t)
	w.put(n, "struct numbers", "u8", 1)
	w.put(n, "struct numbers", "u16", 2)
	w.put(n, "struct numbers", "c", 3)
	walk.Read = []string{"c", "u16", "item->id", "u8", "u8"}
	var got []uint64
	for _, v := range w.find(walk)[0].Values {
		got = append(got, v.Number)
	}
	if want := []uint64{3, 2, 0, 1, 1}; !slices.Equal(got, want) {
		t.Errorf("values %d, want %d", got, want)
	}
}

// TestReadOnce: all walks of an attempt see memory as it was when it was first read, whatever a plugin does with values.
func TestReadOnce(t *testing.T) {
	w := newWorld(t)
	w.put(w.root, "struct root", "n", 1)
	walk := &transform.Walk{Global: "root", Read: []string{"n"}}
	first := w.find(walk)[0].Values[0]
	clear(first.Bytes)
	w.put(w.root, "struct root", "n", 2)
	if v := w.find(walk)[0].Values[0]; v.Number != 1 {
		t.Errorf("read again: %+v", v)
	}
	if x := w.changes(); len(x.Guards) != 1 || !bytes.Equal(x.Guards[0].Bytes, order.AppendUint32(nil, 1)) {
		t.Errorf("guards: %+v", x.Guards)
	}
}
