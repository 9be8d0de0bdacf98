package part

import (
	"debug/elf"
	"encoding/binary"
	"fmt"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Numbers of kmod/ksplice_part.h. Sizes in bytes.
const (
	partMagic   = 0x4b53504c
	partVersion = 3
	partStays   = 0x1
	relocCall   = 0x80000000

	kindJump     = 1
	kindFtrace   = 2
	kindFragment = 3

	partSize  = 128
	funcSize  = 96
	relocSize = 24
	copySize  = 24
)

// descriptionSection and descriptionSymbol are where the part's glue finds the description.
const (
	descriptionSection = ".ksplice"
	descriptionSymbol  = "ksplice_part"
)

// describer writes the structures of kmod/ksplice_part.h, with relocations where an address stands.
type describer struct {
	b         *builder
	file      *objfile.File
	section   *objfile.Section
	self      *objfile.Symbol
	undefined map[string]*objfile.Symbol
	strings   map[string]uint64
}

// preReloc is one struct ksplice_reloc; symbol is empty where the value is known.
type preReloc struct {
	symbol string
	value  uint64
	addend int64
	offset uint64
	kind   uint32
}

// preFunction is what the kernel module checks run against.
type preFunction struct {
	bytes, mask []byte
	relocs      []preReloc
}

func (d *describer) describe(machine elf.Machine) error {
	d.file = objfile.New(machine)
	d.section = &objfile.Section{Name: descriptionSection, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 8}
	d.file.AddSection(d.section)
	d.self = &objfile.Symbol{Type: elf.STT_SECTION, Bind: elf.STB_LOCAL, Section: d.section}
	d.file.AddSymbol(d.self)
	d.undefined, d.strings = map[string]*objfile.Symbol{}, map[string]uint64{}

	functions := d.b.out.Functions
	pre := make([]*preFunction, len(functions))
	for i := range functions {
		var err error
		if pre[i], err = d.b.preFunction(&functions[i]); err != nil {
			return err
		}
	}
	d.grow(partSize)
	funcs := d.grow(funcSize * uint64(len(functions)))
	for i := range functions {
		if err := d.function(funcs+uint64(i)*funcSize, &functions[i], pre[i]); err != nil {
			return err
		}
	}
	copies := d.align()
	for _, c := range d.b.copies {
		at := d.grow(copySize)
		d.pointTo(at, c.symbol)
		d.pointTo(at+8, slotName(c.slot))
		d.put64(at+16, c.length)
	}
	writes := d.align()
	d.grow(writeSize * uint64(len(d.b.writes)))
	for i := range d.b.writes {
		d.write(writes+uint64(i)*writeSize, &d.b.writes[i])
	}
	hooks := d.hooks()
	d.part(funcs, copies, writes, hooks)
	d.sums()
	d.align()
	d.section.Size = uint64(len(d.section.Data))
	d.file.AddSymbol(&objfile.Symbol{Name: descriptionSymbol, Size: partSize, Type: elf.STT_OBJECT, Bind: elf.STB_GLOBAL, Section: d.section})
	d.b.out.Description = d.file
	return nil
}

// part fills in struct ksplice_part, at the section's start.
func (d *describer) part(funcs, copies, writes, hooks uint64) {
	d.put32(0, partMagic)
	d.put32(4, partVersion)
	d.put32(8, partSize)
	if len(d.b.out.Escapes) > 0 {
		d.put32(12, partStays)
	}
	d.point(16, d.text(d.b.in.ID))
	d.point(24, d.text(d.b.in.Target))
	d.point(32, d.text(d.b.in.Description))
	if n := len(d.b.out.Functions); n > 0 {
		d.point(partFuncsAt, funcs)
		d.put64(partFuncCountAt, uint64(n))
	}
	if n := len(d.b.copies); n > 0 {
		d.point(partCopiesAt, copies)
		d.put64(partCopyCountAt, uint64(n))
	}
	if n := len(d.b.writes); n > 0 {
		d.point(partWritesAt, writes)
		d.put64(partWriteCountAt, uint64(n))
	}
	if n := len(d.b.hooks); n > 0 {
		d.point(hooksAt, hooks)
		d.put64(hookCount, uint64(n))
	}
}

// function fills in struct ksplice_func.
func (d *describer) function(at uint64, f *update.Function, pre *preFunction) error {
	kind := uint32(kindFragment)
	if !f.Fragment {
		kind = kindJump
		if f.Redirect.Kind == arch.RedirectFtrace {
			kind = kindFtrace
		}
		d.pointTo(at+24, f.Replacement)
	}
	d.point(at, d.text(f.Name))
	d.pointTo(at+8, slotName(d.b.slot(update.Slot{Kind: update.SlotSymbol, Name: f.Name, Unit: f.Unit, Symbol: f.Symbol}, d.b.global(f))))
	d.pointTo(at+16, slotName(d.b.slot(update.Slot{Kind: update.SlotCode, Name: f.Name, Unit: f.Unit, Symbol: f.Symbol}, false)))
	d.put64(at+32, f.Size)
	d.point(at+40, d.append(pre.bytes))
	d.point(at+48, d.append(pre.mask))
	if n := uint64(len(pre.relocs)); n > 0 {
		d.align()
		relocs := d.grow(n * relocSize)
		d.point(at+56, relocs)
		for i, r := range pre.relocs {
			to := relocs + uint64(i)*relocSize
			if r.symbol != "" {
				d.pointTo(to, r.symbol)
			} else {
				d.put64(to, r.value)
			}
			d.put64(to+8, uint64(r.addend))
			d.put32(to+16, uint32(r.offset))
			d.put32(to+20, r.kind)
		}
	}
	d.put32(at+64, uint32(len(pre.relocs)))
	d.put32(at+68, kind)
	if !f.Fragment {
		w := f.Redirect.Window
		if w.Length > f.Size || w.Offset > f.Size-w.Length || f.Redirect.Kind == arch.RedirectJump && w.Length == 0 {
			return fmt.Errorf("%s: the architecture plugin's window of %d bytes at +%#x does not lie in its %d bytes", f.Name, w.Length, w.Offset, f.Size)
		}
		d.put32(at+72, uint32(w.Offset))
		d.put32(at+76, uint32(w.Length))
	}
	return nil
}

// grow adds zero bytes and returns where they begin.
func (d *describer) grow(n uint64) uint64 {
	at := uint64(len(d.section.Data))
	d.section.Data = append(d.section.Data, make([]byte, n)...)
	return at
}

func (d *describer) align() uint64 {
	d.grow(-uint64(len(d.section.Data)) % 8)
	return uint64(len(d.section.Data))
}

func (d *describer) append(b []byte) uint64 {
	at := d.grow(uint64(len(b)))
	copy(d.section.Data[at:], b)
	return at
}

func (d *describer) text(s string) uint64 {
	at, ok := d.strings[s]
	if !ok {
		at = d.append(append([]byte(s), 0))
		d.strings[s] = at
	}
	return at
}

func (d *describer) put32(at uint64, v uint32) { binary.LittleEndian.PutUint32(d.section.Data[at:], v) }
func (d *describer) put64(at uint64, v uint64) { binary.LittleEndian.PutUint64(d.section.Data[at:], v) }

// point makes the word at a place the address of another place of the section.
func (d *describer) point(at, to uint64) {
	d.section.Relocs = append(d.section.Relocs, &objfile.Reloc{Offset: at, Type: d.b.loader.pointer, Symbol: d.self, Addend: int64(to)})
}

// pointTo makes the word at a place the value of a symbol.
func (d *describer) pointTo(at uint64, name string) { d.pointToAdd(at, name, 0) }

func (d *describer) pointToAdd(at uint64, name string, addend int64) {
	y := undefined(d.file, d.undefined, name)
	d.section.Relocs = append(d.section.Relocs, &objfile.Reloc{Offset: at, Type: d.b.loader.pointer, Symbol: y, Addend: addend})
}
