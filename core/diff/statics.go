package diff

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/semantic"
)

// static is where the source declares an item; ok is false where nobody knows.
func (v *view) static(i *item) (s semantic.Static, ok bool) {
	for _, y := range i.names {
		if s, ok := v.o.Statics[y.Name]; ok {
			s.Name, _ = objfile.Stem(s.Name)
			return s, true
		}
	}
	return s, false
}

// declared pairs numbered data by their declarations: those on unchanged lines, whose numbers stay (core/patch, StabilizeLines), and
// then what a function has one of, before and after.
func (p *pairer) declared() {
	exact := func(s semantic.Static) semantic.Static { s.Order, s.Array = 0, false; return s }
	byName := func(s semantic.Static) semantic.Static { return semantic.Static{Function: s.Function, Name: s.Name} }
	a, b := p.pre.declarations(exact, unpairedItems), p.post.declarations(exact, unpairedItems)
	for k, y := range b {
		// Several of one line are told apart by their order, if none has come or gone.
		if x := a[k]; k.Line > 0 && len(x) == len(y) {
			for n := range x {
				join(x[n], y[n])
			}
		}
	}
	a, b = p.pre.declarations(byName, everyItem), p.post.declarations(byName, everyItem)
	for k, y := range b {
		if x := a[k]; len(x) == 1 && len(y) == 1 && x[0].pair == nil && y[0].pair == nil {
			join(x[0], y[0])
			y[0].redeclared = true
		}
	}
}

func unpairedItems(i *item) bool { return i.pair == nil }
func everyItem(*item) bool       { return true }

// declarations lists the numbered local data that are wanted by a key of their declarations, in order.
func (v *view) declarations(key func(semantic.Static) semantic.Static, wanted func(*item) bool) map[semantic.Static][]*item {
	m := map[semantic.Static][]*item{}
	for _, i := range v.all {
		if _, numbered := objfile.Stem(i.name()); i.kind != itemData || !i.local() || !numbered || !wanted(i) {
			continue
		}
		if s, ok := v.static(i); ok {
			m[key(s)] = append(m[key(s)], i)
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
	a, b := open(r.pre), open(r.post)
	used := referred(r.post)
	for _, k := range sortedKeys(b) {
		// What nothing refers to (the lists of tracepoint_string, where the code has the string itself) holds nothing.
		b[k] = slices.DeleteFunc(b[k], func(i *item) bool { return !used[i] })
		if len(b[k]) == 0 {
			continue
		}
		if len(a[k]) == 0 || Renewable(k) {
			continue
		}
		var from []string
		for _, x := range a[k] {
			from = append(from, r.pre.describe(x))
		}
		slices.Sort(from)
		r.refuseState(r.post.describe(b[k][0]), fmt.Sprintf("it may be the running kernel's %s under another name, or a new variable", strings.Join(slices.Compact(from), " or ")),
			"keep each static variable's declaration as it was, or give a new one another name")
	}
	for _, y := range r.post.all {
		if y.redeclared && y.pair != nil && y.writable() {
			r.note("%s is taken for the running kernel's, though its line changed: there is one of that name before and after", r.post.describe(y))
		}
	}
}

// open lists the local variables without a pair, by stem.
func open(v *view) map[string][]*item {
	m := map[string][]*item{}
	for _, i := range v.all {
		if i.kind == itemData && i.pair == nil && i.local() && i.writable() && v.rules[i.section] == ruleData && i.section.Name != debugSection {
			k, _ := objfile.Stem(i.name())
			m[k] = append(m[k], i)
		}
	}
	return m
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
