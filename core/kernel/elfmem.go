package kernel

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"sort"
)

// segment is a piece of memory that a file holds.
type segment struct {
	address, filesz, memsz uint64
	offset                 int64
}

// segments is memory made of pieces of a file, sorted by address; behind filesz bytes a piece is zero.
type segments struct {
	file io.ReaderAt
	list []segment
}

func newSegments(file io.ReaderAt, list []segment) *segments {
	sort.SliceStable(list, func(i, j int) bool { return list[i].address < list[j].address })
	return &segments{file, list}
}

// find returns the segment that the address lies in. Segments may nest or overlap; any that has it will do.
func (m *segments) find(address uint64) *segment {
	i := sort.Search(len(m.list), func(i int) bool { return m.list[i].address > address })
	for i--; i >= 0; i-- {
		if s := &m.list[i]; address-s.address < s.memsz {
			return s
		}
	}
	return nil
}

// ReadMemory implements Memory.
func (m *segments) ReadMemory(p []byte, address uint64) error {
	for len(p) > 0 {
		s := m.find(address)
		if s == nil {
			return fmt.Errorf("read kernel memory at %#x: nothing is there", address)
		}
		in := address - s.address
		n := min(uint64(len(p)), s.memsz-in)
		if in < s.filesz {
			n = min(n, s.filesz-in)
			if _, err := m.file.ReadAt(p[:n], s.offset+int64(in)); err != nil {
				return fmt.Errorf("read kernel memory at %#x: %w", address, err)
			}
		} else {
			clear(p[:n])
		}
		p, address = p[n:], address+n
	}
	return nil
}

// note is an ELF note.
type note struct {
	name string
	typ  uint32
	desc []byte
}

// notes reads a note segment (ELF gABI, "Note Section"): words of four bytes, name and description padded to four.
func notes(p []byte, order binary.ByteOrder) ([]note, error) {
	var out []note
	pad := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(p) >= 12 {
		namesz, descsz, typ := order.Uint32(p), order.Uint32(p[4:]), order.Uint32(p[8:])
		if namesz == 0 && descsz == 0 && typ == 0 {
			return out, nil // padding up to the end
		}
		p = p[12:]
		if pad(namesz) > uint64(len(p)) || uint64(descsz) > uint64(len(p))-pad(namesz) {
			return nil, fmt.Errorf("read ELF notes: note %d ends behind the segment: %w", len(out), ErrFormat)
		}
		name := p[:namesz]
		if namesz > 0 && name[namesz-1] == 0 {
			name = name[:namesz-1]
		}
		desc := p[pad(namesz):][:descsz]
		out = append(out, note{string(name), typ, desc})
		p = p[min(pad(namesz)+pad(descsz), uint64(len(p))):]
	}
	return out, nil
}

// buildID returns the GNU build id among notes, in hexadecimal; empty when there is none. NT_GNU_BUILD_ID is 3 (elf.h).
func buildID(list []note) string {
	for _, n := range list {
		if n.name == "GNU" && n.typ == 3 {
			return hex.EncodeToString(n.desc)
		}
	}
	return ""
}
