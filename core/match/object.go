package match

import (
	"bytes"
	"debug/elf"
	"fmt"
	"sort"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
)

// What an architecture plugin says of an object is compared with the object, as far as ELF alone tells: an error of the plugin's would
// otherwise be one of the update's.

// check returns an error where the description does not fit the object.
func (u *Unit) check() error {
	for _, step := range []func() error{u.checkSymbols, u.checkRefs, u.checkFunctions, u.checkPads, u.checkSites} {
		if err := step(); err != nil {
			return fmt.Errorf("%s: %w", u.Name, err)
		}
	}
	return nil
}

// checkSymbols refuses symbols that do not lie in their sections: nothing in run would tell.
func (u *Unit) checkSymbols() error {
	for _, y := range u.File.Symbols {
		if y.Type > elf.STT_TLS || y.Bind > elf.STB_WEAK {
			return fmt.Errorf("symbol %s is of a kind (type %d, binding %d) that no kernel object has", y, y.Type, y.Bind)
		}
		if y.Section == nil || y.Section.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		if y.Value > y.Section.Size || y.Size > y.Section.Size-y.Value {
			return fmt.Errorf("symbol %s of %d bytes at %#x lies outside section %s of %d bytes", y, y.Size, y.Value, y.Section.Name, y.Section.Size)
		}
	}
	return nil
}

// checkRefs wants the references to be the relocations of the allocated sections, no more and no less.
func (u *Unit) checkRefs() error {
	refs, i := u.Desc.Refs, 0
	type width struct {
		size  uint8
		pcRel bool
	}
	widths := map[uint32]width{}
	for _, s := range u.File.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		for _, r := range s.SortedRelocs() {
			if r.Type == 0 { // R_*_NONE on every machine
				continue
			}
			if i == len(refs) {
				return fmt.Errorf("the architecture plugin does not list the relocation at %s+%#x, or does not know its type %d", s.Name, r.Offset, r.Type)
			}
			f := &refs[i]
			i++
			if int(f.Section) != s.Index || f.At != r.Offset || f.Type != r.Type || int(f.Symbol) != r.Symbol.Index || f.Addend != r.Addend {
				return fmt.Errorf("the architecture plugin has another reference (at section %d offset %#x) where the object has the relocation at %s+%#x of type %d",
					f.Section, f.At, s.Name, r.Offset, r.Type)
			}
			if w, ok := widths[f.Type]; f.Size == 0 || ok && w != (width{f.Size, f.PCRel}) {
				return fmt.Errorf("the architecture plugin says %d bytes of the relocation at %s+%#x, and else of type %d", f.Size, s.Name, r.Offset, r.Type)
			}
			widths[f.Type] = width{f.Size, f.PCRel}
			if bias := f.Offset - f.Addend; bias != 0 && (!f.PCRel || bias < int64(f.Size) || bias > maxInstruction) {
				return fmt.Errorf("the architecture plugin says that the reference at %s+%#x means %+d, its addend is %+d", s.Name, r.Offset, f.Offset, f.Addend)
			}
			if r.Offset > s.Size || uint64(f.Size) > s.Size-r.Offset {
				return fmt.Errorf("the relocation at %s+%#x lies outside the section", s.Name, r.Offset)
			}
		}
	}
	if i < len(refs) {
		return fmt.Errorf("the architecture plugin lists a reference at section %d offset %#x, where the object has no relocation", refs[i].Section, refs[i].At)
	}
	return nil
}

// maxInstruction bounds the distance from a field to the end of the instruction that it is in.
const maxInstruction = 16

// checkFunctions wants every function of the object to be described as its symbol says.
func (u *Unit) checkFunctions() error {
	described := map[uint32]bool{}
	pads := map[*objfile.Section]map[uint64]uint64{} // where a function with a pad begins, the pad's size
	for i := range u.Desc.Functions {
		fn := &u.Desc.Functions[i]
		if described[fn.Symbol] {
			return fmt.Errorf("the architecture plugin describes function %s twice", fn.Name)
		}
		described[fn.Symbol] = true
		if uint64(fn.Symbol) >= uint64(len(u.File.Symbols)) || fn.Symbol == 0 {
			return fmt.Errorf("the architecture plugin says that function %s is symbol %d of %d", fn.Name, fn.Symbol, len(u.File.Symbols))
		}
		y := u.File.Symbols[fn.Symbol]
		if y.Section == nil || y.Section.Index != int(fn.Section) || fn.Offset > uint64(len(y.Section.Data)) || fn.Size > uint64(len(y.Section.Data))-fn.Offset {
			return fmt.Errorf("the architecture plugin says that function %s of %d bytes at %#x of section %d is symbol %s: it does not lie in its section",
				fn.Name, fn.Size, fn.Offset, fn.Section, y)
		}
		if y.Name != fn.Name || y.Value != fn.Offset || y.Size != 0 && y.Size != fn.Size {
			return fmt.Errorf("the architecture plugin says %s, %d bytes at %#x, of the function %s of %d bytes at %#x", fn.Name, fn.Size, fn.Offset, y, y.Size, y.Value)
		}
		if fn.Pad > 0 {
			if pads[y.Section] == nil {
				pads[y.Section] = map[uint64]uint64{}
			}
			pads[y.Section][fn.Offset] = fn.Pad
		}
	}
	covered := map[uint32]bool{}
	for i := range u.Desc.Functions {
		covered[u.Desc.Functions[i].Section] = true
	}
	const code = elf.SHF_ALLOC | elf.SHF_EXECINSTR
	for _, s := range u.File.Sections {
		if s.Flags&code == code && s.Size > 0 && !Discarded(s.Name) && !covered[uint32(s.Index)] {
			return fmt.Errorf("section %s has code that is no function's: a symbol is missing, or the architecture plugin does not describe it", s.Name)
		}
	}
	for _, y := range u.File.Symbols {
		if y.Type != elf.STT_FUNC || y.Section == nil || y.Name == "" || described[uint32(y.Index)] || Discarded(y.Section.Name) {
			continue
		}
		if y.Section.Flags&code != code {
			return fmt.Errorf("function %s lies in section %s, which holds no code", y, y.Section.Name)
		}
		if y.Size == 0 || pads[y.Section][y.Value+y.Size] != y.Size {
			return fmt.Errorf("the architecture plugin does not describe function %s", y)
		}
	}
	return nil
}

// checkPads wants all landing pads for indirect branches to be alike, and no other function to begin with one.
func (u *Unit) checkPads() error {
	var pad []byte
	for _, want := range []bool{true, false} {
		for i := range u.Desc.Functions {
			fn := &u.Desc.Functions[i]
			if fn.Endbr != want {
				continue
			}
			code := u.File.Symbols[fn.Symbol].Section.Data[fn.Offset : fn.Offset+fn.Size]
			if want && pad == nil && len(code) >= LandingPad {
				pad = code[:LandingPad]
			}
			if has := pad != nil && bytes.HasPrefix(code, pad); has != want {
				return fmt.Errorf("the architecture plugin says of function %s that it has a landing pad: %t; its code says otherwise", fn.Name, want)
			}
		}
	}
	return nil
}

// LandingPad is the length in bytes of a landing pad for indirect branches.
const LandingPad = 4

// checkSites wants sites that a table names to be what the table names, and keys to be of the same entry.
func (u *Unit) checkSites() error {
	for i := range u.Desc.Sites {
		s := &u.Desc.Sites[i]
		keyed := s.Kind == arch.SiteJumpLabel || s.Kind == arch.SiteStaticCall
		if s.Table == 0 {
			if keyed || s.Kind == arch.SiteRuntimeConst || s.Key >= 0 {
				return fmt.Errorf("the architecture plugin names no table for the %s site at section %d offset %#x", s.Kind, s.Section, s.At)
			}
			continue
		}
		if err := u.checkEntry(s, keyed); err != nil {
			return fmt.Errorf("the architecture plugin says that a %s site of %d bytes is at section %d offset %#x: %w", s.Kind, s.Length, s.Section, s.At, err)
		}
	}
	return nil
}

func (u *Unit) checkEntry(s *arch.Site, keyed bool) error {
	ref := u.ref(s.Table, s.Entry)
	if ref < 0 {
		return fmt.Errorf("no entry of a table stands at section %d offset %#x", s.Table, s.Entry)
	}
	r := &u.Desc.Refs[ref]
	y := u.File.Symbols[r.Symbol]
	if y.Section == nil || y.Section.Index != int(s.Section) || y.Value+uint64(r.Offset)-s.At >= s.Length {
		return fmt.Errorf("the entry at section %d offset %#x of the table is about another place", s.Table, s.Entry)
	}
	if s.Kind == arch.SiteRuntimeConst && s.Detail != u.File.Sections[s.Table].Name {
		return fmt.Errorf("its name is %q, that of its table %q", s.Detail, u.File.Sections[s.Table].Name)
	}
	if !keyed {
		return nil
	}
	j := sort.Search(len(u.Desc.Entries), func(i int) bool {
		e := &u.Desc.Entries[i]
		return e.Table > s.Table || e.Table == s.Table && e.At >= s.Entry
	})
	if j == len(u.Desc.Entries) || u.Desc.Entries[j].Table != s.Table || u.Desc.Entries[j].At != s.Entry {
		return fmt.Errorf("the entry at section %d offset %#x of the table is not described", s.Table, s.Entry)
	}
	if s.Key < 0 { // the reference to the key is there, or the entry is not for use
		return fmt.Errorf("it has no key")
	}
	// The key is the last thing that an entry refers to (include/linux/jump_label.h, include/linux/static_call_types.h).
	end := s.Entry + u.Desc.Entries[j].Size
	key, last := &u.Desc.Refs[s.Key], int(s.Key)+1
	if key.Section != s.Table || key.At <= s.Entry || key.At >= end ||
		last < len(u.Desc.Refs) && u.Desc.Refs[last].Section == s.Table && u.Desc.Refs[last].At < end {
		return fmt.Errorf("its key is not that of the entry at section %d offset %#x", s.Table, s.Entry)
	}
	return nil
}

// ref returns the index of the reference at a place, -1 where there is none.
func (u *Unit) ref(section uint32, at uint64) int {
	refs := u.Desc.Refs
	i := sort.Search(len(refs), func(i int) bool { return refs[i].Section > section || refs[i].Section == section && refs[i].At >= at })
	if i < len(refs) && refs[i].Section == section && refs[i].At == at {
		return i
	}
	return -1
}
