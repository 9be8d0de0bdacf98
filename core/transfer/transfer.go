// Package transfer executes state transfers: the walks over the running kernel's data that a transform plugin describes, by layouts that travel
// in the update, and the changes that it returns, which the kernel module writes in the stop if all that was read is as it was. The apply and
// undo pipelines call it; it writes nothing.
package transfer

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/transform"
)

// order is the byte order of the running kernel's memory.
var order = binary.NativeEndian

// Bound is a transfer with where the variables lie at which its walks begin.
type Bound struct {
	update.Transfer
	// Addresses are those of Globals, in the same order. Of a per-CPU one it is the offset that all CPUs add theirs to.
	Addresses []uint64     `json:"addresses,omitempty"`
	CPUs      []kernel.CPU `json:"cpus,omitempty"`
}

// Stats counts what transfers did.
type Stats struct {
	// Objects were found, Bytes read of them and on the way there, Sets members set and Attaches shadow fields attached.
	Objects  int `json:"objects"`
	Bytes    int `json:"bytes"`
	Sets     int `json:"sets"`
	Attaches int `json:"attaches"`
	// Walks is the time that walks took, Plugin that of the plugins without it.
	Walks  time.Duration `json:"walks_ns"`
	Plugin time.Duration `json:"plugin_ns"`
	// Notes are the plugins' own words.
	Notes []string `json:"notes,omitempty"`
}

// handle names an object for a plugin.
type handle struct {
	address uint64
	typ     string
}

// Session is one attempt of all transfers of an update.
type Session struct {
	snapshot  *snapshot
	found     map[handle]bool
	addresses map[uint64]bool // of objects, and those that were read as values
	sets      []set
	bits      map[uint64]*bitByte
	attaches  []engine.Attach
	Stats     Stats
	layouts   []update.Layouts // of the transfers that ran, for Describe
}

// set is a change, with its name for people.
type set struct {
	engine.Piece
	name string
}

// bitByte is a byte that has bit fields which are set.
type bitByte struct {
	value, mask byte
	name        string
}

// New begins an attempt on memory.
func New(m kernel.Memory) *Session {
	return &Session{snapshot: &snapshot{m, map[uint64]*block{}}, found: map[handle]bool{}, addresses: map[uint64]bool{},
		bits: map[uint64]*bitByte{}}
}

// state is what a plugin walks on.
type state struct {
	w      *walker
	time   time.Duration
	failed error // of the first walk that did: no other succeeds
}

// Walk implements transform.State.
func (s *state) Walk(ctx context.Context, walk *transform.Walk) ([]transform.Object, error) {
	start := time.Now()
	defer func() { s.time += time.Since(start) }()
	if s.failed != nil {
		return nil, s.failed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out, err := s.w.walk(walk)
	if err != nil {
		name := walk.Global
		if name == "" {
			name = fmt.Sprintf("%d objects", len(walk.From))
		}
		s.failed = fmt.Errorf("walk from %s: %w", name, err)
		return nil, s.failed
	}
	s.w.Stats.Objects += len(out)
	return out, nil
}

// Run asks the plugin of one transfer.
func (s *Session) Run(ctx context.Context, t *Bound, p transform.Transform, undo bool) error {
	reads, writes := t.Before, t.After
	if undo {
		reads, writes = writes, reads
	}
	if len(t.Addresses) != len(t.Globals) {
		return fmt.Errorf("state transfer %s: %d of %d variables have an address", t.Item, len(t.Addresses), len(t.Globals))
	}
	w := &walker{Session: s, types: newTypes(reads, writes), globals: map[string]global{}, cpus: t.CPUs}
	for i, g := range t.Globals {
		w.globals[g.Name] = global{g, t.Addresses[i]}
	}
	s.layouts = append(s.layouts, reads)
	st := &state{w: w}
	start := time.Now()
	resp, err := p.Transfer(ctx, &transform.TransferRequest{Item: t.Item, Undo: undo, Data: t.Data}, st)
	s.Stats.Walks += st.time
	s.Stats.Plugin += time.Since(start) - st.time
	switch {
	case st.failed != nil:
		err = st.failed
	case err == nil && resp == nil:
		err = errors.New("it returns nothing")
	case err == nil:
		err = s.take(newTypes(writes, reads), resp, undo)
	}
	if err != nil {
		return fmt.Errorf("state transfer %s by transform plugin %s: %w", t.Item, t.Plugin, err)
	}
	if resp.Note != "" {
		s.Stats.Notes = append(s.Stats.Notes, resp.Note)
	}
	return nil
}

// take notes what a plugin wants changed.
func (s *Session) take(types *types, resp *transform.TransferResponse, undo bool) error {
	if n := max(len(resp.Sets), len(resp.Attaches)); n > transform.MaxChanges {
		return &transform.TooManyError{What: "changes"}
	}
	for i := range resp.Sets {
		if err := s.set(types, &resp.Sets[i]); err != nil {
			return fmt.Errorf("set %s of the %s at %#x: %w", resp.Sets[i].Path, resp.Sets[i].Object.Type, resp.Sets[i].Object.Address, err)
		}
	}
	if undo && len(resp.Attaches) > 0 {
		return fmt.Errorf("it attaches shadow fields at undo")
	}
	for i := range resp.Attaches {
		a := &resp.Attaches[i]
		if err := s.known(&a.Object); err != nil {
			return fmt.Errorf("attach %s: %w", a.Field, err)
		}
		s.attaches = append(s.attaches, engine.Attach{Field: a.Field, Object: a.Object.Address, Data: a.Data})
	}
	return nil
}

// known refuses objects that no walk has found.
func (s *Session) known(o *transform.Object) error {
	if !s.found[handle{o.Address, o.Type}] {
		return fmt.Errorf("no walk has found a %s at %#x", o.Type, o.Address)
	}
	return nil
}

// set notes one member.
func (s *Session) set(types *types, x *transform.Set) error {
	if err := s.known(&x.Object); err != nil {
		return err
	}
	p, err := types.path(x.Object.Type, x.Path)
	if err != nil {
		return err
	}
	if !p.inside() {
		return fmt.Errorf("it does not lie in the object")
	}
	l, err := types.layout(p.typ)
	if err != nil {
		return err
	}
	// The object is one of before the change: what its memory has not does not become its memory.
	size := l.Size
	if p.bits != 0 {
		size = (p.bit + p.bits + 7) / 8
	}
	for _, of := range []update.Layouts{types.layouts, types.other.layouts} {
		if o, ok := of[x.Object.Type]; ok && p.hops[0]+size > o.Size {
			return fmt.Errorf("it lies behind the %d bytes that the object has", o.Size)
		}
	}
	address := x.Object.Address + p.hops[0]
	name := fmt.Sprintf("%s of the %s at %#x", x.Path, x.Object.Type, x.Object.Address)
	if p.bits != 0 && len(x.Bytes) > 0 {
		return fmt.Errorf("it is a bit field: it is set by its number")
	}
	if p.bits != 0 {
		return s.setBits(address, p, x.Number, l.Signed, name)
	}
	b, err := s.value(l, x)
	if err != nil {
		return err
	}
	// What is written must have been read, too: it is compared in the stop.
	if _, err := s.snapshot.bytes(address, l.Size); err != nil {
		return err
	}
	s.sets = append(s.sets, set{engine.Piece{Address: address, Bytes: b}, name})
	return nil
}

// value is the bytes that a member gets.
func (s *Session) value(l *update.Layout, x *transform.Set) ([]byte, error) {
	if l.Size == 0 || l.Size > maxValue {
		return nil, fmt.Errorf("it has %d bytes: %d can be set at once", l.Size, maxValue)
	}
	if len(x.Bytes) > 0 && l.Kind != update.LayoutPointer {
		if uint64(len(x.Bytes)) != l.Size {
			return nil, fmt.Errorf("it has %d bytes, not %d", l.Size, len(x.Bytes))
		}
		return x.Bytes, nil
	}
	v := x.Number
	switch l.Kind {
	case update.LayoutNumber:
	case update.LayoutPointer:
		if len(x.Bytes) > 0 {
			return nil, fmt.Errorf("it is a pointer: it is set by its number")
		}
		if v != 0 && !s.addresses[v] {
			return nil, fmt.Errorf("no walk has found or read the address %#x", v)
		}
	default:
		return nil, fmt.Errorf("it is no number: it is set by its bytes")
	}
	b, ok := encode(order, v, l.Size, l.Signed)
	if !ok {
		return nil, fmt.Errorf("%#x does not fit into its %d bytes", v, l.Size)
	}
	return b, nil
}

// setBits notes a bit field.
func (s *Session) setBits(address uint64, p *path, v uint64, signed bool, name string) error {
	if p.bits < 64 && v>>p.bits != 0 && (!signed || int64(v)>>(p.bits-1) != -1) {
		return fmt.Errorf("%#x does not fit into its %d bits", v, p.bits)
	}
	n := (p.bit + p.bits + 7) / 8
	if _, err := s.snapshot.bytes(address, n); err != nil {
		return err
	}
	for i := range p.bits {
		at := address + (p.bit+i)/8
		bit := byte(1) << ((p.bit + i) % 8)
		b := s.bits[at]
		if b == nil {
			b = &bitByte{name: name}
			s.bits[at] = b
		}
		if b.mask&bit != 0 {
			return fmt.Errorf("it is set twice, or with %s", b.name)
		}
		b.mask |= bit
		if v>>i&1 == 1 {
			b.value |= bit
		}
	}
	return nil
}

// Moved says where memory is not as the walks have read it; ok is false where all of it is. An error of Run that follows from such memory means
// nothing: it is to be read again.
func (s *Session) Moved() (at uint64, ok bool) {
	for _, base := range slices.Sorted(maps.Keys(s.snapshot.blocks)) {
		b := s.snapshot.blocks[base]
		var is [blockSize]byte
		if s.snapshot.memory.ReadMemory(is[:], base) != nil {
			return base, true
		}
		for i := range uint64(blockSize) {
			if b.used[i/64]>>(i%64)&1 == 1 && is[i] != b.data[i] {
				return base + i, true
			}
		}
	}
	return 0, false
}

// Changes is what the kernel module is given.
func (s *Session) Changes() (*engine.Transfer, error) {
	sets := slices.Clone(s.sets)
	for at, b := range s.bits {
		old, err := s.snapshot.bytes(at, 1)
		if err != nil {
			return nil, err
		}
		sets = append(sets, set{engine.Piece{Address: at, Bytes: []byte{old[0]&^b.mask | b.value}}, b.name})
	}
	slices.SortFunc(sets, func(a, b set) int { return cmp.Compare(a.Address, b.Address) })
	out := &engine.Transfer{Guards: s.snapshot.guards(), Attaches: s.attaches}
	for i, x := range sets {
		if i > 0 && sets[i-1].Address+uint64(len(sets[i-1].Bytes)) > x.Address {
			return nil, fmt.Errorf("state transfer: %s and %s lie over each other, and both are set", sets[i-1].name, x.name)
		}
		old, err := s.snapshot.bytes(x.Address, uint64(len(x.Bytes)))
		if err != nil {
			return nil, err
		}
		if !slices.Equal(old, x.Bytes) {
			out.Sets = append(out.Sets, x.Piece)
		}
	}
	s.Stats.Bytes = 0
	for _, g := range out.Guards {
		s.Stats.Bytes += len(g.Bytes)
	}
	s.Stats.Sets, s.Stats.Attaches = len(out.Sets), len(out.Attaches)
	return out, nil
}

// Describe names what lies at an address that was read, for people: the object that walks have found there, and its member.
func (s *Session) Describe(address uint64) string {
	best, of, size := handle{}, "", uint64(0)
	for h := range s.found {
		for _, l := range s.layouts {
			t, ok := l[h.typ]
			if !ok || address < h.address || address-h.address >= t.Size {
				continue
			}
			if c := cmp.Or(cmp.Compare(t.Size, size), cmp.Compare(h.typ, best.typ)); best.typ == "" || c < 0 {
				best, of, size = h, memberAt(l, h.typ, address-h.address), t.Size
			}
		}
	}
	if best.typ == "" {
		return fmt.Sprintf("what leads to objects, at %#x", address)
	}
	return fmt.Sprintf("%s of the %s at %#x", cmp.Or(of, "+"+fmt.Sprint(address-best.address)), best.typ, best.address)
}

// memberAt names the member of a structure at an offset; "" for none.
func memberAt(l update.Layouts, typ string, offset uint64) string {
	for _, m := range l[typ].Members {
		size := max(l[m.Type].Size, 1)
		if m.Bits > 0 {
			size = (m.Bit + m.Bits + 7) / 8
		}
		if offset >= m.Offset && offset-m.Offset < size {
			if in := memberAt(l, m.Type, offset-m.Offset); in != "" {
				return m.Name + "." + in
			}
			return m.Name
		}
	}
	return ""
}
