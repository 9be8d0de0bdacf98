package part

import (
	"bytes"
	"encoding/binary"
	"hash"
	"hash/fnv"
)

// Where the fields are that a sum goes over, as kmod/ksplice_part.h lays them out.
const (
	funcSizeAt, funcPreAt, funcMaskAt, funcRelocsAt = 32, 40, 48, 56
	funcCountAt, funcKindAt, funcWindowAt           = 64, 68, 72
	funcWindowLenAt, funcSumAt                      = 76, 80
	relocAddendAt, relocOffsetAt, relocTypeAt       = 8, 16, 20
	copyLengthAt                                    = 16
	writeLengthAt, writeOldAt, writeFlagsAt         = 16, 24, 40

	partFlagsAt, partIDAt, partTargetAt, partTextAt = 12, 16, 24, 32
	partFuncsAt, partFuncCountAt                    = 40, 48
	partCopiesAt, partCopyCountAt                   = 56, 64
	partSumAt, partWritesAt, partWriteCountAt       = 96, 104, 112
)

// sum is how the kernel module tells a damaged description: FNV-1a, as kmod/ksplice_part.h says.
type sum struct {
	hash.Hash64
	d  *describer
	at map[uint64]uint64 // where pointers into the section lead
}

func (d *describer) newSum(at map[uint64]uint64) *sum { return &sum{fnv.New64a(), d, at} }

func (s *sum) word(v uint64) { s.bytes(binary.LittleEndian.AppendUint64(nil, v)) }

func (s *sum) bytes(b []byte) {
	_, _ = s.Write(b) // a hash takes everything
}

// text adds the string that the pointer at a place leads to.
func (s *sum) text(at uint64) {
	b := s.d.section.Data[s.at[at]:]
	s.bytes(b[:bytes.IndexByte(b, 0)])
}

// sums puts in the sums of all functions and of the part, when everything else is there.
func (d *describer) sums() {
	at := map[uint64]uint64{}
	for _, r := range d.section.Relocs {
		if r.Symbol == d.self {
			at[r.Offset] = uint64(r.Addend)
		}
	}
	part := d.newSum(at)
	for _, n := range []uint64{uint64(d.get32(partFlagsAt)), d.get64(partFuncCountAt), d.get64(partCopyCountAt), d.get64(hookCount), d.get64(partWriteCountAt)} {
		part.word(n)
	}
	for _, n := range []uint64{partIDAt, partTargetAt, partTextAt} {
		part.text(n)
	}
	for i := range d.get64(partFuncCountAt) {
		f := at[partFuncsAt] + i*funcSize
		v := d.functionSum(at, f)
		d.put64(f+funcSumAt, v)
		part.word(v)
	}
	for i := range d.get64(partCopyCountAt) {
		part.word(d.get64(at[partCopiesAt] + i*copySize + copyLengthAt))
	}
	for i := range d.get64(hookCount) {
		part.word(d.get64(at[hooksAt] + i*hookSize))
	}
	for i := range d.get64(partWriteCountAt) {
		part.write(at[partWritesAt] + i*writeSize)
	}
	d.put64(partSumAt, part.Sum64())
}

// write adds what a struct ksplice_datum_write at a place says that does not depend on where things are loaded.
func (s *sum) write(w uint64) {
	n, flags := s.d.get64(w+writeLengthAt), s.d.get64(w+writeFlagsAt)
	s.text(w)
	s.word(n)
	s.word(flags)
	for i := range uint64(2) {
		if flags&writeAddress == 0 {
			s.bytes(s.d.section.Data[s.at[w+writeOldAt+8*i]:][:n])
		}
	}
}

// functionSum is the sum of the struct ksplice_func at a place.
func (d *describer) functionSum(at map[uint64]uint64, f uint64) uint64 {
	s := d.newSum(at)
	size, relocs := d.get64(f+funcSizeAt), d.get32(f+funcCountAt)
	s.text(f)
	s.word(size)
	for _, n := range []uint64{funcCountAt, funcKindAt, funcWindowAt, funcWindowLenAt} {
		s.word(uint64(d.get32(f + n)))
	}
	s.bytes(d.section.Data[at[f+funcPreAt]:][:size])
	s.bytes(d.section.Data[at[f+funcMaskAt]:][:size])
	for i := range uint64(relocs) {
		r := at[f+funcRelocsAt] + i*relocSize
		s.word(d.get64(r + relocAddendAt))
		s.word(uint64(d.get32(r + relocOffsetAt)))
		s.word(uint64(d.get32(r + relocTypeAt)))
	}
	return s.Sum64()
}

func (d *describer) get32(at uint64) uint32 { return binary.LittleEndian.Uint32(d.section.Data[at:]) }
func (d *describer) get64(at uint64) uint64 { return binary.LittleEndian.Uint64(d.section.Data[at:]) }
