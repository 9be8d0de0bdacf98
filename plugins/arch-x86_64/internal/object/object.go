// Package object reads what this plugin needs of an ELF relocatable object: allocated sections with their
// relocations, and symbols under the numbers that the file gives them. The describe package calls it.
package object

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// ErrFormat says that a file is not a relocatable x86-64 object, or is damaged.
var ErrFormat = errors.New("not a sound x86-64 relocatable object")

// symtabShndx is SHT_SYMTAB_SHNDX (ELF specification, "Sections"), which debug/elf does not name.
const symtabShndx elf.SectionType = 18

// Sizes of ELF64 structures in bytes.
const (
	symSize  = 24
	relaSize = 24
)

// File is one object. Sections and Symbols are indexed as in the ELF file, null entries included.
type File struct {
	Sections []Section
	Symbols  []Symbol
}

// Section is one section. Data and Relocs are there for allocated sections only; Data is nil for SHT_NOBITS.
type Section struct {
	Index   uint32
	Name    string
	Type    elf.SectionType
	Flags   elf.SectionFlag
	Size    uint64
	Align   uint64
	EntSize uint64
	Data    []byte
	// Relocs are sorted by offset.
	Relocs []Reloc
}

// Alloc says that the section takes part in the running kernel.
func (s *Section) Alloc() bool { return s.Flags&elf.SHF_ALLOC != 0 }

// Exec says that the section holds code.
func (s *Section) Exec() bool { return s.Alloc() && s.Flags&elf.SHF_EXECINSTR != 0 }

// Merged says that the linker may merge equal entries of the section with those of other objects.
func (s *Section) Merged() bool {
	return s.Flags&elf.SHF_MERGE != 0 && s.EntSize != 0 && len(s.Relocs) == 0
}

// Strings says that the entries of a merged section are NUL-terminated strings.
func (s *Section) Strings() bool { return s.Flags&elf.SHF_STRINGS != 0 }

// RelocsIn returns the relocations with offsets in [from, to).
func (s *Section) RelocsIn(from, to uint64) []Reloc {
	i := sort.Search(len(s.Relocs), func(i int) bool { return s.Relocs[i].Offset >= from })
	j := sort.Search(len(s.Relocs), func(i int) bool { return s.Relocs[i].Offset >= to })
	return s.Relocs[i:max(i, j)]
}

// Symbol is one symbol.
type Symbol struct {
	Index       uint32
	Name        string
	Value, Size uint64
	Type        elf.SymType
	Bind        elf.SymBind
	// Section is the section that the symbol is defined in, 0 where it is in none; Special then says why:
	// SHN_UNDEF, SHN_ABS or SHN_COMMON.
	Section uint32
	Special elf.SectionIndex
}

// Reloc is one relocation with addend.
type Reloc struct {
	Offset uint64
	Type   elf.R_X86_64
	Symbol uint32
	Addend int64
}

// Read reads a file that crossed by path and digest, and checks the digest.
func Read(f plugin.File) (*File, error) {
	data, err := f.Read()
	if err != nil {
		return nil, err
	}
	o, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("read object %s: %w", f.Path, err)
	}
	return o, nil
}

// Parse reads an object from memory. Section data is shared with data. Errors wrap ErrFormat.
func Parse(data []byte) (o *File, err error) {
	defer func() {
		if r := recover(); r != nil { // debug/elf can panic on damaged files
			o, err = nil, fmt.Errorf("%w: %v", ErrFormat, r)
		}
	}()
	ef, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if ef.Machine != elf.EM_X86_64 || ef.Type != elf.ET_REL || ef.Class != elf.ELFCLASS64 {
		return nil, fmt.Errorf("%w: it is %v, %v, %v", ErrFormat, ef.Class, ef.Type, ef.Machine)
	}
	o = &File{Sections: make([]Section, len(ef.Sections))}
	for i, s := range ef.Sections {
		o.Sections[i] = Section{Index: uint32(i), Name: s.Name, Type: s.Type, Flags: s.Flags, Size: s.Size,
			Align: s.Addralign, EntSize: s.Entsize}
		if o.Sections[i].Alloc() && s.Type != elf.SHT_NOBITS {
			if o.Sections[i].Data, err = slice(data, s); err != nil {
				return nil, err
			}
		}
	}
	if err := o.readSymbols(data, ef); err != nil {
		return nil, err
	}
	return o, o.readRelocs(data, ef)
}

// slice returns a section's bytes within the file.
func slice(data []byte, s *elf.Section) ([]byte, error) {
	if s.Offset > uint64(len(data)) || s.FileSize > uint64(len(data))-s.Offset || s.Size != s.FileSize {
		return nil, fmt.Errorf("%w: section %s lies outside the file", ErrFormat, s.Name)
	}
	return data[s.Offset : s.Offset+s.FileSize], nil
}

// readSymbols reads the symbol table, with extended section numbers.
func (o *File) readSymbols(data []byte, ef *elf.File) error {
	var table, extended []byte
	var names []byte
	var err error
	for _, s := range ef.Sections {
		switch s.Type {
		case elf.SHT_SYMTAB:
			if table != nil || s.Link >= uint32(len(ef.Sections)) {
				return fmt.Errorf("%w: symbol tables", ErrFormat)
			}
			if table, err = slice(data, s); err != nil {
				return err
			}
			if names, err = slice(data, ef.Sections[s.Link]); err != nil {
				return err
			}
		case symtabShndx:
			if extended, err = slice(data, s); err != nil {
				return err
			}
		}
	}
	if len(table)%symSize != 0 {
		return fmt.Errorf("%w: size of the symbol table", ErrFormat)
	}
	le := binary.LittleEndian
	o.Symbols = make([]Symbol, len(table)/symSize)
	for i := range o.Symbols {
		b := table[i*symSize:]
		sym := &o.Symbols[i]
		*sym = Symbol{Index: uint32(i), Value: le.Uint64(b[8:]), Size: le.Uint64(b[16:]), Type: elf.ST_TYPE(b[4]), Bind: elf.ST_BIND(b[4])}
		if sym.Name, err = cstring(names, le.Uint32(b)); err != nil {
			return fmt.Errorf("%w: name of symbol %d", err, i)
		}
		shndx := elf.SectionIndex(le.Uint16(b[6:]))
		switch {
		case shndx == elf.SHN_XINDEX:
			if len(extended) < i*4+4 {
				return fmt.Errorf("%w: symbol %d has no extended section number", ErrFormat, i)
			}
			sym.Section = le.Uint32(extended[i*4:])
		case shndx >= elf.SHN_LORESERVE:
			sym.Special = shndx
		default:
			sym.Section = uint32(shndx)
		}
		if sym.Section >= uint32(len(o.Sections)) {
			return fmt.Errorf("%w: symbol %d %q is in section %d of %d", ErrFormat, i, sym.Name, sym.Section, len(o.Sections))
		}
		if sym.Type == elf.STT_SECTION && sym.Name == "" {
			sym.Name = o.Sections[sym.Section].Name
		}
	}
	return nil
}

// cstring reads a NUL-terminated string of a string table.
func cstring(table []byte, at uint32) (string, error) {
	if uint64(at) > uint64(len(table)) {
		return "", fmt.Errorf("%w: string offset %#x", ErrFormat, at)
	}
	n := bytes.IndexByte(table[at:], 0)
	if n < 0 {
		if at == 0 && len(table) == 0 {
			return "", nil
		}
		return "", fmt.Errorf("%w: string without end", ErrFormat)
	}
	return string(table[at : int(at)+n]), nil
}

// readRelocs reads the relocations of allocated sections.
func (o *File) readRelocs(data []byte, ef *elf.File) error {
	le := binary.LittleEndian
	for _, s := range ef.Sections {
		if s.Type != elf.SHT_RELA && s.Type != elf.SHT_REL {
			continue
		}
		if s.Info >= uint32(len(o.Sections)) {
			return fmt.Errorf("%w: %s relocates section %d of %d", ErrFormat, s.Name, s.Info, len(o.Sections))
		}
		target := &o.Sections[s.Info]
		if !target.Alloc() {
			continue
		}
		if s.Type == elf.SHT_REL {
			return fmt.Errorf("%w: %s has relocations without addends", ErrFormat, s.Name)
		}
		b, err := slice(data, s)
		if err != nil {
			return err
		}
		if len(b)%relaSize != 0 {
			return fmt.Errorf("%w: size of %s", ErrFormat, s.Name)
		}
		for ; len(b) > 0; b = b[relaSize:] {
			info := le.Uint64(b[8:])
			r := Reloc{Offset: le.Uint64(b), Type: elf.R_X86_64(info & 0xffffffff), Symbol: uint32(info >> 32), Addend: int64(le.Uint64(b[16:]))}
			size := FieldSize(r.Type)
			if r.Offset > target.Size || uint64(size) > target.Size-r.Offset || uint64(len(target.Data)) != target.Size {
				return fmt.Errorf("%w: relocation at %s+%#x lies outside it", ErrFormat, target.Name, r.Offset)
			}
			if r.Symbol >= uint32(len(o.Symbols)) {
				return fmt.Errorf("%w: relocation at %s+%#x names symbol %d of %d", ErrFormat, target.Name, r.Offset, r.Symbol, len(o.Symbols))
			}
			target.Relocs = append(target.Relocs, r)
		}
		sort.SliceStable(target.Relocs, func(i, j int) bool { return target.Relocs[i].Offset < target.Relocs[j].Offset })
	}
	return nil
}

// FieldSize is the width in bytes of the field of a relocation type, 0 for types that have none or that kernel objects do
// not use (arch/x86/kernel/module.c:__apply_relocate_add, __write_relocate_add list those they do).
func FieldSize(t elf.R_X86_64) int {
	switch t {
	case elf.R_X86_64_64, elf.R_X86_64_PC64:
		return 8
	case elf.R_X86_64_32, elf.R_X86_64_32S, elf.R_X86_64_PC32, elf.R_X86_64_PLT32, elf.R_X86_64_GOTPCREL,
		elf.R_X86_64_GOTPCRELX, elf.R_X86_64_REX_GOTPCRELX:
		return 4
	case elf.R_X86_64_16, elf.R_X86_64_PC16:
		return 2
	case elf.R_X86_64_8, elf.R_X86_64_PC8:
		return 1
	}
	return 0
}

// Supported says whether the kernel's module loader takes the relocation type.
func Supported(t elf.R_X86_64) bool {
	switch t {
	case elf.R_X86_64_NONE, elf.R_X86_64_64, elf.R_X86_64_32, elf.R_X86_64_32S, elf.R_X86_64_PC32, elf.R_X86_64_PLT32,
		elf.R_X86_64_PC64:
		return true
	}
	return false
}

// PCRel says whether fields of the type hold a distance from their own place.
func PCRel(t elf.R_X86_64) bool {
	switch t {
	case elf.R_X86_64_PC8, elf.R_X86_64_PC16, elf.R_X86_64_PC32, elf.R_X86_64_PLT32, elf.R_X86_64_PC64, elf.R_X86_64_GOTPCREL,
		elf.R_X86_64_GOTPCRELX, elf.R_X86_64_REX_GOTPCRELX:
		return true
	}
	return false
}

// Place resolves symbol+offset to a place in the object: section 0 where the symbol is not defined in it.
func (o *File) Place(symbol uint32, offset int64) (section uint32, at uint64) {
	s := &o.Symbols[symbol]
	if s.Section == 0 {
		return 0, 0
	}
	return s.Section, s.Value + uint64(offset)
}
