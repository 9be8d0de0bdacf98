package semantic

import (
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strings"
)

// comparer compares types of pre with types of post.
type comparer struct {
	work, depth int
	err         error
}

// maxWork bounds what damaged or hostile descriptions can make us do for one pair of objects: types are expanded where
// they nest, and a description can nest a type in itself. A kernel's largest unit needs some hundred thousand steps.
const maxWork = 1 << 22

func (c *comparer) step() bool {
	c.work++
	if c.work > maxWork && c.err == nil {
		c.err = errors.New("debug information nests types without end")
	}
	return c.err == nil
}

// differences says how the layout of a became that of b.
func (c *comparer) differences(a, b *typ) []string {
	if a.kind == kindEnum {
		return c.enumeration(a, b)
	}
	if c.depth++; c.depth > maxDepth {
		c.work = maxWork
	}
	defer func() { c.depth-- }()
	if !c.step() {
		return nil
	}
	var out []string
	if a.kind != b.kind {
		out = append(out, fmt.Sprintf("the %s becomes a %s", a.kind, b.kind))
	}
	if a.size != b.size {
		out = append(out, fmt.Sprintf("size %d becomes %d", a.size, b.size))
	}
	if a.align != b.align {
		out = append(out, fmt.Sprintf("alignment %s becomes %s", alignment(a), alignment(b)))
	}
	return append(out, c.members(a, b)...)
}

func alignment(t *typ) string {
	if t.align == 0 {
		return "by its members"
	}
	return fmt.Sprint(t.align)
}

// members compares by name: a member has to stay where it is and what it is.
func (c *comparer) members(a, b *typ) []string {
	was, is := c.flatten(nil, a, "", 0, 0), c.flatten(nil, b, "", 0, 0)
	post := make(map[string]*member, len(is))
	for i := range is {
		post[is[i].name] = &is[i]
	}
	pre := make(map[string]bool, len(was))
	var out []string
	var gone []*member
	for i := range was {
		m := &was[i]
		pre[m.name] = true
		n := post[m.name]
		switch {
		case n == nil:
			gone = append(gone, m)
		case m.off != n.off:
			out = append(out, fmt.Sprintf("member %s moves from %s to %s", m.name, place(m), place(n)))
		case m.bits != n.bits:
			out = append(out, fmt.Sprintf("member %s has %s, had %s", m.name, width(n), width(m)))
		case !c.same(m.t, n.t, 0):
			out = append(out, fmt.Sprintf("member %s at %s is %s, was %s", m.name, place(m), describe(n.t), describe(m.t)))
		}
	}
	for _, m := range gone {
		text := fmt.Sprintf("member %s at %s goes", m.name, place(m))
		for i := range is {
			if n := &is[i]; n.off == m.off && !pre[n.name] {
				text = fmt.Sprintf("member %s at %s becomes %s", m.name, place(m), n.name)
				pre[n.name] = true
				break
			}
		}
		out = append(out, text)
	}
	for i := range is {
		if n := &is[i]; !pre[n.name] {
			out = append(out, fmt.Sprintf("new member %s at %s", n.name, place(n)))
		}
	}
	return out
}

// memberKind is Member.Kind of a type.
func memberKind(t *typ) string {
	t = bare(t)
	for n := 0; n < maxDepth && t != nil && t.kind == kindArray; n++ {
		if t = bare(t.elem); t != nil && t.kind == kindPointer {
			return ""
		}
	}
	switch {
	case t == nil:
	case integral(t):
		return "number"
	case t.kind == kindPointer:
		return "pointer"
	}
	return ""
}

// renamed tells of members whose types have other names for the same memory.
func (c *comparer) renamed(a, b *typ) []string {
	if a.kind != kindStruct || b.kind != kindStruct {
		return nil
	}
	is := map[string]*member{}
	for _, m := range c.flatten(nil, b, "", 0, 0) {
		is[m.name] = &m
	}
	var out []string
	for _, m := range c.flatten(nil, a, "", 0, 0) {
		n := is[m.name]
		x, y := bare(m.t), (*typ)(nil)
		if n != nil {
			y = bare(n.t)
		}
		// Of numbers the names say nothing, but an atomic one is no number.
		if x == nil || y == nil || !x.kind.aggregate() && !y.kind.aggregate() || x.kind == y.kind && x.name == y.name {
			continue
		}
		out = append(out, fmt.Sprintf("member %s is %s, was %s: the same memory", m.name, describe(n.t), describe(m.t)))
	}
	return out
}

// added lists the members that b has besides those of a, if those are all there and are what they were.
func (c *comparer) added(a, b *typ) []Member {
	if a.kind != kindStruct || b.kind != kindStruct || a.align != b.align {
		return nil
	}
	was := map[string]*member{}
	for _, m := range c.flatten(nil, a, "", 0, 0) {
		was[m.name] = &m
	}
	var out []Member
	for _, n := range c.flatten(nil, b, "", 0, 0) {
		m := was[n.name]
		switch {
		case m == nil:
			out = append(out, Member{Name: n.name, Type: describe(n.t), Size: uint64(max(size(n.t), 0)), Bits: uint64(n.bits), Kind: memberKind(n.t)})
		case m.bits != n.bits || !c.same(m.t, n.t, 0):
			return nil
		}
		delete(was, n.name)
	}
	if len(was) > 0 {
		return nil
	}
	return out
}

func place(m *member) string {
	if m.bits == 0 && m.off%8 == 0 {
		return fmt.Sprint(m.off / 8)
	}
	return fmt.Sprintf("%d bit %d", m.off/8, m.off%8)
}

func width(m *member) string {
	if m.bits == 0 {
		return "a whole number of bytes"
	}
	return fmt.Sprintf("%d bits", m.bits)
}

// flatten lists the members of t, those of unnamed structs and unions in their place. Members whose type has no name are
// opened too ("at.x"), so that a change there is told where it is.
func (c *comparer) flatten(out []member, t *typ, prefix string, off int64, depth int) []member {
	for i := range t.members {
		if !c.step() || depth > maxDepth {
			return out
		}
		m := t.members[i]
		m.name, m.off = prefix+m.name, m.off+off
		if inner := bare(m.t); inner != nil && inner.kind.aggregate() && inner.name == "" && inner.complete && m.bits == 0 {
			below := prefix
			if t.members[i].name != "" {
				below = m.name + "."
			}
			out = c.flatten(out, inner, below, m.off, depth+1)
			continue
		}
		if t.members[i].name != "" { // else padding
			out = append(out, m)
		}
	}
	return out
}

// bare is t without typedefs and qualifiers; nil is void.
func bare(t *typ) *typ {
	for n := 0; t != nil && t.kind == kindAlias; n++ {
		if n > maxDepth {
			return &typ{kind: kindOther, size: -1}
		}
		t = t.elem
	}
	if t != nil && t.kind == kindVoid {
		return nil
	}
	return t
}

// same reports whether an object of a can be read as one of b. Structs, unions and enums of the same name are the same
// here: their own comparison says what changed in them.
func (c *comparer) same(a, b *typ, depth int) bool {
	a, b = bare(a), bare(b)
	if a == b || a == nil || b == nil {
		return a == b
	}
	if !c.step() || depth > maxDepth {
		return false
	}
	switch {
	case a.kind.aggregate() && b.kind.aggregate():
		if a.name != "" && a.name == b.name {
			return a.kind == b.kind
		}
		if a.name == "" && b.name == "" {
			return len(c.differences(a, b)) == 0
		}
		// Another name: atomic_t becomes refcount_t. What counts is what is in them.
		return a.complete && b.complete && a.size == b.size && c.leaves(a, depth) == c.leaves(b, depth)
	case a.kind == kindArray && b.kind == kindArray:
		return count(a) == count(b) && len(a.dims) == len(b.dims) && c.same(a.elem, b.elem, depth+1)
	case a.kind == kindPointer && b.kind == kindPointer:
		return c.pointed(a.elem, b.elem, depth+1)
	case integral(a) && b.kind == kindStruct && b.complete || integral(b) && a.kind == kindStruct && a.complete:
		// A number that becomes atomic, or the other way round, is the same number.
		x, y := only(a), only(b)
		return (atomic[a.name] || atomic[b.name]) && integral(x) && integral(y) && x.size == y.size && a.size == b.size
	case integral(a) && integral(b):
		return a.size == b.size
	}
	return a.kind == b.kind && a.size == b.size
}

// atomic are structures that are a number and nothing else (include/linux/types.h).
var atomic = map[string]bool{"atomic_t": true, "atomic64_t": true, "atomic_long_t": true}

// only is what a structure with one member consists of, through several of them; t itself for everything else.
func only(t *typ) *typ {
	for n := 0; n < maxDepth && t != nil && t.kind == kindStruct && len(t.members) == 1 && t.members[0].off == 0 && t.members[0].bits == 0; n++ {
		t = bare(t.members[0].t)
	}
	if t == nil {
		return &typ{kind: kindOther, size: -1}
	}
	return t
}

func integral(t *typ) bool { return t.kind == kindInt || t.kind == kindEnum }

func count(t *typ) int64 {
	n := int64(1)
	for _, d := range t.dims {
		n *= d
	}
	return n
}

// pointed reports whether what is behind a pointer is still the same thing. Raw memory may be anything.
func (c *comparer) pointed(a, b *typ, depth int) bool {
	a, b = bare(a), bare(b)
	if a == nil || b == nil || integral(a) || integral(b) || a.kind == kindFunction && b.kind == kindFunction {
		return true
	}
	if !c.step() || depth > maxDepth {
		return false
	}
	switch {
	case a.kind == kindPointer && b.kind == kindPointer, a.kind == kindArray && b.kind == kindArray:
		return c.pointed(a.elem, b.elem, depth+1)
	case a.kind.aggregate() && b.kind.aggregate() && a.name == "" && b.name == "":
		// Pointers to the same unnamed struct are members of it or of its neighbours only: told there.
		return true
	case a.kind.aggregate() && b.kind.aggregate():
		return a.kind == b.kind && a.name == b.name
	}
	return a.kind == b.kind
}

// leaves is what memory of type t holds, without any name.
func (c *comparer) leaves(t *typ, depth int) string {
	t = bare(t)
	if t == nil {
		return "void"
	}
	if !c.step() || depth > maxDepth {
		return "?"
	}
	switch {
	case t.kind == kindArray:
		if n := count(t); n != 1 {
			return fmt.Sprintf("%d*(%s)", n, c.leaves(t.elem, depth+1))
		}
		return c.leaves(t.elem, depth+1)
	case t.kind.aggregate():
		var parts []string
		c.leafMembers(&parts, t, 0, depth)
		sort.Strings(parts)
		return strings.Join(parts, " ")
	case integral(t):
		return fmt.Sprintf("int%d", t.size)
	}
	return fmt.Sprintf("%s%d", t.kind, t.size)
}

func (c *comparer) leafMembers(parts *[]string, t *typ, off int64, depth int) {
	for i := range t.members {
		if !c.step() || depth > maxDepth {
			return
		}
		m := &t.members[i]
		if inner := bare(m.t); inner != nil && inner.kind.aggregate() {
			c.leafMembers(parts, inner, off+m.off, depth+1)
			continue
		}
		leaf := c.leaves(m.t, depth+1)
		if strings.HasPrefix(leaf, "0*") {
			continue
		}
		*parts = append(*parts, fmt.Sprintf("%d:%d:%s", off+m.off, m.bits, leaf))
	}
}

// enumeration compares the constants of two enums. A new constant is no change: no old object holds it.
func (c *comparer) enumeration(a, b *typ) []string {
	var out []string
	if a.size != b.size {
		out = append(out, fmt.Sprintf("size %d becomes %d", a.size, b.size))
	}
	post := values(b)
	out = append(out, constants(a, post)...)
	for _, m := range a.members {
		if _, ok := post[m.name]; !ok {
			out = append(out, fmt.Sprintf("%s (%d) goes", m.name, m.value))
		}
	}
	return out
}

func values(e *typ) map[string]int64 {
	m := make(map[string]int64, len(e.members))
	for i := range e.members {
		m[e.members[i].name] = e.members[i].value
	}
	return m
}

// boundName is what a constant is called that counts the others: the kernel's names end, or nearly, in such a word.
var boundName = regexp.MustCompile(`(?i)(^|_)(MAX|NUM|NR|LAST|COUNT|CNT|END|LIMIT|SIZE)(_[A-Z]+)?$`)

// bounds reports whether all that changes of an enum are constants that count the others: they are called so, and lie at or above every
// constant that stays, before and after. No old object holds another value then.
func bounds(a, b *typ) bool {
	if a.size != b.size {
		return false
	}
	post := values(b)
	top, stays := int64(0), false
	for _, m := range a.members {
		if v, ok := post[m.name]; ok && v == m.value && !boundName.MatchString(m.name) {
			top, stays = max(top, v), true
		}
	}
	for _, m := range a.members {
		v, ok := post[m.name]
		if ok && v == m.value {
			continue
		}
		if !boundName.MatchString(m.name) || m.value < top || ok && v < top {
			return false
		}
	}
	return stays
}

// constants says which constants of e have another value in post.
func constants(e *typ, post map[string]int64) []string {
	var out []string
	for _, m := range e.members {
		if v, ok := post[m.name]; ok && v != m.value {
			out = append(out, fmt.Sprintf("%s is %d, was %d", m.name, v, m.value))
		}
	}
	return out
}

// describe names a type for people.
func describe(t *typ) string {
	var after string
	for n := 0; n < maxDepth; n++ {
		if t == nil {
			return "void" + after
		}
		switch {
		case t.kind == kindPointer:
			after = " *" + strings.TrimPrefix(after, " ")
			t = t.elem
		case t.kind == kindArray:
			for _, d := range t.dims {
				after += fmt.Sprintf("[%d]", d)
			}
			t = t.elem
		case t.kind == kindAlias && t.name == "":
			t = t.elem
		case t.kind == kindFunction:
			return "function" + after
		case t.kind == kindEnum || t.kind.aggregate():
			return strings.TrimRight(t.kind.String()+" "+t.name, " ") + after
		case t.name == "":
			return t.kind.String() + after
		default:
			return t.name + after
		}
	}
	return "a type without end"
}

const maxTold = 6

func join(d []string) string {
	if len(d) > maxTold {
		d = append(d[:maxTold:maxTold], fmt.Sprintf("and %d more", len(d)-maxTold))
	}
	return strings.Join(d, "; ")
}
