package part

import (
	"debug/elf"
	"fmt"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
)

// writeAddress is KSPLICE_WRITE_ADDRESS, writeSize the size of struct ksplice_datum_write in bytes.
const (
	writeAddress = 0x1
	writeSize    = 48
)

// value is what a field of a datum has, or gets: bytes, or with a symbol the address that this and the addend make.
type value struct {
	bytes  []byte
	symbol string
	addend int64
}

// write is one struct ksplice_datum_write; address is the slot of the datum.
type write struct {
	name          string
	address       int
	offset        uint64
	before, after value
}

// writes lists the values that data of run get.
func (x *unitBuilder) writes() error {
	for i := range x.in.Closure.Writes {
		w := &x.in.Closure.Writes[i]
		datum := update.Slot{Kind: update.SlotSymbol, Name: w.Datum.Name, Unit: x.in.Index, Symbol: uint32(w.Datum.Index)}
		n := write{name: w.Name, address: x.b.slot(datum, w.Datum.Bind != elf.STB_LOCAL), offset: w.Offset,
			before: value{bytes: w.Old}, after: value{bytes: w.New}}
		switch {
		case w.OldText != nil:
			text := update.Slot{Kind: update.SlotPointer, Name: w.Name, Unit: x.in.Index, Symbol: uint32(w.Datum.Index), At: w.Offset}
			n.before.symbol = slotName(x.b.slot(text, false))
		case w.OldAddress != nil:
			x.address(&n.before, w.OldAddress)
		}
		if t := w.NewAddress; t != nil && t.Piece != nil {
			p, ok := x.where[t.Piece]
			if !ok {
				return fmt.Errorf("%s: its new value leads to something in %s that is not extracted", w.Name, t.Piece.Section.Name)
			}
			n.after.symbol, n.after.addend = fmt.Sprintf("ksplice_data_%04x", len(x.b.writes)), t.Addend
			x.out.AddSymbol(&objfile.Symbol{Name: n.after.symbol, Value: p.offset, Bind: elf.STB_GLOBAL, Section: p.section})
		} else if t != nil {
			x.address(&n.after, t)
		}
		x.b.writes = append(x.b.writes, n)
		x.b.out.Writes = append(x.b.out.Writes, update.Write{Name: w.Name, Unit: x.in.Index, Symbol: uint32(w.Datum.Index), Offset: w.Offset, Size: w.Size})
	}
	return nil
}

// address makes a value the address of what the part does not bring.
func (x *unitBuilder) address(v *value, t *diff.Target) {
	v.addend = t.Addend
	if t.Absolute {
		x.b.loader.put(v.bytes, uint64(t.Addend))
		return
	}
	v.symbol = x.b.symbol(x.in, t)
}

// write fills in struct ksplice_datum_write.
func (d *describer) write(at uint64, w *write) {
	d.point(at, d.text(w.name))
	d.pointToAdd(at+8, slotName(w.address), int64(w.offset))
	d.put64(at+writeLengthAt, uint64(len(w.before.bytes)))
	for i, v := range []*value{&w.before, &w.after} {
		d.align()
		to := d.append(v.bytes)
		d.point(at+writeOldAt+8*uint64(i), to)
		if v.symbol != "" {
			d.pointToAdd(to, v.symbol, v.addend)
			d.put64(at+writeFlagsAt, writeAddress)
		}
	}
}
