package diff

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/semantic"
)

// static is where the source declares an item; ok is false where nobody knows.
func (v *view) static(i *item) (s semantic.Static, ok bool) {
	for _, y := range i.names {
		if s, ok := v.o.Statics[y.Name]; ok {
			s.Name, _ = stem(s.Name)
			return s, true
		}
	}
	return s, false
}

// declared pairs numbered data by their declarations: those on unchanged lines, whose numbers stay (core/patch, StabilizeLines), and
// then what a function has one of on each side.
func (p *pairer) declared() {
	for _, key := range []func(s semantic.Static) semantic.Static{
		func(s semantic.Static) semantic.Static { s.Order = 0; return s },
		func(s semantic.Static) semantic.Static { return semantic.Static{Function: s.Function, Name: s.Name} },
	} {
		byKey := func(v *view) map[semantic.Static][]*item {
			m := map[semantic.Static][]*item{}
			for _, is := range unpaired(v, itemData) {
				for _, i := range is {
					if s, ok := v.static(i); ok {
						m[key(s)] = append(m[key(s)], i)
					}
				}
			}
			for _, is := range m {
				slices.SortFunc(is, func(a, b *item) int {
					x, _ := v.static(a)
					y, _ := v.static(b)
					return x.Order - y.Order
				})
			}
			return m
		}
		a, b := byKey(p.pre), byKey(p.post)
		for k, y := range b {
			// Several of one line are told apart by their order, if none has come or gone.
			if x := a[k]; len(x) == len(y) && (k.Line > 0 || len(x) == 1) {
				for n := range x {
					join(x[n], y[n])
				}
			}
		}
	}
}

// freshDescriptors takes descriptors of debug messages that say something else for new ones: the kernel has them in
// a table of its own, where the old one stays.
func (p *pairer) freshDescriptors() {
	c := newComparer(p.pre, p.post)
	for _, y := range p.post.all {
		if x := y.pair; x != nil && y.kind == itemData && y.section.Name == debugSection && c.items(x, y) != "" {
			x.pair, y.pair = nil, nil
		}
	}
}

// renewable are variables of which a fresh copy does no harm: what printk_once, WARN_ONCE and rate limits remember (include/linux/once_lite.h,
// ratelimit.h), lock classes, and descriptors of debug messages.
var renewable = []string{"__already_done", "__warned", "__print_once", "_rs", "__key", "descriptor", "__ddebug"}

// lostStatics refuses static variables that may continue one of pre and may be new: new code with a fresh one would forget what
// the running kernel's holds, and with another's would read what it does not mean.
func (r *Result) lostStatics() {
	a, b := unpaired(r.pre, itemData), unpaired(r.post, itemData)
	for _, k := range sortedKeys(b) {
		var from []string
		for _, y := range b[k] {
			if !y.writable() || r.post.rules[y.section] != ruleData || y.section.Name == debugSection || renewed(k) {
				continue
			}
			for _, x := range a[k] {
				if r.pre.rules[x.section] == ruleData && x.writable() {
					from = append(from, r.pre.describe(x))
				}
			}
			if len(from) > 0 {
				slices.Sort(from)
				r.refuseState(r.post.describe(y), fmt.Sprintf("it may be the running kernel's %s under another name, or a new variable", strings.Join(slices.Compact(from), " or ")),
					"keep each static variable's declaration as it was, or give a new one another name")
				break
			}
		}
	}
}

// describe names a datum by its declaration, as far as that is known.
func (v *view) describe(i *item) string {
	s, ok := v.static(i)
	if !ok || s.Function == "" {
		return i.name()
	}
	if s.File != "" {
		return fmt.Sprintf("%s of %s (%s:%d)", s.Name, s.Function, s.File, s.Line)
	}
	return s.Name + " of " + s.Function
}
