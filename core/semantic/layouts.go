package semantic

import (
	"debug/dwarf"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"reflect"
	"strings"

	"github.com/ksplice/ksplice/core/update"
)

// Layouts describes types of a relocatable object, by the names that C has for them ("struct eventfd_ctx", "union x", "enum y", "atomic_t",
// "unsigned int"), with the types of all that lies in their memory (members, elements of arrays), and the types of variables, by their names
// in the source; "function.variable" is a static one of a function. What pointers lead to is described only where it is asked for or lies
// inside something. of names the variables' types.
//
// Typedefs and qualifiers are looked through, except that a typedef is the name of what has no tag, and that a type which is asked for is
// found under that name, too. Numbers are called as DWARF calls them ("long unsigned int"), pointers as what they lead to with " *" behind it,
// but all pointers to functions "void (*)()" and those to what has no name "void *"; arrays as the element with "[2][3]" behind it, "[0]" for
// an open one; a structure without a name as what has it: "struct outer.member", or the variable's name.
//
// A name that the object does not describe is an error, and so is a type that it only declares, or one that it describes in two ways.
func Layouts(path string, types, variables []string) (layouts update.Layouts, of map[string]string, err error) {
	defer func() {
		// debug/elf and debug/dwarf can panic on damaged input.
		if r := recover(); r != nil {
			layouts, of, err = nil, nil, fmt.Errorf("types of %s: damaged debug information: %v", path, r)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read object: %w", err)
	}
	defer f.Close()
	file, err := openELF(f)
	if err != nil {
		return nil, nil, fmt.Errorf("types of %s: %w", path, err)
	}
	u, err := load(file)
	if err != nil {
		return nil, nil, fmt.Errorf("types of %s: %w", path, err)
	}
	l := &layouter{unit: u, layouts: update.Layouts{}, done: map[described]bool{}, places: make(map[*typ]dwarf.Offset, len(u.types))}
	for at, t := range u.types {
		l.places[t] = at
	}
	for _, name := range types {
		if err := l.asked(name); err != nil {
			return nil, nil, fmt.Errorf("type %s: %s %w", name, path, err)
		}
	}
	of = make(map[string]string, len(variables))
	for _, name := range variables {
		if of[name], err = l.variable(name); err != nil {
			return nil, nil, fmt.Errorf("variable %s: %s %w", name, path, err)
		}
	}
	return l.layouts, of, nil
}

// layouter describes types of a unit. Its errors are what can be said of an object.
type layouter struct {
	*unit
	layouts update.Layouts
	done    map[described]bool
	places  map[*typ]dwarf.Offset // where types are described
	work    int
	err     error
}

// described is a type under a name: other units of the same object, and qualifiers, make it several types of the same name.
type described struct {
	name string
	t    *typ
}

var errNone = errors.New("does not describe one")

// step reports whether to go on, so deep in a type.
func (l *layouter) step(depth int) bool {
	l.work++
	if l.work > maxWork || depth > maxDepth {
		l.fail(errors.New("nests types without end"))
	}
	return l.err == nil
}

func (l *layouter) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

// asked describes the type that has a name at file scope, under that name.
func (l *layouter) asked(name string) error {
	missing := errNone
	for _, t := range l.types {
		if t.local || !l.called(t, name) {
			continue
		}
		b := l.defined(t)
		if b != nil && !b.complete {
			if missing != nil {
				missing = errors.New("only declares it")
			}
			continue
		}
		missing = nil
		l.put(name, l.layout(b, l.name(t, name, 0), "element of "+name, 0))
	}
	if l.err != nil {
		return l.err
	}
	return missing
}

// called reports whether C has a name for a type: a tag with its keyword, a typedef's, a number's.
func (l *layouter) called(t *typ, name string) bool {
	switch {
	case t.name == "":
		return false
	case t.kind.aggregate() || t.kind == kindEnum:
		return name == t.kind.String()+" "+t.name && l.tagged(t)
	case t.kind == kindAlias || t.kind == kindInt || t.kind == kindFloat:
		return name == t.name
	}
	return false
}

// variable describes the type of a variable and returns its name.
func (l *layouter) variable(name string) (string, error) {
	best := 0
	var found []*variable
	for _, v := range l.variables {
		switch r := l.rank(v, name); {
		case r > best:
			best, found = r, []*variable{v}
		case r == best && r > 0:
			found = append(found, v)
		}
	}
	if found == nil {
		return "", errNone
	}
	of := l.add(l.types[found[0].of], name, 0)
	for _, v := range found[1:] {
		if l.add(l.types[v.of], name, 0) != of {
			l.fail(errors.New("describes it in two ways"))
		}
	}
	return of, l.err
}

// rank says how much a description says of the variable that has a name: more of one that is defined than of one that is elsewhere, more of an
// array with a size than of one without. 0 is another variable.
func (l *layouter) rank(v *variable, name string) int {
	whole := v.name
	if v.function != nil && !v.declared {
		if !v.placed {
			return 0 // on the stack
		}
		whole = v.function.name + "." + v.name
	}
	if v.name == "" || whole != name {
		return 0
	}
	r := 1
	if v.placed {
		r += 4
	}
	if !v.declared {
		r += 2
	}
	if size(l.types[v.of]) > 0 {
		r++
	}
	return r
}

// add describes a type and returns its name; unnamed is what to call it if it has none.
func (l *layouter) add(t *typ, unnamed string, depth int) string {
	name := l.name(t, unnamed, depth)
	if !l.step(depth) {
		return ""
	}
	k := described{name, l.defined(t)}
	if !l.done[k] {
		l.put(name, l.layout(k.t, name, unnamed, depth))
		l.done[k] = true
	}
	return name
}

func (l *layouter) put(name string, a update.Layout) {
	if b, ok := l.layouts[name]; ok && !reflect.DeepEqual(a, b) {
		l.fail(fmt.Errorf("describes %s in two ways", name))
	}
	l.layouts[name] = a
}

// layout describes a bare type, and adds what lies in it; name and unnamed are as for add.
func (l *layouter) layout(t *typ, name, unnamed string, depth int) update.Layout {
	if t == nil {
		return update.Layout{Kind: update.LayoutOther}
	}
	a := update.Layout{Kind: update.LayoutOther, Size: uint64(max(t.size, 0))}
	switch {
	case !t.complete:
	case t.kind == kindPointer:
		a.Kind = update.LayoutPointer
		if to := l.name(t.elem, "", depth+1); to != "void" {
			a.Of = to
		}
	case t.kind == kindArray:
		return l.array(t, unnamed, depth)
	case t.kind == kindStruct:
		a.Kind, a.Members = update.LayoutStruct, l.members(nil, t, name, 0, depth)
	case t.kind == kindUnion:
		a.Kind, a.Members = update.LayoutUnion, l.members(nil, t, name, 0, depth)
	case integral(t):
		a.Kind, a.Signed = update.LayoutNumber, l.signed(t)
	}
	return a
}

// array describes an array, and adds the arrays that it consists of.
func (l *layouter) array(t *typ, unnamed string, depth int) update.Layout {
	elem, dims := elements(t)
	element := l.add(elem, unnamed, depth+1)
	a := l.layouts[element]
	of := element
	for i := len(dims) - 1; i >= 0 && l.step(len(dims)); i-- {
		over, size := bits.Mul64(a.Size, uint64(dims[i]))
		if over != 0 {
			l.fail(errors.New("describes an array without end"))
		}
		a = update.Layout{Kind: update.LayoutArray, Size: size, Of: of, Count: uint64(dims[i])}
		if of = element + brackets(dims[i:]); i > 0 {
			l.put(of, a)
		}
	}
	return a
}

// elements is what an array, or an array of arrays, consists of, with the numbers of elements as C writes them.
func elements(t *typ) (elem *typ, dims []int64) {
	for b := bare(t); b != nil && b.kind == kindArray && len(dims) <= maxDepth; b = bare(t) {
		if dims = append(dims, b.dims...); len(b.dims) == 0 {
			dims = append(dims, 0)
		}
		t = b.elem
	}
	return t, dims
}

func brackets(dims []int64) string {
	var text strings.Builder
	for _, n := range dims {
		fmt.Fprintf(&text, "[%d]", n)
	}
	return text.String()
}

// members lists the members of t, which is at off bits in the structure called name; those of an unnamed member stand in its place.
func (l *layouter) members(out []update.LayoutMember, t *typ, name string, off int64, depth int) []update.LayoutMember {
	for i := range t.members {
		m := &t.members[i]
		at := off + m.off
		if !l.step(depth) {
			return nil
		}
		if m.off < 0 || at < 0 || m.bits < 0 {
			l.fail(fmt.Errorf("describes a member before its structure: %s.%s", name, m.name))
			return nil
		}
		if m.name == "" {
			if inner := l.defined(m.t); inner != nil && inner.kind.aggregate() { // else padding
				out = l.members(out, inner, name, at, depth+1)
			}
			continue
		}
		lm := update.LayoutMember{Name: m.name, Type: l.add(m.t, name+"."+m.name, depth+1), Offset: uint64(at / 8)}
		if m.bits > 0 {
			lm.Bit, lm.Bits = uint64(at%8), uint64(m.bits)
		}
		out = append(out, lm)
	}
	return out
}

// defined is the bare type, its definition where the object has it, even if t is a declaration.
func (l *layouter) defined(t *typ) *typ {
	t = bare(t)
	if t != nil && !t.complete {
		if d := l.named[key{"tag", t.name}]; d != nil && d.kind == t.kind {
			return d
		}
	}
	return t
}

// functionName stands for every function.
const functionName = "void ()"

// name is what C calls a type, unnamed if it has no name.
func (l *layouter) name(t *typ, unnamed string, depth int) string {
	if !l.step(depth) {
		return ""
	}
	b := bare(t)
	if b == nil {
		return "void"
	}
	for ; b.kind != kindArray && t != nil && t.kind == kindAlias && l.step(depth); t = t.elem {
		if t.name != "" {
			unnamed = t.name
		}
	}
	switch {
	case b.kind == kindPointer:
		return pointerTo(l.name(b.elem, "", depth+1))
	case b.kind == kindFunction:
		return functionName
	case b.kind == kindArray:
		elem, dims := elements(b)
		if element := l.name(elem, unnamed, depth+1); element != "" {
			return element + brackets(dims)
		}
		return ""
	case b.name == "":
		return unnamed
	case (b.kind.aggregate() || b.kind == kindEnum) && l.tagged(b):
		return b.kind.String() + " " + b.name
	}
	return b.name
}

// pointerTo is the name of a pointer to what is called name, "" if it has no name.
func pointerTo(name string) string {
	switch {
	case name == "":
		return "void *"
	case name == functionName:
		return "void (*)()"
	case strings.HasSuffix(name, "*"):
		return name + "*"
	}
	return name + " *"
}

// tagged reports whether the name of a structure, union or enum is a tag, and not that of a typedef.
func (l *layouter) tagged(t *typ) bool {
	e := l.entry(t)
	return e != nil && e.Val(dwarf.AttrName) != nil
}

// signed reports whether the highest bit of a number is its sign.
func (l *layouter) signed(t *typ) bool {
	if e := l.entry(t); e != nil {
		if enc, ok := e.Val(dwarf.AttrEncoding).(int64); ok {
			return enc == 5 || enc == 6 // DWARF 5, 7.8: signed, signed char
		}
	}
	if b := bare(t.elem); b != nil && b.kind == kindInt { // what an enum is made of
		return l.signed(b)
	}
	for i := range t.members {
		if t.members[i].value < 0 {
			return true
		}
	}
	return false
}

// entry is the description of a type; nil is none.
func (l *layouter) entry(t *typ) *dwarf.Entry {
	at, ok := l.places[t]
	if !ok {
		return nil
	}
	r := l.data.Reader()
	r.Seek(at)
	e, err := r.Next()
	if err != nil {
		return nil
	}
	return e
}
