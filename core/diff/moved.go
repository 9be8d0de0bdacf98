package diff

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"
)

// Unit is a compared unit among others of one update.
type Unit struct {
	// Object names the unit for people, Module the module it is part of; empty for the kernel proper.
	Object, Module string
	Result         *Result
}

// Moved refuses what a unit has new while another one had it before: the running kernel has it there, and a second copy would live
// beside it. Functions of a unit's own may move: whoever calls them changes with them.
func Moved(units []Unit) []Refusal {
	had := map[string][]*owner{}
	for i := range units {
		u := &units[i]
		for _, a := range u.Result.pre.all {
			if x := u.Result.pre.rules[a.section]; x != ruleCode && x != ruleData {
				continue
			}
			for _, y := range a.names {
				k, _ := stem(y.Name)
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
				k, _ := stem(y.Name)
				for _, o := range had[k] {
					if o.unit == u || !o.continued(u, b, y.Name, y.Bind != elf.STB_LOCAL) {
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

// renewed says that a fresh copy of a variable does no harm.
// Renewable reports whether a variable of that name only remembers that a message was shown, so that a fresh one does no harm.
func Renewable(name string) bool {
	k, _ := stem(name)
	return slices.Contains(renewable, strings.TrimSuffix(k, "."))
}
