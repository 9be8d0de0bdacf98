package diff

import (
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"slices"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
)

// pairSymbols finds for each function and datum of post the one of pre that it continues. Names decide, but for
// local names with numbers of the compiler's: those move, so that count.3 of pre may be count.4 of post while post's
// count.3 is another function's. They are paired by their declarations; where nobody knows those, by the order in which paired
// functions refer to them.
func pairSymbols(pre, post *view) {
	p := &pairer{pre, post}
	p.names()
	p.freed()
	p.clones()
	p.declared()
	p.numbered()
	p.rest()
	p.freshDescriptors()
}

type pairer struct {
	pre, post *view
}

func join(a, b *item) { a.pair, b.pair = b, a }

// key is what must be equal for two items to be paired by name.
type nameKey struct {
	kind itemKind
	name string
}

// names pairs by name what has one without numbers, or a global one. Local names that occur several times
// (assembly) are paired in order where both objects have as many.
func (p *pairer) names() {
	byName := func(v *view) (map[nameKey][]*item, []nameKey) {
		m, order := map[nameKey][]*item{}, []nameKey(nil)
		for _, i := range v.all {
			for _, y := range i.names {
				if _, numbered := objfile.Stem(y.Name); numbered && y.Bind == elf.STB_LOCAL {
					continue
				}
				k := nameKey{i.kind, y.Name}
				if m[k] == nil {
					order = append(order, k)
				}
				m[k] = append(m[k], i)
			}
		}
		return m, order
	}
	a, _ := byName(p.pre)
	b, order := byName(p.post)
	for _, k := range order {
		if len(a[k]) != len(b[k]) {
			continue
		}
		for n, y := range b[k] {
			if x := a[k][n]; x.pair == nil && y.pair == nil {
				join(x, y)
			}
		}
	}
}

// freed takes functions that pre has in a section which the kernel frees, and post does not, for new ones.
func (p *pairer) freed() {
	for _, y := range p.post.all {
		if x := y.pair; x != nil && y.kind == itemFunction && hasPrefix(x.section.Name, dropped) && !hasPrefix(y.section.Name, dropped) &&
			p.post.rules[y.section] == ruleCode {
			x.pair, y.pair = nil, nil
		}
	}
}

// clones pairs functions that the compiler made of others and numbered (NAME.isra.0, NAME.part.1): equal ones first, by
// name first, then those of the same name, then a single one left on both sides.
func (p *pairer) clones() {
	a, b := unpaired(p.pre, itemFunction), unpaired(p.post, itemFunction)
	sum := map[*item]string{}
	for _, i := range p.pre.all {
		sum[i] = digest(p.pre, i)
	}
	for _, i := range p.post.all {
		sum[i] = digest(p.post, i)
	}
	for _, k := range sortedKeys(b) {
		for _, like := range []func(x, y *item) bool{
			func(x, y *item) bool { return x.name() == y.name() && sum[x] == sum[y] },
			func(x, y *item) bool { return sum[x] == sum[y] },
			func(x, y *item) bool { return x.name() == y.name() },
		} {
			for _, y := range b[k] {
				for _, x := range a[k] {
					if x.pair == nil && y.pair == nil && like(x, y) {
						join(x, y)
					}
				}
			}
		}
		joinSingle(a[k], b[k])
	}
}

// joinSingle joins what is left when one is left on each side.
func joinSingle(a, b []*item) {
	left := func(is []*item) []*item {
		return slices.DeleteFunc(slices.Clone(is), func(i *item) bool { return i.pair != nil })
	}
	if x, y := left(a), left(b); len(x) == 1 && len(y) == 1 {
		join(x[0], y[0])
	}
}

// unpaired lists numbered local items without a pair by stem.
func unpaired(v *view, kind itemKind) map[string][]*item {
	m := map[string][]*item{}
	for _, i := range v.all {
		if i.kind != kind || i.pair != nil || !i.local() {
			continue
		}
		if s, numbered := objfile.Stem(i.name()); numbered {
			m[s] = append(m[s], i)
		}
	}
	return m
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// digest is over a function's bytes without relocation fields and branches out of it.
func digest(v *view, i *item) string {
	b := slices.Clone(bytesOf(i.section, i.start, i.end))
	clearFields(v, i, b)
	h := sha256.Sum256(b)
	return string(h[:])
}

// clearFields zeroes what relocations and branches out of an item fill in; b are the item's bytes.
func clearFields(v *view, i *item, b []byte) {
	zero := func(at uint64, n uint8) {
		for k := at - i.start; k < min(at-i.start+uint64(n), uint64(len(b))); k++ {
			b[k] = 0
		}
	}
	for _, r := range v.refsIn(i.section, i.start, i.end) {
		zero(r.At, r.Size)
	}
	for _, br := range v.branchesIn(i.section, i.start, i.end) {
		if br.Target < i.start || br.Target >= i.end {
			zero(br.Field, br.FieldSize)
		}
	}
}

// numbered pairs numbered data by how paired items refer to them: first items whose references are alike from end to
// end, then the others by their longest common subsequence; and again, since paired data refer to data.
func (p *pairer) numbered() {
	for again := true; again; {
		again = false
		for _, exact := range []bool{true, false} {
			for _, y := range p.post.all {
				if x := y.pair; x != nil && p.align(x, y, exact) {
					again = true
				}
			}
		}
	}
}

// rest pairs data that nothing refers to on either side, where one of the name is left on each.
func (p *pairer) rest() {
	a, b := unpaired(p.pre, itemData), unpaired(p.post, itemData)
	ra, rb := referred(p.pre), referred(p.post)
	for _, k := range sortedKeys(b) {
		if !slices.ContainsFunc(a[k], func(i *item) bool { return ra[i] }) && !slices.ContainsFunc(b[k], func(i *item) bool { return rb[i] }) {
			joinSingle(a[k], b[k])
		}
	}
}

// referred is the set of items that functions and data of the kernel refer to.
func referred(v *view) map[*item]bool {
	m := map[*item]bool{}
	for i := range v.o.Desc.Refs {
		r := &v.o.Desc.Refs[i]
		switch v.rules[v.o.File.Sections[r.Section]] {
		case ruleIgnore, ruleQuiet, ruleDrop:
			continue
		}
		if t := v.target(r); t.item != nil {
			m[t.item] = true
		}
	}
	return m
}

// token is one reference, by what can be known of its target before numbered data are paired.
type token struct {
	text string
	item *item // numbered data, else nil
}

// align pairs numbered data that two paired items refer to alike. It reports whether it paired any.
func (p *pairer) align(x, y *item, exact bool) bool {
	a, open := tokens(p.pre, x)
	if !open {
		return false
	}
	b, open := tokens(p.post, y)
	if !open {
		return false
	}
	if exact && !slices.EqualFunc(a, b, func(s, t token) bool { return s.text == t.text }) {
		return false
	}
	any := false
	n, m := distinct(a), distinct(b)
	common(a, b, func(s, t token) {
		if s.item == nil || t.item == nil || s.item.pair != nil || t.item.pair != nil || n[s.text] != m[t.text] {
			return
		}
		if _, known := p.pre.static(s.item); known {
			if _, known = p.post.static(t.item); known {
				return // their declarations do not pair them
			}
		}
		join(s.item, t.item)
		any = true
	})
	return any
}

// distinct counts the numbered data behind each text: where one has come or gone, their order does not tell which.
func distinct(ts []token) map[string]int {
	n, seen := map[string]int{}, map[token]bool{}
	for _, t := range ts {
		if t.item != nil && !seen[t] {
			seen[t] = true
			n[t.text]++
		}
	}
	return n
}

// tokens lists an item's references in order, then those of the table entries that it owns. open says that numbered data without
// a pair are among their targets.
func tokens(v *view, i *item) (out []token, open bool) {
	add := func(prefix string, r *arch.Ref) {
		t := v.target(r)
		k := token{text: prefix + t.String()}
		if t.item != nil && t.item.kind == itemData && t.item.local() {
			if s, numbered := objfile.Stem(t.item.name()); numbered {
				k = token{prefix + s + fmt.Sprintf("%+#x", t.offset), t.item}
				open = open || t.item.pair == nil
			}
		} else if t.item != nil && t.item.kind == itemFunction {
			s, _ := objfile.Stem(t.item.name())
			k.text = prefix + s
		}
		out = append(out, k)
	}
	for _, r := range v.refsIn(i.section, i.start, i.end) {
		add("", r)
	}
	if i.kind != itemFunction {
		return out, open
	}
	for _, e := range v.entriesOf(i.section, i.start, i.end) {
		t := v.o.File.Sections[e.Table]
		for _, r := range v.refsIn(t, e.At, e.At+e.Size) {
			if !ignored(e, r.At-e.At) {
				add(t.Name+" ", r)
			}
		}
	}
	return out, open
}

// ignored says that an offset of an entry says nothing of what the code does.
func ignored(e *arch.TableEntry, offset uint64) bool {
	return slices.ContainsFunc(e.Ignore, func(g arch.Range) bool { return offset >= g.Offset && offset-g.Offset < g.Length })
}

// maxCommon bounds the work of common, in comparisons.
const maxCommon = 1 << 24

// common calls f for each pair of a longest common subsequence of a and b. Beyond maxCommon it takes the common start and end only.
func common(a, b []token, f func(s, t token)) {
	for len(a) > 0 && len(b) > 0 && a[0].text == b[0].text {
		f(a[0], b[0])
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1].text == b[len(b)-1].text {
		f(a[len(a)-1], b[len(b)-1])
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	if len(a) == 0 || len(b) == 0 || len(a)*len(b) > maxCommon {
		return
	}
	width := len(b) + 1
	length := make([]int32, (len(a)+1)*width) // of the subsequence of a[i:] and b[j:]
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i].text == b[j].text {
				length[i*width+j] = length[(i+1)*width+j+1] + 1
			} else {
				length[i*width+j] = max(length[(i+1)*width+j], length[i*width+j+1])
			}
		}
	}
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i].text == b[j].text:
			f(a[i], b[j])
			i, j = i+1, j+1
		case length[(i+1)*width+j] >= length[i*width+j+1]:
			i++
		default:
			j++
		}
	}
}
