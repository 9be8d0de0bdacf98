package semantic

import (
	"bytes"
	"debug/dwarf"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// Told is a translation unit with what gcc tells of it besides the object, when it compiles it with ToldFlags. The texts are those of
// ToldFiles, in order: the functions with all conversions, how functions are declared, and who refers to them.
type Told struct {
	Object                         []byte
	Functions, Signatures, Symbols []byte
}

var (
	// ToldFiles are written where the compiler runs.
	ToldFiles = []string{".ksplice-functions", ".ksplice-signatures", ".ksplice-symbols"}
	// ToldFlags have types that nobody uses described as well: they may be other names for a structure.
	ToldFlags = []string{"-fno-eliminate-unused-debug-types", "-fdump-tree-original=" + ToldFiles[0], "-aux-info " + ToldFiles[1],
		"-fdump-ipa-cgraph=" + ToldFiles[2]}
)

// Holders proves of a structure T, by its tag, that an object of T can be reached only while one of some functions runs, and names these
// functions: those whose code, with what is inlined, has to do with T. An error says why it is not proved. Once none of them runs, an
// object of T may still take up memory, but nobody comes to read it.
//
// The proof: a pointer to an object (T *) is first held by the function that allocated it, or in whose frame it is. It stays with
// functions that have to do with T, because
//
//   - T is defined in the unit's own source file, so that no other unit knows it. No member of a structure, no variable outside of
//     functions' frames, no array, typedef, pointer to a pointer or pointer to a function has to do with it (confined, by DWARF);
//   - functions that take or return T * are static, defined here, take and return it plainly, and are only ever called by name (signatures
//     and calledByName: by gcc's list of all declarations, and its call graph, which has static initialisers and aliases as well);
//   - in functions, a T * goes from variable to variable, to those functions, to kfree and its like, and into comparisons. It is
//     not converted to any other type, its address is not taken, nor that of a member; it is no operand of assembly, nor one of "..."
//     (flows, by gcc's dump of the functions, in which all conversions are explicit);
//   - and what is made a T * is fresh memory of a fixed size, T's or more, the address of a variable of the function's frame, or NULL.
//
// All that is not known to be one of these is refused. Taken for granted is that assembly refers to no static function by its name alone, and
// reaches no further than the operands it is given.
func Holders(told *Told, tag string) (names []string, err error) {
	defer func() {
		// debug/elf and debug/dwarf can panic on damaged input.
		if r := recover(); r != nil {
			names, err = nil, fmt.Errorf("damaged debug information: %v", r)
		}
	}()
	file, err := openELF(bytes.NewReader(told.Object))
	if err != nil {
		return nil, err
	}
	u, err := load(file)
	if err != nil {
		return nil, err
	}
	t := u.named[key{"tag", tag}]
	if t == nil || !u.confined(t) {
		return nil, errors.New("others than functions may hold it")
	}
	if err := u.toldOf(told.Functions); err != nil {
		return nil, err
	}
	p := &proof{tag: tag, size: t.size}
	if p.signatures, err = signaturesWith(told.Signatures, tag); err != nil {
		return nil, err
	}
	if err := calledByName(told.Symbols, p.signatures); err != nil {
		return nil, err
	}
	concerned, err := p.flows(told.Functions)
	if err != nil {
		return nil, err
	}
	return u.holding(concerned), nil
}

// confined reports whether only functions of this unit can have to do with a structure: in parameters and results, and in variables of their
// frames that are objects of it or point to one.
func (u *unit) confined(t *typ) bool {
	if t.kind != kindStruct || t.name == "" || !u.ownFile(t) {
		return false
	}
	r := relation{u: u, tag: t.name, known: map[*typ]distance{}}
	for _, x := range u.types {
		if x.kind.aggregate() && x.name == t.name && x.local || r.of(x, 0) == far {
			return false
		}
		for i := range x.members {
			if x.kind.aggregate() && r.of(x.members[i].t, 0) != none {
				return false
			}
		}
	}
	return !slices.ContainsFunc(u.variables, func(v *variable) bool {
		return (v.function == nil || v.placed) && r.of(u.types[v.of], 0) != none
	})
}

// ownFile says that a type is defined in the file that the unit is made of, not in one that it includes.
func (u *unit) ownFile(t *typ) bool {
	source, _ := u.cus[t.cu].Val(dwarf.AttrName).(string)
	dir, _ := u.cus[t.cu].Val(dwarf.AttrCompDir).(string)
	if rel, err := filepath.Rel(dir, source); err == nil && filepath.IsLocal(rel) {
		source = rel
	}
	return source != "" && u.file(t.cu, t.file) == filepath.Clean(source)
}

// toldOf says that the dump has all functions of the unit in it.
func (u *unit) toldOf(dump []byte) error {
	found := map[string]bool{}
	for _, m := range heading.FindAllSubmatch(dump, -1) {
		found[string(m[1])] = true
	}
	for _, f := range u.functions {
		if f.body && !found[f.name] {
			return fmt.Errorf("the compiler does not tell of %s", f.name)
		}
	}
	return nil
}

// distance is what a type has to do with the structure of a relation.
type distance uint8

const (
	none    distance = iota
	itself           // with qualifiers perhaps
	pointer          // to it
	far              // anything else that leads to it, but for members
)

type relation struct {
	u     *unit
	tag   string
	known map[*typ]distance
}

func (r *relation) of(t *typ, depth int) distance {
	if t == nil {
		return none
	}
	if depth > maxDepth {
		return far
	}
	d, ok := r.known[t]
	if !ok {
		d = r.measure(t, depth+1)
		r.known[t] = d
	}
	return d
}

func (r *relation) measure(t *typ, depth int) distance {
	if t.kind.aggregate() {
		if t.name == r.tag {
			return itself
		}
		return none
	}
	for _, p := range t.params {
		if r.of(r.u.types[p], depth) != none {
			return far
		}
	}
	d := r.of(t.elem, depth)
	switch {
	case d == none, t.kind == kindAlias && t.name == "": // qualifiers
		return d
	case d == itself && t.kind == kindPointer:
		return pointer
	}
	return far
}

// holding names the functions that have code of some functions in them, their own or inlined.
func (u *unit) holding(functions map[string]bool) []string {
	var names []string
	for _, f := range u.functions {
		if !functions[f.name] {
			continue
		}
		for f.within != nil {
			f = f.within
		}
		names = append(names, f.name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
