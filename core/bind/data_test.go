package bind

import (
	"debug/elf"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match/matchtest"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Where things are that no code names.
const (
	opsAt   = data + 0x1000
	nameAt  = data + 0x2000
	fopsAt  = data + 0x3000
	otherAt = data + 0x4000
)

// opsWorld is a world with a datum ops that no code names: a string, the function f, another datum with f's address, a number.
func opsWorld(t testing.TB) (w *world, ops uint32) {
	w = newWorld(t)
	w.unit.Words(".rodata.fops", "fops", elf.STB_LOCAL, matchtest.Ref{Symbol: "f"})
	ops = w.unit.Words(".data.ops", "ops", elf.STB_LOCAL,
		matchtest.Ref{Symbol: ".rodata.names", Obligation: arch.ObligationString, Bytes: []byte("plug\x00")}, matchtest.Ref{Symbol: "f"}, matchtest.Ref{Symbol: "fops"},
		matchtest.Ref{Addend: 42})
	w.Symbol("", "ops", opsAt)
	w.Symbol("", "fops", fopsAt)
	w.Memory[opsAt], w.Memory[fopsAt], w.Memory[nameAt] = words(nameAt, text, fopsAt, 42), words(text), []byte("plug\x00")
	return w, ops
}

func words(list ...uint64) []byte {
	var b []byte
	for _, v := range list {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func opsPart(ops uint32) *update.Part {
	return &update.Part{
		Writes: []update.Write{{Name: "ops.name", Symbol: ops, Size: 8}, {Name: "ops.peek", Symbol: ops, Offset: 8, Size: 8}, {Name: "ops.number", Symbol: ops, Offset: 24, Size: 4}},
		Slots:  []update.Slot{{Kind: update.SlotSymbol, Name: "ops", Symbol: ops}, {Kind: update.SlotPointer, Name: "ops.name", Symbol: ops}},
	}
}

// TestWrites: data that no code names are found by name and by what they hold, and what is to be written over has the old value.
func TestWrites(t *testing.T) {
	w, ops := opsWorld(t)
	b, err := w.bind(t, opsPart(ops))
	if err != nil {
		t.Fatal(err)
	}
	if want := []uint64{opsAt, nameAt}; !slices.Equal(b.Values, want) {
		t.Errorf("values = %#x, want %#x", b.Values, want)
	}
	for name, c := range map[string]struct {
		change func(*world)
		words  []string
	}{
		"number":              {func(w *world) { w.Memory[opsAt] = words(nameAt, text, fopsAt, 43) }, []string{"ops.number", "0x2b", "0x2a", "somebody has set it"}},
		"string":              {func(w *world) { w.Memory[nameAt] = []byte("flag\x00") }, []string{"ops.name", `"plug"`}},
		"no string":           {func(w *world) { w.Memory[opsAt] = words(8, text, fopsAt, 42) }, []string{"ops.name", `"plug"`}},
		"function":            {func(w *world) { w.Memory[opsAt] = words(nameAt, text+8, fopsAt, 42) }, []string{"nothing proves where it is"}},
		"a datum it leads to": {func(w *world) { w.Memory[opsAt] = words(nameAt, text, fopsAt+8, 42) }, []string{"nothing proves where it is"}},
		"two of them": {func(w *world) {
			w.Symbol("", "ops", otherAt)
			w.Memory[otherAt] = w.Memory[opsAt]
		}, []string{"nothing proves where it is"}},
		"none": {func(w *world) {
			w.Symbols = slices.DeleteFunc(w.Symbols, func(y kernel.Symbol) bool { return y.Name == "ops" })
		}, []string{"nothing proves where it is"}},
	} {
		t.Run(name, func(t *testing.T) {
			w, ops := opsWorld(t)
			c.change(w)
			_, err := w.bind(t, opsPart(ops))
			refused(t, err, c.words...)
		})
	}
	// One of two that has the name is it.
	w, ops = opsWorld(t)
	w.Symbol("", "ops", otherAt)
	w.Memory[otherAt] = words(nameAt, text+8, fopsAt, 42)
	if b, err = w.bind(t, opsPart(ops)); err != nil || b.Values[0] != opsAt {
		t.Errorf("beside another of the name: %+v, %v", b, err)
	}
	// What leads to nothing of the unit's own proves nothing.
	w = newWorld(t)
	ops = w.unit.Words(".data.ops", "ops", elf.STB_LOCAL, matchtest.Ref{Symbol: "kfree"})
	w.Symbol("", "kfree", text+0x1000)
	w.Symbol("", "ops", opsAt)
	w.Memory[opsAt] = words(text + 0x1000)
	_, err = w.bind(t, &update.Part{Slots: []update.Slot{{Kind: update.SlotSymbol, Name: "ops", Symbol: ops}}})
	refused(t, err, "nothing proves where it is")
}
