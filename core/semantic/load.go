package semantic

import (
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// kind is what a type is, as far as its layout goes.
type kind uint8

const (
	kindVoid kind = iota
	kindInt       // integers, characters, booleans
	kindFloat
	kindPointer
	kindArray
	kindStruct
	kindUnion
	kindEnum
	kindFunction
	kindAlias // typedefs and qualifiers: another name for the same layout
	kindOther // what C does not have
)

func (k kind) String() string {
	return [...]string{"void", "integer", "float", "pointer", "array", "struct", "union", "enum", "function", "alias",
		"other"}[k]
}

func (k kind) aggregate() bool { return k == kindStruct || k == kindUnion }

// typ is a type as DWARF describes it.
type typ struct {
	kind     kind
	complete bool // it is a definition
	local    bool // it is defined inside a function
	name     string
	of       dwarf.Offset   // what it points to, is an array or alias of; 0 is void
	elem     *typ           // the same, resolved; nil is void
	size     int64          // bytes; -1: not said
	align    int64          // bytes, where the source asks for it; else 0
	dims     []int64        // of an array; 0 for an open one
	members  []member       // of structs and unions; an enum's constants
	params   []dwarf.Offset // of a function that pointers lead to
	// where it is defined
	cu         int
	file, line int64
}

// member is a member, or a constant of an enum.
type member struct {
	name string
	of   dwarf.Offset
	t    *typ
	off  int64 // bits from the start
	bits int64 // of a bit field; else 0
	// of a constant
	value int64
}

// key names a type in a unit.
type key struct {
	space string // "tag", "typedef" or "variable"
	name  string
}

func (k key) shown() string {
	if k.space == "variable" {
		return "of variable " + k.name
	}
	return k.name
}

// unit is the types of an object.
type unit struct {
	data  *dwarf.Data
	cus   []*dwarf.Entry
	types map[dwarf.Offset]*typ
	// named are the complete structs, unions and enums that have a name at file scope, directly or by what is made of them.
	named map[key]*typ
	// enums are those without any name; constants are the values of all such constants, which share one scope in C.
	enums     []*typ
	constants map[string]int64
	variables []*variable
	// signatures are the global functions that are defined, by name.
	signatures map[string]*function
	functions  map[dwarf.Offset]*function
	files      [][]*dwarf.LineFile // of each compile unit, as far as asked for
}

// load reads the types of f.
func load(f *elf.File) (*unit, error) {
	u := &unit{types: map[dwarf.Offset]*typ{}, named: map[key]*typ{}, constants: map[string]int64{}, signatures: map[string]*function{},
		functions: map[dwarf.Offset]*function{}}
	if f.Section(".debug_info") == nil {
		if f.Section(".comment") != nil { // the compiler's mark, which hand-written assembly lacks
			return nil, fmt.Errorf("%w: it has no .debug_info; compile it with -g, or a kernel that has CONFIG_DEBUG_INFO", ErrNoTypes)
		}
		return u, nil
	}
	var err error
	if u.data, err = f.DWARF(); err != nil {
		return nil, fmt.Errorf("read debug information: %w", err)
	}
	l := &loader{unit: u, r: u.data.Reader(), order64: f.ByteOrder, described: map[dwarf.Offset]*variable{}}
	for {
		e, err := l.r.Next()
		if err != nil {
			return nil, fmt.Errorf("read debug information: %w", err)
		}
		if e == nil {
			break
		}
		if e.Tag != dwarf.TagCompileUnit {
			// A partial or type unit: the compilers of kernels make none.
			return nil, fmt.Errorf("read debug information: unit of kind %s at %#x", e.Tag, e.Offset)
		}
		// CONFIG_DEBUG_INFO_REDUCED leaves the members of header's types out.
		if p, _ := e.Val(dwarf.AttrProducer).(string); strings.Contains(p, "-femit-struct-debug") {
			return nil, fmt.Errorf("%w completely: the kernel has CONFIG_DEBUG_INFO_REDUCED", ErrNoTypes)
		}
		u.cus = append(u.cus, e)
		if !e.Children {
			continue
		}
		if err := l.children(nil, nil, 0); err != nil {
			return nil, fmt.Errorf("read debug information: %w", err)
		}
	}
	l.inherit()
	if err := l.resolve(); err != nil {
		return nil, fmt.Errorf("read debug information: %w", err)
	}
	return u, nil
}

type loader struct {
	*unit
	r         *dwarf.Reader
	order     []*typ
	order64   binary.ByteOrder // of addresses
	described map[dwarf.Offset]*variable
}

const maxDepth = 64 // of nested descriptions; C's are at most some ten

// children reads the descriptions below a type, in a function or the unit (nil).
func (l *loader) children(parent *typ, in *function, depth int) error {
	if depth > maxDepth {
		return errors.New("descriptions nest too deeply")
	}
	for {
		e, err := l.r.Next()
		if err != nil {
			return err
		}
		if e == nil {
			return errors.New("descriptions end early")
		}
		if e.Tag == 0 {
			return nil
		}
		var t *typ
		inner := in
		switch e.Tag {
		case dwarf.TagMember:
			if parent != nil {
				parent.members = append(parent.members, field(e))
			}
		case dwarf.TagEnumerator:
			if parent != nil {
				parent.members = append(parent.members, constant(e))
			}
		case dwarf.TagSubrangeType:
			if parent != nil {
				parent.dims = append(parent.dims, dimension(e))
			}
		case dwarf.TagFormalParameter:
			of, _ := e.Val(dwarf.AttrType).(dwarf.Offset)
			switch {
			case parent != nil:
				parent.params = append(parent.params, of)
			case in != nil:
				in.params = append(in.params, of)
			}
		case dwarf.TagUnspecifiedParameters:
			if parent == nil && in != nil {
				in.variadic = true
			}
		case dwarf.TagVariable:
			if parent == nil {
				l.variable(e, in)
			}
		case dwarf.TagSubprogram, dwarf.TagInlinedSubroutine:
			inner = l.function(e, in)
		case dwarf.TagLexDwarfBlock:
		default:
			t = l.describe(e, in != nil)
		}
		if !e.Children {
			continue
		}
		if t == nil && inner == nil {
			l.r.SkipChildren()
			continue
		}
		// A function's own types are read only because pointers of the same function lead to them.
		if err := l.children(t, inner, depth+1); err != nil {
			return err
		}
	}
}

// describe notes a type; nil: e is none.
func (l *loader) describe(e *dwarf.Entry, local bool) *typ {
	t := &typ{size: -1, complete: true, local: local, cu: len(l.cus) - 1}
	switch e.Tag {
	case dwarf.TagStructType, dwarf.TagClassType:
		t.kind = kindStruct
	case dwarf.TagUnionType:
		t.kind = kindUnion
	case dwarf.TagEnumerationType:
		t.kind = kindEnum
	case dwarf.TagPointerType, dwarf.TagReferenceType:
		t.kind = kindPointer
	case dwarf.TagArrayType:
		t.kind = kindArray
	case dwarf.TagSubroutineType:
		t.kind = kindFunction
	case dwarf.TagBaseType:
		t.kind = kindInt
	case dwarf.TagTypedef, dwarf.TagConstType, dwarf.TagVolatileType, dwarf.TagRestrictType, dwarf.TagAtomicType:
		t.kind = kindAlias
	case dwarf.TagUnspecifiedType:
		t.kind = kindVoid
	default:
		return nil
	}
	for i := range e.Field {
		f := &e.Field[i]
		switch f.Attr {
		case dwarf.AttrName:
			t.name, _ = f.Val.(string)
		case dwarf.AttrByteSize:
			t.size = number(f.Val, -1)
		case dwarf.AttrAlignment:
			t.align = number(f.Val, 0)
		case dwarf.AttrType:
			t.of, _ = f.Val.(dwarf.Offset)
		case dwarf.AttrDeclaration:
			if yes, _ := f.Val.(bool); yes {
				t.complete = false
			}
		case dwarf.AttrEncoding:
			// DWARF 5, 7.8: complex float, float, imaginary float, decimal float
			if enc := number(f.Val, 0); enc == 3 || enc == 4 || enc == 9 || enc == 0xf {
				t.kind = kindFloat
			}
		case dwarf.AttrDeclFile:
			t.file = number(f.Val, 0)
		case dwarf.AttrDeclLine:
			t.line = number(f.Val, 0)
		}
	}
	l.types[e.Offset] = t
	l.order = append(l.order, t)
	return t
}

func number(v any, otherwise int64) int64 {
	if n, ok := v.(int64); ok {
		return n
	}
	return otherwise
}

// field reads a member or a variable.
func field(e *dwarf.Entry) member {
	var m member
	var at, size, bitOffset, dataBit int64
	var fromEnd, fromStart bool
	for i := range e.Field {
		f := &e.Field[i]
		switch f.Attr {
		case dwarf.AttrName:
			m.name, _ = f.Val.(string)
		case dwarf.AttrType:
			m.of, _ = f.Val.(dwarf.Offset)
		case dwarf.AttrDataMemberLoc:
			if b, ok := f.Val.([]byte); ok && len(b) > 1 && b[0] == 0x23 { // DW_OP_plus_uconst, before DWARF 3
				at = uleb(b[1:])
			} else {
				at = number(f.Val, 0)
			}
		case dwarf.AttrByteSize:
			size = number(f.Val, 0)
		case dwarf.AttrBitSize:
			m.bits = number(f.Val, 0)
		case dwarf.AttrBitOffset:
			bitOffset, fromEnd = number(f.Val, 0), true
		case dwarf.AttrDataBitOffset:
			dataBit, fromStart = number(f.Val, 0), true
		}
	}
	m.off = at * 8
	switch {
	case fromStart:
		m.off += dataBit
	case fromEnd && size > 0:
		// DWARF 2 and 3 count from the most significant bit of the storage unit, beyond which a packed field may lie. The number only has
		// to be the same for pre and post, so it is right for either byte order.
		m.off += size*8 - bitOffset - m.bits
	}
	return m
}

func uleb(b []byte) int64 {
	var n int64
	for i, c := range b {
		if i == 9 {
			break
		}
		n |= int64(c&0x7f) << (7 * i)
		if c < 0x80 {
			break
		}
	}
	return n
}

func constant(e *dwarf.Entry) member {
	var m member
	m.name, _ = e.Val(dwarf.AttrName).(string)
	m.value = number(e.Val(dwarf.AttrConstValue), 0)
	return m
}

// dimension is an array's number of elements: 0 for [] and [0] alike.
func dimension(e *dwarf.Entry) int64 {
	if n, ok := e.Val(dwarf.AttrCount).(int64); ok {
		return max(n, 0)
	}
	if n, ok := e.Val(dwarf.AttrUpperBound).(int64); ok {
		return max(n+1, 0)
	}
	return 0
}

// resolve follows the references between types and gives each type that has one its name.
func (l *loader) resolve() error {
	for _, t := range l.order {
		if t.of != 0 {
			if t.elem = l.types[t.of]; t.elem == nil {
				t.elem = &typ{kind: kindOther, size: -1}
			}
		}
		if !t.kind.aggregate() {
			continue
		}
		for i := range t.members {
			m := &t.members[i]
			if m.of == 0 {
				return fmt.Errorf("member %q of %s %q has no type", m.name, t.kind, t.name)
			}
			if m.t = l.types[m.of]; m.t == nil {
				m.t = &typ{kind: kindOther, size: -1}
			}
		}
	}
	named := func(k key, t *typ) {
		if l.named[k] == nil {
			l.named[k] = t
		}
	}
	nameable := func(t *typ) bool {
		return t != nil && t.complete && !t.local && (t.kind.aggregate() || t.kind == kindEnum)
	}
	for _, t := range l.order {
		if nameable(t) && t.name != "" {
			named(key{"tag", t.name}, t)
		}
	}
	// A typedef is as good a name; only then a variable's is asked for.
	for _, t := range l.order {
		if t.kind == kindAlias && t.name != "" && !t.local && nameable(t.elem) && t.elem.name == "" {
			t.elem.name = t.name
			named(key{"typedef", t.name}, t.elem)
		}
	}
	for _, v := range l.variables {
		if v.function != nil || v.name == "" {
			continue
		}
		t := l.types[v.of]
		for n := 0; t != nil && n < maxDepth && (t.kind == kindAlias || t.kind == kindArray); n++ {
			t = t.elem
		}
		if nameable(t) && t.name == "" && t.kind != kindEnum {
			named(key{"variable", v.name}, t)
		}
	}
	for _, t := range l.order {
		if t.kind == kindEnum && nameable(t) && t.name == "" && len(t.members) > 0 {
			l.enums = append(l.enums, t)
			for _, m := range t.members {
				l.constants[m.name] = m.value
			}
		}
	}
	return nil
}

// where is the file and line of a definition in a unit, by the numbers of the description.
func (u *unit) where(cu int, file, line int64) string {
	name := u.file(cu, file)
	if name == "" {
		return "unknown file"
	}
	return fmt.Sprintf("%s:%d", name, line)
}

// file names a file by its number in a unit; "" is unknown.
func (u *unit) file(cu int, file int64) string {
	entry := u.cus[cu]
	if u.files == nil {
		u.files = make([][]*dwarf.LineFile, len(u.cus))
	}
	if u.files[cu] == nil {
		lines, err := u.data.LineReader(entry)
		if err != nil || lines == nil {
			return ""
		}
		u.files[cu] = lines.Files()
	}
	files := u.files[cu]
	if file < 0 || file >= int64(len(files)) || files[file] == nil {
		return ""
	}
	name := filepath.Clean(files[file].Name)
	if dir, _ := entry.Val(dwarf.AttrCompDir).(string); dir != "" {
		if rel, err := filepath.Rel(dir, name); err == nil && filepath.IsLocal(rel) {
			name = rel
		}
	}
	return name
}
