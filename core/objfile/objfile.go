// Package objfile is a relocatable ELF object as an editable graph. Pre-post differencing, matching and
// the makers of parts read objects through it, edit the graph and write it back.
//
// In the graph relocations hang on the section they apply to and point to symbols, and symbols point to
// sections, so that sections and symbols can be added, renamed and dropped without care for numbers. The
// numbers are made again by Write. An object that was read and not edited is written as it was, byte for
// byte but for what no header of it describes (a signature behind a module, bytes in gaps).
package objfile

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strings"
)

// File is one relocatable object.
type File struct {
	Header Header
	// Sections are all sections by number; [0] is the null section. The symbol table, the tables of its names,
	// groups and relocation tables (see Section.Generated) have their place here but no data: the graph is what
	// they say.
	Sections []*Section
	// Symbols are all symbols by number; [0] is the null symbol, which relocations without a symbol refer to.
	Symbols []*Symbol

	read fileRead
}

// Header holds the fields of the ELF header that a relocatable object uses.
type Header struct {
	Type    elf.Type
	Machine elf.Machine
	// Flags is e_flags, the machine's own.
	Flags uint32
	// OSABI and ABIVersion are bytes 7 and 8 of e_ident.
	OSABI, ABIVersion byte
	// Data is the byte order of the file; the zero value means little endian.
	Data elf.Data
}

// Section is one section.
type Section struct {
	Name  string
	Type  elf.SectionType
	Flags elf.SectionFlag
	// Addr is sh_addr, 0 in what compilers make.
	Addr uint64
	// Align is the alignment in memory in bytes: 0, 1 or a power of two. EntSize is the size in bytes of the
	// entries of sections that have such.
	Align, EntSize uint64
	// Data is the section's content before relocation; nil for SHT_NOBITS and generated sections.
	Data []byte
	// Size is the section's size in bytes as read; Write uses it for SHT_NOBITS only, and len(Data) for all others.
	Size uint64
	// Info is sh_info where it is neither the number of a section nor generated.
	Info uint32
	// Link is the section that sh_link names; nil for none.
	Link *Section
	// InfoSection is the section that sh_info names, for relocation tables and under SHF_INFO_LINK; else nil.
	InfoSection *Section
	// Relocs are the relocations of this section's content, in the order of the file.
	Relocs []*Reloc
	// Group is the group that the section is a member of or, for SHT_GROUP, that it defines; else nil.
	Group *Group
	// Index is the section's number in the file it was read from; 0 for new sections.
	Index int

	read sectionRead
}

// Symbol is one symbol.
type Symbol struct {
	Name string
	// Value is the offset in Section, the value itself under SHN_ABS, the alignment under SHN_COMMON.
	Value, Size uint64
	Type        elf.SymType
	Bind        elf.SymBind
	// Other is st_other: the visibility, and bits of the machine's own.
	Other byte
	// Section is where the symbol is defined; nil for undefined, absolute and common ones.
	Section *Section
	// Special is SHN_UNDEF, SHN_ABS, SHN_COMMON or another reserved number; it counts when Section is nil.
	Special elf.SectionIndex
	// Index is the symbol's number in the file it was read from; 0 for new symbols.
	Index int

	nameOffset uint32 // st_name as read
}

// Reloc is one relocation with addend (Elf64_Rela).
type Reloc struct {
	// Offset is the place in the section in bytes.
	Offset uint64
	// Type is the machine's relocation type.
	Type uint32
	// Symbol is what it refers to; the null symbol or nil for none.
	Symbol *Symbol
	Addend int64
	// Table is the relocation table that holds it, for sections that have several; nil: the first.
	Table *Section
}

// Group is a section group (ELF gABI, "Section Groups").
type Group struct {
	// Signature names the group.
	Signature *Symbol
	// Flags has GRP_COMDAT (1) for groups of which a linker keeps one.
	Flags uint32
	// Members are the sections of the group in the order of the file, their relocation tables among them.
	// Write adds tables that are missing.
	Members []*Section
}

// fileRead is what a file looked like when it was read, for Write to do the same.
type fileRead struct {
	sections, symbols int
	shoff             uint64
	shstrtab          *Section
}

// sectionRead is where a section was when it was read.
type sectionRead struct {
	ok         bool
	nameOffset uint32
	offset     uint64
	size       uint64
	strings    *stringTable // the content of a generated table of names
}

// The relocations and names of a new object need these sizes (ELF gABI, Elf64_Sym and Elf64_Rela).
const (
	headerSize  = 64
	sectionSize = 64
	symbolSize  = 24
	relaSize    = 24
	wordSize    = 4
)

// New returns an empty little-endian relocatable object.
func New(machine elf.Machine) *File {
	return &File{
		Header:   Header{Type: elf.ET_REL, Machine: machine, Data: elf.ELFDATA2LSB},
		Sections: []*Section{{}},
		Symbols:  []*Symbol{{}},
	}
}

// Section returns the first section of that name, or nil.
func (f *File) Section(name string) *Section {
	for _, s := range f.Sections[min(1, len(f.Sections)):] {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// AddSection appends a section. Relocation tables need not be added: Write makes them for sections with relocations.
func (f *File) AddSection(s *Section) {
	f.Sections = append(f.Sections, s)
}

// AddSymbol appends a symbol. Write puts local symbols before all others, whatever their order here.
func (f *File) AddSymbol(s *Symbol) {
	f.Symbols = append(f.Symbols, s)
}

// Symbol returns the symbol of that name: a global or weak one if there is such, else the first local one
// (names of local symbols need not be unique), else nil.
func (f *File) Symbol(name string) *Symbol {
	var local *Symbol
	for _, s := range f.Symbols[min(1, len(f.Symbols)):] {
		if s.Name != name {
			continue
		}
		if s.Bind != elf.STB_LOCAL {
			return s
		}
		if local == nil {
			local = s
		}
	}
	return local
}

// SymbolsIn returns the symbols defined in a section, its section symbol among them, sorted by value, then number.
func (f *File) SymbolsIn(s *Section) []*Symbol {
	var in []*Symbol
	for _, y := range f.Symbols {
		if y.Section == s {
			in = append(in, y)
		}
	}
	slices.SortStableFunc(in, func(a, b *Symbol) int { return cmp.Compare(a.Value, b.Value) })
	return in
}

// SectionSymbol returns the symbol that stands for the section itself, and adds one where there is none.
func (f *File) SectionSymbol(s *Section) *Symbol {
	for _, y := range f.Symbols {
		if y.Section == s && y.Type == elf.STT_SECTION {
			return y
		}
	}
	y := &Symbol{Type: elf.STT_SECTION, Bind: elf.STB_LOCAL, Section: s}
	f.AddSymbol(y)
	return y
}

// RenameSection renames a section and, where they are named after it, its relocation tables.
func (f *File) RenameSection(s *Section, name string) {
	for _, t := range f.Sections {
		if t.Type == elf.SHT_RELA && t.InfoSection == s {
			if prefix, ok := strings.CutSuffix(t.Name, s.Name); ok {
				t.Name = prefix + name
			}
		}
	}
	s.Name = name
}

// Generated says that the section's content is made from the graph by Write: symbol tables, their names,
// relocation tables and groups.
func (s *Section) Generated() bool {
	switch s.Type {
	case elf.SHT_SYMTAB, elf.SHT_SYMTAB_SHNDX, elf.SHT_RELA, elf.SHT_GROUP:
		return true
	}
	return s.read.strings != nil
}

// SortedRelocs returns the section's relocations by offset; those at one place keep the order of the file.
func (s *Section) SortedRelocs() []*Reloc {
	sorted := slices.Clone(s.Relocs)
	slices.SortStableFunc(sorted, func(a, b *Reloc) int { return cmp.Compare(a.Offset, b.Offset) })
	return sorted
}

// StringAt returns the NUL-terminated string at an offset of the section, with its NUL. It fails where the offset
// is out of the section or no NUL follows. For sections of merged strings with entries wider than a byte
// (EntSize) the NUL is as wide.
func (s *Section) StringAt(offset uint64) ([]byte, error) {
	width := uint64(1)
	if s.Flags&elf.SHF_STRINGS != 0 && s.EntSize > 1 {
		width = s.EntSize
	}
	size := uint64(len(s.Data))
	for at := offset; offset <= size && size-at >= width; at += width {
		if !slices.ContainsFunc(s.Data[at:at+width], func(b byte) bool { return b != 0 }) {
			return s.Data[offset : at+width], nil
		}
	}
	return nil, fmt.Errorf("section %s: no string at offset %#x of %#x bytes", s, offset, size)
}

// String names the section for messages: its name, and its number where it has one.
func (s *Section) String() string {
	if s == nil {
		return "none"
	}
	if s.Index != 0 {
		return fmt.Sprintf("[%d] %s", s.Index, s.Name)
	}
	return s.Name
}

// String names the symbol for messages: its name (for a section symbol the section's), and its number where it has one.
func (y *Symbol) String() string {
	if y == nil {
		return "none"
	}
	name := y.Name
	if name == "" && y.Section != nil {
		name = y.Section.Name
	}
	if y.Index != 0 {
		return fmt.Sprintf("[%d] %s", y.Index, name)
	}
	return name
}
