package transfer_test

import (
	"fmt"
	"testing"

	"github.com/ksplice/ksplice/sdk/transform"
)

// TestDescribe: an address is named by the object in which it lies, and by its member there; what no object has leads to some.
func TestDescribe(t *testing.T) {
	w := furnished(t)
	n := w.alloc("struct numbers", 1)
	w.put(w.root, "struct root", "many[0]", n)
	w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.List("list", "struct item", "list")}, Read: []string{"id"}})
	w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.Tree("tree", "struct item", "tree")}})
	w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.XArray("array", "struct item")}})
	w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.Follow("many[0]", "")}})
	item := func(id uint64, path string) uint64 { return w.item(id) + w.offset("struct item", path) }
	number := func(path string) uint64 { return n + w.offset("struct numbers", path) }
	size := w.before["struct item"].Size
	for _, c := range []struct {
		address uint64
		want    string
	}{
		{item(1, "id"), fmt.Sprintf("id of the struct item at %#x", w.item(1))},
		{item(1, "id") + 3, fmt.Sprintf("id of the struct item at %#x", w.item(1))},
		{item(1, "id") + 4, fmt.Sprintf("+4 of the struct item at %#x", w.item(1))}, // padding
		{item(2, "list.next"), fmt.Sprintf("list.next of the struct item at %#x", w.item(2))},
		{item(6, "list.prev") + 1, fmt.Sprintf("list.prev of the struct item at %#x", w.item(6))},
		{item(7, "tree.rb_right"), fmt.Sprintf("tree.rb_right of the struct item at %#x", w.item(7))},
		{item(7, "chain.next"), fmt.Sprintf("chain.next of the struct item at %#x", w.item(7))},
		{w.item(7) + size - 1, fmt.Sprintf("data of the struct item at %#x", w.item(7))},
		{w.item(7) + size, fmt.Sprintf("what leads to objects, at %#x", w.item(7)+size)},
		{w.item(10), fmt.Sprintf("what leads to objects, at %#x", w.item(10))}, // nothing has led there
		{w.root + w.offset("struct root", "list.next"), fmt.Sprintf("what leads to objects, at %#x", w.root+w.offset("struct root", "list.next"))},
		{number("pair.y"), fmt.Sprintf("pair.y of the struct numbers at %#x", n)},
		{number("a"), fmt.Sprintf("a of the struct numbers at %#x", n)},
		{0, "what leads to objects, at 0x0"},
		{^uint64(0), "what leads to objects, at 0xffffffffffffffff"},
	} {
		if got := w.session.Describe(c.address); got != c.want {
			t.Errorf("%#x: %s, want %s", c.address, got, c.want)
		}
	}
}

// TestDescribeInner: the least object in which an address lies says most.
func TestDescribeInner(t *testing.T) {
	for range 20 { // whatever the order of maps
		w := furnished(t)
		w.find(&transform.Walk{Global: "root"})
		w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.Each("cells", "")}})
		w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.Inside("cells[1].tree")}})
		for path, want := range map[string]string{
			"cells[1].tree.rb_left": fmt.Sprintf("rb_left of the struct rb_node at %#x", w.root+w.offset("struct root", "cells[1].tree")),
			"cells[1].data":         fmt.Sprintf("data of the struct item at %#x", w.item(22)),
			"list.prev":             fmt.Sprintf("list.prev of the struct root at %#x", w.root),
		} {
			if got := w.session.Describe(w.root + w.offset("struct root", path)); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
	}
}

// TestDescribeUndo: at undo objects are what they are to the code that goes.
func TestDescribeUndo(t *testing.T) {
	for undo, want := range map[bool]string{false: "moved", true: "fresh"} {
		w := newWorld(t)
		if err := w.run(undo, &transform.Walk{Global: "subject"}, nil); err != nil {
			t.Fatal(err)
		}
		at := w.bound.Addresses[2]
		if got, want := w.session.Describe(at+4), fmt.Sprintf("%s of the struct subject at %#x", want, at); got != want {
			t.Errorf("undo %v: %s, want %s", undo, got, want)
		}
	}
}
