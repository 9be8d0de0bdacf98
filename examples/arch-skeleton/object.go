package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// object is one relocatable object: sections and symbols by the numbers that the file gives them, entry 0 included.
type object struct {
	path     string
	sections []section
	symbols  []elf.Symbol
}

// section is a section; only allocated ones, which the running kernel has, have data (nil for .bss) and relocations, by their offset.
type section struct {
	elf.SectionHeader
	data   []byte
	relocs []reloc
}

func (s *section) alloc() bool { return s.Flags&elf.SHF_ALLOC != 0 }
func (s *section) code() bool  { return s.alloc() && s.Flags&elf.SHF_EXECINSTR != 0 }

// reloc is a relocation with addend (Elf64_Rela).
type reloc struct {
	at     uint64
	typ    elf.R_AARCH64
	symbol uint32
	addend int64
}

// relaSize is the size of an Elf64_Rela in bytes.
const relaSize = 24

// readObject reads a file that crossed by path and digest.
func readObject(f plugin.File) (*object, error) {
	data, err := f.Read()
	if err != nil {
		return nil, plugin.Errorf(plugin.FaultMachine, f.Path, "%v", err)
	}
	o, err := parseObject(f.Path, data)
	if err != nil {
		return nil, &plugin.Diagnostic{Fault: plugin.FaultToolchain, Where: f.Path, Summary: "it is not a sound relocatable object of arm64", Detail: err.Error()}
	}
	return o, nil
}

func parseObject(path string, data []byte) (o *object, err error) {
	defer func() {
		if r := recover(); r != nil { // debug/elf can panic on damaged files
			o, err = nil, fmt.Errorf("%v", r)
		}
	}()
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if f.Machine != machine || f.Type != elf.ET_REL || f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB {
		return nil, fmt.Errorf("it is %v, %v, %v, %v", f.Class, f.Data, f.Type, f.Machine)
	}
	o = &object{path: path, sections: make([]section, len(f.Sections))}
	for i, s := range f.Sections {
		to := &o.sections[i]
		to.SectionHeader = s.SectionHeader
		if !to.alloc() || s.Type == elf.SHT_NOBITS {
			continue
		}
		if to.data, err = s.Data(); err != nil {
			return nil, fmt.Errorf("section %s: %w", s.Name, err)
		}
		if uint64(len(to.data)) != s.Size {
			return nil, fmt.Errorf("section %s has %d of %d bytes", s.Name, len(to.data), s.Size)
		}
	}
	symbols, err := f.Symbols() // without entry 0
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, err
	}
	o.symbols = append(make([]elf.Symbol, 1), symbols...)
	for i, y := range o.symbols {
		switch {
		case y.Section == elf.SHN_XINDEX:
			return nil, fmt.Errorf("symbol %d lies in a section beyond the %d that this plugin counts", i, elf.SHN_LORESERVE)
		case y.Section < elf.SHN_LORESERVE && int(y.Section) >= len(o.sections):
			return nil, fmt.Errorf("symbol %d lies in section %d of %d", i, y.Section, len(o.sections))
		}
	}
	return o, o.readRelocs(f)
}

func (o *object) readRelocs(f *elf.File) error {
	for _, s := range f.Sections {
		if s.Type != elf.SHT_RELA && s.Type != elf.SHT_REL {
			continue
		}
		if s.Info >= uint32(len(o.sections)) {
			return fmt.Errorf("%s relocates section %d of %d", s.Name, s.Info, len(o.sections))
		}
		to := &o.sections[s.Info]
		if !to.alloc() {
			continue
		}
		b, err := s.Data()
		if err != nil {
			return fmt.Errorf("section %s: %w", s.Name, err)
		}
		if s.Type == elf.SHT_REL || len(b)%relaSize != 0 {
			return fmt.Errorf("%s has relocations without addends, or half of one", s.Name)
		}
		le := binary.LittleEndian
		for ; len(b) > 0; b = b[relaSize:] {
			r := reloc{at: le.Uint64(b), typ: elf.R_AARCH64(le.Uint32(b[8:])), symbol: le.Uint32(b[12:]), addend: int64(le.Uint64(b[16:]))}
			if r.at >= uint64(len(to.data)) || r.symbol >= uint32(len(o.symbols)) {
				return fmt.Errorf("the relocation at %s+%#x of symbol %d lies outside, or its symbol does", to.Name, r.at, r.symbol)
			}
			to.relocs = append(to.relocs, r)
		}
		slices.SortStableFunc(to.relocs, func(a, b reloc) int {
			switch {
			case a.at < b.at:
				return -1
			case a.at > b.at:
				return 1
			}
			return 0
		})
	}
	return nil
}

// place says where symbol+offset is in the object; section 0: nowhere in it.
func (o *object) place(symbol uint32, offset int64) (section uint32, at uint64) {
	y := &o.symbols[symbol]
	if y.Section == elf.SHN_UNDEF || y.Section >= elf.SHN_LORESERVE {
		return 0, 0
	}
	return uint32(y.Section), y.Value + uint64(offset)
}
