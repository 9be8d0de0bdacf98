package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/transform"
)

// furnished is a world with something of everything.
func furnished(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	put := func(path string, v uint64) {
		t.Helper()
		w.put(w.root, "struct root", path, v)
	}
	put("n", 3)
	put("bits", 2)
	put("wrong", ^uint64(0))
	put("one", w.item(1))
	w.put(w.item(1), "struct item", "data", w.item(6))
	put("any", w.item(2))
	vector := w.alloc("struct item", 3)
	for i := range uint64(3) {
		w.itemAt(10+i, vector+i*w.before["struct item"].Size)
	}
	put("vector", vector)
	put("table[0]", w.item(1))
	put("table[2]", w.item(2))
	w.itemAt(21, w.root+w.offset("struct root", "cells[0]"))
	w.itemAt(22, w.root+w.offset("struct root", "cells[1]"))
	for i := range uint64(6) {
		put(fmt.Sprintf("grid[%d][%d]", i/3, i%3), 100+i)
		put(fmt.Sprintf("open[%d]", i), 200+i)
	}
	w.list("list", 1, 2, 6)
	w.list("empty")
	w.hang("buckets[0]", "hash", 0, 1)
	w.hang("buckets[2]", "hash", 0, 6, 2)
	w.hang("nulls", "nulls", 5<<1|1, 2, 1)
	w.hang("unlocked", "bl", 0, 1, 2)
	w.hang("locked", "bl", 0, 6, 10)
	put("locked.first", w.item(6)+w.offset("struct item", "bl")|1)
	put("tree.rb_node", w.tree(1, 2, 3, 4, 5, 6, 7))
	put("cached.rb_root.rb_node", w.tree(8, 9))
	put("cached.rb_leftmost", w.item(8)+w.offset("struct item", "tree"))
	put("first.next", w.item(2))
	w.put(w.item(2), "struct item", "chain.next", w.item(7))
	w.put(w.item(7), "struct item", "chain.next", w.item(1))
	put("single.xa_head", w.item(4))
	// Values, a sibling and a reserved entry are no objects.
	put("array.xa_head", w.node(6, map[uint64]uint64{
		0: w.node(0, map[uint64]uint64{0: w.item(5), 1: 7<<1 | 1, 2: 0<<2 | 2, 3: 257<<2 | 2, 63: w.item(1)}),
		2: w.node(0, map[uint64]uint64{5: w.item(2)}),
		3: 77<<1 | 1,
		4: w.item(3), // of several indices
	}))
	put("idr.idr_rt.xa_head", w.node(0, map[uint64]uint64{0: w.item(4), 7: w.item(6)}))
	put("idr.idr_base", 1000)
	put("stats", statsOffset)
	for i, cpu := range []uint64{cpu0, cpu2} {
		w.word(cpu+statOffset, 300+uint64(i))
		w.word(cpu+statsOffset, 400+uint64(i))
		w.word(cpu+statOffset+8, w.item(1+uint64(i)))
	}
	return w
}

// TestWalks: every kind of step finds what the kernel's own loops would.
func TestWalks(t *testing.T) {
	steps := func(s ...transform.Step) []transform.Step { return s }
	for _, c := range []struct {
		name, global string // root
		steps        []transform.Step
		read         string // id
		want         string
	}{
		{"a global", "", nil, "n", "struct root:3"},
		{"member", "", steps(transform.Inside("cells[1]")), "", "22"},
		{"member of a member", "", steps(transform.Inside("cells"), transform.Inside("[1]"), transform.Inside("")), "", "22"},
		{"member that is a number", "", steps(transform.Inside("grid[1][2]")), "self", "unsigned int:105"},
		{"member behind a pointer", "", steps(transform.Inside("one->id")), "self", "unsigned int:1"},
		{"member behind NULL", "", steps(transform.Inside("none->id")), "self", ""},
		{"follow", "", steps(transform.Follow("one", "")), "", "1"},
		{"follow NULL", "", steps(transform.Follow("none", "")), "", ""},
		{"follow void", "", steps(transform.Follow("any", "struct item")), "", "2"},
		{"follow as another type", "", steps(transform.Follow("one", "struct header")), "", "struct header:1"},
		{"follow through a pointer", "", steps(transform.Follow("one->data", "struct item")), "", "6"},
		{"follow through NULL", "", steps(transform.Follow("none->data", "struct item")), "", ""},
		{"follow what was followed", "", steps(transform.Follow("one", ""), transform.Follow("data", "struct item")), "", "6"},
		{"follow the object", "", steps(transform.Inside("table[2]"), transform.Follow("", "")), "", "2"},
		{"each of an array", "", steps(transform.Each("cells", "")), "", "21 22#1"},
		{"each of less of an array", "", steps(transform.Each("cells", "1")), "", "21"},
		{"each of an array as a member says", "", steps(transform.Each("grid[1]", "n")), "self", "unsigned int:103 unsigned int:104#1 unsigned int:105#2"},
		{"each of nothing of an array", "", steps(transform.Each("cells", "0")), "", ""},
		{"each of an array of arrays", "", steps(transform.Each("grid", "1"), transform.Each("", "")), "self",
			"unsigned int:100 unsigned int:101#1 unsigned int:102#2"},
		{"each of an open array", "", steps(transform.Each("open", "n")), "self", "unsigned int:200 unsigned int:201#1 unsigned int:202#2"},
		{"each behind a pointer", "", steps(transform.Each("vector", "2")), "", "10 11#1"},
		{"each behind a pointer as a member says", "", steps(transform.Each("vector", "n")), "", "10 11#1 12#2"},
		{"each behind a pointer as a bit field says", "", steps(transform.Each("vector", "bits")), "", "10 11#1"},
		{"each behind a pointer, in hexadecimal", "", steps(transform.Each("vector", "0x1")), "", "10"},
		{"each behind a pointer to another type", "", steps(transform.Step{Kind: transform.StepEach, Path: "any", Type: "struct header", Count: "1"}),
			"", "struct header:2"},
		{"each behind NULL", "", steps(transform.Each("none", "n")), "", ""},
		{"each of nothing behind a pointer", "", steps(transform.Each("vector", "0")), "", ""},
		{"each pointer", "", steps(transform.Each("table", ""), transform.Follow("", "")), "", "1 2#2"},
		{"list", "", steps(transform.List("list", "struct item", "list")), "", "1 2 6"},
		{"list without objects", "", steps(transform.List("empty", "struct item", "list")), "", ""},
		{"list that nobody has made ready", "", steps(transform.Inside("cells[0]"), transform.List("list", "struct item", "list")), "", ""},
		{"list of what a walk has found", "", steps(transform.Inside("list"), transform.List("", "struct item", "list")), "", "1 2 6"},
		{"list behind NULL", "", steps(transform.List("none->list", "struct item", "list")), "", ""},
		{"hlist", "", steps(transform.HList("buckets[2]", "struct item", "hash")), "", "6 2"},
		{"hlist without objects", "", steps(transform.HList("buckets[1]", "struct item", "hash")), "", ""},
		{"hash table", "", steps(transform.Each("buckets", ""), transform.HList("", "struct item", "hash")), "", "1 6#2 2#2"},
		{"hlist that ends with an odd number", "", steps(transform.HList("nulls", "struct item", "nulls")), "", "2 1"},
		{"hlist with a lock", "", steps(transform.HList("unlocked", "struct item", "bl")), "", "1 2"},
		{"hlist that is locked", "", steps(transform.HList("locked", "struct item", "bl")), "", "6 10"},
		{"tree", "", steps(transform.Tree("tree", "struct item", "tree")), "", "1 2 3 4 5 6 7"},
		{"tree without objects", "", steps(transform.Tree("bare", "struct item", "tree")), "", ""},
		{"tree that knows its first", "", steps(transform.Tree("cached", "struct item", "tree")), "", "8 9"},
		{"chain", "", steps(transform.Chain("first.next", "", "chain.next")), "", "2 7 1"},
		{"chain from void", "", steps(transform.Chain("any", "struct item", "chain.next")), "", "2 7 1"},
		{"chain without objects", "", steps(transform.Chain("none", "", "chain.next")), "", ""},
		{"xarray without objects", "", steps(transform.XArray("nothing", "struct item")), "", ""},
		{"xarray of one", "", steps(transform.XArray("single", "struct item")), "", "4"},
		{"xarray", "", steps(transform.XArray("array", "struct item")), "", "5 1#63 2#133 3#256"},
		{"idr", "", steps(transform.XArray("idr", "struct item")), "", "4#1000 6#1007"},
		{"percpu", "stat", steps(transform.PerCPU("")), "packets", "struct cpu_stat:300 struct cpu_stat:301#2"},
		{"percpu that is a pointer", "current_item", steps(transform.PerCPU(""), transform.Follow("", "")), "", "1 2#2"},
		{"percpu pointer", "", steps(transform.PerCPU("stats")), "packets", "struct cpu_stat:400 struct cpu_stat:401#2"},
		{"percpu pointer as another type", "", steps(transform.Step{Kind: transform.StepPerCPU, Path: "stats", Type: "struct header"}), "",
			"struct header:400 struct header:401#2"},
		{"percpu pointer that is NULL", "", steps(transform.PerCPU("no_stats")), "packets", ""},
		{"list, then what hangs on it", "", steps(transform.List("list", "struct item", "list"), transform.Follow("chain.next", "")), "", "7"},
		{"index of the last step that has one", "", steps(transform.Each("table", ""), transform.Follow("", ""), transform.Inside("chain"),
			transform.Follow("next", "")), "", "7#2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := furnished(t)
			walk := &transform.Walk{Global: c.global, Steps: c.steps, Read: []string{c.read}}
			if walk.Global == "" {
				walk.Global = "root"
			}
			switch c.read {
			case "":
				walk.Read[0] = "id"
			case "self":
				walk.Read[0] = ""
			}
			if got := w.show(w.find(walk)); got != c.want {
				t.Errorf("found %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestWalkFrom: a walk begins at objects that others have found, and says of each object from which of them it came.
func TestWalkFrom(t *testing.T) {
	w := furnished(t)
	items := w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.Each("table", ""), transform.Follow("", "")}, Read: []string{"id"}})
	if got := w.show(items); got != "1 2#2" {
		t.Fatalf("found %s", got)
	}
	slices.Reverse(items)
	// The index is that of this walk's steps: it has none.
	got := w.find(&transform.Walk{From: items, Read: []string{"id"}})
	if got := w.show(got); got != "2 1<1" {
		t.Errorf("found %s", got)
	}
	got = w.find(&transform.Walk{From: items, Steps: []transform.Step{transform.Chain("chain.next", "", "chain.next")}, Read: []string{"id"}})
	if got := w.show(got); got != "7 1" {
		t.Errorf("found %s", got)
	}
	got = w.find(&transform.Walk{From: slices.Repeat(items, 2), Steps: []transform.Step{transform.Follow("data", "struct item"), transform.Each("list.next", "2")},
		Read: []string{"next"}})
	if len(got) != 4 || got[0].From != 1 || got[1].From != 1 || got[2].From != 3 || got[3].From != 3 || got[1].Index != 1 || got[2].Index != 0 {
		t.Errorf("found %+v", got)
	}
	if got := w.find(&transform.Walk{Read: []string{"id"}}); len(got) > 0 {
		t.Errorf("a walk from nothing found %+v", got)
	}
	// Address and type name an object, and nothing else does.
	root := w.find(&transform.Walk{Global: "root"})[0]
	for _, o := range []transform.Object{{}, {Address: root.Address}, {Address: root.Address, Type: "struct item"}, {Address: root.Address + 8, Type: root.Type},
		{Address: w.item(3), Type: "struct item"}} {
		_, err := w.walk(&transform.Walk{From: []transform.Object{root, o}})
		refused(t, err, "walk from 2 objects", fmt.Sprintf("no walk has found a %s at %#x", o.Type, o.Address))
	}
}

// TestWalkBatches: a plugin may read many objects a part at a time.
func TestWalkBatches(t *testing.T) {
	w := newWorld(t)
	const n = 100
	vector := w.alloc("struct item", n)
	for i := range uint64(n) {
		w.itemAt(i, vector+i*w.before["struct item"].Size)
	}
	w.put(w.root, "struct root", "vector", vector)
	items := w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.Each("vector", fmt.Sprint(n))}})
	read := w.read
	for batch := range slices.Chunk(items, 32) {
		for i, o := range w.find(&transform.Walk{From: batch, Read: []string{"id"}}) {
			if o.Address != batch[i].Address || o.From != uint64(i) || o.Values[0].Number != batch[i].Index {
				t.Fatalf("object %d of a batch is %+v, want %+v", i, o, batch[i])
			}
		}
	}
	if w.session.Stats.Objects != 2*n {
		t.Errorf("%d objects were counted", w.session.Stats.Objects)
	}
	// What was read once is not read again, however often it is asked for.
	if blocks := int(n*w.before["struct item"].Size/512 + 2); w.read-read > blocks {
		t.Errorf("memory was read %d times, want %d at most", w.read-read, blocks)
	}
}

// TestWalkRefused: what a walk cannot mean is an error that says so, whatever memory holds.
func TestWalkRefused(t *testing.T) {
	w := furnished(t)
	w.put(w.root, "struct root", "many[0]", w.alloc("struct numbers", 1))
	step := func(kind transform.StepKind, path, typ, link, count string) []transform.Step {
		return []transform.Step{{Kind: kind, Path: path, Type: typ, Link: link, Count: count}}
	}
	for _, c := range []struct {
		global string
		steps  []transform.Step
		read   string
		want   string
	}{
		{"nothing", nil, "", `"nothing" is no global of the plan`},
		{"root", step("jump", "one", "", "", ""), "", "step 0 (jump one of struct root): there is no such kind of step"},
		{"root", step("", "one", "", "", ""), "", "there is no such kind of step"},
		{"root", step(transform.StepMember, "two", "", "", ""), "", `struct root has no member "two"`},
		{"root", step(transform.StepMember, "bits", "", "", ""), "", "bit field of unsigned int, which is no object"},
		{"root", step(transform.StepFollow, "n", "", "", ""), "", "unsigned int is no pointer"},
		{"root", step(transform.StepFollow, "any", "", "", ""), "", "the step needs a type"},
		{"root", step(transform.StepFollow, "any", "struct stranger", "", ""), "", `type "struct stranger" is not described: the plan must name it`},
		{"root", step(transform.StepEach, "n", "", "", "1"), "", "unsigned int is neither an array nor a pointer"},
		{"root", step(transform.StepEach, "vector", "", "", ""), "", "the step needs a count"},
		{"root", step(transform.StepEach, "open", "", "", ""), "", "the step needs a count"},
		{"root", step(transform.StepEach, "cells", "", "", "3"), "", "struct item[2] has no 3 elements"},
		{"root", step(transform.StepEach, "cells", "", "", "n"), "", "struct item[2] has no 3 elements"},
		{"root", step(transform.StepEach, "vector", "", "", "size"), "", `struct root has no member "size"`},
		{"root", step(transform.StepEach, "vector", "", "", "-1"), "", "-1"},
		{"root", step(transform.StepEach, "cells", "struct header", "", ""), "", "the type of an array's elements is the array's own"},
		{"root", step(transform.StepEach, "any", "", "", "1"), "", "the step needs a type"},
		{"root", step(transform.StepList, "tree", "struct item", "list", ""), "", "struct rb_root is no struct list_head"},
		{"root", step(transform.StepList, "one", "struct item", "list", ""), "", "struct item * is no struct list_head"},
		{"root", step(transform.StepList, "list", "", "list", ""), "", "the step needs a type and a link"},
		{"root", step(transform.StepList, "list", "struct item", "", ""), "", "the step needs a type and a link"},
		{"root", step(transform.StepList, "list", "struct stranger", "list", ""), "", `type "struct stranger" is not described`},
		{"root", step(transform.StepList, "list", "struct item", "lists", ""), "", `struct item has no member "lists"`},
		{"root", step(transform.StepList, "list", "struct item", "hash", ""), "", "hash of struct item is no struct list_head in it"},
		{"root", step(transform.StepList, "list", "struct item", "chain.next->list", ""), "", "is no struct list_head in it"},
		{"root", step(transform.StepHList, "list", "struct item", "hash", ""), "", "struct list_head is no struct hlist_head"},
		{"root", step(transform.StepHList, "buckets", "struct item", "hash", ""), "", "struct hlist_head[3] is no struct hlist_head"},
		{"root", step(transform.StepHList, "buckets[0]", "struct item", "nulls", ""), "", "nulls of struct item is no struct hlist_node in it"},
		{"root", step(transform.StepHList, "nulls", "struct item", "hash", ""), "", "hash of struct item is no struct hlist_nulls_node in it"},
		{"root", step(transform.StepHList, "locked", "struct item", "hash", ""), "", "hash of struct item is no struct hlist_bl_node in it"},
		{"root", step(transform.StepTree, "list", "struct item", "tree", ""), "", "struct list_head is no struct rb_root"},
		{"root", step(transform.StepTree, "tree", "struct item", "list", ""), "", "list of struct item is no struct rb_node in it"},
		{"root", step(transform.StepTree, "cached", "struct item", "", ""), "", "the step needs a type and a link"},
		{"root", step(transform.StepChain, "n", "", "chain.next", ""), "", "unsigned int is no pointer"},
		{"root", step(transform.StepChain, "one", "", "", ""), "", `"" of struct item is no pointer to the next one`},
		{"root", step(transform.StepChain, "one", "", "id", ""), "", `"id" of struct item is no pointer to the next one`},
		{"root", step(transform.StepChain, "one", "", "next", ""), "", `struct item has no member "next"`},
		{"root", step(transform.StepChain, "one", "", "chain.next->data", ""), "", "is no pointer to the next one"},
		{"root", step(transform.StepChain, "any", "", "chain.next", ""), "", "the step needs a type"},
		{"root", step(transform.StepXArray, "list", "struct item", "", ""), "", "struct list_head is no struct xarray"},
		{"root", step(transform.StepXArray, "array", "", "", ""), "", "the step needs a type"},
		{"root", step(transform.StepXArray, "idr", "struct stranger", "", ""), "", `type "struct stranger" is not described`},
		{"root", step(transform.StepPerCPU, "n", "", "", ""), "", "unsigned int is no pointer"},
		{"stat", nil, "", "begin with a step percpu"},
		{"stat", step(transform.StepMember, "", "", "", ""), "", "begin with a step percpu"},
		{"stat", step(transform.StepPerCPU, "packets", "", "", ""), "", "begin with a step percpu"},
		{"root", nil, "two", `two of struct root: struct root has no member "two"`},
		{"root", nil, "one.id", "struct item * is a pointer: its members are written with ->"},
		{"root", nil, "n->id", "unsigned int is no pointer"},
		{"root", nil, "any->id", "the step needs a type"},
		{"root", nil, "grid[2]", "unsigned int[2][3] has no element 2"},
		{"root", nil, "n[0]", "unsigned int has no element 0"},
		{"root", nil, "open", "0 bytes"},
		{"root", step(transform.StepFollow, "many[0]", "", "", ""), "big", "big of struct numbers has 4097 bytes: a value has 4096 at most"},
		{"root", step(transform.StepFollow, "many[0]", "", "", ""), "", "a value has 4096 at most"},
		{"root", step(transform.StepFollow, "many[0]", "", "", ""), "nothing", "0 bytes"},
	} {
		_, err := w.walk(&transform.Walk{Global: c.global, Steps: c.steps, Read: []string{c.read}})
		refused(t, err, c.want, "state transfer transfer:test:it by transform plugin test: walk from "+c.global)
	}
}

// TestWalkBounds: a walk has so many steps, and reads so many members.
func TestWalkBounds(t *testing.T) {
	w := furnished(t)
	for _, c := range []struct {
		steps, read int
		ok          bool
	}{{16, 64, true}, {17, 0, false}, {0, 65, false}} {
		_, err := w.walk(&transform.Walk{Global: "root", Steps: slices.Repeat([]transform.Step{transform.Inside("")}, c.steps),
			Read: slices.Repeat([]string{"n"}, c.read)})
		if c.ok && err != nil {
			t.Errorf("%d steps, %d members: %v", c.steps, c.read, err)
		}
		if !c.ok {
			refused(t, err, fmt.Sprintf("a walk of %d steps that reads %d members: 16 and 64 at most", c.steps, c.read))
		}
	}
}

// TestWalkMoved: where memory leads nowhere, or in a circle, a walk ends with a MovedError.
func TestWalkMoved(t *testing.T) {
	const none = 0xdead000000000100 // LIST_POISON1
	to := func(path string, member string, v func(w *world) uint64) func(w *world) {
		return func(w *world) {
			if path == "" {
				w.put(w.root, "struct root", member, v(w))
				return
			}
			w.put(w.item(uint64(path[0]-'0')), "struct item", member, v(w))
		}
	}
	link := func(id uint64, member string) func(w *world) uint64 {
		return func(w *world) uint64 { return w.item(id) + w.offset("struct item", member) }
	}
	value := func(v uint64) func(w *world) uint64 { return func(*world) uint64 { return v } }
	for _, c := range []struct {
		name     string
		breaking func(w *world)
		step     transform.Step
		want     string
	}{
		{"a list that leads back into itself", to("6", "list.next", link(2, "list")), transform.List("list", "struct item", "list"),
			"it leads back to itself"},
		{"a list that stands still", to("2", "list.next", link(2, "list")), transform.List("list", "struct item", "list"), "it leads back to itself"},
		{"a list that ends", to("6", "list.next", value(none)), transform.List("list", "struct item", "list"), "no memory there"},
		{"a list whose link nobody has made ready", to("6", "list.next", value(0)), transform.List("list", "struct item", "list"), "no memory there"},
		{"an hlist that leads back into itself", to("2", "hash.next", link(6, "hash")), transform.HList("buckets[2]", "struct item", "hash"),
			"it leads back to itself"},
		{"an hlist that leads away", to("", "buckets[2].first", value(none)), transform.HList("buckets[2]", "struct item", "hash"), "no memory there"},
		{"an hlist that ends elsewhere", to("1", "nulls.next", value(none)), transform.HList("nulls", "struct item", "nulls"), "no memory there"},
		{"a tree whose leaf has a child above", to("7", "tree.rb_right", link(4, "tree")), transform.Tree("tree", "struct item", "tree"),
			"it leads back to itself"},
		{"a tree whose leaf has itself to the left", to("1", "tree.rb_left", link(1, "tree")), transform.Tree("tree", "struct item", "tree"),
			"it leads back to itself"},
		{"a tree that leads away to the left", to("3", "tree.rb_left", value(none)), transform.Tree("tree", "struct item", "tree"), "no memory there"},
		{"a tree that leads away to the right", to("3", "tree.rb_right", value(none)), transform.Tree("tree", "struct item", "tree"), "no memory there"},
		{"a chain that leads back", to("1", "chain.next", link(2, "id")), transform.Chain("first.next", "", "chain.next"), "it leads back to itself"},
		{"a chain that leads away", to("1", "chain.next", value(none)), transform.Chain("first.next", "", "chain.next"), "no memory there"},
		{"a path through nowhere", to("", "one", value(none)), transform.Follow("one->data", "struct item"), "no memory there"},
		{"a path through the end of memory", to("", "one", func(w *world) uint64 { return ^uint64(3) - w.offset("struct item", "data") }),
			transform.Follow("one->data", "struct item"), "memory ends"},
		{"an xarray whose node is nowhere", to("", "array.xa_head", value(none|2)), transform.XArray("array", "struct item"), "no memory there"},
		{"an xarray whose node has itself", func(w *world) {
			e := w.node(0, nil)
			w.put(e&^3, "struct xa_node", "slots[7]", e)
			w.put(w.root, "struct root", "array.xa_head", e)
		}, transform.XArray("array", "struct item"), "leads back to itself"},
		{"an xarray whose node is none", func(w *world) { w.put(w.root, "struct root", "array.xa_head", w.node(61, nil)) },
			transform.XArray("array", "struct item"), "the shift of a node is 61"},
		{"a number of elements that is none", func(*world) {}, transform.Each("vector", "wrong"), "wrong of struct root is"},
		{"a number of elements behind NULL", func(*world) {}, transform.Each("vector", "none->id"), "none->id of struct root is"},
		{"an object that is nowhere", to("", "one", value(none)), transform.Follow("one", ""), "no memory there"},
		{"elements that are nowhere", to("", "vector", value(none)), transform.Each("vector", "n"), "no memory there"},
		{"a per-CPU pointer that leads away", to("", "stats", value(none)), transform.PerCPU("stats"), "no memory there"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := furnished(t)
			c.breaking(w)
			read := "id"
			if c.step.Kind == transform.StepPerCPU {
				read = "packets"
			}
			_, err := w.walk(&transform.Walk{Global: "root", Steps: []transform.Step{c.step}, Read: []string{read}})
			moved(t, err, c.want, "state transfer transfer:test:it by transform plugin test: ")
		})
	}
}

// TestMovedThroughPlugin: a MovedError is one whatever the plugin says around it.
func TestMovedThroughPlugin(t *testing.T) {
	w := furnished(t)
	w.put(w.root, "struct root", "one", 8)
	p := &plug{transfer: func(ctx context.Context, _ *transform.TransferRequest, s transform.State) (*transform.TransferResponse, error) {
		_, err := s.Walk(ctx, &transform.Walk{Global: "root", Read: []string{"one->id"}})
		return nil, fmt.Errorf("count items: %w", err)
	}}
	err := w.session.Run(t.Context(), w.bound, p, false)
	if m := moved(t, err, "walk from root: at 0x8: no memory there"); m.Address != 8 || m.What != "no memory there" {
		t.Errorf("%+v", m)
	}
	// Its own errors are none.
	broken := errors.New("there are no items")
	p.transfer = func(context.Context, *transform.TransferRequest, transform.State) (*transform.TransferResponse, error) {
		return nil, broken
	}
	err = w.session.Run(t.Context(), w.bound, p, false)
	refused(t, err, "state transfer transfer:test:it by transform plugin test: there are no items")
	if !errors.Is(err, broken) {
		t.Errorf("%v is not %v", err, broken)
	}
}

// TestRun: the plugin is told what is to be carried, and its notes and the time are kept.
func TestRun(t *testing.T) {
	w := furnished(t)
	var got []transform.TransferRequest
	for _, undo := range []bool{false, true, true} {
		p := &plug{transfer: func(ctx context.Context, req *transform.TransferRequest, s transform.State) (*transform.TransferResponse, error) {
			got = append(got, *req)
			_, err := s.Walk(ctx, &transform.Walk{Global: "root", Steps: []transform.Step{transform.List("list", "struct item", "list")}})
			return &transform.TransferResponse{Note: []string{"", "3 counted", "none counted", ""}[len(got)]}, err
		}}
		if err := w.session.Run(t.Context(), w.bound, p, undo); err != nil {
			t.Fatal(err)
		}
	}
	req := transform.TransferRequest{Item: "transfer:test:it", Data: []byte("data")}
	undo := req
	undo.Undo = true
	if d := cmp.Diff([]transform.TransferRequest{req, undo, undo}, got); d != "" {
		t.Errorf("requests (-want +got):\n%s", d)
	}
	if s := w.session.Stats; s.Objects != 9 || s.Walks <= 0 || s.Plugin <= 0 {
		t.Errorf("stats: %+v", s)
	}
	if d := cmp.Diff([]string{"3 counted", "none counted"}, w.session.Stats.Notes); d != "" {
		t.Errorf("notes (-want +got):\n%s", d)
	}
}

// TestWalkCancelled: no walk begins when its context has ended.
func TestWalkCancelled(t *testing.T) {
	w := furnished(t)
	p := &plug{transfer: func(ctx context.Context, _ *transform.TransferRequest, s transform.State) (*transform.TransferResponse, error) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		_, err := s.Walk(ctx, &transform.Walk{Global: "root"})
		return nil, err
	}}
	if err := w.session.Run(t.Context(), w.bound, p, false); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	if w.read > 0 || w.session.Stats.Objects > 0 {
		t.Errorf("memory was read %d times, objects found: %d", w.read, w.session.Stats.Objects)
	}
}
