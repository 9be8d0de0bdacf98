package diff

import (
	"bytes"
	"cmp"
	"debug/elf"
	"fmt"
	"slices"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
)

// comparer compares items of two objects and remembers the verdicts.
type comparer struct {
	pre, post *view
	verdicts  map[[2]*item]string // "" is equal
	open      map[[2]*item]bool
	assumed   int // how often a verdict that is still open was taken for equal
	// interior lists, by post function, the other functions into whose middle it refers.
	interior map[*item][]*item
	within   *item // the post function being compared
}

func newComparer(pre, post *view) *comparer {
	return &comparer{pre: pre, post: post, verdicts: map[[2]*item]string{}, open: map[[2]*item]bool{}, interior: map[*item][]*item{}}
}

// items compares two items by content. It returns the first reason why they differ, "" when they do not.
func (c *comparer) items(a, b *item) string {
	key := [2]*item{a, b}
	if why, ok := c.verdicts[key]; ok {
		return why
	}
	if c.open[key] {
		c.assumed++
		return ""
	}
	c.open[key] = true
	before := c.assumed
	why := c.content(a, b)
	delete(c.open, key)
	if why != "" || c.assumed == before || len(c.open) == 0 {
		c.verdicts[key] = why
	}
	return why
}

func (c *comparer) content(a, b *item) string {
	if a.size() != b.size() {
		return fmt.Sprintf("size %d -> %d", a.size(), b.size())
	}
	if x, y := codeClass(a.section.Name), codeClass(b.section.Name); a.kind == itemFunction && x != y {
		return fmt.Sprintf("section %s -> %s", x, y)
	}
	x, y := masked(c.pre, a), masked(c.post, b)
	if !bytes.Equal(x, y) {
		return fmt.Sprintf("bytes at %+#x", firstDifference(x, y))
	}
	if why := c.references(a, b); why != "" {
		return why
	}
	if a.kind == itemFunction || a.kind == itemEntry {
		return c.tables(a, b)
	}
	return ""
}

// masked returns an item's bytes without what relocations fill in, and without what table entries ignore.
func masked(v *view, i *item) []byte {
	b := slices.Clone(bytesOf(i.section, i.start, i.end))
	clearFields(v, i, b)
	if i.kind != itemData {
		return b
	}
	for _, e := range v.tables[i.section] {
		for _, g := range e.Ignore {
			for at := e.At + g.Offset; at < e.At+g.Offset+g.Length; at++ {
				if at >= i.start && at < i.end {
					b[at-i.start] = 0
				}
			}
		}
	}
	return b
}

func firstDifference(x, y []byte) int {
	for i := range x {
		if x[i] != y[i] {
			return i
		}
	}
	return len(x)
}

// references compares the references and the branches of two items of one size.
func (c *comparer) references(a, b *item) string {
	x, y := c.pre.refsIn(a.section, a.start, a.end), c.post.refsIn(b.section, b.start, b.end)
	for k := 0; k < len(x) && k < len(y); k++ {
		if x[k].At-a.start != y[k].At-b.start || !sameField(x[k], y[k]) {
			return fmt.Sprintf("relocation at %+#x", min(x[k].At-a.start, y[k].At-b.start))
		}
		if why := c.places(c.pre.target(x[k]), c.post.target(y[k])); why != "" {
			return fmt.Sprintf("reference at %+#x: %s", x[k].At-a.start, why)
		}
	}
	if len(x) != len(y) {
		return fmt.Sprintf("%d relocations -> %d", len(x), len(y))
	}
	out := func(v *view, i *item) []*arch.Branch {
		return slices.DeleteFunc(v.branchesIn(i.section, i.start, i.end), func(b *arch.Branch) bool { return b.Target >= i.start && b.Target < i.end })
	}
	p, q := out(c.pre, a), out(c.post, b)
	for k := 0; k < len(p) && k < len(q); k++ {
		if p[k].Field-a.start != q[k].Field-b.start {
			return fmt.Sprintf("branch at %+#x", min(p[k].At-a.start, q[k].At-b.start))
		}
		if why := c.places(c.pre.at(a.section, int64(p[k].Target)), c.post.at(b.section, int64(q[k].Target))); why != "" {
			return fmt.Sprintf("branch at %+#x: %s", p[k].At-a.start, why)
		}
	}
	if len(p) != len(q) {
		return fmt.Sprintf("%d branches out of it -> %d", len(p), len(q))
	}
	return ""
}

// sameField says that two references are of one form. A branch to a local symbol and one to a global symbol may have different
// relocations (R_X86_64_PC32 and PLT32) of the same meaning.
func sameField(a, b *arch.Ref) bool {
	return a.Type == b.Type || a.Kind == arch.RefBranch && b.Kind == arch.RefBranch && a.PCRel == b.PCRel && a.Size == b.Size
}

// places says whether two places mean the same: "" or what they are.
func (c *comparer) places(p, q place) string {
	differ := fmt.Sprintf("%s -> %s", p, q)
	if p.item == nil || q.item == nil {
		if p == q {
			return ""
		}
		return differ
	}
	a, b := p.item, q.item
	if a.kind != b.kind || p.offset != q.offset && a.kind != itemMerged {
		return differ
	}
	switch a.kind {
	case itemMerged:
		return c.merged(p, q)
	case itemEntry, itemRegion:
		if a.writable() != b.writable() || a.writable() && a.section.Name != b.section.Name {
			return differ
		}
		if why := c.items(a, b); why != "" {
			return fmt.Sprintf("%s: %s", p, why)
		}
	case itemFunction:
		if a.pair != b {
			return differ
		}
		if q.offset != 0 && c.within != nil && !slices.Contains(c.within.group(), b) {
			c.interior[c.within] = append(c.interior[c.within], b)
		}
	case itemData:
		if constant(c.post, b) && constant(c.pre, a) {
			if why := c.items(a, b); why != "" {
				return fmt.Sprintf("constant %s: %s", p, why)
			}
			if a.pair == b || byContent(c.post, b) && byContent(c.pre, a) {
				return ""
			}
		}
		if a.pair != b {
			return differ
		}
	}
	return ""
}

// merged compares strings and constants by content.
func (c *comparer) merged(p, q place) string {
	a, b := p.item, q.item
	if a.section.Flags&elf.SHF_STRINGS != b.section.Flags&elf.SHF_STRINGS || a.section.EntSize != b.section.EntSize ||
		!bytes.Equal(bytesOf(a.section, a.start+uint64(p.offset), a.end), bytesOf(b.section, b.start+uint64(q.offset), b.end)) {
		return fmt.Sprintf("%s -> %s", p, q)
	}
	return ""
}

// constant says that a datum is read-only, known to this unit only and without pointers to functions: a copy is as good as it.
// Places inside a function (computed goto) are no pointers that anybody else could use.
func constant(v *view, i *item) bool {
	if i.kind != itemData || i.writable() || !i.local() || v.rules[i.section] != ruleData {
		return false
	}
	return !slices.ContainsFunc(v.refsIn(i.section, i.start, i.end), func(r *arch.Ref) bool {
		t := v.target(r)
		return t.item == nil || t.item.kind == itemFunction && !inside(t)
	})
}

// inside says that a place in a function is not where it is called.
func inside(t place) bool { return t.offset != 0 || t.item.parent != nil }

// labelled lists the functions into whose middle an item that is no code refers.
func labelled(v *view, i *item) []*item {
	var out []*item
	for _, r := range v.refsIn(i.section, i.start, i.end) {
		if t := v.target(r); t.item != nil && t.item.kind == itemFunction && inside(t) && !slices.Contains(out, t.item) {
			out = append(out, t.item)
		}
	}
	return out
}

// byContent says that a datum is a constant without an identity: __func__.5, CSWTCH.12.
func byContent(v *view, i *item) bool {
	_, numbered := objfile.Stem(i.name())
	return numbered && constant(v, i) && len(v.refsIn(i.section, i.start, i.end)) == 0
}

// owned is one table entry that a function owns.
type owned struct {
	entry *arch.TableEntry
	table *objfile.Section
	at    uint64 // place in the owner; entries that begin before it count from its start
}

func ownedBy(v *view, i *item) map[string][]owned {
	m := map[string][]owned{}
	for _, e := range v.entriesOf(i.section, i.start, i.end) {
		if e.OwnerOffset >= i.end {
			continue
		}
		t := v.o.File.Sections[e.Table]
		m[t.Name] = append(m[t.Name], owned{e, t, max(e.OwnerOffset, i.start) - i.start})
	}
	for _, l := range m {
		slices.SortStableFunc(l, func(a, b owned) int { return cmp.Compare(a.at, b.at) })
	}
	return m
}

// tables compares the table entries that two items own.
func (c *comparer) tables(a, b *item) string {
	x, y := ownedBy(c.pre, a), ownedBy(c.post, b)
	for _, t := range sortedKeys(x) {
		if len(x[t]) != len(y[t]) {
			return fmt.Sprintf("table %s: %d entries -> %d", t, len(x[t]), len(y[t]))
		}
		for k := range x[t] {
			if why := c.entries(x[t][k], y[t][k]); why != "" {
				return fmt.Sprintf("table %s: entry for %+#x: %s", t, x[t][k].at, why)
			}
		}
	}
	for _, t := range sortedKeys(y) {
		if x[t] == nil {
			return fmt.Sprintf("table %s: 0 entries -> %d", t, len(y[t]))
		}
	}
	return ""
}

func (c *comparer) entries(a, b owned) string {
	if a.at != b.at {
		return fmt.Sprintf("it is for %+#x now", b.at)
	}
	if a.entry.Size != b.entry.Size {
		return fmt.Sprintf("size %d -> %d", a.entry.Size, b.entry.Size)
	}
	x, rx := entryContent(c.pre, a)
	y, ry := entryContent(c.post, b)
	if !bytes.Equal(x, y) {
		return fmt.Sprintf("bytes at %+#x", firstDifference(x, y))
	}
	if len(rx) != len(ry) {
		return fmt.Sprintf("%d relocations -> %d", len(rx), len(ry))
	}
	for k := range rx {
		p, q := c.pre.target(rx[k]), c.post.target(ry[k])
		if names(c.pre, a, rx[k]) && names(c.post, b, ry[k]) {
			continue
		}
		if why := c.places(p, q); why != "" {
			return why
		}
	}
	return ""
}

// names says that a reference of an entry is the one that names its owner.
func names(v *view, o owned, r *arch.Ref) bool {
	y := v.o.File.Symbols[r.Symbol]
	return y.Section != nil && uint32(y.Section.Index) == o.entry.Owner && y.Value+uint64(r.Offset) == o.entry.OwnerOffset
}

// entryContent returns what counts of an entry: its bytes and its references.
func entryContent(v *view, o owned) ([]byte, []*arch.Ref) {
	e := o.entry
	b := slices.Clone(bytesOf(o.table, e.At, e.At+e.Size))
	refs := slices.DeleteFunc(slices.Clone(v.refsIn(o.table, e.At, e.At+e.Size)), func(r *arch.Ref) bool { return ignored(e, r.At-e.At) })
	for _, g := range e.Ignore {
		clear(b[min(g.Offset, e.Size):min(g.Offset+g.Length, e.Size)])
	}
	for _, r := range refs {
		clear(b[min(r.At-e.At, e.Size):min(r.At-e.At+uint64(r.Size), e.Size)])
	}
	return b, refs
}
