package update

import (
	"errors"
	"fmt"
	"slices"
)

// Layouts are types by their names: "struct eventfd_ctx", "unsigned int", "struct file *", "struct hlist_head[64]".
type Layouts map[string]Layout

// LayoutKind says what memory of a type holds.
type LayoutKind string

// The kinds.
const (
	LayoutNumber  LayoutKind = "number" // integers, characters, booleans, enums
	LayoutPointer LayoutKind = "pointer"
	LayoutArray   LayoutKind = "array"
	LayoutStruct  LayoutKind = "struct"
	LayoutUnion   LayoutKind = "union"
	LayoutOther   LayoutKind = "other" // floating point, and what is only declared
)

// Layout is how a type lies in memory.
type Layout struct {
	Kind LayoutKind `json:"kind"`
	// Size is in bytes; 0 is unknown.
	Size uint64 `json:"size"`
	// Signed says of a number that its highest bit is its sign.
	Signed bool `json:"signed,omitempty"`
	// Of names what a pointer leads to ("" is void) or what an array consists of, Count is an array's number of elements (0: open). What a
	// pointer leads to may not be described.
	Of    string `json:"of,omitempty"`
	Count uint64 `json:"count,omitempty"`
	// Members are those of a structure or union; those of unnamed structures in it stand among them.
	Members []LayoutMember `json:"members,omitempty"`
}

// LayoutMember is a member of a structure or union.
type LayoutMember struct {
	Name string `json:"name"`
	// Type names a Layout.
	Type string `json:"type"`
	// Offset is in bytes. Of a bit field it is the first byte that has a bit of it.
	Offset uint64 `json:"offset"`
	// Bits is a bit field's width in bits, 0 for all other members; Bit is the place of its lowest bit in the byte at Offset, on a little-endian machine.
	Bit  uint64 `json:"bit,omitempty"`
	Bits uint64 `json:"bits,omitempty"`
}

// maxLayout bounds sizes and numbers of layouts: more no object of a kernel has.
const maxLayout = 1 << 31

// check wants a transfer to go with a part, and its layouts to lie in themselves.
func (t *Transfer) check(m *Manifest) error {
	if t.Unit < 0 || t.Unit >= len(m.Units) {
		return fmt.Errorf("it is of unit %d of %d", t.Unit, len(m.Units))
	}
	target := m.Units[t.Unit].Module
	if target == "" {
		target = "vmlinux"
	}
	if !slices.ContainsFunc(m.Parts, func(p Part) bool { return p.Target == target }) {
		return fmt.Errorf("no part is for %s", target)
	}
	if t.Plugin == "" {
		return errors.New("it names no plugin")
	}
	for _, l := range []Layouts{t.Before, t.After} {
		if err := l.check(); err != nil {
			return err
		}
	}
	return nil
}

func (l Layouts) check() error {
	for name, t := range l {
		if t.Size > maxLayout || t.Count > maxLayout {
			return fmt.Errorf("%s has %d bytes, and %d elements", name, t.Size, t.Count)
		}
		if e := l[t.Of]; t.Kind == LayoutArray && t.Count > 0 && e.Size > t.Size/t.Count {
			return fmt.Errorf("%s of %d bytes has %d elements of %d", name, t.Size, t.Count, e.Size)
		}
		for _, m := range t.Members {
			size := l[m.Type].Size
			if m.Bits > 0 {
				size = (m.Bit + m.Bits + 7) / 8
			}
			if m.Bit > 7 || m.Bits > 64 || m.Offset > t.Size || size > t.Size-m.Offset {
				return fmt.Errorf("member %s of %s lies outside of its %d bytes", m.Name, name, t.Size)
			}
		}
	}
	return nil
}
