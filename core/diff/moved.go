package diff

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/objfile"
)

// Unit is a compared unit among others of one update.
type Unit struct {
	// Object names the unit for people, Module the module it is part of; empty for the kernel proper.
	Object, Module string
	Result         *Result
}

// Moved finds what a unit has new while another one had it before. A global function that moved within a target is replaced like one that
// stays: the unit that had it lists it as changed, the code is the other's. What else moved is refused: the running kernel has it where
// it was, and a second copy would live beside it. Functions of a unit's own may move: whoever calls them changes with them.
func Moved(units []Unit) []Refusal {
	had := map[string][]*owner{}
	for i := range units {
		u := &units[i]
		for _, a := range u.Result.pre.all {
			if x := u.Result.pre.rules[a.section]; x != ruleCode && x != ruleData {
				continue
			}
			for _, y := range a.names {
				k, _ := objfile.Stem(y.Name)
				had[k] = append(had[k], &owner{u, a, y.Name})
			}
		}
	}
	var out []Refusal
	for i := range units {
		u := &units[i]
		for _, b := range u.Result.post.all {
			if x := u.Result.post.rules[b.section]; b.pair != nil || x != ruleCode && x != ruleData {
				continue
			}
			for _, y := range b.names {
				k, _ := objfile.Stem(y.Name)
				for _, o := range had[k] {
					if o.unit == u || !o.continued(u, b, y.Name, y.Bind != elf.STB_LOCAL) {
						continue
					}
					if o.moves(u, b) {
						o.move(u, b)
						continue
					}
					state := b.kind == itemData && b.writable()
					out = append(out, Refusal{Where: u.Object, State: state, Fix: "keep it where it is",
						Reason: fmt.Sprintf("%s moved here from %s: the running kernel has it there", u.Result.post.describe(b), o.unit.Object)})
				}
			}
		}
	}
	return out
}

// owner is who had a name before.
type owner struct {
	unit *Unit
	item *item
	name string
}

// continued says that what is new in a unit, under a name that may be global, is what the owner had.
func (o *owner) continued(u *Unit, b *item, name string, global bool) bool {
	gone := o.item.pair == nil
	if global && !o.item.local() && name == o.name && (o.unit.Module == u.Module || gone) {
		return true
	}
	if !gone || b.kind != itemData || o.item.kind != itemData || !b.writable() || !o.item.writable() ||
		b.section.Name == debugSection || Renewable(b.name()) {
		return false
	}
	x, known := o.unit.Result.pre.static(o.item)
	y, too := u.Result.post.static(b)
	return !known || !too || x.Function == y.Function
}

// moves says that a global function left the owner for another unit of the same target, with all of its global names.
func (o *owner) moves(u *Unit, b *item) bool {
	a := o.item
	names := func(i *item) (out []string) {
		for _, y := range i.names {
			if y.Bind == elf.STB_WEAK {
				return nil // which one of several run has, the link decided
			}
			if y.Bind == elf.STB_GLOBAL {
				out = append(out, y.Name)
			}
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return o.unit.Module == u.Module && a.pair == nil && a.kind == itemFunction && b.kind == itemFunction && a.parent == nil && b.parent == nil &&
		o.unit.Result.pre.rules[a.section] == ruleCode && u.Result.post.rules[b.section] == ruleCode && len(names(a)) > 0 && slices.Equal(names(a), names(b))
}

// move records it.
func (o *owner) move(u *Unit, b *item) {
	from, to := o.unit.Result, u.Result
	for i := range to.Functions {
		if f := &to.Functions[i]; f.Kind == New && f.Post == b.symbol {
			f.Kind, f.Why = MovedHere, "from "+o.unit.Object
		}
	}
	for i := range from.Functions {
		f := &from.Functions[i]
		switch a := from.pre.bySymbol[f.Pre]; {
		case f.Pre == nil || f.Kind != Removed:
		case a == o.item:
			f.Kind, f.Why = Changed, "moved to "+u.Object
			to.changed[b] = f
		case a.parent == o.item: // somebody may be in it
			f.Kind, f.Why = Changed, o.item.name()+" moved to "+u.Object
		}
	}
}

// Renewable reports whether a variable of that name only remembers that a message was shown, so that a fresh one does no harm.
func Renewable(name string) bool {
	k, _ := objfile.Stem(name)
	return slices.Contains(renewable, strings.TrimSuffix(k, "."))
}
