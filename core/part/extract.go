package part

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
)

// unitBuilder extracts what a part needs of one post object into an object of its own.
type unitBuilder struct {
	b   *builder
	in  *UnitInput
	out *objfile.File

	where     map[*diff.Piece]position
	tables    map[string]*objfile.Section
	sections  map[*objfile.Section]*objfile.Symbol // section symbols of out
	undefined map[string]*objfile.Symbol
	edits     map[*diff.Piece][]*arch.Edit
	// added holds what edits refer to; resolved before anything is placed.
	added map[*arch.Edit]diff.Target
	zero  *objfile.Symbol // an absolute 0
}

// replacedSuffix sets the replacement's name apart from that of the function in run: what is probed or traced by a name that two
// functions have is refused (kernel/trace/trace_kprobe.c:number_of_same_symbols) or meant to be both.
const replacedSuffix = ".ksplice"

// padPrefix begins the name of the pad before a function, as objtool names it in the kernel's own code (tools/objtool/elf.c:
// elf_create_prefix_symbol). Without it the pad counts as the end of what lies before: in traces, and where the kernel walks text symbol by
// symbol to forbid probes (kernel/kprobes.c:kprobe_add_area_blacklist begins with the pad of the first function that must not be
// instrumented).
const padPrefix = "__pfx_"

// position is where a piece went.
type position struct {
	section *objfile.Section
	offset  uint64
}

func (x *unitBuilder) extract() error {
	x.where, x.tables = map[*diff.Piece]position{}, map[string]*objfile.Section{}
	x.sections, x.undefined = map[*objfile.Section]*objfile.Symbol{}, map[string]*objfile.Symbol{}
	x.edits, x.added = map[*diff.Piece][]*arch.Edit{}, map[*arch.Edit]diff.Target{}
	if err := x.assignEdits(); err != nil {
		return err
	}
	for _, p := range x.in.Closure.Pieces {
		if err := x.place(p); err != nil {
			return err
		}
	}
	for _, p := range x.in.Closure.Pieces {
		if err := x.relocate(p); err != nil {
			return err
		}
	}
	for _, s := range x.out.Sections[1:] {
		slices.SortStableFunc(s.Relocs, func(a, b *objfile.Reloc) int { return cmp.Compare(a.Offset, b.Offset) })
	}
	if err := x.copies(); err != nil {
		return err
	}
	if err := x.hooks(); err != nil {
		return err
	}
	return x.writes()
}

// assignEdits gives each edit to the piece it changes. Edits of code that stays behind are left out.
func (x *unitBuilder) assignEdits() error {
	if x.in.Fixup == nil {
		return nil
	}
	for i := range x.in.Fixup.Edits {
		e := &x.in.Fixup.Edits[i]
		p, err := x.pieceOf(e.Section, e.At, uint64(len(e.Bytes)))
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		x.edits[p] = append(x.edits[p], e)
		if e.Reloc == nil {
			continue
		}
		t := x.in.Closure.Named(e.Reloc.Symbol, e.Reloc.Addend)
		if e.Reloc.SymbolIndex != 0 {
			if t, err = x.in.Closure.Symbol(e.Reloc.SymbolIndex, e.Reloc.Addend); err != nil {
				return err
			}
		}
		x.added[e] = t
	}
	return nil
}

// pieceOf finds the piece that a range of a section of post lies in; nil where it is not part of the closure.
func (x *unitBuilder) pieceOf(section uint32, at, length uint64) (*diff.Piece, error) {
	for _, p := range x.in.Closure.Pieces {
		if uint32(p.Section.Index) != section || at+length <= p.Start || at >= p.End {
			continue
		}
		if at < p.Start || at+length > p.End {
			return nil, fmt.Errorf("the architecture plugin edits %d bytes at %s+%#x, across the end of what is extracted", length, p.Section.Name, at)
		}
		return p, nil
	}
	return nil, nil
}

// place copies a piece's bytes into the object, and its symbols.
func (x *unitBuilder) place(p *diff.Piece) error {
	s, err := x.section(p)
	if err != nil {
		return err
	}
	at := s.Size
	x.where[p] = position{s, at}
	s.Size += p.End - p.Start
	if s.Type != elf.SHT_NOBITS {
		data := make([]byte, p.End-p.Start)
		if p.Section.Type != elf.SHT_NOBITS {
			copy(data, p.Section.Data[p.Start:p.End])
		}
		for _, e := range x.edits[p] {
			copy(data[e.At-p.Start:], e.Bytes)
		}
		s.Data = append(s.Data, data...)
	}
	for _, y := range p.Symbols {
		name := y.Name
		if p.Change != nil {
			name += replacedSuffix
		}
		n := &objfile.Symbol{Name: name, Value: at + p.Entry - p.Start, Size: y.Size, Type: y.Type, Bind: elf.STB_LOCAL, Section: s}
		if p.Shared && y.Bind != elf.STB_LOCAL {
			n.Bind = elf.STB_GLOBAL
		}
		x.out.AddSymbol(n)
		if p.Section.Name != diff.ShadowSection { // what it keeps is the kernel module's
			x.datum(p, y, s)
		}
		if pad := p.Entry - p.Start; p.Code() && pad > 0 && y.Type == elf.STT_FUNC {
			x.out.AddSymbol(&objfile.Symbol{Name: padPrefix + name, Value: at, Size: pad, Type: elf.STT_FUNC, Bind: elf.STB_LOCAL, Section: s})
		}
	}
	return nil
}

// section makes the section that a piece goes into: one for each piece, but one for all entries of a table.
func (x *unitBuilder) section(p *diff.Piece) (*objfile.Section, error) {
	name, err := carriedName(p)
	if err != nil {
		return nil, err
	}
	align := max(p.Section.Align, 1)
	if p.Table {
		if s := x.tables[name]; s != nil {
			s.Align = max(s.Align, align)
			return s, nil
		}
	} else {
		// What the compiler could rely on: the largest power of two that divides the place.
		for p.Start%align != 0 {
			align /= 2
		}
	}
	const flags = elf.SHF_ALLOC | elf.SHF_WRITE | elf.SHF_EXECINSTR
	s := &objfile.Section{Name: name, Type: p.Section.Type, Flags: p.Section.Flags & flags, Align: align}
	if s.Type != elf.SHT_NOBITS {
		s.Type = elf.SHT_PROGBITS
	}
	x.out.AddSection(s)
	y := &objfile.Symbol{Type: elf.STT_SECTION, Bind: elf.STB_LOCAL, Section: s}
	x.out.AddSymbol(y)
	x.sections[s] = y
	if p.Table {
		s.EntSize = p.Section.EntSize
		x.tables[name] = s
	}
	return s, nil
}

// carriedName is the name that a piece's section has in the part. Names that the module loader looks for stay
// (kernel/module/main.c: find_module_sections, find_pcpusec; kernel/kprobes.c: add_module_kprobe_blacklist).
func carriedName(p *diff.Piece) (string, error) {
	s := p.Section
	n := s.Name
	switch {
	case p.Table, n == ".altinstr_replacement", n == ".altinstr_aux", n == ".noinstr.text", n == ".kprobes.text", n == "__dyndbg":
		return n, nil
	case p.Code():
		return ".text", nil
	case strings.HasPrefix(n, ".data..percpu"):
		return ".data..percpu", nil
	case strings.HasPrefix(n, ".data..ro_after_init"):
		return ".data..ro_after_init", nil
	case s.Type == elf.SHT_NOBITS:
		return ".bss", nil
	case s.Flags&elf.SHF_WRITE != 0:
		return ".data", nil
	case s.Flags&elf.SHF_ALLOC != 0:
		return ".rodata", nil
	}
	return "", fmt.Errorf("section %s is not part of the kernel's memory", n)
}

// relocate makes the relocations of a piece.
func (x *unitBuilder) relocate(p *diff.Piece) error {
	for i := range p.References {
		r := &p.References[i]
		if slices.ContainsFunc(x.edits[p], func(e *arch.Edit) bool { return r.At < e.At+uint64(len(e.Bytes)) && r.At+uint64(r.Size) > e.At }) {
			continue
		}
		kind := r.Type
		if r.Resolved {
			kind = x.b.loader.branch
		}
		if err := x.reloc(p, r.At, kind, &r.Target); err != nil {
			return err
		}
	}
	for _, e := range x.edits[p] {
		if e.Reloc == nil {
			continue
		}
		t := x.added[e]
		if e.Reloc.At < p.Start || e.Reloc.At >= p.End {
			return fmt.Errorf("the architecture plugin adds a relocation at %s+%#x, outside of what it edits", p.Section.Name, e.Reloc.At)
		}
		if err := x.reloc(p, e.Reloc.At, e.Reloc.Type, &t); err != nil {
			return err
		}
	}
	return nil
}

// reloc adds a relocation at an offset of the section that a piece was taken from.
func (x *unitBuilder) reloc(p *diff.Piece, at uint64, kind uint32, t *diff.Target) error {
	size, ok := x.b.loader.sizes[kind]
	if !ok {
		return fmt.Errorf("%s+%#x has a relocation of type %d (%v), which the kernel's module loader does not apply", p.Section.Name, at, kind, elf.R_X86_64(kind))
	}
	w := x.where[p]
	to := w.offset + at - p.Start
	if w.section.Type == elf.SHT_NOBITS || to+size > uint64(len(w.section.Data)) {
		return fmt.Errorf("%s+%#x: the relocated field lies outside of what is extracted", p.Section.Name, at)
	}
	clear(w.section.Data[to : to+size]) // the loader wants zeroes there
	y, addend, err := x.symbol(t)
	if err != nil {
		return fmt.Errorf("%s+%#x: %w", p.Section.Name, at, err)
	}
	w.section.Relocs = append(w.section.Relocs, &objfile.Reloc{Offset: to, Type: kind, Symbol: y, Addend: addend})
	return nil
}

// symbol returns what a relocation names for a target.
func (x *unitBuilder) symbol(t *diff.Target) (*objfile.Symbol, int64, error) {
	switch {
	case t.Piece != nil:
		w, ok := x.where[t.Piece]
		if !ok {
			return nil, 0, fmt.Errorf("it leads to something in %s that is not extracted", t.Piece.Section.Name)
		}
		return x.sections[w.section], t.Addend + int64(w.offset), nil
	case t.Absolute:
		if x.zero == nil {
			x.zero = &objfile.Symbol{Name: "ksplice_zero", Bind: elf.STB_LOCAL, Special: elf.SHN_ABS}
			x.out.AddSymbol(x.zero)
		}
		return x.zero, t.Addend, nil
	}
	return undefined(x.out, x.undefined, x.b.symbol(x.in, t)), t.Addend, nil
}

// undefined returns the undefined symbol of a name.
func undefined(f *objfile.File, have map[string]*objfile.Symbol, name string) *objfile.Symbol {
	y := have[name]
	if y == nil {
		y = &objfile.Symbol{Name: name, Bind: elf.STB_GLOBAL}
		have[name] = y
		f.AddSymbol(y)
	}
	return y
}

// replacement is where a replacement went.
type replacement struct {
	unit  *unitBuilder
	piece *diff.Piece
}

// replacements are those of all units.
func (b *builder) replacements() map[*diff.FunctionChange]replacement {
	m := map[*diff.FunctionChange]replacement{}
	for _, x := range b.units {
		for _, p := range x.in.Closure.Pieces {
			if p.Change != nil {
				m[p.Change] = replacement{x, p}
			}
		}
	}
	return m
}

// replaced lists the functions of a unit that are replaced, and gives each replacement a name that the description can use.
func (x *unitBuilder) replaced(replacements map[*diff.FunctionChange]replacement) error {
	for i := range x.in.Result.Functions {
		c := &x.in.Result.Functions[i]
		if c.Kind != diff.Changed {
			continue
		}
		pre := functionOf(x.in.Pre, c.Pre)
		if pre == nil {
			return fmt.Errorf("the architecture plugin does not describe %s of pre", c.Name)
		}
		f := update.Function{Name: c.Name, Unit: x.in.Index, Symbol: pre.Symbol, Size: pre.Size, Fragment: c.Fragment, Why: c.Why}
		if !c.Fragment {
			by, ok := replacements[c]
			if !ok {
				return fmt.Errorf("the closure lacks %s, which changed", c.Name)
			}
			r, ok := x.in.Redirects[pre.Symbol]
			if !ok || r.Kind != arch.RedirectJump && r.Kind != arch.RedirectFtrace {
				return fmt.Errorf("%s cannot be redirected: %s", c.Name, r.Reason)
			}
			f.Redirect = r
			f.Replacement = fmt.Sprintf("ksplice_new_%04x", len(x.b.out.Functions))
			w, p := by.unit.where[by.piece], by.piece
			by.unit.out.AddSymbol(&objfile.Symbol{Name: f.Replacement, Value: w.offset + p.Entry - p.Start, Size: p.End - p.Entry, Type: elf.STT_FUNC,
				Bind: elf.STB_GLOBAL, Section: w.section})
		}
		x.b.out.Functions = append(x.b.out.Functions, f)
	}
	return nil
}

func functionOf(o *diff.Object, y *objfile.Symbol) *arch.Function {
	for i := range o.Desc.Functions {
		if f := &o.Desc.Functions[i]; f.Symbol == uint32(y.Index) {
			return f
		}
	}
	return nil
}

// copies lists the bytes that the kernel module takes from run, and gives each place a name.
func (x *unitBuilder) copies() error {
	if x.in.Fixup == nil {
		return nil
	}
	for _, c := range x.in.Fixup.Copies {
		p, err := x.pieceOf(c.Section, c.At, c.Length)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		w := x.where[p]
		n := copyPlace{fmt.Sprintf("ksplice_copy_%04x", len(x.b.copies)), x.b.slot(update.Slot{Kind: update.SlotConst, Name: c.Name, Unit: -1}, true), c.Length}
		x.out.AddSymbol(&objfile.Symbol{Name: n.symbol, Value: w.offset + c.At - p.Start, Bind: elf.STB_GLOBAL, Section: w.section})
		x.b.copies = append(x.b.copies, n)
	}
	return nil
}
