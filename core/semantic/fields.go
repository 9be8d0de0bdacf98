package semantic

import (
	"fmt"
	"os"
	"sort"
)

// Field is a scalar of a variable: a member, or an element of an array. Of bit fields it is the bytes that they lie in.
type Field struct {
	// Name is as C writes it behind the variable's name: ".ops[2].mode"; empty where the variable is itself a scalar.
	Name string
	// Type is its type, Within the innermost structure or union that it is in: "struct list_head", by its typedef where it has no tag, "struct
	// atomic_t"; empty for none.
	Type, Within string
	// Offset and Size are in bytes, in the variable.
	Offset, Size uint64
}

// Fields says which scalars of a variable lie at bytes of it, in order of place, each once; symbol is the variable's name in a relocatable
// object's symbol table. ok is false where the debug information does not describe one of the bytes, or the variable in two ways.
func Fields(path, symbol string, bytes []uint64) (fields []Field, ok bool, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, false, fmt.Errorf("read object: %w", err)
	}
	c := &comparer{}
	var types []*typ
	var of *unit
	err = eachPlaced(b, func(name string, _ int, v *variable, u *unit) {
		if t := u.types[v.of]; name == symbol && !v.declared && t != nil {
			types, of = append(types, t), u
		}
	})
	if err != nil {
		return nil, false, fmt.Errorf("fields of the variables of %s: %w", path, err)
	}
	if of == nil {
		return nil, false, nil
	}
	for _, t := range types[1:] {
		if c.leaves(t, 0) != c.leaves(types[0], 0) {
			return nil, false, nil
		}
	}
	found := map[Field]bool{}
	for _, at := range bytes {
		f, ok := c.fieldAt(types[0], int64(at), Field{}, 0)
		if !ok {
			return nil, false, c.err
		}
		if !found[f] {
			found[f] = true
			fields = append(fields, f)
		}
	}
	sort.Slice(fields, func(i, j int) bool { return fields[i].Offset < fields[j].Offset })
	return fields, true, c.err
}

// fieldAt finds the scalar at a byte of a type; f is where the type lies in the variable.
func (c *comparer) fieldAt(t *typ, at int64, f Field, depth int) (Field, bool) {
	whole := t
	t = bare(t)
	if t == nil || !c.step() || depth > maxDepth || at < 0 {
		return f, false
	}
	switch {
	case t.kind == kindArray:
		elem := size(t.elem)
		if elem <= 0 || at >= count(t)*elem {
			return f, false
		}
		f.Name += index(t.dims, at/elem)
		f.Offset += uint64(at / elem * elem)
		return c.fieldAt(t.elem, at%elem, f, depth+1)
	case t.kind.aggregate():
		if t.name != "" {
			f.Within = t.kind.String() + " " + t.name
		}
		return c.memberAt(t, at, f, depth)
	}
	n := size(t)
	if at >= n {
		return f, false
	}
	f.Type, f.Size = describe(whole), uint64(n)
	return f, true
}

// memberAt finds the scalar at a byte of a structure; of a union, in its largest member that lies there.
func (c *comparer) memberAt(t *typ, at int64, f Field, depth int) (Field, bool) {
	var best *member
	var first, end int64 // its bytes
	for i := range t.members {
		m := &t.members[i]
		from := m.off / 8
		to := from + size(m.t)
		if m.bits != 0 {
			to = (m.off + m.bits + 7) / 8
		}
		if at >= from && at < to && (best == nil || to-from > end-first) {
			best, first, end = m, from, to
		}
	}
	if best == nil {
		return f, false
	}
	if best.name != "" {
		f.Name += "." + best.name
	}
	f.Offset += uint64(first)
	if best.bits != 0 {
		f.Type, f.Size = describe(best.t), uint64(end-first)
		return f, true
	}
	return c.fieldAt(best.t, at-first, f, depth+1)
}

// index writes the place of an array's element, counted through all dimensions.
func index(dims []int64, n int64) string {
	text := ""
	for i := len(dims) - 1; i >= 0; i-- {
		if dims[i] <= 0 {
			return fmt.Sprintf("[%d]", n)
		}
		text = fmt.Sprintf("[%d]", n%dims[i]) + text
		n /= dims[i]
	}
	return text
}
