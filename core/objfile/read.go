package objfile

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// ErrNotObject says that what was read is no relocatable 64-bit ELF object.
var ErrNotObject = errors.New("not a relocatable 64-bit ELF object")

// ReadFile reads the object at path.
func ReadFile(path string) (*File, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	defer r.Close()
	st, err := r.Stat()
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	f, err := Read(r, st.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Read reads an object of size bytes. What follows the last section and the section headers (a module's
// signature) is left out. The graph shares no memory with r. An object whose sections overlap, or whose numbers name what
// is not there, is an error.
func Read(r io.ReaderAt, size int64) (*File, error) {
	data, err := io.ReadAll(io.NewSectionReader(r, 0, size))
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	if int64(len(data)) != size {
		return nil, fmt.Errorf("read object: %d bytes of %d: %w", len(data), size, io.ErrUnexpectedEOF)
	}
	d := &reader{data: data, f: &File{}}
	for _, step := range []func() error{d.header, d.sections, d.names, d.contents, d.links, d.symbols, d.relocs, d.groups} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("read object: %w", err)
		}
	}
	return d.f, nil
}

// reader holds what the steps of Read hand on.
type reader struct {
	data  []byte
	order binary.ByteOrder
	f     *File

	shoff, shnum uint64
	shstrndx     uint32
	headers      []elf.Section64
	symtab       *Section
}

func (d *reader) header() error {
	var h elf.Header64
	if len(d.data) < headerSize || string(d.data[:len(elf.ELFMAG)]) != elf.ELFMAG {
		return ErrNotObject
	}
	ident := d.data[:elf.EI_NIDENT]
	if elf.Class(ident[elf.EI_CLASS]) != elf.ELFCLASS64 {
		return fmt.Errorf("%w: it is %v", ErrNotObject, elf.Class(ident[elf.EI_CLASS]))
	}
	switch elf.Data(ident[elf.EI_DATA]) {
	case elf.ELFDATA2LSB:
		d.order = binary.LittleEndian
	case elf.ELFDATA2MSB:
		d.order = binary.BigEndian
	default:
		return fmt.Errorf("%w: byte order %d is unknown", ErrNotObject, ident[elf.EI_DATA])
	}
	if _, err := binary.Decode(d.data, d.order, &h); err != nil {
		return err
	}
	switch {
	case elf.Type(h.Type) != elf.ET_REL:
		return fmt.Errorf("%w: its type is %v", ErrNotObject, elf.Type(h.Type))
	case elf.Machine(h.Machine) == elf.EM_MIPS:
		// MIPS packs r_info of Elf64_Rela in a way of its own.
		return fmt.Errorf("%w: machine %v is not supported", ErrNotObject, elf.Machine(h.Machine))
	case h.Phnum != 0 || h.Entry != 0:
		return fmt.Errorf("%w: it has program headers or an entry point", ErrNotObject)
	case h.Shentsize != sectionSize:
		return fmt.Errorf("section headers have %d bytes, want %d", h.Shentsize, sectionSize)
	}
	d.f.Header = Header{
		Type: elf.Type(h.Type), Machine: elf.Machine(h.Machine), Flags: h.Flags,
		OSABI: ident[elf.EI_OSABI], ABIVersion: ident[elf.EI_ABIVERSION], Data: elf.Data(ident[elf.EI_DATA]),
	}
	d.shoff, d.shnum, d.shstrndx = h.Shoff, uint64(h.Shnum), uint32(h.Shstrndx)
	return nil
}

func (d *reader) sections() error {
	size := uint64(len(d.data))
	if d.shoff < headerSize || d.shoff > size || size-d.shoff < sectionSize {
		return fmt.Errorf("section headers at offset %#x lie outside the file of %#x bytes", d.shoff, size)
	}
	var null elf.Section64
	if _, err := binary.Decode(d.data[d.shoff:], d.order, &null); err != nil {
		return err
	}
	// Numbers that do not fit the ELF header stand in the null section (gABI, "Extended section header").
	if d.shnum == 0 {
		d.shnum = null.Size
	}
	if d.shstrndx == uint32(elf.SHN_XINDEX) {
		d.shstrndx = null.Link
	}
	if d.shnum == 0 || d.shnum > (size-d.shoff)/sectionSize {
		return fmt.Errorf("%d section headers at offset %#x do not fit the file of %#x bytes", d.shnum, d.shoff, size)
	}
	d.headers = make([]elf.Section64, d.shnum)
	if _, err := binary.Decode(d.data[d.shoff:], d.order, d.headers); err != nil {
		return err
	}
	slab := make([]Section, d.shnum)
	d.f.Sections = make([]*Section, d.shnum)
	d.f.read.sections, d.f.read.shoff = int(d.shnum), d.shoff
	for i := range slab {
		d.f.Sections[i] = &slab[i]
		if i == 0 {
			continue
		}
		h := &d.headers[i]
		slab[i] = Section{
			Type: elf.SectionType(h.Type), Flags: elf.SectionFlag(h.Flags), Addr: h.Addr,
			Align: h.Addralign, EntSize: h.Entsize, Size: h.Size, Index: i,
			read: sectionRead{ok: true, nameOffset: h.Name, offset: h.Off, size: h.Size},
		}
	}
	return nil
}

// names gives sections their names, so that the later steps can use them in messages.
func (d *reader) names() error {
	if d.shstrndx == 0 {
		return nil
	}
	if uint64(d.shstrndx) >= d.shnum {
		return fmt.Errorf("the table of section names is section %d of %d", d.shstrndx, d.shnum)
	}
	t := d.f.Sections[d.shstrndx]
	if err := d.stringTable(t); err != nil {
		return fmt.Errorf("table of section names: %w", err)
	}
	d.f.read.shstrtab = t
	for i, s := range d.f.Sections[1:] {
		name, ok := t.read.strings.at(s.read.nameOffset)
		if !ok {
			return fmt.Errorf("section %d: its name is at offset %#x of %#x bytes of names", i+1, s.read.nameOffset, len(t.read.strings.text))
		}
		s.Name = name
	}
	return nil
}

// stringTable takes a section to be the names of sections or symbols.
func (d *reader) stringTable(s *Section) error {
	if s.Type != elf.SHT_STRTAB {
		return fmt.Errorf("section %s: its type is %v, want %v", s, s.Type, elf.SHT_STRTAB)
	}
	b, err := d.bytes(s)
	if err != nil {
		return err
	}
	if s.read.strings == nil {
		s.read.strings, s.Data = newStrings(b), nil
	}
	return nil
}

// bytes returns the content of a section in the file.
func (d *reader) bytes(s *Section) ([]byte, error) {
	off, n, size := s.read.offset, s.Size, uint64(len(d.data))
	if s.Type == elf.SHT_NOBITS || s.Type == elf.SHT_NULL || n == 0 {
		return nil, nil
	}
	if off < headerSize || off > size || n > size-off {
		return nil, fmt.Errorf("section %s: %#x bytes at offset %#x lie outside the file of %#x bytes", s, n, off, size)
	}
	return d.data[off : off+n : off+n], nil
}

// contents gives sections their data and refuses overlaps.
func (d *reader) contents() error {
	var used []*Section
	for _, s := range d.f.Sections[1:] {
		switch s.Type {
		case elf.SHT_REL, elf.SHT_DYNSYM, elf.SHT_HASH, elf.SHT_GNU_HASH, elf.SHT_DYNAMIC:
			return fmt.Errorf("section %s: sections of type %v are not supported in relocatable objects", s, s.Type)
		}
		if s.Align&(s.Align-1) != 0 {
			return fmt.Errorf("section %s: its alignment %#x is no power of two", s, s.Align)
		}
		b, err := d.bytes(s)
		if err != nil {
			return err
		}
		if !s.Generated() {
			s.Data = b
		}
		if len(b) > 0 {
			used = append(used, s)
		}
	}
	slices.SortStableFunc(used, func(a, b *Section) int { return cmp.Compare(a.read.offset, b.read.offset) })
	for i := 1; i < len(used); i++ {
		if a, b := used[i-1], used[i]; a.read.offset+a.Size > b.read.offset {
			return fmt.Errorf("section %s at offset %#x overlaps section %s, which ends at %#x", b, b.read.offset, a, a.read.offset+a.Size)
		}
	}
	return nil
}

// links turns sh_link and sh_info into pointers.
func (d *reader) links() error {
	section := func(s *Section, field string, n uint32) (*Section, error) {
		if uint64(n) >= d.shnum {
			return nil, fmt.Errorf("section %s: %s names section %d of %d", s, field, n, d.shnum)
		}
		if n == 0 {
			return nil, nil
		}
		return d.f.Sections[n], nil
	}
	for i, s := range d.f.Sections[1:] {
		h := &d.headers[i+1]
		var err error
		if s.Link, err = section(s, "sh_link", h.Link); err != nil {
			return err
		}
		switch {
		case s.Type == elf.SHT_RELA || s.Flags&elf.SHF_INFO_LINK != 0:
			if s.InfoSection, err = section(s, "sh_info", h.Info); err != nil {
				return err
			}
		case s.Type != elf.SHT_SYMTAB && s.Type != elf.SHT_GROUP:
			s.Info = h.Info
		}
		if s.Type == elf.SHT_SYMTAB {
			if d.symtab != nil {
				return fmt.Errorf("section %s: a second symbol table beside %s", s, d.symtab)
			}
			d.symtab = s
		}
	}
	return nil
}

// entries returns the content of a table and the number of its entries.
func (d *reader) entries(s *Section, size uint64) ([]byte, int, error) {
	if s.EntSize != size || s.Size%size != 0 {
		return nil, 0, fmt.Errorf("section %s: %#x bytes in entries of %d, want entries of %d", s, s.Size, s.EntSize, size)
	}
	b, err := d.bytes(s)
	return b, int(s.Size / size), err
}

func (d *reader) symbols() error {
	f := d.f
	if d.symtab == nil {
		f.Symbols = []*Symbol{{}}
		return nil
	}
	table, n, err := d.entries(d.symtab, symbolSize)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("section %s: no symbol, not even the null symbol", d.symtab)
	}
	if d.symtab.Link == nil {
		return fmt.Errorf("section %s: it names no table of names (sh_link)", d.symtab)
	}
	if err := d.stringTable(d.symtab.Link); err != nil {
		return fmt.Errorf("table of symbol names: %w", err)
	}
	extended, err := d.extendedIndices(n)
	if err != nil {
		return err
	}
	slab := make([]Symbol, n)
	f.Symbols, f.read.symbols = make([]*Symbol, n), n
	for i := range slab {
		y := &slab[i]
		f.Symbols[i] = y
		if i == 0 {
			continue
		}
		e := table[i*symbolSize:]
		info := e[4]
		*y = Symbol{
			Type: elf.ST_TYPE(info), Bind: elf.ST_BIND(info), Other: e[5],
			Value: d.order.Uint64(e[8:]), Size: d.order.Uint64(e[16:]),
			Index: i, nameOffset: d.order.Uint32(e),
		}
		var ok bool
		if y.Name, ok = d.symtab.Link.read.strings.at(y.nameOffset); !ok {
			return fmt.Errorf("symbol %d: its name is at offset %#x of %#x bytes of names", i, y.nameOffset, len(d.symtab.Link.read.strings.text))
		}
		index := uint32(d.order.Uint16(e[6:]))
		switch {
		case index == uint32(elf.SHN_XINDEX):
			if extended == nil {
				return fmt.Errorf("symbol %s: its section number is in a table that the object does not have (%v)", y, elf.SHT_SYMTAB_SHNDX)
			}
			index = d.order.Uint32(extended[i*wordSize:])
		case index == uint32(elf.SHN_UNDEF) || index >= uint32(elf.SHN_LORESERVE):
			y.Special = elf.SectionIndex(index)
			continue
		}
		if index == 0 || uint64(index) >= d.shnum {
			return fmt.Errorf("symbol %s: defined in section %d of %d", y, index, d.shnum)
		}
		y.Section = f.Sections[index]
	}
	return nil
}

// extendedIndices returns the table of section numbers that do not fit a symbol, or nil.
func (d *reader) extendedIndices(symbols int) ([]byte, error) {
	var found *Section
	for _, s := range d.f.Sections[1:] {
		if s.Type != elf.SHT_SYMTAB_SHNDX {
			continue
		}
		if found != nil || s.Link != d.symtab {
			return nil, fmt.Errorf("section %s: it does not belong to the symbol table, or is a second one", s)
		}
		found = s
	}
	if found == nil {
		return nil, nil
	}
	b, n, err := d.entries(found, wordSize)
	if err != nil {
		return nil, err
	}
	if n != symbols {
		return nil, fmt.Errorf("section %s: %d entries for %d symbols", found, n, symbols)
	}
	return b, nil
}

func (d *reader) relocs() error {
	first := map[*Section]*Section{}
	for _, s := range d.f.Sections[1:] {
		if s.Type != elf.SHT_RELA {
			continue
		}
		table, n, err := d.entries(s, relaSize)
		if err != nil {
			return err
		}
		target := s.InfoSection
		switch {
		case target == nil:
			return fmt.Errorf("section %s: it names no section to relocate (sh_info)", s)
		case target.Generated():
			return fmt.Errorf("section %s: it relocates %s, a table", s, target)
		case s.Link == nil || s.Link != d.symtab:
			return fmt.Errorf("section %s: it does not refer to the symbol table (sh_link)", s)
		}
		var in *Section // named in relocations only where the section has several tables
		if first[target] == nil {
			first[target] = s
		} else {
			in = s
		}
		slab := make([]Reloc, n)
		target.Relocs = slices.Grow(target.Relocs, n)
		for i := range slab {
			e := table[i*relaSize:]
			info := d.order.Uint64(e[8:])
			symbol := info >> 32
			if symbol >= uint64(len(d.f.Symbols)) {
				return fmt.Errorf("section %s: relocation %d: symbol %d of %d", s, i, symbol, len(d.f.Symbols))
			}
			slab[i] = Reloc{
				Offset: d.order.Uint64(e), Type: uint32(info), Symbol: d.f.Symbols[symbol],
				Addend: int64(d.order.Uint64(e[16:])), Table: in,
			}
			if slab[i].Offset > target.Size {
				return fmt.Errorf("section %s: relocation %d: offset %#x of %#x bytes", s, i, slab[i].Offset, target.Size)
			}
			target.Relocs = append(target.Relocs, &slab[i])
		}
	}
	return nil
}

func (d *reader) groups() error {
	for _, s := range d.f.Sections[1:] {
		if s.Type != elf.SHT_GROUP {
			continue
		}
		table, n, err := d.entries(s, wordSize)
		if err != nil {
			return err
		}
		signature := d.headers[s.Index].Info
		switch {
		case n == 0:
			return fmt.Errorf("section %s: a group without flags", s)
		case s.Link == nil || s.Link != d.symtab:
			return fmt.Errorf("section %s: it does not refer to the symbol table (sh_link)", s)
		case signature == 0 || uint64(signature) >= uint64(len(d.f.Symbols)):
			return fmt.Errorf("section %s: its signature is symbol %d of %d", s, signature, len(d.f.Symbols))
		}
		g := &Group{Signature: d.f.Symbols[signature], Flags: d.order.Uint32(table)}
		s.Group = g
		for i := 1; i < n; i++ {
			index := d.order.Uint32(table[i*wordSize:])
			if index == 0 || uint64(index) >= d.shnum {
				return fmt.Errorf("section %s: member %d is section %d of %d", s, i, index, d.shnum)
			}
			m := d.f.Sections[index]
			if m.Group != nil || m.Type == elf.SHT_GROUP {
				return fmt.Errorf("section %s: member %s is a group or in one already", s, m)
			}
			m.Group = g
			g.Members = append(g.Members, m)
		}
	}
	return nil
}
