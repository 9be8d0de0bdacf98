package diff

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Closure is what a part must hold of a post object: changed and new code, what that code needs of its own, and the table
// entries that it owns.
type Closure struct {
	// Pieces are in order of section and place; entries of one table that serve several pieces in order of those.
	Pieces []*Piece
	// New names functions and data that are new, Escapes those of them whose address may be held beyond the part's life.
	// Both are sorted.
	New, Escapes []string
	// Writes are values that data of run get, in order of datum and place.
	Writes []Write
	// Hooks are in the order in which they run.
	Hooks []ClosureHook

	r       *Result
	byItem  map[*item]*Piece
	newSet  map[string]bool
	escapes map[string]bool
}

// Piece is a stretch of a section of post that goes into the part.
type Piece struct {
	Section *objfile.Section
	// Start and End are offsets in Section; Code begins at Entry, behind a pad.
	Start, Entry, End uint64
	// Symbols are those of post at Entry, for names in the part; none for anonymous data and table entries.
	Symbols []*objfile.Symbol
	// Change is set for functions and pieces of functions that replace others; it is another unit's for a function that moved here.
	Change *FunctionChange
	// Shared says that other units can name it: it is new and global.
	Shared bool
	// Table says that it is an entry of a table; Owner is then the piece it is about.
	Table bool
	Owner *Piece
	// References are what the piece refers to, by place.
	References []Reference

	item  *item
	entry *arch.TableEntry
}

// Code says that the piece is executed.
func (p *Piece) Code() bool { return p.Section.Flags&elf.SHF_EXECINSTR != 0 }

// Reference is a field of a piece that refers to something.
type Reference struct {
	// At is the field's place in the section of post, Size its width in bytes.
	At   uint64
	Size uint8
	// Type is the relocation's type; Resolved says that the assembler resolved the field, which then is the displacement of a
	// branch and needs a relocation made for it, and Type is 0.
	Type     uint32
	Resolved bool
	Target   Target
}

// Target is what a reference leads to: a piece of the part, something that run has, or a name that only others know.
// Addend is the relocation's for a symbol at the piece's Start, at Pre, or at Name.
type Target struct {
	// Piece is set for what goes along.
	Piece *Piece
	// Pre is set for what run has: a symbol of the pre object, defined there or not.
	Pre *objfile.Symbol
	// Name is the symbol's name, for what only the new code names.
	Name   string
	Addend int64
	// Absolute says that the value is known: it is Addend.
	Absolute bool
	// Key says that it is the static key that a jump table's entry names.
	Key bool
	// Address says that it takes an address that may be a function's.
	Address bool
}

// Closure returns what the part needs. Results with Refusals have none.
func (r *Result) Closure() (*Closure, error) {
	if len(r.Refusals) > 0 {
		x := r.Refusals[0]
		return nil, fmt.Errorf("closure of %s: %s: %s", r.post.o.Name, x.Where, x.Reason)
	}
	c := &Closure{r: r, byItem: map[*item]*Piece{}, newSet: map[string]bool{}, escapes: map[string]bool{}}
	for _, i := range r.post.all {
		change := r.changed[i]
		shared := i.pair == nil && !i.local() && (i.kind == itemFunction || i.kind == itemData) && !c.unused(i)
		if change == nil && !shared {
			continue
		}
		if _, err := c.piece(i); err != nil {
			return nil, fmt.Errorf("closure of %s: %w", r.post.o.Name, err)
		}
	}
	if err := c.writes(); err != nil {
		return nil, fmt.Errorf("closure of %s: %w", r.post.o.Name, err)
	}
	if err := c.hooks(); err != nil {
		return nil, fmt.Errorf("closure of %s: %w", r.post.o.Name, err)
	}
	// Pieces grows while we walk it.
	for k := 0; k < len(c.Pieces); k++ {
		if err := c.walk(c.Pieces[k]); err != nil {
			return nil, fmt.Errorf("closure of %s: %w", r.post.o.Name, err)
		}
	}
	c.findEarly()
	c.sort()
	return c, nil
}

// unused says that nothing of an item's section reaches the part.
func (c *Closure) unused(i *item) bool {
	switch c.r.post.rules[i.section] {
	case ruleCode, ruleData:
		return false
	}
	return true
}

// SectionIndices returns the numbers of the sections of post that pieces come from, ascending.
func (c *Closure) SectionIndices() []uint32 {
	var out []uint32
	for _, p := range c.Pieces {
		out = append(out, uint32(p.Section.Index))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Symbol resolves a symbol of post by its number, with the addend of a relocation against it; for relocations that fixing up
// adds.
func (c *Closure) Symbol(index uint32, addend int64) (Target, error) {
	if uint64(index) >= uint64(len(c.r.post.o.File.Symbols)) {
		return Target{}, fmt.Errorf("%w: symbol %d", errDescription, index)
	}
	return c.resolve(&Piece{}, &arch.Ref{Symbol: index, Addend: addend})
}

// Named resolves a name that post does not have.
func (c *Closure) Named(name string, addend int64) Target {
	return c.external(name, addend)
}

// piece takes an item into the part.
func (c *Closure) piece(i *item) (*Piece, error) {
	if p := c.byItem[i]; p != nil {
		return p, nil
	}
	p := &Piece{Section: i.section, Start: i.start - i.pad, Entry: i.start, End: i.end, Symbols: i.names, item: i}
	switch rule := c.r.post.rules[i.section]; rule {
	case ruleCode, ruleData, ruleMerged:
	case ruleTable:
		if i.kind != itemEntry && i.kind != itemRegion {
			return nil, fmt.Errorf("new code refers to %s in table section %s: no rule says how to carry it", i.name(), i.section.Name)
		}
	default:
		return nil, fmt.Errorf("new code refers to %s in section %s, which cannot be carried in a part: keep such definitions out of the patch", i.name(), i.section.Name)
	}
	if alone(c.r.post, i) { // the padding of its section goes along
		p.Start, p.End = 0, i.section.Size
	}
	if i.kind == itemFunction {
		p.Change = c.r.changed[i]
	}
	named := i.kind == itemFunction && i.parent == nil || i.kind == itemData && !byContent(c.r.post, i)
	if named && i.pair == nil && c.r.changed[i] == nil {
		p.Shared = !i.local()
		c.newSet[i.name()] = true
	}
	c.byItem[i] = p
	c.Pieces = append(c.Pieces, p)
	return p, nil
}

// alone says that an item is the only one of its section, but for padding.
func alone(v *view, i *item) bool {
	return (i.kind == itemFunction || i.kind == itemData) &&
		!slices.ContainsFunc(v.items[i.section], func(o *item) bool { return o != i && o.kind != itemRegion })
}

// walk finds what a piece refers to and which table entries it owns.
func (c *Closure) walk(p *Piece) error {
	v := c.r.post
	for _, ref := range v.refsIn(p.Section, p.Start, p.End) {
		t, err := c.reference(p, ref)
		if err != nil {
			return fmt.Errorf("%s: reference at %+#x: %w", c.describe(p), ref.At-p.Entry, err)
		}
		p.References = append(p.References, Reference{At: ref.At, Size: ref.Size, Type: ref.Type, Target: t})
	}
	if p.Table && !p.Code() {
		return nil
	}
	for _, b := range v.branchesIn(p.Section, p.Start, p.End) {
		if b.Target >= p.Start && b.Target < p.End {
			continue
		}
		if b.FieldSize != 4 {
			return fmt.Errorf("%s: the branch at %+#x has a displacement of %d bytes, which cannot reach what stays in the running kernel",
				c.describe(p), b.At-p.Entry, b.FieldSize)
		}
		// As a relocation: the target, less what lies between the field and the instruction's end.
		bias := int64(b.At) + int64(b.Length) - int64(b.Field)
		t, err := c.place(p, v.at(p.Section, int64(b.Target)), nil, -bias)
		if err != nil {
			return fmt.Errorf("%s: branch at %+#x: %w", c.describe(p), b.At-p.Entry, err)
		}
		p.References = append(p.References, Reference{At: b.Field, Size: b.FieldSize, Resolved: true, Target: t})
	}
	slices.SortStableFunc(p.References, func(a, b Reference) int { return cmp.Compare(a.At, b.At) })
	if p.Code() {
		c.takeEntries(p)
	}
	return nil
}

// takeEntries takes along the table entries that a piece of code owns.
func (c *Closure) takeEntries(p *Piece) {
	for _, e := range c.r.post.entriesOf(p.Section, p.Start, p.End) {
		t := c.r.post.o.File.Sections[e.Table]
		if t.Flags&elf.SHF_EXECINSTR != 0 {
			continue // taken along when something refers to it
		}
		c.Pieces = append(c.Pieces, &Piece{Section: t, Start: e.At, Entry: e.At, End: e.At + e.Size, Table: true, Owner: p, entry: e})
	}
}

// reference resolves a reference of a piece and notes escaping addresses.
func (c *Closure) reference(p *Piece, ref *arch.Ref) (Target, error) {
	if p.Table && p.Owner != nil && names(c.r.post, owned{entry: p.entry}, ref) {
		at := min(max(p.entry.OwnerOffset, p.Owner.Start), p.Owner.End)
		return Target{Piece: p.Owner, Addend: ref.Addend - ref.Offset + int64(at-p.Owner.Start)}, nil
	}
	t, err := c.resolve(p, ref)
	if err != nil {
		return t, err
	}
	t.Key = c.r.post.keys[ref]
	t.Address = ref.Kind == arch.RefAddress && (!p.Table || p.Code())
	if t.Address && t.Pre != nil {
		if t, err = c.landing(ref, t); err != nil {
			return t, err
		}
	}
	if t.Piece != nil {
		c.escape(p, ref, t.Piece)
	}
	return t, nil
}

// landing gives a newly taken address of a replaced function: the replacement's, where only that begins with a landing pad. An
// indirect branch to the old entry would fault on a machine that tracks them, and nobody in run holds its address.
func (c *Closure) landing(ref *arch.Ref, t Target) (Target, error) {
	y := c.r.post.o.File.Symbols[ref.Symbol]
	if y.Section == nil {
		return t, nil
	}
	to := c.r.post.at(y.Section, int64(y.Value)+ref.Offset)
	i := to.item
	if i == nil || i.kind != itemFunction || to.offset != 0 || c.r.changed[i] == nil || i.pair == nil || i.pair.landing || !i.landing {
		return t, nil
	}
	p, err := c.piece(i)
	if err != nil {
		return t, err
	}
	c.escapes[i.name()] = true
	return Target{Piece: p, Addend: int64(i.start-p.Start) + ref.Addend - ref.Offset, Address: true}, nil
}

// escape notes that a new thing's address is taken. Of data that are only read and written in place no address gets about;
// constants without pointers are as good as gone with their code; and debug descriptors are the loader's to take back.
func (c *Closure) escape(p *Piece, ref *arch.Ref, to *Piece) {
	i := to.item
	if i == nil || i.pair != nil || p.Table && !p.Code() || p == to || forgotten(p, i) {
		return
	}
	switch i.kind {
	case itemFunction:
		if i.parent == nil && ref.Kind != arch.RefBranch {
			c.escapes[i.name()] = true
		}
	case itemData:
		if ref.Kind == arch.RefMemory || ref.Kind == arch.RefBranch || i.section.Name == debugSection || constant(c.r.post, i) {
			return
		}
		c.escapes[i.name()] = true
	}
}

// resolve finds what a reference leads to.
func (c *Closure) resolve(p *Piece, ref *arch.Ref) (Target, error) {
	y := c.r.post.o.File.Symbols[ref.Symbol]
	switch {
	case y.Section != nil:
		to := c.r.post.target(ref)
		if err := c.certain(ref, to); err != nil {
			return Target{}, err
		}
		return c.place(p, to, y, ref.Addend-ref.Offset)
	case y.Special == elf.SHN_ABS:
		return Target{Absolute: true, Addend: int64(y.Value) + ref.Addend}, nil
	case y.Special == elf.SHN_UNDEF && y.Name != "":
		return c.external(y.Name, ref.Addend), nil
	}
	return Target{}, fmt.Errorf("symbol %s is neither defined nor undefined", y)
}

// certain refuses a reference that may mean one of several data, unless all of them stay where they are to each other.
func (c *Closure) certain(ref *arch.Ref, to place) error {
	if to.item == nil {
		return nil
	}
	for _, o := range c.r.post.others(ref) {
		x, y := to.item.pair, o.item.pair
		if to.item.kind == itemRegion {
			x = c.preRegion(to.item)
		}
		if x == nil || y == nil || x.section != y.section || int64(x.start)+to.offset != int64(y.start)+o.offset {
			return fmt.Errorf("it leads to %s or to %s, and the running kernel does not have them as near to each other: give what is new in section %s another section",
				to, o, to.item.section.Name)
		}
	}
	return nil
}

func (c *Closure) external(name string, addend int64) Target {
	if i := c.r.pre.o.File.Symbol(name); i != nil && i.Bind != elf.STB_LOCAL {
		return Target{Pre: i, Name: name, Addend: addend}
	}
	return Target{Name: name, Addend: addend}
}

// place decides where a place of post is for the part: in it, or in run. y is the symbol that the reference names, nil for
// none; bias is what the addend has beyond the place meant.
func (c *Closure) place(from *Piece, to place, y *objfile.Symbol, bias int64) (Target, error) {
	i := to.item
	if i == nil {
		return Target{}, fmt.Errorf("nothing is at %s", to)
	}
	stays, err := c.stays(from, to)
	if err != nil {
		return Target{}, err
	}
	if !stays {
		p, err := c.piece(i)
		if err != nil {
			return Target{}, err
		}
		return Target{Piece: p, Addend: to.offset + int64(i.start-p.Start) + bias}, nil
	}
	if i.pair == nil { // it moved here: the unit that had it names it
		return Target{Name: i.name(), Addend: to.offset + bias}, nil
	}
	pre := c.preSymbol(i, y)
	if pre == nil {
		return Target{}, fmt.Errorf("pre has no symbol for %s", to)
	}
	return Target{Pre: pre, Name: pre.Name, Addend: to.offset + int64(i.pair.start) - int64(pre.Value) + bias}, nil
}

// stays says whether a place is to be found in run.
func (c *Closure) stays(from *Piece, to place) (bool, error) {
	i := to.item
	v := c.r.post
	switch i.kind {
	case itemMerged, itemEntry:
		return false, nil
	case itemRegion:
		if !i.writable() {
			return false, nil
		}
		i.pair = c.preRegion(i)
		if i.pair == nil {
			return false, fmt.Errorf("%s has no name and no counterpart in pre", to)
		}
		return true, nil
	case itemData:
		if i.pair == nil || byContent(v, i) {
			return false, nil
		}
		if !constant(v, i) {
			return true, nil
		}
		// A table of labels leads into the function that it is of.
		replaced := slices.ContainsFunc(labelled(v, i), func(f *item) bool { return c.r.changed[f] != nil })
		return !replaced && c.r.compare.items(i.pair, i) == "", nil
	}
	changed := c.r.changed[i] != nil
	switch {
	case i.pair == nil && !changed:
		return false, nil
	case !changed:
		return true, nil
	case from.Table && !from.Code():
		return false, nil
	case to.offset == 0 && i.parent == nil:
		return true, nil
	}
	within := from.item == nil || from.item.kind != itemFunction && from.item.kind != itemData || slices.Contains(from.item.group(), i) ||
		constant(v, from.item)
	if !within {
		return false, fmt.Errorf("it leads into the middle of %s, which is replaced", i.name())
	}
	return false, nil
}

// preRegion finds the bytes of pre that writable bytes of post without a name continue: those of the only section of the name.
func (c *Closure) preRegion(i *item) *item {
	var found *item
	for _, s := range c.r.pre.o.File.Sections[1:] {
		if s.Name != i.section.Name {
			continue
		}
		for _, x := range c.r.pre.items[s] {
			if x.kind == itemRegion && x.start == i.start && x.end == i.end {
				if found != nil {
					return nil
				}
				found = x
			}
		}
	}
	return found
}

// preSymbol is the symbol of pre that gives an item's run value: the one of the name that post uses, else the item's own.
func (c *Closure) preSymbol(i *item, y *objfile.Symbol) *objfile.Symbol {
	a := i.pair
	if y != nil && y.Type != elf.STT_SECTION {
		for _, x := range a.names {
			if x.Name == y.Name {
				return x
			}
		}
	}
	if a.symbol != nil {
		return a.symbol
	}
	for _, x := range c.r.pre.o.File.Symbols[1:] {
		if x.Section == a.section {
			return x
		}
	}
	return nil
}

func (c *Closure) describe(p *Piece) string {
	if p.item != nil {
		return p.item.name()
	}
	return fmt.Sprintf("%s%+#x", p.Section.Name, p.Start)
}

// sort puts everything in order.
func (c *Closure) sort() {
	order := map[*Piece]int{}
	place := func(a, b *Piece) int {
		return cmp.Or(cmp.Compare(a.Section.Index, b.Section.Index), cmp.Compare(a.Start, b.Start))
	}
	slices.SortStableFunc(c.Pieces, place)
	for k, p := range c.Pieces {
		order[p] = k
	}
	slices.SortStableFunc(c.Pieces, func(a, b *Piece) int {
		return cmp.Or(place(a, b), cmp.Compare(order[a.Owner], order[b.Owner]))
	})
	c.New, c.Escapes = sortedKeys(c.newSet), sortedKeys(c.escapes)
}
