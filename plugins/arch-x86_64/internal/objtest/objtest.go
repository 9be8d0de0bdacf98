// Package objtest builds small objects in memory for the tests of this plugin's packages.
package objtest

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/object"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Flags of sections.
const (
	Text = elf.SHF_ALLOC | elf.SHF_EXECINSTR
	Data = elf.SHF_ALLOC | elf.SHF_WRITE
	Read = elf.SHF_ALLOC
	Str  = elf.SHF_ALLOC | elf.SHF_MERGE | elf.SHF_STRINGS
)

// Builder makes one object.
type Builder struct {
	t    testing.TB
	File *object.File
}

// New returns a builder of an empty object.
func New(t testing.TB) *Builder {
	return &Builder{t, &object.File{Sections: make([]object.Section, 1), Symbols: make([]object.Symbol, 1)}}
}

// Hex decodes bytes in hexadecimal; blanks are left out.
func Hex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Section adds a section with the bytes, in hexadecimal, and returns its number.
func (b *Builder) Section(name string, flags elf.SectionFlag, code string) uint32 {
	b.t.Helper()
	data := Hex(b.t, code)
	n := uint32(len(b.File.Sections))
	s := object.Section{Index: n, Name: name, Type: elf.SHT_PROGBITS, Flags: flags, Size: uint64(len(data)), Align: 1, Data: data}
	if flags&elf.SHF_MERGE != 0 {
		s.EntSize = 1
	}
	b.File.Sections = append(b.File.Sections, s)
	b.symbol(object.Symbol{Name: name, Type: elf.STT_SECTION, Section: n})
	return n
}

func (b *Builder) symbol(s object.Symbol) uint32 {
	s.Index = uint32(len(b.File.Symbols))
	b.File.Symbols = append(b.File.Symbols, s)
	return s.Index
}

// Func adds a function symbol and returns its number.
func (b *Builder) Func(name string, section uint32, offset, size uint64) uint32 {
	return b.symbol(object.Symbol{Name: name, Section: section, Value: offset, Size: size, Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL})
}

// Object adds a data symbol.
func (b *Builder) Object(name string, section uint32, offset, size uint64) uint32 {
	return b.symbol(object.Symbol{Name: name, Section: section, Value: offset, Size: size, Type: elf.STT_OBJECT, Bind: elf.STB_GLOBAL})
}

// Undef returns the undefined symbol of a name.
func (b *Builder) Undef(name string) uint32 {
	for _, s := range b.File.Symbols[1:] {
		if s.Name == name && s.Section == 0 {
			return s.Index
		}
	}
	return b.symbol(object.Symbol{Name: name, Bind: elf.STB_GLOBAL})
}

// SectionSymbol returns the symbol of a section.
func (b *Builder) SectionSymbol(section uint32) uint32 {
	for _, s := range b.File.Symbols[1:] {
		if s.Section == section && s.Type == elf.STT_SECTION {
			return s.Index
		}
	}
	b.t.Fatalf("section %d has no symbol", section)
	return 0
}

// Reloc adds a relocation; those of a section must come in order of offset.
func (b *Builder) Reloc(section uint32, offset uint64, kind elf.R_X86_64, symbol uint32, addend int64) {
	s := &b.File.Sections[section]
	s.Relocs = append(s.Relocs, object.Reloc{Offset: offset, Type: kind, Symbol: symbol, Addend: addend})
}

// Place is what a table's word refers to.
type Place struct {
	Section uint32
	Offset  int64
}

// Table adds a section of 32-bit offsets to places.
func (b *Builder) Table(name string, places ...Place) uint32 {
	n := b.Section(name, Read, strings.Repeat("00000000", len(places)))
	for i, p := range places {
		b.Reloc(n, uint64(i)*4, elf.R_X86_64_PC32, b.SectionSymbol(p.Section), p.Offset)
	}
	return n
}

// Alternative is one entry of .altinstructions.
type Alternative struct {
	At, Repl         Place
	Feature, Flags   uint16
	Length, Replaced uint8
}

// Alternatives adds the table in the layout of 6.12, or of 6.1 where old.
func (b *Builder) Alternatives(old bool, entries ...Alternative) uint32 {
	var data []byte
	for _, e := range entries {
		data = append(data, make([]byte, 8)...)
		data = binary.LittleEndian.AppendUint16(data, e.Feature)
		if !old {
			data = binary.LittleEndian.AppendUint16(data, e.Flags)
		}
		data = append(data, e.Length, e.Replaced)
	}
	n := b.Section(".altinstructions", Read, hex.EncodeToString(data))
	size := uint64(14)
	if old {
		size = 12
	}
	for i, e := range entries {
		at := uint64(i) * size
		b.Reloc(n, at, elf.R_X86_64_PC32, b.SectionSymbol(e.At.Section), e.At.Offset)
		if e.Replaced > 0 {
			b.Reloc(n, at+4, elf.R_X86_64_PC32, b.SectionSymbol(e.Repl.Section), e.Repl.Offset)
		}
	}
	return n
}

// Facts are those of a 6.12 kernel.
func Facts() map[string]int64 {
	return map[string]int64{
		"alt_instr.size": 14, "alt_instr.instrlen": 12, "alt_instr.replacementlen": 13,
		"jump_entry.size": 16, "jump_entry.target": 4, "jump_entry.key": 8,
		"static_call_site.size": 8, "static_call_site.key": 4, "exception_table_entry.size": 12,
		"bug_entry.size": 12, "bug_entry.line": 8, "orc_entry.size": 6, "error_injection_entry.size": 16,
		"_ddebug.size": 56, "_ddebug.line": 32,
	}
}

// Target is a kernel with the facts and the given configuration symbols, as pairs of name and value.
func Target(config ...string) arch.Target {
	t := arch.Target{Machine: uint16(elf.EM_X86_64), Facts: Facts(), Config: map[string]string{"CONFIG_RANDOMIZE_BASE": "y"}}
	for i := 0; i+1 < len(config); i += 2 {
		t.Config[config[i]] = config[i+1]
	}
	return t
}

// Describe describes the object.
func (b *Builder) Describe(t arch.Target) *describe.Unit {
	b.t.Helper()
	u, err := describe.New(b.File, t)
	if err != nil {
		b.t.Fatal(err)
	}
	return u
}
