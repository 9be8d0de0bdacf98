package transfer_test

import (
	"context"
	"errors"
	"testing"

	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/transform"
)

// TestSetKept: that a member keeps its value is a wish like any other, which no other may contradict; nothing is written for it.
func TestSetKept(t *testing.T) {
	kept := func(w *world, walk *transform.Walk, path string) transform.Set {
		t.Helper()
		found, err := w.walk(&transform.Walk{Global: walk.Global, From: walk.From, Steps: walk.Steps, Read: []string{path}})
		if err != nil {
			t.Fatal(err)
		}
		return transform.Set{Path: path, Number: found[0].Values[0].Number}
	}
	for _, path := range []string{"u16", "flag"} {
		w, _, walk := numbers(t)
		old := kept(w, walk, path)
		other := old
		other.Number ^= 1
		err := w.set(false, walk, old, other)
		if err == nil {
			_, err = w.session.Changes()
		}
		refused(t, err, path+" of the struct numbers at")
		w, _, walk = numbers(t)
		if err := w.set(false, walk, kept(w, walk, path)); err != nil {
			t.Fatal(err)
		}
		if x, err := w.session.Changes(); err != nil || len(x.Sets) > 0 {
			t.Errorf("%s is kept: %+v, %v", path, x.Sets, err)
		}
	}
}

// TestWalkAfterFailure: behind a walk that failed none succeeds, and a plugin that says nothing of it is not believed.
func TestWalkAfterFailure(t *testing.T) {
	w := furnished(t)
	p := &plug{transfer: func(ctx context.Context, _ *transform.TransferRequest, s transform.State) (*transform.TransferResponse, error) {
		_, first := s.Walk(ctx, &transform.Walk{Global: "nobody"})
		_, second := s.Walk(ctx, &transform.Walk{Global: "root", Read: []string{"n"}})
		if first == nil || !errors.Is(second, first) {
			t.Errorf("walks: %v, then %v", first, second)
		}
		return &transform.TransferResponse{}, nil
	}}
	refused(t, w.session.Run(t.Context(), w.bound, p, false), `"nobody" is no global of the plan`)
	p.transfer = func(context.Context, *transform.TransferRequest, transform.State) (*transform.TransferResponse, error) {
		return nil, nil
	}
	w = furnished(t)
	refused(t, w.session.Run(t.Context(), w.bound, p, false), "returns nothing")
}

// TestPerCPUPointer: a variable that is a per-CPU pointer leads to what each CPU has.
func TestPerCPUPointer(t *testing.T) {
	w := furnished(t)
	w.bound.Globals = append(w.bound.Globals, update.Global{Name: "stats", Type: "struct cpu_stat *"})
	w.bound.Addresses = append(w.bound.Addresses, w.root+w.offset("struct root", "stats"))
	found, err := w.walk(&transform.Walk{Global: "stats", Steps: []transform.Step{transform.PerCPU("")}})
	if err != nil || len(found) != len(w.bound.CPUs) {
		t.Fatalf("%+v, %v", found, err)
	}
	for i, o := range found {
		if o.Type != "struct cpu_stat" || o.Index != uint64(w.bound.CPUs[i].Number) || o.Address-w.bound.CPUs[i].Offset != found[0].Address-w.bound.CPUs[0].Offset {
			t.Errorf("CPU %d: %+v", i, o)
		}
	}
}

// TestXArrayShared: a node that hangs in two places is of an array that is being changed.
func TestXArrayShared(t *testing.T) {
	w := newWorld(t)
	leaf := w.node(0, map[uint64]uint64{0: w.item(1)})
	w.put(w.root, "struct root", "array.xa_head", w.node(6, map[uint64]uint64{0: leaf, 1: leaf}))
	_, err := w.walk(&transform.Walk{Global: "root", Steps: []transform.Step{transform.XArray("array", "struct item")}})
	moved(t, err, "leads back to itself")
}
