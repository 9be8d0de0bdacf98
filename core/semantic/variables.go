package semantic

import (
	"bytes"
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// Static is where the source declares a variable with a place of its own.
type Static struct {
	// Function is the function that it is local to, wherever that is inlined or cloned; "" at file scope.
	Function string
	Name     string
	// File is relative to the directory of compilation if inside it; "" and 0 are unknown.
	File string
	Line int64
	// Array says that it is an array.
	Array bool
	// Order numbers an object's variables as they are described: by place in the source, within a function.
	Order int
}

// function is a function's description, or that of one place where it is inlined.
type function struct {
	name   string
	origin dwarf.Offset // of what this is an instance of; 0: none
	within *function    // what it is inlined into; nil: it stands for itself
	body   bool         // it is defined in the unit
	// of a global one
	of         dwarf.Offset // what it returns; 0 is void
	params     []dwarf.Offset
	variadic   bool
	cu         int
	file, line int64
}

// variable is one description of a variable; several may speak of the same one.
type variable struct {
	name       string
	of         dwarf.Offset
	function   *function // nil: file scope
	origin     dwarf.Offset
	cu         int
	file, line int64
	declared   bool // elsewhere
	placed     bool
	place      uint64 // an address of its own, if placed
}

func (l *loader) function(e *dwarf.Entry, within *function) *function {
	f := &function{within: within}
	f.name, _ = e.Val(dwarf.AttrName).(string)
	f.origin = origin(e)
	declared, _ := e.Val(dwarf.AttrDeclaration).(bool)
	f.body = e.Tag == dwarf.TagSubprogram && !declared
	l.functions[e.Offset] = f
	l.callable(e, f)
	return f
}

// origin is the description that another one completes.
func origin(e *dwarf.Entry) dwarf.Offset {
	for _, a := range []dwarf.Attr{dwarf.AttrAbstractOrigin, dwarf.AttrSpecification} {
		if o, ok := e.Val(a).(dwarf.Offset); ok {
			return o
		}
	}
	return 0
}

func (l *loader) variable(e *dwarf.Entry, in *function) {
	v := &variable{function: in, origin: origin(e), cu: len(l.cus) - 1}
	for i := range e.Field {
		f := &e.Field[i]
		switch f.Attr {
		case dwarf.AttrName:
			v.name, _ = f.Val.(string)
		case dwarf.AttrType:
			v.of, _ = f.Val.(dwarf.Offset)
		case dwarf.AttrDeclFile:
			v.file = number(f.Val, 0)
		case dwarf.AttrDeclLine:
			v.line = number(f.Val, 0)
		case dwarf.AttrDeclaration:
			v.declared, _ = f.Val.(bool)
		case dwarf.AttrLocation:
			// DW_OP_addr (DWARF 5, 2.5.1.1) and nothing else: what has a place of its own.
			if b, ok := f.Val.([]byte); ok && len(b) == 9 && b[0] == 0x03 {
				v.placed, v.place = true, l.order64.Uint64(b[1:])
			}
		}
	}
	l.described[e.Offset] = v
	l.variables = append(l.variables, v)
}

// inherit completes functions and variables by what they are instances of.
func (l *loader) inherit() {
	for _, f := range l.functions {
		for n, o := 0, l.functions[f.origin]; n < maxDepth && f.name == "" && o != nil; n++ {
			f.name, o = o.name, l.functions[o.origin]
		}
	}
	for _, v := range l.variables {
		for n, o := 0, l.described[v.origin]; n < maxDepth && o != nil; n++ {
			if v.name == "" {
				v.name = o.name
			}
			if v.of == 0 {
				v.of = o.of
			}
			if v.line == 0 {
				v.cu, v.file, v.line = o.cu, o.file, o.line
			}
			v.function = o.function
			o = l.described[o.origin]
		}
	}
}

// placedByName lists the variables with a place by their names; those of functions as "function.variable". A name that several have is nil.
func (u *unit) placedByName() map[string]*variable {
	m := map[string]*variable{}
	for _, v := range u.variables {
		if !v.placed || v.declared || v.name == "" {
			continue
		}
		name := v.name
		if v.function != nil {
			name = v.function.name + "." + v.name
		}
		if o, ok := m[name]; ok && (o == nil || o.place != v.place || o.line != v.line) {
			v = nil
		}
		m[name] = v
	}
	return m
}

// variables reports the variables whose own type becomes another one of the same size: what is in them would be misread. Other
// sizes are core/diff's to see.
func (c *comparer) variables(pre, post *unit) []Change {
	var out []Change
	is := post.placedByName()
	for name, a := range pre.placedByName() {
		b := is[name]
		if a == nil || b == nil {
			continue
		}
		x, y := pre.types[a.of], post.types[b.of]
		if x == nil || y == nil || size(x) != size(y) {
			continue
		}
		detail := ""
		if p, q := element(x), element(y); p != nil && q != nil && p.kind.aggregate() && q.kind.aggregate() && p.name == q.name && (p.local || p.name == "") {
			// At file scope it is told as the type's change, which has the variable's name.
			if a.function == nil || !p.complete || !q.complete {
				continue
			}
			detail = join(c.differences(p, q))
		} else if !c.same(x, y, 0) {
			detail = fmt.Sprintf("it is %s, was %s", describe(y), describe(x))
		}
		if detail != "" {
			out = append(out, Change{Kind: "variable", Name: name, Where: pre.where(a.cu, a.file, a.line), Detail: detail})
		}
	}
	return out
}

// element is the type of what an array, or an array of arrays, consists of; of anything else it is the type.
func element(t *typ) *typ {
	t = bare(t)
	for n := 0; t != nil && t.kind == kindArray && n < maxDepth; n++ {
		t = bare(t.elem)
	}
	return t
}

// size is a type's in bytes; 0 is unknown.
func size(t *typ) int64 {
	t = bare(t)
	switch {
	case t == nil:
		return 0
	case t.kind == kindArray:
		return count(t) * size(t.elem)
	}
	return max(t.size, 0)
}

// sectionShift tells sections apart in addresses of a relocatable object: each is put at its number times two to this.
const sectionShift = 32

// Statics says where the variables of a relocatable object are declared, by the names of their symbols. It is empty for an object
// without debug information.
func Statics(path string) (map[string]Static, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	m, err := statics(b)
	if err != nil {
		return nil, fmt.Errorf("static variables of %s: %w", path, err)
	}
	return m, nil
}

// statics overwrites b.
func statics(b []byte) (map[string]Static, error) {
	m := map[string]Static{}
	err := eachPlaced(b, func(symbol string, order int, v *variable, u *unit) {
		if _, ok := m[symbol]; ok {
			return
		}
		t := bare(u.types[v.of])
		s := Static{Name: v.name, File: u.file(v.cu, v.file), Line: v.line, Array: t != nil && t.kind == kindArray, Order: order}
		if v.function != nil {
			s.Function = v.function.name
		}
		m[symbol] = s
	})
	return m, err
}

// eachPlaced calls f for every symbol of every variable with a place of its own. It overwrites b, and calls nobody where an object has no
// debug information.
func eachPlaced(b []byte, f func(symbol string, order int, v *variable, u *unit)) (err error) {
	defer func() {
		// debug/elf and debug/dwarf can panic on damaged input.
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged debug information: %v", r)
		}
	}()
	file, err := openELF(bytes.NewReader(b))
	if err != nil {
		return err
	}
	if file.Section(".debug_info") == nil {
		return nil
	}
	names, err := spread(file, b)
	if err != nil {
		return err
	}
	u, err := load(file)
	if err != nil {
		return err
	}
	for i, v := range u.variables {
		if !v.placed || v.name == "" {
			continue
		}
		for _, n := range names[v.place] {
			f(n, i, v, u)
		}
	}
	return nil
}

// spread gives each section of memory an address of its own in the symbol table of an object, whose bytes are b, and returns
// the symbols' names by address. debug/elf resolves relocations by the table and takes all sections to be at 0.
func spread(f *elf.File, b []byte) (map[uint64][]string, error) {
	table := f.SectionByType(elf.SHT_SYMTAB)
	symbols, err := f.Symbols()
	if err != nil {
		return nil, fmt.Errorf("read symbols: %w", err)
	}
	const entry, value = 24, 8 // sizeof(Elf64_Sym), offsetof(Elf64_Sym, st_value)
	if f.Class != elf.ELFCLASS64 || uint64(len(symbols)+1)*entry > table.FileSize || table.Offset+table.FileSize > uint64(len(b)) {
		return nil, errors.New("read symbols: it is no object of 64 bits")
	}
	names := map[uint64][]string{}
	var order binary.ByteOrder = f.ByteOrder
	for i := range symbols {
		y := &symbols[i]
		if int(y.Section) >= len(f.Sections) || f.Sections[y.Section].Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		at := y.Value + uint64(y.Section)<<sectionShift
		order.PutUint64(b[table.Offset+uint64(i+1)*entry+value:], at)
		if elf.ST_TYPE(y.Info) != elf.STT_SECTION && y.Name != "" {
			names[at] = append(names[at], y.Name)
		}
	}
	return names, nil
}
