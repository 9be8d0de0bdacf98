package transfer

import (
	"fmt"
	"strconv"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/transform"
)

// Bounds of one walk.
const (
	maxObjects = 1 << 21
	maxSteps   = 16
	maxReads   = 64
	maxValue   = 4096 // bytes
)

// item is an object on a walk.
type item struct {
	place
	from, index uint64
}

// walker executes walks of one transfer.
type walker struct {
	*Session
	types   *types
	globals map[string]global
	cpus    []kernel.CPU // the possible ones
}

// global is a variable of run at which walks begin.
type global struct {
	update.Global
	address uint64
}

// pointer reads a pointer.
func (w *walker) pointer(address uint64) (uint64, error) {
	b, err := w.snapshot.bytes(address, pointerSize)
	if err != nil {
		return 0, err
	}
	return order.Uint64(b), nil
}

const pointerSize = 8

// at goes from an object to a member. ok is false where a pointer on the way is NULL.
func (w *walker) at(from place, member string) (to place, ok bool, err error) {
	p, err := w.types.path(from.typ, member)
	if err != nil {
		return place{}, false, err
	}
	if member == "" {
		return from, true, nil
	}
	address := from.address
	for i, hop := range p.hops {
		if i > 0 {
			if address, err = w.pointer(address); err != nil || address == 0 {
				return place{}, false, err
			}
		}
		address += hop
	}
	return place{address, p.typ, p.bit, p.bits}, true, nil
}

// read reads a member.
func (w *walker) read(from place, member string) (transform.Value, error) {
	to, ok, err := w.at(from, member)
	if err != nil || !ok {
		return transform.Value{Missing: true}, err
	}
	l, err := w.types.layout(to.typ)
	if err != nil {
		return transform.Value{}, err
	}
	if l.Size == 0 || l.Size > maxValue {
		return transform.Value{}, fmt.Errorf("%s of %s has %d bytes: a value has %d at most", member, from.typ, l.Size, maxValue)
	}
	size := l.Size
	if to.bits != 0 {
		size = (to.bit + to.bits + 7) / 8
	}
	b, err := w.snapshot.bytes(to.address, size)
	if err != nil {
		return transform.Value{}, err
	}
	v := transform.Value{Bytes: b}
	switch {
	case to.bits != 0:
		v.Number = field(b, to.bit, to.bits, l.Signed)
	case l.Kind == update.LayoutNumber:
		v.Number = number(order, b, l.Signed)
	case l.Kind == update.LayoutPointer:
		v.Number = number(order, b, false)
		w.addresses[v.Number] = true
	}
	return v, nil
}

// walk executes a walk.
func (w *walker) walk(walk *transform.Walk) ([]transform.Object, error) {
	if len(walk.Steps) > maxSteps || len(walk.Read) > maxReads {
		return nil, fmt.Errorf("a walk of %d steps that reads %d members: %d and %d at most", len(walk.Steps), len(walk.Read), maxSteps, maxReads)
	}
	items, err := w.start(walk)
	if err != nil {
		return nil, err
	}
	for i := range walk.Steps {
		var next []item
		for _, from := range items {
			if next, err = w.step(next, from, &walk.Steps[i]); err != nil {
				return nil, fmt.Errorf("step %d (%s %s of %s): %w", i, walk.Steps[i].Kind, walk.Steps[i].Path, from.typ, err)
			}
		}
		items = next
	}
	out := make([]transform.Object, len(items))
	for i, x := range items {
		o := &out[i]
		*o = transform.Object{Address: x.address, Type: x.typ, From: x.from, Index: x.index}
		if x.bits != 0 {
			return nil, fmt.Errorf("the walk leads to a bit field of %s, which is no object", x.typ)
		}
		for _, member := range walk.Read {
			v, err := w.read(x.place, member)
			if err != nil {
				return nil, err
			}
			o.Values = append(o.Values, v)
		}
		w.found[handle{x.address, x.typ}], w.addresses[x.address] = true, true
	}
	return out, nil
}

// start is where a walk begins.
func (w *walker) start(walk *transform.Walk) ([]item, error) {
	if walk.Global == "" {
		out := make([]item, len(walk.From))
		for i, o := range walk.From {
			if !w.found[handle{o.Address, o.Type}] {
				return nil, fmt.Errorf("no walk has found a %s at %#x", o.Type, o.Address)
			}
			out[i] = item{place: place{address: o.Address, typ: o.Type}, from: uint64(i)}
		}
		return out, nil
	}
	g, ok := w.globals[walk.Global]
	if !ok {
		return nil, fmt.Errorf("%q is no global of the plan", walk.Global)
	}
	if g.PerCPU && (len(walk.Steps) == 0 || walk.Steps[0].Kind != transform.StepPerCPU || walk.Steps[0].Path != "") {
		return nil, fmt.Errorf("%s is per CPU: walks from it begin with a step %s", walk.Global, transform.StepPerCPU)
	}
	return []item{{place: place{address: g.address, typ: g.Type}}}, nil
}

// step appends what a step finds.
func (w *walker) step(out []item, from item, s *transform.Step) ([]item, error) {
	to, ok, err := w.at(from.place, s.Path)
	if err != nil || !ok {
		return out, err
	}
	f := &finder{walker: w, out: out, from: from, step: s}
	switch s.Kind {
	case transform.StepMember:
		err = f.add(to, from.index)
	case transform.StepFollow:
		err = f.follow(to)
	case transform.StepEach:
		err = f.each(to)
	case transform.StepList:
		err = f.list(to)
	case transform.StepHList:
		err = f.hlist(to)
	case transform.StepTree:
		err = f.tree(to)
	case transform.StepChain:
		err = f.chain(to)
	case transform.StepXArray:
		err = f.xarray(to)
	case transform.StepPerCPU:
		err = f.perCPU(to)
	default:
		err = fmt.Errorf("there is no such kind of step")
	}
	return f.out, err
}

// finder collects what one step finds from one object.
type finder struct {
	*walker
	out  []item
	from item
	step *transform.Step
	seen map[uint64]bool // on a list or tree: twice is not as it should be
}

func (f *finder) add(p place, index uint64) error {
	if len(f.out) >= maxObjects {
		return fmt.Errorf("it finds more than %d objects", maxObjects)
	}
	f.out = append(f.out, item{p, f.from.from, index})
	return nil
}

// once notes a link; one that comes again is of a list that is being changed.
func (f *finder) once(address uint64) error {
	if f.seen == nil {
		f.seen = map[uint64]bool{}
	}
	if f.seen[address] {
		return &MovedError{address, "it leads back to itself"}
	}
	f.seen[address] = true
	return nil
}

// target is the type of what a pointer's type leads to.
func (f *finder) target(pointer string) (string, error) {
	l, err := f.types.layout(pointer)
	if err != nil {
		return "", err
	}
	if l.Kind != update.LayoutPointer {
		return "", fmt.Errorf("%s is no pointer", pointer)
	}
	of := l.Of
	if f.step.Type != "" {
		of = f.step.Type
	}
	_, err = f.types.layout(of)
	return of, err
}

func (f *finder) follow(p place) error {
	of, err := f.target(p.typ)
	if err != nil {
		return err
	}
	address, err := f.pointer(p.address)
	if err != nil || address == 0 {
		return err
	}
	return f.add(place{address: address, typ: of}, f.from.index)
}

// count is how many elements there are.
func (f *finder) count() (uint64, error) {
	if n, err := strconv.ParseUint(f.step.Count, 0, 32); err == nil {
		return n, nil
	}
	v, err := f.read(f.from.place, f.step.Count)
	if err != nil {
		return 0, err
	}
	if v.Missing || v.Number > maxObjects {
		return 0, &MovedError{f.from.address, fmt.Sprintf("%s of %s is %d", f.step.Count, f.from.typ, v.Number)}
	}
	return v.Number, nil
}

func (f *finder) each(p place) error {
	l, err := f.types.layout(p.typ)
	if err != nil {
		return err
	}
	first, of, n := p.address, l.Of, l.Count
	switch l.Kind {
	case update.LayoutArray:
		if f.step.Type != "" {
			return fmt.Errorf("the type of an array's elements is the array's own")
		}
	case update.LayoutPointer:
		if of, err = f.target(p.typ); err != nil {
			return err
		}
		if first, err = f.pointer(p.address); err != nil || first == 0 {
			return err
		}
		n = 0
	default:
		return fmt.Errorf("%s is neither an array nor a pointer", p.typ)
	}
	e, err := f.types.layout(of)
	if err != nil {
		return err
	}
	if e.Size == 0 {
		return fmt.Errorf("elements of type %s have no size", of)
	}
	if f.step.Count != "" {
		asked, err := f.count()
		if err != nil {
			return err
		}
		if l.Kind == update.LayoutArray && l.Count != 0 && asked > l.Count {
			return fmt.Errorf("%s has no %d elements", p.typ, asked)
		}
		n = asked
	} else if n == 0 {
		return fmt.Errorf("nothing says how many elements there are: the step needs a count")
	}
	for i := range n {
		if err := f.add(place{address: first + i*e.Size, typ: of}, i); err != nil {
			return err
		}
	}
	return nil
}

// link is where objects of the step's type hang.
func (f *finder) link(of string) (uint64, error) {
	if f.step.Type == "" || f.step.Link == "" {
		return 0, fmt.Errorf("the step needs a type and a link")
	}
	return f.types.embedded(f.step.Type, f.step.Link, of)
}

// member is where a member lies in a type of the kernel's own.
func (f *finder) member(of, name string) (uint64, error) {
	p, err := f.types.path(of, name)
	if err != nil {
		return 0, err
	}
	return p.hops[0], nil
}

// is refuses another type than a step is for.
func is(p place, names ...string) error {
	for _, n := range names {
		if p.typ == n {
			return nil
		}
	}
	return fmt.Errorf("%s is no %s", p.typ, names[0])
}

// list follows a list whose links lead on to its head (include/linux/list.h).
func (f *finder) list(head place) error {
	if err := is(head, "struct list_head"); err != nil {
		return err
	}
	offset, err := f.link("struct list_head")
	if err != nil {
		return err
	}
	next, err := f.member("struct list_head", "next")
	if err != nil {
		return err
	}
	for at := head.address; ; {
		// A head that nobody has made ready is zero.
		from := at
		if at, err = f.pointer(at + next); err != nil || at == head.address || at == 0 && from == head.address {
			return err
		}
		if err := f.once(at); err != nil {
			return err
		}
		if err := f.add(place{address: at - offset, typ: f.step.Type}, f.from.index); err != nil {
			return err
		}
	}
}

// hlist follows a list that ends with NULL, or with an odd number (include/linux/list_nulls.h); where the head has a lock in its lowest bit,
// that is no part of the address (include/linux/list_bl.h).
func (f *finder) hlist(head place) error {
	if err := is(head, "struct hlist_head", "struct hlist_nulls_head", "struct hlist_bl_head"); err != nil {
		return err
	}
	node := head.typ[:len(head.typ)-len("head")] + "node"
	offset, err := f.link(node)
	if err != nil {
		return err
	}
	first, err := f.member(head.typ, "first")
	if err != nil {
		return err
	}
	next, err := f.member(node, "next")
	if err != nil {
		return err
	}
	at, err := f.pointer(head.address + first)
	if head.typ == "struct hlist_bl_head" {
		at &^= 1
	}
	for ; err == nil && at != 0 && at&1 == 0; at, err = f.pointer(at + next) {
		if err := f.once(at); err != nil {
			return err
		}
		if err := f.add(place{address: at - offset, typ: f.step.Type}, f.from.index); err != nil {
			return err
		}
	}
	return err
}

// tree visits a tree in order (include/linux/rbtree_types.h).
func (f *finder) tree(root place) error {
	if root.typ == "struct rb_root_cached" {
		var err error
		if root, _, err = f.at(root, "rb_root"); err != nil {
			return err
		}
	}
	if err := is(root, "struct rb_root"); err != nil {
		return err
	}
	offset, err := f.link("struct rb_node")
	if err != nil {
		return err
	}
	var hop [3]uint64
	for i, m := range [...][2]string{{"struct rb_root", "rb_node"}, {"struct rb_node", "rb_left"}, {"struct rb_node", "rb_right"}} {
		if hop[i], err = f.member(m[0], m[1]); err != nil {
			return err
		}
	}
	at, err := f.pointer(root.address + hop[0])
	var above []uint64
	for err == nil && (at != 0 || len(above) > 0) {
		for ; err == nil && at != 0; at, err = f.pointer(at + hop[1]) {
			if err := f.once(at); err != nil {
				return err
			}
			above = append(above, at)
		}
		if err != nil {
			break
		}
		at, above = above[len(above)-1], above[:len(above)-1]
		if err := f.add(place{address: at - offset, typ: f.step.Type}, f.from.index); err != nil {
			return err
		}
		at, err = f.pointer(at + hop[2])
	}
	return err
}

func (f *finder) chain(p place) error {
	of, err := f.target(p.typ)
	if err != nil {
		return err
	}
	link, err := f.types.path(of, f.step.Link)
	if err != nil {
		return err
	}
	if l, err := f.types.layout(link.typ); err != nil || !link.inside() || l.Kind != update.LayoutPointer || f.step.Link == "" {
		return fmt.Errorf("%q of %s is no pointer to the next one", f.step.Link, of)
	}
	at, err := f.pointer(p.address)
	for ; err == nil && at != 0; at, err = f.pointer(at + link.hops[0]) {
		if err := f.once(at); err != nil {
			return err
		}
		if err := f.add(place{address: at, typ: of}, f.from.index); err != nil {
			return err
		}
	}
	return err
}

// perCPU adds the offset of each possible CPU (include/linux/percpu-defs.h: per_cpu_ptr).
func (f *finder) perCPU(p place) error {
	of := p.typ
	base := p.address
	if !f.globalPerCPU(p) {
		var err error
		if of, err = f.target(p.typ); err != nil {
			return err
		}
		if base, err = f.pointer(p.address); err != nil || base == 0 {
			return err
		}
	}
	for _, c := range f.cpus {
		if err := f.add(place{address: base + c.Offset, typ: of}, uint64(c.Number)); err != nil {
			return err
		}
	}
	return nil
}

// globalPerCPU says that a place is a per-CPU variable of the plan's, not a pointer to such memory.
func (f *finder) globalPerCPU(p place) bool {
	for _, g := range f.globals {
		if g.PerCPU && g.address == p.address && g.Type == p.typ {
			return true
		}
	}
	return false
}
