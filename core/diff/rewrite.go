package diff

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Field is a field of a datum that gets another value. Name is as C writes it behind the datum's; Offset and Size are in bytes.
type Field struct {
	Name         string
	Offset, Size uint64
}

// Write is a value that a field of one of run's data gets, if it has the old one.
type Write struct {
	Name string
	// Datum is the symbol of pre, Offset and Size are the field's in it.
	Datum        *objfile.Symbol
	Offset, Size uint64
	// Old and New are the values, zero where an address stands.
	Old, New []byte
	// OldAddress and NewAddress are set for addresses. OldText is set instead of OldAddress where the address is a string's, which has no
	// symbol: run's address leads to these bytes.
	OldAddress, NewAddress *Target
	OldText                []byte
}

// addressSize is an address's, in bytes.
const addressSize = 8

// rewritable says that an existing datum can be given another value in one place.
func rewritable(a, b *item) bool {
	return a.symbol != nil && !strings.HasPrefix(dataClass(a), ".data..percpu") && !strings.HasPrefix(dataClass(b), ".data..percpu")
}

// Addresses names what the addresses at a place of a changed datum are of, before and after; empty for none.
func (r *Result) Addresses(d *DataChange, offset uint64) (pre, post string) {
	a, b := r.pre.bySymbol[d.Pre], r.post.bySymbol[d.Post]
	if f := refsAt(r.pre, a)[offset]; f != nil {
		pre = r.pre.target(f).String()
	}
	if f := refsAt(r.post, b)[offset]; f != nil {
		post = r.post.target(f).String()
	}
	return pre, post
}

// Initial is a changed datum's initial bytes before and after, addresses in them 0.
func (r *Result) Initial(d *DataChange) (pre, post []byte) {
	return masked(r.pre, r.pre.bySymbol[d.Pre]), masked(r.post, r.post.bySymbol[d.Post])
}

// Rewrite has a changed initialiser carried by writing fields of run's datum, and takes back the refusal that its change was. An error says
// why that cannot be.
func (r *Result) Rewrite(datum string, fields []Field) error {
	at := slices.IndexFunc(r.Refusals, func(f Refusal) bool { return f.Initialiser && f.Where == datum })
	d := slices.IndexFunc(r.Data, func(d DataChange) bool { return d.Kind == Changed && d.Name == datum })
	if at < 0 || d < 0 {
		return fmt.Errorf("%s has no changed initialiser", datum)
	}
	c := &r.Data[d]
	for _, b := range c.Bytes {
		if !slices.ContainsFunc(fields, func(f Field) bool { return b >= f.Offset && b-f.Offset < f.Size }) {
			return fmt.Errorf("%s+%#x differs, and no field is there", datum, b)
		}
	}
	a, b := r.pre.bySymbol[c.Pre], r.post.bySymbol[c.Post]
	for i, f := range fields {
		if f.Size == 0 || f.Size > a.size() || f.Offset > a.size()-f.Size || i > 0 && f.Offset < fields[i-1].Offset+fields[i-1].Size {
			return fmt.Errorf("%s%s: %d bytes at %#x are no field of its own in the %d of %s", datum, f.Name, f.Size, f.Offset, a.size(), datum)
		}
		for v, x := range map[*view]*item{r.pre: a, r.post: b} {
			if err := address(v, x, f); err != nil {
				return fmt.Errorf("%s%s: %w", datum, f.Name, err)
			}
		}
	}
	r.rewrites[b] = fields
	r.Refusals = slices.Delete(r.Refusals, at, at+1)
	return nil
}

// Leave takes back the refusal of a changed initialiser: run's datum stays as it is, and new code reads that.
func (r *Result) Leave(datum string) {
	r.Refusals = slices.DeleteFunc(r.Refusals, func(f Refusal) bool { return f.Initialiser && f.Where == datum })
}

// Sets names the fields that Rewrite has written.
func (r *Result) Sets() []string {
	var out []string
	for _, b := range r.post.all {
		for _, f := range r.rewrites[b] {
			out = append(out, b.pair.name()+f.Name)
		}
	}
	return out
}

// address refuses a field that has a relocation other than one whole address.
func address(v *view, i *item, f Field) error {
	for at, ref := range refsAt(v, i) {
		if at >= f.Offset+f.Size || at+uint64(ref.Size) <= f.Offset {
			continue
		}
		if at != f.Offset || f.Size != addressSize || uint64(ref.Size) != addressSize || ref.Kind != arch.RefAddress {
			return fmt.Errorf("the relocation at %#x is no address as wide as the field", at)
		}
	}
	return nil
}

// writes lists what run's data get, and takes along what that leads to.
func (c *Closure) writes() error {
	v := c.r.post
	for _, b := range v.all {
		fields, a := c.r.rewrites[b], b.pair
		if len(fields) == 0 {
			continue
		}
		old, is := refsAt(c.r.pre, a), refsAt(v, b)
		for _, f := range fields {
			w := Write{Name: a.name() + f.Name, Datum: a.symbol, Offset: f.Offset + a.start - a.symbol.Value, Size: f.Size,
				Old: masked(c.r.pre, a)[f.Offset:][:f.Size], New: masked(v, b)[f.Offset:][:f.Size]}
			if ref := old[f.Offset]; ref != nil {
				if err := c.oldAddress(&w, ref); err != nil {
					return fmt.Errorf("%s: %w", w.Name, err)
				}
			}
			if ref := is[f.Offset]; ref != nil {
				t, err := c.reference(&Piece{Section: b.section, Start: b.start, Entry: b.start, End: b.end, item: b}, ref)
				if err != nil {
					return fmt.Errorf("%s: %w", w.Name, err)
				}
				if w.NewAddress = &t; t.Piece != nil {
					c.escapes[escaping(t.Piece, w.Name)] = true
				}
			}
			c.Writes = append(c.Writes, w)
		}
	}
	return nil
}

// escaping names a piece of the part whose address run's data get.
func escaping(p *Piece, field string) string {
	if i := p.item; i != nil && i.symbol != nil {
		return i.name()
	}
	return field
}

// oldAddress says what address run has in a field.
func (c *Closure) oldAddress(w *Write, ref *arch.Ref) error {
	y := c.r.pre.o.File.Symbols[ref.Symbol]
	if y.Section == nil {
		w.OldAddress = &Target{Pre: y, Name: y.Name, Addend: ref.Addend}
		return nil
	}
	to := c.r.pre.target(ref)
	switch i := to.item; {
	case i == nil || to.offset < 0 || uint64(to.offset) > i.size():
	case i.kind == itemMerged:
		w.OldText = i.section.Data[i.start+uint64(to.offset) : i.end]
		return nil
	case i.symbol != nil:
		w.OldAddress = &Target{Pre: i.symbol, Name: i.name(), Addend: to.offset + int64(i.start) - int64(i.symbol.Value)}
		return nil
	}
	return fmt.Errorf("its old value is the address of %s, which has no name", to)
}
