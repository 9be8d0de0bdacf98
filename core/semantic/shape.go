package semantic

import (
	"fmt"
	"os"
	"strings"
)

// Shape is what the memory of a variable holds.
type Shape struct {
	// Leaves lists the scalars in it, with their offsets and sizes, without any name: equal ones hold the same kind of thing.
	Leaves string
	// Plain says that these are numbers only: a copy of the bytes means what the original meant.
	Plain bool
}

// Shapes describes variables of a relocatable object by the names of their symbols. What the debug information does not describe, or
// describes twice in different ways, is left out.
func Shapes(path string, symbols map[string]bool) (map[string]Shape, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	c := &comparer{}
	m, twice := map[string]Shape{}, map[string]bool{}
	err = eachPlaced(b, func(symbol string, _ int, v *variable, u *unit) {
		t := u.types[v.of]
		if !symbols[symbol] || v.declared || t == nil {
			return
		}
		s := Shape{Leaves: c.leaves(t, 0), Plain: c.plain(t, 0)}
		if o, ok := m[symbol]; ok && o != s {
			twice[symbol] = true
		}
		m[symbol] = s
	})
	if err == nil {
		err = c.err
	}
	if err != nil {
		return nil, fmt.Errorf("shapes of the variables of %s: %w", path, err)
	}
	for symbol := range m {
		if twice[symbol] || strings.ContainsAny(m[symbol].Leaves, "?") {
			delete(m, symbol)
		}
	}
	return m, nil
}

// plain reports whether memory of a type holds numbers only.
func (c *comparer) plain(t *typ, depth int) bool {
	t = bare(t)
	if t == nil || !c.step() || depth > maxDepth {
		return false
	}
	switch {
	case t.kind == kindArray:
		return c.plain(t.elem, depth+1)
	case t.kind.aggregate():
		for i := range t.members {
			if !c.plain(t.members[i].t, depth+1) {
				return false
			}
		}
		return t.complete
	}
	return integral(t)
}
