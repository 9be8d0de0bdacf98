package objfile

import (
	"bufio"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
)

// WriteFile writes the object to path.
func (f *File) WriteFile(path string) error {
	w, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write object: %w", err)
	}
	err = f.Write(w)
	if cerr := w.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("write object: %w", cerr)
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Write writes the object. The graph stays as it is: Index of sections and symbols remains that of the file it was read
// from, and new numbers are seen by reading what was written. Local symbols go before all others; else sections
// and symbols keep their order. A symbol, relocation or link to what is not in the file is an error.
func (f *File) Write(w io.Writer) error {
	b := &builder{f: f, order: binary.LittleEndian, table: map[*Section][]*Reloc{}}
	if f.Header.Data == elf.ELFDATA2MSB {
		b.order = binary.BigEndian
	}
	for _, step := range []func() error{b.plan, b.numberSymbols, b.relocs, b.groups, b.symbols, b.names, b.layout} {
		if err := step(); err != nil {
			return fmt.Errorf("write object: %w", err)
		}
	}
	buf := bufio.NewWriter(w)
	if err := b.emit(buf); err != nil {
		return fmt.Errorf("write object: %w", err)
	}
	if err := buf.Flush(); err != nil {
		return fmt.Errorf("write object: %w", err)
	}
	return nil
}

// section is a section as it goes to the file.
type section struct {
	*Section
	link, info uint32
	name       uint32
	data       []byte
	size       uint64
	offset     uint64
}

// byteOrder is an order to write in place and to append in.
type byteOrder interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

// builder holds what the steps of Write hand on.
type builder struct {
	f     *File
	order byteOrder

	out    []*section // by number; [0] is the null section
	number map[*Section]uint32
	table  map[*Section][]*Reloc // by relocation table

	symtab, strtab, shstrtab, extended *Section

	symbolList []*Symbol // in the order of the file
	locals     uint32    // number of local symbols, the null symbol among them
	symbol     map[*Symbol]uint32

	shoff uint64
}

func (b *builder) add(s *Section) *section {
	o := &section{Section: s}
	if !s.Generated() && s.Type != elf.SHT_NOBITS && s.Type != elf.SHT_NULL {
		o.data = s.Data
	}
	o.size = uint64(len(o.data))
	if s.Type == elf.SHT_NOBITS || s.Type == elf.SHT_NULL {
		o.size = s.Size
	}
	b.number[s] = uint32(len(b.out))
	b.out = append(b.out, o)
	return o
}

// plan decides which sections there are.
func (b *builder) plan() error {
	f := b.f
	if len(f.Sections) == 0 || len(f.Symbols) == 0 {
		return fmt.Errorf("the null section or the null symbol is missing")
	}
	if f.Header.Type != elf.ET_REL {
		return fmt.Errorf("%w: its type is %v", ErrNotObject, f.Header.Type)
	}
	b.number = make(map[*Section]uint32, len(f.Sections))
	present := make(map[*Section]bool, len(f.Sections))
	for i, s := range f.Sections {
		if s == nil || present[s] {
			return fmt.Errorf("section %d (%s) is nil or twice in the file", i, s)
		}
		present[s] = true
	}
	tables := map[*Section][]*Section{}
	for i, s := range f.Sections {
		switch s.Type {
		case elf.SHT_RELA:
			if !present[s.InfoSection] {
				continue // its section has left the file, and takes it along
			}
			tables[s.InfoSection] = append(tables[s.InfoSection], s)
		case elf.SHT_SYMTAB:
			if b.symtab != nil {
				return fmt.Errorf("section %s: a second symbol table beside %s", s, b.symtab)
			}
			b.symtab = s
		case elf.SHT_SYMTAB_SHNDX:
			b.extended = s
		case elf.SHT_NULL:
			if i == 0 {
				b.number[s] = 0
				b.out = append(b.out, &section{Section: s})
				continue
			}
		}
		b.add(s)
	}
	for _, s := range f.Sections {
		if len(s.Relocs) == 0 {
			continue
		}
		if s.Generated() {
			return fmt.Errorf("section %s: a table has relocations", s)
		}
		if len(tables[s]) == 0 {
			t := &Section{Name: ".rela" + s.Name, Type: elf.SHT_RELA, Flags: elf.SHF_INFO_LINK, Align: 8, EntSize: relaSize, InfoSection: s}
			if s.Group != nil {
				t.Flags |= elf.SHF_GROUP
				t.Group = s.Group
			}
			tables[s] = []*Section{t}
			b.add(t)
		}
		for i, r := range s.Relocs {
			t := r.Table
			if t == nil {
				t = tables[s][0]
			} else if !slices.Contains(tables[s], t) {
				return fmt.Errorf("section %s: relocation %d is in table %s, which is not one of it", s, i, t)
			}
			b.table[t] = append(b.table[t], r)
		}
	}
	b.planTables(present)
	return nil
}

// planTables adds the tables of symbols and names where the file needs and lacks them.
func (b *builder) planTables(present map[*Section]bool) {
	if present[b.f.read.shstrtab] {
		b.shstrtab = b.f.read.shstrtab
	}
	if b.symtab != nil && present[b.symtab.Link] {
		b.strtab = b.symtab.Link
	}
	if b.symtab == nil && (len(b.f.Symbols) > 1 || len(b.table) > 0) {
		b.symtab = &Section{Name: ".symtab", Type: elf.SHT_SYMTAB, Align: 8, EntSize: symbolSize}
		b.add(b.symtab)
	}
	if b.symtab != nil && b.extended == nil {
		for _, y := range b.f.Symbols {
			if b.number[y.Section] >= uint32(elf.SHN_LORESERVE) {
				b.extended = &Section{Name: ".symtab_shndx", Type: elf.SHT_SYMTAB_SHNDX, Align: 4, EntSize: wordSize}
				b.add(b.extended)
				break
			}
		}
	}
	if b.symtab != nil && b.strtab == nil {
		b.strtab = &Section{Name: ".strtab", Type: elf.SHT_STRTAB, Align: 1}
		b.add(b.strtab)
	}
	if b.shstrtab == nil {
		b.shstrtab = &Section{Name: ".shstrtab", Type: elf.SHT_STRTAB, Align: 1}
		b.add(b.shstrtab)
	}
}

// numberSymbols puts local symbols first (gABI: sh_info of the symbol table is the first that is not local).
func (b *builder) numberSymbols() error {
	symbols := b.f.Symbols
	b.symbolList = make([]*Symbol, 0, len(symbols))
	b.symbol = make(map[*Symbol]uint32, len(symbols))
	for _, local := range []bool{true, false} {
		for i, y := range symbols {
			if y == nil {
				return fmt.Errorf("symbol %d is nil", i)
			}
			if (y.Bind == elf.STB_LOCAL || i == 0) != local {
				continue
			}
			if _, twice := b.symbol[y]; twice {
				return fmt.Errorf("symbol %s is twice in the file", y)
			}
			b.symbol[y] = uint32(len(b.symbolList))
			b.symbolList = append(b.symbolList, y)
		}
		if local {
			b.locals = uint32(len(b.symbolList))
		}
	}
	return nil
}

func (b *builder) relocs() error {
	for _, o := range b.out[1:] {
		if o.Type != elf.SHT_RELA {
			continue
		}
		list := b.table[o.Section]
		o.data = make([]byte, 0, len(list)*relaSize)
		for i, r := range list {
			symbol, ok := uint32(0), true
			if r.Symbol != nil {
				symbol, ok = b.symbol[r.Symbol]
			}
			if !ok {
				return fmt.Errorf("section %s: relocation %d at offset %#x: symbol %s is not in the file", o.InfoSection, i, r.Offset, r.Symbol)
			}
			o.data = b.order.AppendUint64(o.data, r.Offset)
			o.data = b.order.AppendUint64(o.data, uint64(symbol)<<32|uint64(r.Type))
			o.data = b.order.AppendUint64(o.data, uint64(r.Addend))
		}
		o.size = uint64(len(o.data))
		o.link, o.info = b.number[b.symtab], b.number[o.InfoSection]
	}
	return nil
}

func (b *builder) groups() error {
	defined := map[*Group]bool{}
	for _, o := range b.out[1:] {
		if o.Type != elf.SHT_GROUP {
			continue
		}
		g := o.Group
		if g == nil || b.symbol[g.Signature] == 0 {
			return fmt.Errorf("section %s: a group without a signature in the file", o)
		}
		defined[g] = true
		o.data = b.order.AppendUint32(nil, g.Flags)
		listed := map[*Section]bool{}
		for _, m := range g.Members {
			n, ok := b.number[m]
			if !ok && m.Type == elf.SHT_RELA {
				continue // gone with its section
			}
			if !ok {
				return fmt.Errorf("section %s: its member %s is not in the file", o, m)
			}
			listed[m] = true
			o.data = b.order.AppendUint32(o.data, n)
		}
		for i, m := range b.out {
			if m.Type == elf.SHT_RELA && m.Group == g && !listed[m.Section] {
				o.data = b.order.AppendUint32(o.data, uint32(i))
			}
		}
		o.size = uint64(len(o.data))
		o.link, o.info = b.number[b.symtab], b.symbol[g.Signature]
	}
	for _, o := range b.out[1:] {
		if o.Group != nil && !defined[o.Group] {
			return fmt.Errorf("section %s: it is in a group that no section of the file defines", o)
		}
	}
	return nil
}

func (b *builder) symbols() error {
	if b.symtab == nil {
		return nil
	}
	o := b.out[b.number[b.symtab]]
	o.data = make([]byte, 0, len(b.symbolList)*symbolSize)
	o.link, o.info = b.number[b.strtab], b.locals
	var extended []byte
	for i, y := range b.symbolList {
		index, wide := uint32(y.Special), uint32(0)
		if y.Section != nil {
			n, ok := b.number[y.Section]
			if !ok {
				return fmt.Errorf("symbol %s: its section %s is not in the file", y, y.Section)
			}
			if index = n; n >= uint32(elf.SHN_LORESERVE) {
				index, wide = uint32(elf.SHN_XINDEX), n
			}
		} else if index != 0 && (index < uint32(elf.SHN_LORESERVE) || index >= uint32(elf.SHN_XINDEX)) {
			return fmt.Errorf("symbol %s: %#x is no special section number", y, index)
		}
		if i == 0 {
			index = 0
		}
		o.data = b.order.AppendUint32(o.data, 0) // st_name, see names
		o.data = append(o.data, elf.ST_INFO(y.Bind, y.Type), y.Other)
		o.data = b.order.AppendUint16(o.data, uint16(index))
		o.data = b.order.AppendUint64(o.data, y.Value)
		o.data = b.order.AppendUint64(o.data, y.Size)
		extended = b.order.AppendUint32(extended, wide)
	}
	o.size = uint64(len(o.data))
	if b.extended != nil {
		x := b.out[b.number[b.extended]]
		x.data, x.size, x.link = extended, uint64(len(extended)), b.number[b.symtab]
	}
	return nil
}

// names makes the tables of names. A table of which nothing was added, renamed or dropped stays as it was read.
func (b *builder) names() error {
	want := map[*Section][]name{}
	changed := map[*Section]bool{}
	for _, o := range b.out[1:] {
		want[b.shstrtab] = append(want[b.shstrtab], name{o.Name, o.Section.read.nameOffset})
	}
	changed[b.shstrtab] = len(b.out) != b.f.read.sections
	if b.symtab != nil {
		for _, y := range b.symbolList {
			want[b.strtab] = append(want[b.strtab], name{y.Name, y.nameOffset})
		}
		changed[b.strtab] = changed[b.strtab] || len(b.symbolList) != b.f.read.symbols
	}
	set := func(t *Section, put func(offset func(name) uint32)) error {
		o, names := b.out[b.number[t]], want[t]
		if was := t.read.strings; was != nil && !changed[t] && was.holds(names) {
			o.data = []byte(was.text)
			put(func(n name) uint32 { return n.was })
		} else {
			table, offsets, err := makeStrings(names)
			if err != nil {
				return fmt.Errorf("section %s: %w", t, err)
			}
			o.data = table
			put(func(n name) uint32 { return offsets[n.text] })
		}
		o.size = uint64(len(o.data))
		return nil
	}
	err := set(b.shstrtab, func(offset func(name) uint32) {
		for i, o := range b.out[1:] {
			b.out[i+1].name = offset(name{o.Name, o.Section.read.nameOffset})
		}
	})
	if err != nil || b.symtab == nil {
		return err
	}
	return set(b.strtab, func(offset func(name) uint32) {
		table := b.out[b.number[b.symtab]].data
		for i, y := range b.symbolList {
			b.order.PutUint32(table[i*symbolSize:], offset(name{y.Name, y.nameOffset}))
		}
	})
}

// maxFileAlign bounds the alignment of a section's place in the file. sh_addralign is about memory; a huge one
// shall not make a huge file.
const maxFileAlign = 1 << 16

// layout places the sections in the file: where they were as long as everything in front of them is as it was,
// else one after another in the order they had.
func (b *builder) layout() error {
	order := slices.Clone(b.out[1:])
	kept := 1
	for _, o := range order {
		if o.read.ok {
			kept++
		}
	}
	place := func(o *section) uint64 {
		if o.read.ok {
			return o.read.offset
		}
		return math.MaxUint64
	}
	slices.SortStableFunc(order, func(x, y *section) int {
		switch p, q := place(x), place(y); {
		case p < q:
			return -1
		case p > q:
			return 1
		}
		return 0
	})
	asRead := kept == b.f.read.sections
	pos := uint64(headerSize)
	for _, o := range order {
		if o.Align&(o.Align-1) != 0 {
			return fmt.Errorf("section %s: its alignment %#x is no power of two", o, o.Align)
		}
		empty := o.size == 0 || o.Type == elf.SHT_NOBITS || o.Type == elf.SHT_NULL
		asRead = asRead && o.read.ok && o.size == o.read.size && (empty || o.read.offset >= pos)
		if asRead {
			o.offset = o.read.offset
		} else {
			o.offset = alignUp(pos, min(o.Align, maxFileAlign))
		}
		if !empty {
			pos = o.offset + o.size
		}
	}
	b.shoff = alignUp(pos, 8)
	if asRead && b.f.read.shoff >= pos {
		b.shoff = b.f.read.shoff
	}
	return nil
}

func alignUp(n, align uint64) uint64 {
	if align <= 1 {
		return n
	}
	return (n + align - 1) &^ (align - 1)
}

// emit writes the header, the sections by their offset, and the section headers.
func (b *builder) emit(w *bufio.Writer) error {
	h := elf.Header64{
		Type: uint16(b.f.Header.Type), Machine: uint16(b.f.Header.Machine), Version: uint32(elf.EV_CURRENT),
		Shoff: b.shoff, Flags: b.f.Header.Flags, Ehsize: headerSize, Shentsize: sectionSize,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	h.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	if b.order == binary.BigEndian {
		h.Ident[elf.EI_DATA] = byte(elf.ELFDATA2MSB)
	}
	h.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	h.Ident[elf.EI_OSABI], h.Ident[elf.EI_ABIVERSION] = b.f.Header.OSABI, b.f.Header.ABIVersion
	headers := make([]elf.Section64, len(b.out))
	if n := len(b.out); n < int(elf.SHN_LORESERVE) {
		h.Shnum = uint16(n)
	} else {
		headers[0].Size = uint64(n)
	}
	if n := b.number[b.shstrtab]; n < uint32(elf.SHN_LORESERVE) {
		h.Shstrndx = uint16(n)
	} else {
		h.Shstrndx = uint16(elf.SHN_XINDEX)
		headers[0].Link = n
	}
	for i, o := range b.out[1:] {
		if err := b.sectionHeader(o, &headers[i+1]); err != nil {
			return err
		}
	}
	if err := binary.Write(w, b.order, &h); err != nil {
		return err
	}
	order := slices.Clone(b.out[1:])
	slices.SortStableFunc(order, func(x, y *section) int {
		switch {
		case x.offset < y.offset:
			return -1
		case x.offset > y.offset:
			return 1
		}
		return 0
	})
	pos := uint64(headerSize)
	pad := func(to uint64) error {
		for ; pos < to; pos++ {
			if err := w.WriteByte(0); err != nil {
				return err
			}
		}
		return nil
	}
	for _, o := range order {
		if len(o.data) == 0 {
			continue
		}
		if err := pad(o.offset); err != nil {
			return err
		}
		if _, err := w.Write(o.data); err != nil {
			return err
		}
		pos += uint64(len(o.data))
	}
	if err := pad(b.shoff); err != nil {
		return err
	}
	return binary.Write(w, b.order, headers)
}

func (b *builder) sectionHeader(o *section, h *elf.Section64) error {
	if !o.Generated() {
		o.info = o.Info
	}
	if o.InfoSection != nil {
		n, ok := b.number[o.InfoSection]
		if !ok {
			return fmt.Errorf("section %s: the section that sh_info names, %s, is not in the file", o, o.InfoSection)
		}
		o.info = n
	}
	if o.Link != nil && o.link == 0 {
		n, ok := b.number[o.Link]
		if !ok {
			return fmt.Errorf("section %s: the section that sh_link names, %s, is not in the file", o, o.Link)
		}
		o.link = n
	}
	*h = elf.Section64{
		Name: o.name, Type: uint32(o.Type), Flags: uint64(o.Flags), Addr: o.Addr, Off: o.offset, Size: o.size,
		Link: o.link, Info: o.info, Addralign: o.Align, Entsize: o.EntSize,
	}
	return nil
}
