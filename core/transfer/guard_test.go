package transfer_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/transfer"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/transform"
)

// wellFormed checks what the kernel module checks of guards and sets, that guards are as few as can be, and that they are what memory holds.
func (w *world) wellFormed(x *engine.Transfer) {
	w.Helper()
	end, last, all := uint64(0), 0, 0
	for _, g := range x.Guards {
		n := len(g.Bytes)
		if n == 0 || n > 4096 || g.Address < end {
			w.Fatalf("a guard of %d bytes at %#x, the one before ends at %#x", n, g.Address, end)
		}
		if g.Address == end && last < 4096 {
			w.Errorf("the guards of %d and %d bytes that meet at %#x are two", last, n, end)
		}
		if !bytes.Equal(g.Bytes, w.at(g.Address)[:n]) {
			w.Errorf("a guard of %d bytes at %#x is not what is there", n, g.Address)
		}
		end, last, all = g.Address+uint64(n), n, all+n
	}
	if w.session.Stats.Bytes != all {
		w.Errorf("%d bytes are guarded, %d are counted", all, w.session.Stats.Bytes)
	}
	end = 0
	for _, s := range x.Sets {
		if len(s.Bytes) == 0 || s.Address < end {
			w.Fatalf("a set of %d bytes at %#x, the one before ends at %#x", len(s.Bytes), s.Address, end)
		}
		if end = s.Address + uint64(len(s.Bytes)); !inside(x.Guards, s.Address, uint64(len(s.Bytes))) {
			w.Errorf("a set of %d bytes at %#x lies in no guard", len(s.Bytes), s.Address)
		}
	}
}

// pieces writes guards as their places after an address: "0+4 8+8".
func pieces(guards []engine.Piece, from uint64) string {
	var out []string
	for _, g := range guards {
		out = append(out, fmt.Sprintf("%d+%d", int64(g.Address-from), len(g.Bytes)))
	}
	return strings.Join(out, " ")
}

// TestGuards: the bytes that were used are guarded, and no others.
func TestGuards(t *testing.T) {
	const item, node = 0x4000, 0x5000 // where they lie behind the root
	root := func(path string) uint64 { return newWorld(t).offset("struct root", path) }
	link := func(path string) uint64 { return item + newWorld(t).offset("struct item", path) }
	for _, c := range []struct {
		name  string
		steps []transform.Step
		read  []string
		want  string
	}{
		{"nothing", nil, nil, ""},
		{"a place", []transform.Step{transform.Inside("cells[1].list"), transform.Inside("next")}, nil, ""},
		{"a member", nil, []string{"wrong"}, "4+4"},
		{"a member twice", nil, []string{"wrong", "wrong"}, "4+4"},
		{"members side by side", nil, []string{"wrong", "n"}, "0+8"},
		{"a bit field beside them", nil, []string{"n", "bits", "wrong"}, "0+9"},
		{"a bit field", nil, []string{"bits"}, "8+1"},
		{"members apart", nil, []string{"n", "bits"}, "0+4 8+1"},
		{"members one in the other", nil, []string{"grid[0][1]", "grid[0]", "grid[1]"}, fmt.Sprintf("%d+24", root("grid"))},
		{"members that touch", nil, []string{"grid[0][1]", "grid[0][0]", "grid[1][0]"}, fmt.Sprintf("%d+8 %d+4", root("grid"), root("grid")+12)},
		{"a pointer that is followed", []transform.Step{transform.Follow("one", "")}, nil, fmt.Sprintf("%d+8", root("one"))},
		{"a pointer that is NULL", []transform.Step{transform.Follow("none", "")}, []string{"id"}, fmt.Sprintf("%d+8", root("none"))},
		{"a path through pointers", nil, []string{"one->chain.next->id"}, fmt.Sprintf("%d+8 %d+8", root("one"), link("chain.next"))},
		{"an array", []transform.Step{transform.Each("cells", "")}, nil, ""},
		{"a number of elements", []transform.Step{transform.Each("vector", "n")}, nil, fmt.Sprintf("0+4 %d+8", root("vector"))},
		{"a list", []transform.Step{transform.List("list", "struct item", "list")}, nil, fmt.Sprintf("%d+8 %d+8", root("list"), link("list"))},
		{"an hlist", []transform.Step{transform.HList("buckets[1]", "struct item", "hash")}, nil, fmt.Sprintf("%d+8 %d+8", root("buckets[1]"), link("hash"))},
		{"a tree", []transform.Step{transform.Tree("tree", "struct item", "tree")}, []string{"id"},
			fmt.Sprintf("%d+8 %d+4 %d+16", root("tree"), item, link("tree.rb_right"))},
		{"a chain", []transform.Step{transform.Chain("one", "", "chain.next")}, nil, fmt.Sprintf("%d+8 %d+8", root("one"), link("chain.next"))},
		{"an xarray of one", []transform.Step{transform.XArray("single", "struct item")}, nil, fmt.Sprintf("%d+8", root("single.xa_head"))},
		{"an idr of none", []transform.Step{transform.XArray("idr", "struct item")}, nil, fmt.Sprintf("%d+12", root("idr.idr_rt.xa_head"))},
		{"an xarray with a node", []transform.Step{transform.XArray("array", "struct item")}, nil,
			fmt.Sprintf("%d+8 %d+1 %d+512", root("array.xa_head"), node, node+newWorld(t).offset("struct xa_node", "slots"))},
		{"a per-CPU pointer", []transform.Step{transform.PerCPU("stats")}, nil, fmt.Sprintf("%d+8", root("stats"))},
	} {
		w := newWorld(t)
		w.free = w.root + item
		link := func(path string) uint64 { return w.item(1) + w.offset("struct item", path) }
		for path, v := range map[string]uint64{"n": 2, "one": w.item(1), "vector": w.item(1), "list.next": link("list"), "buckets[1].first": link("hash"),
			"tree.rb_node": link("tree"), "single.xa_head": w.item(1), "stats": statsOffset} {
			w.put(w.root, "struct root", path, v)
		}
		w.put(w.item(1), "struct item", "list.next", w.root+w.offset("struct root", "list"))
		w.free = w.root + node
		w.put(w.root, "struct root", "array.xa_head", w.node(0, map[uint64]uint64{3: w.item(1)}))
		w.find(&transform.Walk{Global: "root", Steps: c.steps, Read: c.read})
		x := w.changes()
		w.wellFormed(x)
		if got := pieces(x.Guards, w.root); got != c.want {
			t.Errorf("%s: guards %s, want %s", c.name, got, c.want)
		}
	}
}

// TestGuardsLarge: a guard is 4096 bytes at most, whatever lies side by side.
func TestGuardsLarge(t *testing.T) {
	for _, c := range []struct {
		read int // bytes
		want string
	}{{4092, "0+4092"}, {4096, "0+4096"}, {4100, "0+4096 4096+4"}, {8192, "0+4096 4096+4096"}, {12000, "0+4096 4096+4096 8192+3808"}} {
		w := newWorld(t)
		open := w.root + w.offset("struct root", "open")
		w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.Each("open", fmt.Sprint(c.read/4))}, Read: []string{""}})
		x := w.changes()
		w.wellFormed(x)
		if got := pieces(x.Guards, open); got != c.want {
			t.Errorf("%d bytes: guards %s, want %s", c.read, got, c.want)
		}
	}
	// Every other number, and then those between them.
	w := newWorld(t)
	all := w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.Each("open", "1500")}})
	for odd, want := range []int{750, 2} {
		var half []transform.Object
		for i := odd; i < len(all); i += 2 {
			half = append(half, all[i])
		}
		w.find(&transform.Walk{From: half, Read: []string{""}})
		x := w.changes()
		if w.wellFormed(x); len(x.Guards) != want {
			t.Errorf("%d guards, want %d", len(x.Guards), want)
		}
	}
}

// TestGuardsBlocks: values that lie across what is read at once are whole, and so are their guards.
func TestGuardsBlocks(t *testing.T) {
	w := newWorld(t)
	at := uint64(base + 0x3000 - 3)
	copy(w.at(at), "ksplice")
	w.put(w.root, "struct root", "many[0]", at-w.offset("struct numbers", "name"))
	got := w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.Follow("many[0]", "")}, Read: []string{"name"}})
	if v := got[0].Values[0]; string(v.Bytes) != "ksplic" {
		t.Errorf("value %q", v.Bytes)
	}
	want := []engine.Piece{{Address: at, Bytes: []byte("ksplic")}}
	x := w.changes()
	w.wellFormed(x)
	if d := cmp.Diff(want, x.Guards[1:]); d != "" {
		t.Errorf("guards (-want +got):\n%s", d)
	}
	// One that ends where memory does is there, one that goes on is not.
	end := base + uint64(len(w.data))
	for past := range uint64(2) {
		w.session = transfer.New(&w.arena)
		w.put(w.root, "struct root", "many[1]", end-6+past-w.offset("struct numbers", "name"))
		_, err := w.walk(&transform.Walk{Global: "root", Steps: []transform.Step{transform.Follow("many[1]", "")}, Read: []string{"name"}})
		if past == 0 && err != nil {
			t.Errorf("at the end: %v", err)
		} else if past == 1 {
			moved(t, err, "no memory there")
		}
	}
}

// TestMoved: of memory that changes, the session tells what has been used, and where.
func TestMoved(t *testing.T) {
	w := newWorld(t)
	w.put(w.root, "struct root", "one", w.item(1))
	still := func(what string) {
		t.Helper()
		if at, ok := w.session.Moved(); ok {
			t.Errorf("%s: it has moved at %#x", what, at)
		}
	}
	still("nothing was read")
	w.find(&transform.Walk{Global: "root", Steps: []transform.Step{transform.Follow("one", "")}, Read: []string{"id"}})
	still("nothing has changed")
	w.put(w.root, "struct root", "n", 1)
	w.put(w.item(1), "struct item", "data", 1)
	still("what was not used has changed")
	for _, at := range []uint64{w.root + w.offset("struct root", "one"), w.root + w.offset("struct root", "one") + 7, w.item(1), w.item(1) + 3} {
		w.at(at)[0] ^= 1
		if got, ok := w.session.Moved(); !ok || got != at {
			t.Errorf("at %#x memory has changed, but it has moved at %#x: %v", at, got, ok)
		}
		w.at(at)[0] ^= 1
	}
	still("what has changed is as it was")
	// A walk that was led away by what is still there fails for good, one that was led by what is there no more does not.
	w.put(w.root, "struct root", "one", 8)
	w.session = transfer.New(&w.arena)
	_, err := w.walk(&transform.Walk{Global: "root", Read: []string{"one->id"}})
	moved(t, err, "at 0x8: no memory there")
	still("the pointer is still there")
	w.put(w.root, "struct root", "one", w.item(1))
	if at, ok := w.session.Moved(); !ok || at != w.root+w.offset("struct root", "one") {
		t.Errorf("the pointer is another, but it has moved at %#x: %v", at, ok)
	}
	// What is set is used.
	w.session = transfer.New(&w.arena)
	if err := w.set(false, &transform.Walk{Global: "root"}, transform.Set{Path: "n", Number: 5}); err != nil {
		t.Fatal(err)
	}
	still("nothing has changed since it was to be set")
	w.put(w.root, "struct root", "n", 2)
	if at, ok := w.session.Moved(); !ok || at != w.root {
		t.Errorf("what is to be set has changed, but it has moved at %#x: %v", at, ok)
	}
	// Memory that is gone.
	w.put(w.root, "struct root", "n", 1)
	still("it is as it was")
	w.data = w.data[:8]
	if at, ok := w.session.Moved(); !ok || at>>9 != w.root>>9 {
		t.Errorf("memory is gone, but it has moved at %#x: %v", at, ok)
	}
}

// model is what random transfers should do: the memory after them, and the bytes that are used.
type model struct {
	*world
	memory []byte
	used   []bool
}

// use notes that a member is used.
func (m *model) use(address, size uint64) {
	for i := range size {
		m.used[address-base+i] = true
	}
}

// change gives a member a random value, in memory as it should be, and returns the set for that.
func (m *model) change(r *rand.Rand, o transform.Object, path string, pointers []uint64) transform.Set {
	at, member := m.member(m.before, o.Type, path)
	l := m.before[member.Type]
	set := transform.Set{Object: o, Path: path}
	to := m.memory[o.Address+at-base:]
	switch {
	case member.Bits > 0:
		set.Number = r.Uint64()
		if shift := 64 - member.Bits; l.Signed {
			set.Number = uint64(int64(set.Number) << shift >> shift)
		} else {
			set.Number = set.Number << shift >> shift
		}
		for i := range member.Bits {
			k, bit := (member.Bit+i)/8, byte(1)<<((member.Bit+i)%8)
			if to[k] &^= bit; set.Number>>i&1 == 1 {
				to[k] |= bit
			}
		}
		return set
	case l.Kind == update.LayoutPointer:
		set.Number = pointers[r.IntN(len(pointers))]
		order.PutUint64(to, set.Number)
		return set
	}
	set.Bytes = make([]byte, l.Size)
	for i := range set.Bytes {
		set.Bytes[i] = byte(r.Uint32())
	}
	if r.IntN(4) == 0 {
		copy(set.Bytes, to) // as it is
	}
	copy(to, set.Bytes)
	return set
}

// TestRandom: random objects are read and set by random transfers. Guards are what was used, sets lie in them, and memory is what it should be.
func TestRandom(t *testing.T) {
	var paths []string
	for _, m := range newWorld(t).before["struct numbers"].Members {
		if m.Name != "big" && m.Name != "nothing" {
			paths = append(paths, m.Name)
		}
	}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(t)
		for i := range w.data {
			w.data[i] = byte(r.Uint32())
		}
		pointers := []uint64{0}
		for i := range 8 {
			to := uint64(0)
			if r.IntN(4) > 0 {
				w.free += uint64(r.IntN(600)) &^ 15
				to = w.alloc("struct numbers", 1)
				pointers = append(pointers, to)
			}
			w.put(w.root, "struct root", fmt.Sprintf("many[%d]", i), to)
		}
		m := &model{w, bytes.Clone(w.data), make([]bool, len(w.data))}
		m.use(w.root+w.offset("struct root", "many"), 64)
		some := func() []string {
			out := slices.Clone(paths)
			r.Shuffle(len(out), func(i, k int) { out[i], out[k] = out[k], out[i] })
			return out[:r.IntN(len(out))]
		}
		touch := func(o transform.Object, paths []string) {
			for _, path := range paths {
				at, member := w.member(w.before, o.Type, path)
				size := w.before[member.Type].Size
				if member.Bits > 0 {
					size = (member.Bit + member.Bits + 7) / 8
				}
				m.use(o.Address+at, size)
			}
		}
		// The members of an object are changed once, by the first or the second transfer.
		left := map[uint64][]string{}
		for second := range 2 {
			walk := &transform.Walk{Global: "root", Steps: []transform.Step{transform.Each("many", ""), transform.Follow("", "")}, Read: some()}
			err := w.run(false, walk, func(found []transform.Object) (resp transform.TransferResponse) {
				for _, o := range found {
					touch(o, walk.Read)
					set := some()
					if second == 1 {
						set = slices.DeleteFunc(set, func(path string) bool { return slices.Contains(left[o.Address], path) })
					}
					left[o.Address] = set
					touch(o, set)
					for _, path := range set {
						resp.Sets = append(resp.Sets, m.change(r, o, path, pointers))
					}
				}
				return resp
			})
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		x := w.changes()
		w.wellFormed(x)
		used := make([]bool, len(w.data))
		for _, g := range x.Guards {
			for i := range g.Bytes {
				used[g.Address-base+uint64(i)] = true
			}
		}
		if !slices.Equal(used, m.used) {
			t.Errorf("seed %d: guards are not what was used", seed)
		}
		for _, s := range x.Sets {
			if bytes.Equal(s.Bytes, w.at(s.Address)[:len(s.Bytes)]) {
				t.Errorf("seed %d: the set at %#x changes nothing", seed, s.Address)
			}
		}
		w.write(x.Sets)
		if !bytes.Equal(w.data, m.memory) {
			t.Errorf("seed %d: memory is not what it should be", seed)
		}
		if t.Failed() {
			return
		}
	}
}
