package diff

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
)

// itemKind says what an item is.
type itemKind uint8

const (
	itemFunction itemKind = iota
	itemData              // has a name
	itemRegion            // bytes that no symbol covers
	itemMerged            // one merged string or constant
	itemEntry             // code that a table's entry consists of: a replacement of an alternative
)

// item is a stretch of a section that is compared and carried as one.
type item struct {
	kind       itemKind
	section    *objfile.Section
	start, end uint64 // the item's bytes in the section
	pad        uint64 // bytes before start that go with it
	symbol     *objfile.Symbol
	names      []*objfile.Symbol // all symbols at its start
	parent     *item             // for pieces of functions
	fragments  []*item
	pair       *item // in the other object
	landing    bool  // for functions: begins with a landing pad for indirect branches
	redeclared bool  // for data: paired though the line of its declaration changed
}

func (i *item) size() uint64 { return i.end - i.start }

func (i *item) name() string {
	if i.symbol != nil {
		return i.symbol.Name
	}
	return i.section.Name
}

// group returns the whole function and its pieces.
func (i *item) group() []*item {
	if i.parent != nil {
		i = i.parent
	}
	return append([]*item{i}, i.fragments...)
}

func (i *item) writable() bool { return i.section.Flags&elf.SHF_WRITE != 0 }

// local says that no other unit can name the item.
func (i *item) local() bool {
	for _, s := range i.names {
		if s.Bind != elf.STB_LOCAL {
			return false
		}
	}
	return true
}

// place is where a reference leads. item is nil for what the object does not define: then name is the symbol's, and
// empty for absolute values.
type place struct {
	item   *item
	offset int64
	name   string
}

func (p place) String() string {
	s := p.name
	switch {
	case p.item == nil && s == "":
		return fmt.Sprintf("%#x", uint64(p.offset))
	case p.item != nil && p.item.kind == itemMerged:
		return p.item.content()
	case p.item != nil:
		s = p.item.name()
	}
	if p.offset != 0 {
		s += fmt.Sprintf("%+#x", p.offset)
	}
	return s
}

// content shows a merged item.
func (i *item) content() string {
	b := i.section.Data[i.start:i.end]
	const most = 40
	if i.section.Flags&elf.SHF_STRINGS != 0 {
		s := string(b[:len(b)-int(min(i.section.EntSize, uint64(len(b))))])
		if len(s) > most {
			s = s[:most] + "..."
		}
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("constant %x", b[:min(len(b), most)])
}

// view indexes an object.
type view struct {
	o        *Object
	all      []*item                      // functions and data, by section and place
	items    map[*objfile.Section][]*item // all but merged ones, by place
	bySymbol map[*objfile.Symbol]*item
	merged   map[mergedKey]*item
	rules    map[*objfile.Section]rule
	refs     map[*objfile.Section][]*arch.Ref
	branches map[*objfile.Section][]*arch.Branch
	owned    map[*objfile.Section][]*arch.TableEntry // by owner
	tables   map[*objfile.Section][]*arch.TableEntry // by table
	keys     map[*arch.Ref]bool                      // references to static keys in tables
	undef    map[string]*objfile.Symbol
}

type mergedKey struct {
	section *objfile.Section
	start   uint64
}

var errDescription = errors.New("the architecture plugin's description does not fit the object")

func newView(o *Object, init bool) (*view, error) {
	if o == nil || o.File == nil || o.Desc == nil {
		return nil, errors.New("object or description is missing")
	}
	v := &view{o: o, items: map[*objfile.Section][]*item{}, bySymbol: map[*objfile.Symbol]*item{}, merged: map[mergedKey]*item{},
		rules: map[*objfile.Section]rule{}, refs: map[*objfile.Section][]*arch.Ref{}, branches: map[*objfile.Section][]*arch.Branch{},
		owned: map[*objfile.Section][]*arch.TableEntry{}, tables: map[*objfile.Section][]*arch.TableEntry{},
		keys: map[*arch.Ref]bool{}, undef: map[string]*objfile.Symbol{}}
	for _, step := range []func() error{v.readTables, v.readRefs, v.readFunctions} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("%s: %w", o.Name, err)
		}
	}
	for _, s := range o.File.Sections[1:] {
		v.rules[s] = ruleOf(s, v.isTable(s), init)
	}
	v.readData()
	for _, s := range o.File.Sections[1:] {
		v.finish(s)
	}
	for _, y := range o.File.Symbols[1:] {
		if y.Section == nil && y.Special == elf.SHN_UNDEF && y.Name != "" {
			v.undef[y.Name] = y
		}
	}
	return v, nil
}

// section returns the section with a number of the description, with the given range inside it.
func (v *view) section(n uint32, from, length uint64) (*objfile.Section, error) {
	if n == 0 || uint64(n) >= uint64(len(v.o.File.Sections)) {
		return nil, fmt.Errorf("%w: section %d of %d", errDescription, n, len(v.o.File.Sections))
	}
	s := v.o.File.Sections[n]
	if from > s.Size || length > s.Size-from {
		return nil, fmt.Errorf("%w: %#x bytes at %s+%#x lie outside it", errDescription, length, s.Name, from)
	}
	return s, nil
}

func (v *view) readTables() error {
	for i := range v.o.Desc.Entries {
		e := &v.o.Desc.Entries[i]
		t, err := v.section(e.Table, e.At, e.Size)
		if err != nil {
			return err
		}
		v.tables[t] = append(v.tables[t], e)
		if e.Owner == 0 {
			continue
		}
		s, err := v.section(e.Owner, e.OwnerOffset, 0)
		if err != nil {
			return err
		}
		v.owned[s] = append(v.owned[s], e)
	}
	for _, es := range v.owned {
		slices.SortStableFunc(es, func(a, b *arch.TableEntry) int {
			return cmp.Or(cmp.Compare(a.OwnerOffset, b.OwnerOffset), cmp.Compare(a.Table, b.Table), cmp.Compare(a.At, b.At))
		})
	}
	return nil
}

// isTable says that the section consists of entries that belong to code.
func (v *view) isTable(s *objfile.Section) bool {
	return slices.ContainsFunc(v.tables[s], func(e *arch.TableEntry) bool { return e.Owner != 0 })
}

func (v *view) readRefs() error {
	refs := v.o.Desc.Refs
	for i := range refs {
		r := &refs[i]
		s, err := v.section(r.Section, r.At, uint64(r.Size))
		if err != nil {
			return err
		}
		if uint64(r.Symbol) >= uint64(len(v.o.File.Symbols)) {
			return fmt.Errorf("%w: symbol %d of %d", errDescription, r.Symbol, len(v.o.File.Symbols))
		}
		v.refs[s] = append(v.refs[s], r)
	}
	for _, rs := range v.refs {
		slices.SortStableFunc(rs, func(a, b *arch.Ref) int { return cmp.Compare(a.At, b.At) })
	}
	for i := range v.o.Desc.Branches {
		b := &v.o.Desc.Branches[i]
		s, err := v.section(b.Section, b.Field, uint64(b.FieldSize))
		if err != nil {
			return err
		}
		v.branches[s] = append(v.branches[s], b)
	}
	for i := range v.o.Desc.Sites {
		x := &v.o.Desc.Sites[i]
		if x.Key < 0 || x.Kind != arch.SiteJumpLabel {
			continue
		}
		if int(x.Key) >= len(refs) {
			return fmt.Errorf("%w: reference %d of %d", errDescription, x.Key, len(refs))
		}
		v.keys[&refs[x.Key]] = true
	}
	return nil
}

func (v *view) readFunctions() error {
	fs := v.o.Desc.Functions
	byIndex := make([]*item, len(fs))
	for i := range fs {
		f := &fs[i]
		s, err := v.section(f.Section, f.Offset, f.Size)
		if err != nil {
			return err
		}
		if f.Symbol == 0 || uint64(f.Symbol) >= uint64(len(v.o.File.Symbols)) || f.Pad > f.Offset || int(f.Parent) >= len(fs) {
			return fmt.Errorf("%w: function %s", errDescription, f.Name)
		}
		y := v.o.File.Symbols[f.Symbol]
		byIndex[i] = v.add(&item{kind: itemFunction, section: s, start: f.Offset, end: f.Offset + f.Size, pad: f.Pad, landing: f.Endbr}, y)
	}
	for i := range fs {
		if p := fs[i].Parent; p >= 0 && byIndex[p] != byIndex[i] && byIndex[i].parent == nil && byIndex[p].parent == nil {
			byIndex[i].parent = byIndex[p]
			byIndex[p].fragments = append(byIndex[p].fragments, byIndex[i])
		}
	}
	return nil
}

// add adds a named item, or a name to the item that is there already. It returns the item that the name belongs to.
func (v *view) add(n *item, y *objfile.Symbol) *item {
	for _, i := range v.items[n.section] {
		if i.start == n.start {
			i.end, i.pad = max(i.end, n.end), max(i.pad, n.pad)
			i.names = append(i.names, y)
			i.symbol = canonical(i.names)
			v.bySymbol[y] = i
			return i
		}
	}
	n.symbol, n.names = y, []*objfile.Symbol{y}
	v.items[n.section] = append(v.items[n.section], n)
	v.bySymbol[y] = n
	return n
}

// canonical picks the name that an item goes under: global before weak before local, then by name.
func canonical(names []*objfile.Symbol) *objfile.Symbol {
	rank := map[elf.SymBind]int{elf.STB_GLOBAL: 0, elf.STB_WEAK: 1, elf.STB_LOCAL: 2}
	return slices.MinFunc(names, func(a, b *objfile.Symbol) int {
		return cmp.Or(cmp.Compare(rank[a.Bind], rank[b.Bind]), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Index, b.Index))
	})
}

// readData adds the data that have names. Symbols without a size reach up to the next one.
func (v *view) readData() {
	for _, y := range v.o.File.Symbols[1:] {
		s := y.Section
		if s == nil || y.Name == "" || y.Type == elf.STT_SECTION || y.Type == elf.STT_FILE ||
			y.Value >= s.Size && y.Size == 0 && s.Size != 0 {
			continue
		}
		if deviceTable(y.Name) {
			continue
		}
		if r := v.rules[s]; s.Flags&elf.SHF_EXECINSTR != 0 || r == ruleIgnore || r == ruleMerged || r == ruleTable || r == ruleHooks {
			continue
		}
		if y.Value <= s.Size && y.Size <= s.Size-y.Value {
			v.add(&item{kind: itemData, section: s, start: y.Value, end: y.Value + y.Size}, y)
		}
	}
}

// deviceTable says that a symbol is the other name that a table of devices has for modpost alone (include/linux/module.h:MODULE_DEVICE_TABLE): in
// the running kernel it names nothing.
func deviceTable(name string) bool {
	return strings.HasPrefix(name, "__mod_") && strings.HasSuffix(name, "_device_table")
}

// finish sorts a section's items, folds those that lie in others into them and fills the gaps.
func (v *view) finish(s *objfile.Section) {
	r := v.rules[s]
	if r == ruleIgnore || r == ruleMerged || r == ruleHooks {
		return
	}
	in := v.items[s]
	sort.SliceStable(in, func(i, j int) bool {
		return in[i].start < in[j].start || in[i].start == in[j].start && in[i].end > in[j].end
	})
	var out []*item
	for k, i := range in {
		if i.end == i.start {
			i.end = s.Size
			if k+1 < len(in) {
				i.end = in[k+1].start
			}
		}
		if n := len(out); n > 0 && i.start < out[n-1].end {
			o := out[n-1] // an entry point in the middle
			o.end = max(o.end, i.end)
			for _, y := range i.names {
				v.bySymbol[y] = o
			}
			continue
		}
		out = append(out, i)
	}
	if r == ruleTable {
		out = append(out, v.entryItems(s)...)
	}
	v.all = append(v.all, out...)
	v.items[s] = v.fill(s, out)
}

// entryItems makes items of the entries of a table.
func (v *view) entryItems(s *objfile.Section) []*item {
	var out []*item
	end := uint64(0)
	for _, e := range v.tables[s] {
		if e.Size > 0 && e.At >= end {
			out = append(out, &item{kind: itemEntry, section: s, start: e.At, end: e.At + e.Size})
			end = e.At + e.Size
		}
	}
	return out
}

// fill adds the regions between items.
func (v *view) fill(s *objfile.Section, named []*item) []*item {
	var out []*item
	at := uint64(0)
	for _, i := range named {
		if i.start > at {
			out = append(out, &item{kind: itemRegion, section: s, start: at, end: i.start})
		}
		out = append(out, i)
		at = i.end
	}
	if at < s.Size {
		out = append(out, &item{kind: itemRegion, section: s, start: at, end: s.Size})
	}
	return out
}

// refsIn returns the references with fields that begin in [from, to).
func (v *view) refsIn(s *objfile.Section, from, to uint64) []*arch.Ref {
	rs := v.refs[s]
	i := sort.Search(len(rs), func(i int) bool { return rs[i].At >= from })
	j := sort.Search(len(rs), func(i int) bool { return rs[i].At >= to })
	return rs[i:max(i, j)]
}

// branchesIn returns the branches that begin in [from, to).
func (v *view) branchesIn(s *objfile.Section, from, to uint64) []*arch.Branch {
	var out []*arch.Branch
	for _, b := range v.branches[s] {
		if b.At >= from && b.At < to {
			out = append(out, b)
		}
	}
	return out
}

// entriesOf returns the table entries about code in [from, to) that count, by place. Entries about a range that begins before are
// among them, and those at the very end of a section that ends there.
func (v *view) entriesOf(s *objfile.Section, from, to uint64) []*arch.TableEntry {
	var out []*arch.TableEntry
	for _, e := range v.owned[s] {
		begins := e.OwnerOffset >= from && e.OwnerOffset < to
		covers := e.OwnerOffset < from && e.OwnerOffset+e.OwnerLength > from
		last := e.OwnerOffset == to && to == s.Size
		if (begins || covers || last) && v.rules[v.o.File.Sections[e.Table]] == ruleTable {
			out = append(out, e)
		}
	}
	return out
}

// target is where a reference leads. What names a datum counts from it, even from beyond its end.
func (v *view) target(r *arch.Ref) place {
	y := v.o.File.Symbols[r.Symbol]
	switch {
	case y.Section != nil:
		if i := v.bySymbol[y]; i != nil && i.kind == itemData {
			return place{item: i, offset: int64(y.Value) + r.Offset - int64(i.start)}
		}
		return v.at(y.Section, int64(y.Value)+r.Offset)
	case y.Special == elf.SHN_ABS:
		return place{offset: int64(y.Value) + r.Offset}
	}
	return place{name: y.Name, offset: r.Offset}
}

// at finds the item at an offset of a section. What lies outside every item counts from the nearest.
func (v *view) at(s *objfile.Section, offset int64) place {
	if v.rules[s] == ruleMerged {
		return v.mergedAt(s, offset)
	}
	items := v.items[s]
	if len(items) == 0 {
		return place{name: s.Name, offset: offset}
	}
	k := sort.Search(len(items), func(i int) bool { return int64(items[i].start) > offset }) - 1
	if k < 0 {
		k = 0
	}
	return place{item: items[k], offset: offset - int64(items[k].start)}
}

// others are the other data that a reference may mean: the assembler names the section instead of a local symbol, and then the end of
// one array is the start of the next datum, and with an index register the base may lie before an array, or behind.
func (v *view) others(r *arch.Ref) []place {
	y := v.o.File.Symbols[r.Symbol]
	// Descriptors of debug messages are used one by one.
	if y.Section == nil || y.Type != elf.STT_SECTION || v.rules[y.Section] != ruleData || y.Section.Name == debugSection {
		return nil
	}
	to := v.target(r)
	items := v.items[y.Section]
	k := slices.Index(items, to.item)
	if k < 0 {
		return nil
	}
	accessed := !r.Indexed && (r.Kind == arch.RefMemory || r.Kind == arch.RefPerCPU)
	var out []place
	add := func(step int) {
		for n := k + step; n >= 0 && n < len(items); n += step {
			if s, known := v.static(items[n]); items[n].kind == itemData && known && !s.Array {
				return
			}
			if items[n].kind == itemData {
				out = append(out, place{item: items[n], offset: int64(items[k].start) + to.offset - int64(items[n].start)})
				return
			}
		}
	}
	if r.Indexed || !accessed && (to.offset <= 0 || to.item.kind == itemRegion) {
		add(-1)
	}
	if r.Indexed {
		add(1)
	}
	return out
}

// mergedAt finds the string or constant at an offset.
func (v *view) mergedAt(s *objfile.Section, offset int64) place {
	size, width := uint64(len(s.Data)), s.EntSize
	if offset < 0 || uint64(offset) >= size {
		return place{name: s.Name, offset: offset}
	}
	start := uint64(offset) - uint64(offset)%width
	end := min(start+width, size)
	if s.Flags&elf.SHF_STRINGS != 0 {
		zero := func(at uint64) bool {
			return !slices.ContainsFunc(s.Data[at:at+width], func(b byte) bool { return b != 0 })
		}
		for start >= width && !zero(start-width) {
			start -= width
		}
		for end = start; end+width <= size && !zero(end); end += width {
		}
		end = min(end+width, size)
	}
	key := mergedKey{s, start}
	i, ok := v.merged[key]
	if !ok {
		i = &item{kind: itemMerged, section: s, start: start, end: end}
		v.merged[key] = i
	}
	return place{item: i, offset: offset - int64(start)}
}

// bytes returns bytes of a section; those of sections without content are zero.
func bytesOf(s *objfile.Section, from, to uint64) []byte {
	if s.Type == elf.SHT_NOBITS {
		return make([]byte, to-from)
	}
	return s.Data[from:to]
}
