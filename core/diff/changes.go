package diff

import (
	"bytes"
	"debug/elf"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
)

// functions compares all paired functions, then spreads the changes: to the pieces of a changed function, and to functions
// that jump into the middle of one.
func (r *Result) functions() {
	why := map[*item]string{} // by post item
	for _, b := range r.post.all {
		if b.kind == itemFunction && b.pair != nil {
			r.compare.within = b
			why[b] = r.compare.items(b.pair, b)
		}
	}
	r.compare.within = nil
	for moved := true; moved; {
		moved = false
		for _, b := range r.post.all {
			if b.kind != itemFunction || b.pair == nil || why[b] != "" {
				continue
			}
			why[b] = r.infected(b, why)
			moved = moved || why[b] != ""
		}
	}
	for _, b := range r.post.all {
		if b.kind != itemFunction {
			continue
		}
		switch {
		case b.pair == nil:
			r.function(FunctionChange{Kind: New, Post: b.symbol, Why: "not in pre"}, b, r.post)
		case why[b] != "":
			r.function(FunctionChange{Kind: Changed, Pre: b.pair.symbol, Post: b.symbol, Why: why[b]}, b, r.post)
		}
	}
	for _, a := range r.pre.all {
		if a.kind != itemFunction || a.pair != nil {
			continue
		}
		c := FunctionChange{Kind: Removed, Pre: a.symbol, Why: "not in post"}
		if p := a.parent; p != nil && p.pair != nil {
			c.Kind = Changed // somebody may be in it
		}
		r.function(c, a, r.pre)
	}
}

// infected says why a function counts as changed although its own code is equal.
func (r *Result) infected(b *item, why map[*item]string) string {
	for _, g := range b.group() {
		switch {
		case g == b:
		case why[g] != "":
			return fmt.Sprintf("%s of it changed: %s", g.name(), why[g])
		case g.pair == nil && g.kind == itemFunction:
			return g.name() + " was split off it"
		}
	}
	for _, g := range b.pair.group() {
		if g.pair == nil {
			return g.name() + " is no longer split off it"
		}
	}
	for _, g := range r.compare.interior[b] {
		if why[g] != "" {
			return fmt.Sprintf("it refers to the middle of %s, which changed", g.name())
		}
	}
	return ""
}

// function records a change of a function, or notes it where its code is not carried.
func (r *Result) function(c FunctionChange, i *item, v *view) {
	c.Name = i.symbol.Name
	if i.parent != nil {
		c.Fragment, c.Parent = true, i.parent.symbol.Name
	}
	switch v.rules[i.section] {
	case ruleDrop, ruleQuiet:
		r.noteDropped(i.section.Name)
		r.note("%s is %s: code of section %s runs when the kernel boots or a module loads or goes: what has run is not replaced", c.Name, c.Kind, i.section.Name)
		return
	case ruleTable:
		return // compared with the entry's owner
	case ruleForbidden:
		r.refuse(c.Name, fmt.Sprintf("code of section %s is %s (%s): it runs where modules are not mapped", i.section.Name, c.Kind, c.Why), "leave that code as it is")
		return
	}
	r.Functions = append(r.Functions, c)
}

// data compares all paired data.
func (r *Result) data() {
	used := referred(r.post)
	for _, b := range r.post.all {
		if b.kind != itemData {
			continue
		}
		switch rule := r.post.rules[b.section]; {
		case rule != ruleData && rule != ruleUnknown:
		case b.pair != nil:
			r.datum(b.pair, b, used[b])
		case !byContent(r.post, b):
			r.Data = append(r.Data, DataChange{Name: b.name(), Kind: New, Why: "not in pre", Post: b.symbol})
		}
	}
	for _, a := range r.pre.all {
		if a.kind == itemData && a.pair == nil && r.pre.rules[a.section] == ruleData && !byContent(r.pre, a) {
			r.Data = append(r.Data, DataChange{Name: a.name(), Kind: Removed, Why: "not in post", Pre: a.symbol})
		}
	}
}

// labels refuses changes of functions into whose middle a datum of run leads that stays: whoever follows it runs on in the old code.
func (r *Result) labels() {
	for _, b := range r.post.all {
		if b.kind != itemData || b.pair == nil || constant(r.post, b) && constant(r.pre, b.pair) {
			continue
		}
		if x := r.pre.rules[b.pair.section]; x != ruleData && x != ruleUnknown {
			continue
		}
		for _, f := range labelled(r.pre, b.pair) {
			if r.isChanged(f) {
				r.refuse(f.name(), fmt.Sprintf("it changes, and %s holds the address of a place inside it, in the running kernel too", b.name()),
					"leave the function as it is, or make the table a constant of the function's own")
			}
		}
	}
}

// entries refuses changes of functions that have a global entry in their middle (SYM_INNER_LABEL of include/linux/linkage.h): who comes in
// there would run on in the old code. A redirect at the beginning does not reach them.
func (r *Result) entries() {
	for _, y := range r.pre.o.File.Symbols[1:] {
		if y.Section == nil || y.Bind == elf.STB_LOCAL || y.Name == "" || y.Type == elf.STT_SECTION || r.pre.rules[y.Section] != ruleCode {
			continue
		}
		to := r.pre.at(y.Section, int64(y.Value))
		if to.item == nil || to.item.kind != itemFunction || to.offset <= 0 || uint64(to.offset) >= to.item.size() || !r.isChanged(to.item) {
			continue
		}
		r.refuse(to.item.name(), fmt.Sprintf("it changes, and other code enters it at %s, %#x bytes behind its beginning, where no redirect can be", y.Name, to.offset),
			"leave the function as it is")
	}
}

// isChanged says that a function of pre is replaced, or goes.
func (r *Result) isChanged(a *item) bool {
	return slices.ContainsFunc(r.Functions, func(f FunctionChange) bool { return f.Pre != nil && r.pre.bySymbol[f.Pre] == a })
}

// datum compares a datum of run with what post makes of it. used says that code or other data refer to it.
func (r *Result) datum(a, b *item, used bool) {
	if x, y := dataClass(a), dataClass(b); x != y {
		if why := misplaced(a, b); why != "" {
			r.refuseState(b.name(), why, "keep it where it is, or give what is new a variable of its own")
			return
		}
		r.note("%s moves from section %s to %s: the existing variable stays where it is", b.name(), x, y)
	}
	why := r.compare.items(a, b)
	if why == "" || constant(r.post, b) && !used {
		return
	}
	c := DataChange{Name: b.name(), Kind: Changed, Why: why, Pre: a.symbol, Post: b.symbol, Bytes: r.differs(a, b)}
	r.Data = append(r.Data, c)
	switch {
	case constant(r.pre, a) && constant(r.post, b):
		// Code that uses it counts as changed and takes the new constant along.
	case a.size() != b.size():
		r.refuseState(c.Name, fmt.Sprintf("the datum's %s: the running kernel has the old one", why), "keep its size, or keep what is new in shadow fields or in a variable of its own")
	default:
		from, to := uint64(0), uint64(0)
		if n := len(c.Bytes); n > 0 {
			from, to = c.Bytes[0], c.Bytes[n-1]+1
		}
		r.refuseState(c.Name, fmt.Sprintf("changed initialiser of live data, bytes %#x to %#x: %s: the running kernel's datum was initialised long ago",
			from, to, why), "leave the initialiser as it is, or have a transform plugin carry it")
		r.Refusals[len(r.Refusals)-1].Initialiser = rewritable(a, b)
	}
}

// misplaced says why new code could not use an existing datum that changes its section.
func misplaced(a, b *item) string {
	perCPU := func(i *item) bool { return strings.HasPrefix(dataClass(i), ".data..percpu") }
	// mark_rodata_ro() protects .data..ro_after_init too, once the kernel has booted (arch/x86/mm/init_64.c).
	protected := func(i *item) bool { return !i.writable() || dataClass(i) == ".data..ro_after_init" }
	freed := func(i *item) bool { return hasPrefix(i.section.Name, dropped) }
	switch {
	case freed(a) && !freed(b):
		return "the datum outlives the boot now: the running kernel freed it"
	case perCPU(a) && !perCPU(b):
		return "the datum is no per-CPU variable any more: in the running kernel it is"
	case !perCPU(a) && perCPU(b):
		return "the datum becomes a per-CPU variable: in the running kernel it is none"
	case protected(a) && !protected(b):
		return "the datum becomes writable: in the running kernel it is write-protected"
	}
	return ""
}

// aliases refuses global names that lead somewhere else in post than what they name in pre: whoever else uses the name in run would not
// follow.
func (r *Result) aliases() {
	was := map[string]*item{}
	for _, a := range r.pre.all {
		for _, y := range a.names {
			if y.Bind != elf.STB_LOCAL && r.pre.rules[a.section] != ruleDrop {
				was[y.Name] = a
			}
		}
	}
	for _, b := range r.post.all {
		if x := r.post.rules[b.section]; x != ruleCode && x != ruleData {
			continue
		}
		for _, y := range b.names {
			a := was[y.Name]
			if y.Bind == elf.STB_LOCAL || a == nil || a == b.pair {
				continue
			}
			r.refuse(y.Name, fmt.Sprintf("the name is %s's now, it was %s's: other code of the running kernel uses it as it was", b.name(), a.name()),
				"leave aliases as they are, and give what is new a name of its own")
		}
	}
}

// dataClass is a data section's name without what -fdata-sections adds.
func dataClass(i *item) string {
	n := i.section.Name
	for _, p := range []string{".data..", ".bss.."} {
		if strings.HasPrefix(n, p) {
			return n
		}
	}
	for _, p := range []string{".data.", ".bss.", ".rodata."} {
		if strings.HasPrefix(n, p) && strings.Contains(n, i.name()) {
			return strings.TrimSuffix(p, ".")
		}
	}
	return n
}

// differs lists the bytes that are not the same in both.
func (r *Result) differs(a, b *item) []uint64 {
	x, y := masked(r.pre, a), masked(r.post, b)
	found := map[uint64]bool{}
	mark := func(from, to uint64) {
		for ; from < to; from++ {
			found[from] = true
		}
	}
	for k := range uint64(max(len(x), len(y))) {
		if k >= uint64(len(x)) || k >= uint64(len(y)) || x[k] != y[k] {
			found[k] = true
		}
	}
	pm, qm := refsAt(r.pre, a), refsAt(r.post, b)
	for k, f := range pm {
		if g := qm[k]; g == nil || r.compare.places(r.pre.target(f), r.post.target(g)) != "" {
			mark(k, k+uint64(f.Size))
		}
	}
	for k, g := range qm {
		if pm[k] == nil {
			mark(k, k+uint64(g.Size))
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// refsAt are an item's references by their places in it.
func refsAt(v *view, i *item) map[uint64]*arch.Ref {
	m := map[uint64]*arch.Ref{}
	for _, f := range v.refsIn(i.section, i.start, i.end) {
		m[f.At-i.start] = f
	}
	return m
}

// sections compares the sections that are not carried by symbol: dropped ones for the notes, unknown ones for refusals.
func (r *Result) sections() {
	group := func(v *view) map[string][]*objfile.Section {
		m := map[string][]*objfile.Section{}
		for _, s := range v.o.File.Sections[1:] {
			if x := v.rules[s]; x == ruleUnknown || x == ruleDrop && s.Flags&elf.SHF_EXECINSTR == 0 {
				m[s.Name] = append(m[s.Name], s)
			}
		}
		return m
	}
	a, b := group(r.pre), group(r.post)
	names := sortedKeys(a)
	for _, n := range sortedKeys(b) {
		if a[n] == nil {
			names = append(names, n)
		}
	}
	for _, n := range names {
		why := r.wholeSections(a[n], b[n])
		if why == "" {
			continue
		}
		x := slices.Concat(b[n], a[n])[0]
		if ruleOf(x, false, false) == ruleUnknown {
			r.refuse(n, "section changed and no rule says what that means: "+why, "leave out the part of the patch that adds to this section")
			continue
		}
		r.noteDropped(n)
		if !strings.HasPrefix(n, ".modinfo") {
			r.note("section %s changed (%s): it counts only when the kernel boots or a module loads", n, why)
		}
	}
}

// loose compares code that no symbol covers, section by section. Padding does not count: it is shorter than its section's
// alignment and refers to nothing.
func (r *Result) loose() {
	regions := func(v *view) map[string][]*item {
		m := map[string][]*item{}
		for _, s := range v.o.File.Sections[1:] {
			if x := v.rules[s]; x != ruleCode && x != ruleForbidden {
				continue
			}
			for k, i := range v.items[s] {
				pad := uint64(0) // of the function behind it
				if k+1 < len(v.items[s]) {
					pad = v.items[s][k+1].pad
				}
				if i.kind == itemRegion && (i.size() >= pad+max(s.Align, 1) || len(v.refsIn(s, i.start, i.end)) > 0) {
					m[s.Name] = append(m[s.Name], i)
				}
			}
		}
		return m
	}
	a, b := regions(r.pre), regions(r.post)
	names := sortedKeys(a)
	for _, n := range sortedKeys(b) {
		if a[n] == nil {
			names = append(names, n)
		}
	}
	for _, n := range names {
		why := fmt.Sprintf("%d pieces -> %d", len(a[n]), len(b[n]))
		if len(a[n]) == len(b[n]) {
			why = ""
			for k := range a[n] {
				if why = r.compare.items(a[n][k], b[n][k]); why != "" {
					break
				}
			}
		}
		if why != "" {
			r.refuse(n, "code that belongs to no function changed: "+why, "give it a function's symbol, or leave it as it is")
		}
	}
}

// wholeSections compares sections of one name by content.
func (r *Result) wholeSections(a, b []*objfile.Section) string {
	if len(a) != len(b) {
		return fmt.Sprintf("%d sections -> %d", len(a), len(b))
	}
	for k := range a {
		x := &item{kind: itemRegion, section: a[k], end: a[k].Size}
		y := &item{kind: itemRegion, section: b[k], end: b[k].Size}
		if a[k].Size != b[k].Size {
			return fmt.Sprintf("size %d -> %d", a[k].Size, b[k].Size)
		}
		if !bytes.Equal(masked(r.pre, x), masked(r.post, y)) {
			return "its bytes"
		}
		if why := r.compare.references(x, y); why != "" {
			return why
		}
	}
	return ""
}
