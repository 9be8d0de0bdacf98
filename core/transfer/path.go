package transfer

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/ksplice/ksplice/core/update"
)

// place is a piece of memory with its type.
type place struct {
	address   uint64
	typ       string
	bit, bits uint64 // of a bit field, as in update.LayoutMember
}

// path leads from an object of one type to a member.
type path struct {
	hops      []uint64 // each is added; after all but the last a pointer is followed
	typ       string
	bit, bits uint64
}

// inside says that the member lies in the object itself.
func (p *path) inside() bool { return len(p.hops) == 1 }

// types are layouts of one transfer, and the paths through them that were asked for.
type types struct {
	layouts update.Layouts
	paths   map[[2]string]*path // by type and text
	// other are the types of the code that comes or goes: members that the layouts have not are theirs.
	other *types
}

func newTypes(l, other update.Layouts) *types {
	return &types{l, map[[2]string]*path{}, &types{layouts: other, paths: map[[2]string]*path{}}}
}

// layout returns a type's.
func (t *types) layout(name string) (*update.Layout, error) {
	l, ok := t.layouts[name]
	if !ok && t.other != nil {
		l, ok = t.other.layouts[name]
	}
	if !ok && name == "" {
		return nil, fmt.Errorf("a void pointer does not say what it leads to: the step needs a type")
	}
	if !ok {
		return nil, fmt.Errorf("type %q is not described: the plan must name it", name)
	}
	return &l, nil
}

// same says that a type which both have has one size.
func (t *types) same(name string) bool {
	l, ok := t.layouts[name]
	return !ok || l.Size == t.other.layouts[name].Size
}

// path reads how C writes a member behind an object of a type.
func (t *types) path(typ, text string) (*path, error) {
	key := [2]string{typ, text}
	if p := t.paths[key]; p != nil {
		return p, nil
	}
	p := &path{hops: []uint64{0}, typ: typ}
	for rest, first := text, true; rest != ""; first = false {
		var err error
		if rest, err = t.step(p, rest, first); err != nil {
			return nil, fmt.Errorf("%s of %s: %w", text, typ, err)
		}
	}
	t.paths[key] = p
	return p, nil
}

// step takes what leads to one member, or element, from the front of rest.
func (t *types) step(p *path, rest string, first bool) (string, error) {
	if p.bits != 0 {
		return "", fmt.Errorf("%q follows a bit field", rest)
	}
	if strings.HasPrefix(rest, "[") {
		return t.element(p, rest)
	}
	switch {
	case strings.HasPrefix(rest, "->"):
		l, err := t.layout(p.typ)
		if err != nil {
			return "", err
		}
		if l.Kind != update.LayoutPointer {
			return "", fmt.Errorf("%s is no pointer", p.typ)
		}
		p.hops, p.typ, rest = append(p.hops, 0), l.Of, rest[2:]
	case strings.HasPrefix(rest, "."):
		rest = rest[1:]
	case !first:
		return "", fmt.Errorf("%q is neither .MEMBER, ->MEMBER nor [NUMBER]", rest)
	}
	name := rest
	if i := strings.IndexAny(rest, ".[-"); i >= 0 {
		name = rest[:i]
	}
	l, err := t.layout(p.typ)
	if err != nil {
		return "", err
	}
	if m, ok := t.member(p.typ, name); ok && name != "" {
		p.hops[len(p.hops)-1] += m.Offset
		p.typ, p.bit, p.bits = m.Type, m.Bit, m.Bits
		return rest[len(name):], nil
	}
	if l.Kind == update.LayoutPointer {
		return "", fmt.Errorf("%s is a pointer: its members are written with ->", p.typ)
	}
	return "", fmt.Errorf("%s has no member %q", p.typ, name)
}

// member finds a member of a structure: one that only the other code knows, as that has it, where both have the type of it in one size.
func (t *types) member(typ, name string) (update.LayoutMember, bool) {
	for _, at := range []*types{t, t.other} {
		if at == nil {
			continue
		}
		for _, m := range at.layouts[typ].Members {
			if m.Name == name && (at == t || t.same(m.Type)) {
				return m, true
			}
		}
	}
	return update.LayoutMember{}, false
}

// element takes the index of an array's element.
func (t *types) element(p *path, rest string) (string, error) {
	number, after, ok := strings.Cut(rest[1:], "]")
	i, err := strconv.ParseUint(number, 10, 32)
	if !ok || err != nil {
		return "", fmt.Errorf("%q is no [NUMBER]", rest)
	}
	l, err := t.layout(p.typ)
	if err != nil {
		return "", err
	}
	if l.Kind != update.LayoutArray || l.Count != 0 && i >= l.Count {
		return "", fmt.Errorf("%s has no element %d", p.typ, i)
	}
	e, err := t.layout(l.Of)
	if err != nil {
		return "", err
	}
	p.hops[len(p.hops)-1] += i * e.Size
	p.typ = l.Of
	return after, nil
}

// embedded is where a member lies in objects of a type, which must itself be of another.
func (t *types) embedded(typ, member, want string) (uint64, error) {
	p, err := t.path(typ, member)
	if err != nil {
		return 0, err
	}
	if !p.inside() || p.typ != want {
		return 0, fmt.Errorf("%s of %s is no %s in it", member, typ, want)
	}
	return p.hops[0], nil
}

// number decodes a number or a pointer of up to eight bytes.
func number(order binary.ByteOrder, b []byte, signed bool) uint64 {
	var v uint64
	switch len(b) {
	case 1:
		v = uint64(b[0])
	case 2:
		v = uint64(order.Uint16(b))
	case 4:
		v = uint64(order.Uint32(b))
	case 8:
		v = order.Uint64(b)
	}
	if shift := 64 - 8*len(b); signed && shift > 0 {
		v = uint64(int64(v<<shift) >> shift)
	}
	return v
}

// encode writes a number of n bytes; ok is false where it does not fit.
func encode(order binary.ByteOrder, v uint64, n uint64, signed bool) (b []byte, ok bool) {
	b = make([]byte, n)
	switch n {
	case 1:
		b[0] = byte(v)
	case 2:
		order.PutUint16(b, uint16(v))
	case 4:
		order.PutUint32(b, uint32(v))
	case 8:
		order.PutUint64(b, v)
	default:
		return nil, false
	}
	return b, number(order, b, signed) == v || number(order, b, !signed) == v
}

// field takes a bit field out of the bytes that it lies in, the lowest first.
func field(b []byte, bit, bits uint64, signed bool) uint64 {
	var v uint64
	for i := range bits {
		at := bit + i
		v |= uint64(b[at/8]>>(at%8)&1) << i
	}
	if signed && bits < 64 {
		v = uint64(int64(v<<(64-bits)) >> (64 - bits))
	}
	return v
}
