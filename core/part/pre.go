package part

import (
	"bytes"
	"debug/elf"
	"fmt"
	"slices"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
)

// unit returns the input of the unit with an index in the manifest.
func (b *builder) unit(index int) *UnitInput {
	for i := range b.in.Units {
		if b.in.Units[i].Index == index {
			return &b.in.Units[i]
		}
	}
	return nil
}

// global says that a function has a name that only one place of the kernel has.
func (b *builder) global(f *update.Function) bool {
	return b.unit(f.Unit).Pre.File.Symbols[f.Symbol].Bind != elf.STB_LOCAL
}

// preFunction returns a function's bytes before the patch with fields zero, which of them the kernel may rewrite, and the
// relocations outside of those.
func (b *builder) preFunction(f *update.Function) (*preFunction, error) {
	u := b.unit(f.Unit)
	y := u.Pre.File.Symbols[f.Symbol]
	fn := functionOf(u.Pre, y)
	s := u.Pre.File.Sections[fn.Section]
	p := &preFunction{bytes: bytes.Clone(s.Data[fn.Offset : fn.Offset+fn.Size]), mask: make([]byte, fn.Size)}
	for i := range u.Pre.Desc.Sites {
		site := &u.Pre.Desc.Sites[i]
		if site.Section != fn.Section {
			continue
		}
		for at := max(site.At, fn.Offset); at < min(site.At+site.Length, fn.Offset+fn.Size); at++ {
			p.mask[at-fn.Offset] = 1
		}
	}
	for i := range u.Pre.Desc.Refs {
		r := &u.Pre.Desc.Refs[i]
		if r.Section != fn.Section || r.At < fn.Offset || r.At >= fn.Offset+fn.Size {
			continue
		}
		at := r.At - fn.Offset
		if at+uint64(r.Size) > fn.Size {
			return nil, fmt.Errorf("%s: %s: the field at +%#x reaches beyond the function's end", u.Unit.Object, f.Name, at)
		}
		clear(p.bytes[at : at+uint64(r.Size)])
		field := p.mask[at : at+uint64(r.Size)]
		if !slices.Contains(field, 0) {
			if b.callee(u, r) {
				call := b.preReloc(u, fn, at, r)
				call.kind |= relocCall
				p.relocs = append(p.relocs, call)
			}
			continue
		}
		if slices.Contains(field, 1) {
			return nil, fmt.Errorf("%s: %s: the relocated field at +%#x lies partly in a place that the kernel rewrites", u.Unit.Object, f.Name, at)
		}
		if _, ok := b.loader.sizes[r.Type]; !ok {
			return nil, fmt.Errorf("%s: %s: the relocation at +%#x has type %d, which the kernel module cannot check", u.Unit.Object, f.Name, at, r.Type)
		}
		p.relocs = append(p.relocs, b.preReloc(u, fn, at, r))
	}
	return p, nil
}

// callee says that a reference is whom a direct call names that the kernel may lead to the callee's padding, and nowhere else.
func (b *builder) callee(u *UnitInput, r *arch.Ref) bool {
	calls := 0
	for i := range u.Pre.Desc.Sites {
		s := &u.Pre.Desc.Sites[i]
		if s.Section != r.Section || s.At >= r.At+uint64(r.Size) || s.At+s.Length <= r.At {
			continue
		}
		if s.Kind != arch.SiteCall || s.At+s.Length != r.At+uint64(r.Size) {
			return false
		}
		calls++
	}
	return calls == 1 && r.Kind == arch.RefBranch && r.Type == b.loader.branch && !b.loader.imported(u.Pre.File.Symbols[r.Symbol].Name)
}

// preReloc says what run has in a field: S by a slot, the addend, the type.
func (b *builder) preReloc(u *UnitInput, fn *arch.Function, at uint64, r *arch.Ref) preReloc {
	y := u.Pre.File.Symbols[r.Symbol]
	out := preReloc{addend: r.Addend, offset: at, kind: r.Type}
	switch {
	case y.Section == nil && y.Special == elf.SHN_ABS:
		out.value = y.Value
	case b.loader.imported(y.Name):
		b.imports[y.Name] = true
		out.symbol = y.Name
	case merged(y.Section):
		// The linker merges such sections, so that each field has an address of its own. Fields that name one place
		// of the object name one place of run.
		s := update.Slot{Kind: update.SlotField, Name: y.Section.Name, Unit: u.Index, Symbol: r.Symbol, Function: fn.Symbol, At: at}
		k := slotKey{kind: s.Kind, unit: u.Index, symbol: r.Symbol, at: uint64(r.Offset)}
		n, ok := b.slots[k]
		if !ok {
			n = len(b.out.Slots)
			b.slots[k] = n
			b.out.Slots = append(b.out.Slots, s)
		}
		out.symbol = slotName(n)
	default:
		if g := within(u, fn, y, r); g != nil {
			// Where an update has replaced the function already, its pieces refer to the code that runs, not to the address.
			out.symbol = slotName(b.slot(update.Slot{Kind: update.SlotCode, Name: g.Name, Unit: u.Index, Symbol: g.Symbol}, false))
			out.addend += int64(y.Value) - int64(g.Offset)
			break
		}
		s := update.Slot{Kind: update.SlotSymbol, Name: sectionName(y), Unit: u.Index, Symbol: r.Symbol}
		out.symbol = slotName(b.slot(s, y.Bind != elf.STB_LOCAL))
	}
	return out
}

// within is the function of fn's own, itself or a piece split off, into whose middle a reference leads; nil where it leads elsewhere.
func within(u *UnitInput, fn *arch.Function, y *objfile.Symbol, r *arch.Ref) *arch.Function {
	if y.Section == nil {
		return nil
	}
	functions := u.Pre.Desc.Functions
	whole := func(f *arch.Function) *arch.Function {
		if f.Parent >= 0 {
			return &functions[f.Parent]
		}
		return f
	}
	to := int64(y.Value) + r.Offset
	for i := range functions {
		g := &functions[i]
		if g.Section == uint32(y.Section.Index) && to > int64(g.Offset) && to < int64(g.Offset+g.Size) && whole(g).Symbol == whole(fn).Symbol {
			return g
		}
	}
	return nil
}

// merged is as in the architecture plugins' matching: the linker may merge the section's entries with others.
func merged(s *objfile.Section) bool {
	return s != nil && s.Flags&elf.SHF_MERGE != 0 && s.EntSize != 0 && len(s.Relocs) == 0
}
