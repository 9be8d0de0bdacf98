package transfer

import "fmt"

// Entries of an XArray (include/linux/xarray.h: xa_is_node, xa_is_value, xa_is_internal, xa_to_node): odd ones are values, those with the
// second bit internal: a node where they are beyond the first page, else something that is no object.
const (
	xaMask     = 3
	xaInternal = 2
	xaLeast    = 4096
)

// xarray visits all pointers of an XArray, or of an IDR, which is one with a base.
func (f *finder) xarray(p place) error {
	base := uint64(0)
	if p.typ == "struct idr" {
		v, err := f.read(p, "idr_base")
		if err != nil {
			return err
		}
		base = v.Number
		if p, _, err = f.at(p, "idr_rt"); err != nil {
			return err
		}
	}
	if err := is(p, "struct xarray"); err != nil {
		return err
	}
	if _, err := f.types.layout(f.step.Type); err != nil {
		return err
	}
	head, _, err := f.at(p, "xa_head")
	if err != nil {
		return err
	}
	entry, err := f.pointer(head.address)
	if err != nil {
		return err
	}
	return f.entry(entry, base, maxShift+1)
}

// maxShift bounds the shift of a node, which falls from one to the next.
const maxShift = 60

// entry visits what one entry leads to; above is the shift of the node that has it.
func (f *finder) entry(e, index, above uint64) error {
	switch {
	case e == 0 || e&1 == 1:
		return nil
	case e&xaMask == 0:
		return f.add(place{address: e, typ: f.step.Type}, index)
	case e < xaLeast:
		return nil // a sibling, a reserved one
	}
	if err := f.once(e); err != nil {
		return err
	}
	node := place{address: e - xaInternal, typ: "struct xa_node"}
	shift, err := f.read(node, "shift")
	if err != nil {
		return err
	}
	if shift.Number >= above {
		return &MovedError{node.address, fmt.Sprintf("the shift of a node is %d", shift.Number)}
	}
	slots, _, err := f.at(node, "slots")
	if err != nil {
		return err
	}
	l, err := f.types.layout(slots.typ)
	if err != nil {
		return err
	}
	for i := range l.Count {
		child, err := f.pointer(slots.address + i*pointerSize)
		if err != nil {
			return err
		}
		if err := f.entry(child, index+i<<shift.Number, shift.Number); err != nil {
			return err
		}
	}
	return nil
}
