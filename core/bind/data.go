package bind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
)

// addressSize is an address's, in bytes.
const addressSize = 8

// pointer returns the address that run has in a field of a datum, after what is there was seen to be what pre's field leads to.
func (in *Input) pointer(part *update.Part, s *update.Slot) (uint64, error) {
	fail := func(format string, args ...any) (uint64, error) {
		return 0, &Error{part.Name, s.Name, fmt.Sprintf(format, args...)}
	}
	datum, y, err := in.datum(part, s.Name, s.Unit, s.Symbol)
	if err != nil {
		return 0, err
	}
	ref := in.refAt(s.Unit, y, s.At)
	if ref == nil {
		return fail("the pre object has no address at +%#x of %s", s.At, y.Name)
	}
	want := in.text(s.Unit, ref)
	if want == nil {
		return fail("the pre object's field at +%#x leads to no string or constant", s.At)
	}
	run := make([]byte, addressSize)
	if err := in.Kernel.Memory.ReadMemory(run, datum+s.At); err != nil {
		return fail("it cannot be read: %v", err)
	}
	v := binary.LittleEndian.Uint64(run)
	have := make([]byte, len(want))
	if err := in.Kernel.Memory.ReadMemory(have, v); err != nil || !bytes.Equal(have, want) {
		return fail("in the running kernel it does not lead to %q: somebody has set it", bytes.TrimRight(want, "\x00"))
	}
	return v, nil
}

// text is the string or the constant that a reference of a pre object leads to; nil where it leads to something else.
func (in *Input) text(unit int, ref *arch.Ref) []byte {
	y := in.Units[unit].File.Symbols[ref.Symbol]
	s := y.Section
	if s == nil || s.Flags&elf.SHF_MERGE == 0 || s.EntSize == 0 {
		return nil
	}
	at := y.Value + uint64(ref.Offset)
	if at >= uint64(len(s.Data)) {
		return nil
	}
	if i := bytes.IndexByte(s.Data[at:], 0); s.EntSize == 1 && i >= 0 {
		return s.Data[at:][:i+1]
	}
	if s.EntSize > uint64(len(s.Data))-at {
		return nil
	}
	return s.Data[at:][:s.EntSize]
}

// datum returns the address of a datum of a unit, and its symbol in pre.
func (in *Input) datum(part *update.Part, name string, unit int, symbol uint32) (uint64, *objfile.Symbol, error) {
	all := in.Units[unit].File.Symbols
	if uint64(symbol) >= uint64(len(all)) || all[symbol].Section == nil || all[symbol].Name == "" {
		return 0, nil, &Error{part.Name, name, fmt.Sprintf("symbol %d of %s is no datum", symbol, in.Units[unit].Name)}
	}
	y := all[symbol]
	v, err := in.symbol(part, &update.Slot{Kind: update.SlotSymbol, Name: y.Name, Unit: unit, Symbol: symbol})
	return v, y, err
}

// refAt is the reference of a pre object at an offset of a datum; nil for none.
func (in *Input) refAt(unit int, y *objfile.Symbol, offset uint64) *arch.Ref {
	refs := in.Units[unit].Desc.Refs
	i := slices.IndexFunc(refs, func(r arch.Ref) bool { return r.Section == uint32(y.Section.Index) && r.At == y.Value+offset })
	if i < 0 {
		return nil
	}
	return &refs[i]
}

// maxProofs bounds how many data lead to each other in a proof by content.
const maxProofs = 4

// address is what run has where a pre object has a reference that is a whole address; ok is false where that is not known. depth counts data
// that are being proved by what they hold.
func (in *Input) address(unit int, ref *arch.Ref, depth int) (v uint64, ok bool) {
	if v, ok := in.Solution.Value(unit, ref.Symbol); ok {
		return v + uint64(ref.Addend), true
	}
	u := in.Units[unit]
	y := u.File.Symbols[ref.Symbol]
	if y.Section == nil {
		if of := in.Kernel.Symbols.Lookup(y.Name); y.Name != "" && len(of) == 1 {
			return of[0].Address + uint64(ref.Addend), true
		}
		return 0, false
	}
	at := y.Value + uint64(ref.Addend)
	for _, x := range u.File.SymbolsIn(y.Section) {
		if x.Name == "" || at < x.Value || at >= x.Value+max(x.Size, 1) {
			continue
		}
		if v, ok := in.Solution.Value(unit, uint32(x.Index)); ok {
			return v + at - x.Value, true
		}
		if x.Type == elf.STT_OBJECT {
			if v, ok := in.byContent(unit, x, depth+1); ok {
				return v + at - x.Value, true
			}
		}
	}
	return 0, false
}

// byContent finds a datum that no matched code names by its name and by what it holds: every address in it whose value is known must be
// there, and one at least is of the unit's own, which was matched. ok is false where that does not tell one datum.
func (in *Input) byContent(unit int, y *objfile.Symbol, depth int) (v uint64, ok bool) {
	if depth > maxProofs {
		return 0, false
	}
	for _, c := range in.Kernel.Symbols.LookupIn(in.Units[unit].Module, y.Name) {
		if !in.holds(unit, y, c, depth) {
			continue
		}
		if ok {
			return 0, false
		}
		v, ok = c.Address, true
	}
	return v, ok
}

// holds says that what is at a symbol of run has the addresses that a datum of a pre object has.
func (in *Input) holds(unit int, y *objfile.Symbol, at kernel.Symbol, depth int) bool {
	u := in.Units[unit]
	own := false
	for i := range u.Desc.Refs {
		ref := &u.Desc.Refs[i]
		if ref.Section != uint32(y.Section.Index) || ref.At < y.Value || ref.At >= y.Value+y.Size || ref.Kind != arch.RefAddress || ref.Size != addressSize {
			continue
		}
		to := u.File.Symbols[ref.Symbol]
		if to.Section == y.Section {
			continue // to itself: what is linked into lists moves on
		}
		want, ok := in.address(unit, ref, depth)
		if !ok {
			continue
		}
		run := make([]byte, addressSize)
		if err := in.Kernel.Memory.ReadMemory(run, at.Address+ref.At-y.Value); err != nil || binary.LittleEndian.Uint64(run) != want {
			return false
		}
		own = own || to.Section != nil
	}
	return own
}

// write checks that a field of a datum has the value that the update was made for.
func (in *Input) write(part *update.Part, w *update.Write) error {
	fail := func(format string, args ...any) error { return &Error{part.Name, w.Name, fmt.Sprintf(format, args...)} }
	datum, y, err := in.datum(part, w.Name, w.Unit, w.Symbol)
	if err != nil {
		return err
	}
	if w.Offset > y.Size || w.Size > y.Size-w.Offset {
		return fail("it lies outside the %d bytes of %s", y.Size, y.Name)
	}
	want, run := make([]byte, w.Size), make([]byte, w.Size)
	if at := y.Value + w.Offset; at < uint64(len(y.Section.Data)) {
		copy(want, y.Section.Data[at:])
	}
	if ref := in.refAt(w.Unit, y, w.Offset); ref != nil {
		v, ok := in.address(w.Unit, ref, 0)
		if in.text(w.Unit, ref) != nil {
			v, err = in.pointer(part, &update.Slot{Name: w.Name, Unit: w.Unit, Symbol: w.Symbol, At: w.Offset})
		} else if !ok {
			err = fail("its old value is an address that nothing proves")
		}
		if err != nil {
			return err
		}
		if w.Size != addressSize {
			return fail("it has %d bytes, and the pre object has an address there", w.Size)
		}
		binary.LittleEndian.PutUint64(want, v)
	}
	if err := in.Kernel.Memory.ReadMemory(run, datum+w.Offset); err != nil {
		return fail("it cannot be read: %v", err)
	}
	if !bytes.Equal(run, want) {
		return fail("the running kernel has %s, the update was made for %s: somebody has set it; set it back, or have the patch leave it as it is",
			in.shown(run), in.shown(want))
	}
	return nil
}

// shown writes a value for people: an address by the symbol there, else the bytes as a number or as they lie.
func (in *Input) shown(b []byte) string {
	var word [addressSize]byte
	if len(b) > len(word) {
		return fmt.Sprintf("% x", b)
	}
	copy(word[:], b)
	v := binary.LittleEndian.Uint64(word[:])
	if len(b) == addressSize {
		if of := in.Kernel.Symbols.At(v); len(of) > 0 {
			return of[0].Name
		}
	}
	return fmt.Sprintf("%#x", v)
}
