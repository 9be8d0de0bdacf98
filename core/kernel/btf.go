package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// btf is a kernel's own type information (Documentation/bpf/btf.rst): just enough to find members of structures.
type btf struct {
	types   []byte
	strings []byte
	order   binary.ByteOrder
}

// The kinds, and how many bytes follow a type of each: fixed, and for each of its vlen elements.
var btfKinds = [...]struct{ fixed, element int }{
	1: {fixed: 4},    // INT
	3: {fixed: 12},   // ARRAY
	4: {element: 12}, // STRUCT
	5: {element: 12}, // UNION
	6: {element: 8},  // ENUM
	// 2 PTR, 7 FWD, 8 TYPEDEF, 9 VOLATILE, 10 CONST, 11 RESTRICT, 12 FUNC, 16 FLOAT, 18 TYPE_TAG: nothing follows
	13: {element: 8},  // FUNC_PROTO
	14: {fixed: 4},    // VAR
	15: {element: 12}, // DATASEC
	17: {fixed: 4},    // DECL_TAG
	19: {element: 12}, // ENUM64
}

const btfStruct = 4

func readBTF(p []byte, order binary.ByteOrder) (*btf, error) {
	bad := fmt.Errorf("read BTF: %w", ErrFormat)
	if len(p) < 24 || order.Uint16(p) != 0xeb9f || p[2] != 1 {
		return nil, bad
	}
	head := uint64(order.Uint32(p[4:]))
	part := func(at int) ([]byte, bool) {
		start, n := head+uint64(order.Uint32(p[at:])), uint64(order.Uint32(p[at+4:]))
		if start+n > uint64(len(p)) {
			return nil, false
		}
		return p[start : start+n], true
	}
	types, ok1 := part(8)
	strings, ok2 := part(16)
	if !ok1 || !ok2 {
		return nil, bad
	}
	return &btf{types, strings, order}, nil
}

func (b *btf) name(at uint32) string {
	if uint64(at) >= uint64(len(b.strings)) {
		return ""
	}
	s := b.strings[at:]
	if i := bytes.IndexByte(s, 0); i >= 0 {
		s = s[:i]
	}
	return string(s)
}

// btfLayout is a structure's size, and its members' offsets in it, all in bytes.
type btfLayout struct {
	size    uint64
	members map[string]uint64
}

// structs finds structures by name.
func (b *btf) structs(names ...string) (map[string]btfLayout, error) {
	out := map[string]btfLayout{}
	for p := b.types; len(p) > 0; {
		if len(p) < 12 {
			return nil, fmt.Errorf("read BTF: a type is cut off: %w", ErrFormat)
		}
		info := b.order.Uint32(p[4:])
		kind, vlen := int(info>>24&0x1f), int(info&0xffff)
		if kind == 0 || kind > 19 {
			return nil, fmt.Errorf("read BTF: type of kind %d is not known: %w", kind, ErrFormat)
		}
		var n int
		if kind < len(btfKinds) {
			n = 12 + btfKinds[kind].fixed + btfKinds[kind].element*vlen
		}
		if n > len(p) {
			return nil, fmt.Errorf("read BTF: a type is cut off: %w", ErrFormat)
		}
		if kind == btfStruct {
			if name := b.name(b.order.Uint32(p)); name != "" && contains(names, name) {
				out[name] = b.layout(p[:n], info>>31 != 0)
			}
		}
		p = p[n:]
	}
	for _, name := range names {
		if _, ok := out[name]; !ok {
			out[name] = btfLayout{}
		}
	}
	return out, nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func (b *btf) layout(p []byte, bitfields bool) btfLayout {
	l := btfLayout{size: uint64(b.order.Uint32(p[8:])), members: map[string]uint64{}}
	for m := p[12:]; len(m) >= 12; m = m[12:] {
		bits := b.order.Uint32(m[8:])
		if bitfields {
			bits &= 0xffffff
		}
		l.members[b.name(b.order.Uint32(m))] = uint64(bits / 8)
	}
	return l
}
