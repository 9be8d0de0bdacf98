package semantic

import (
	"debug/dwarf"
	"fmt"
	"os"
	"slices"
	"strings"
)

// CompareSignatures compares how functions are called, those among names which both of two relocatable objects define: the types of parameters
// and results, by name. Code that was compiled before the patch calls them as they were. The changes are sorted by name;
// an object of the compiler without debug information is ErrNoTypes.
func CompareSignatures(prePath, postPath string, names map[string]bool) (changes []Change, err error) {
	defer func() {
		// debug/elf and debug/dwarf can panic on damaged input.
		if r := recover(); r != nil {
			changes, err = nil, fmt.Errorf("damaged debug information: %v", r)
		}
	}()
	var units [2]*unit
	for i, path := range []string{prePath, postPath} {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read object: %w", err)
		}
		defer f.Close()
		file, err := openELF(f)
		if err == nil {
			units[i], err = load(file)
		}
		if err != nil {
			return nil, fmt.Errorf("signatures of %s: %w", path, err)
		}
	}
	c := &comparer{}
	for name, a := range units[0].signatures {
		b := units[1].signatures[name]
		if b == nil || !names[name] {
			continue
		}
		if x, y := units[0].signature(a), units[1].signature(b); !c.alike(x, y) {
			changes = append(changes, Change{Kind: "function", Name: name, Where: units[0].where(a.cu, a.file, a.line), Detail: fmt.Sprintf("it is %s, was %s", y, x)})
		}
	}
	if c.err != nil {
		return nil, c.err
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return changes, nil
}

// signature is how a function is called.
type signature struct {
	result   *typ
	params   []*typ
	variadic bool
}

func (u *unit) signature(f *function) signature {
	s := signature{result: u.types[f.of], variadic: f.variadic}
	for _, p := range f.params {
		s.params = append(s.params, u.types[p])
	}
	return s
}

// alike says that who calls the one can call the other.
func (c *comparer) alike(a, b signature) bool {
	return a.variadic == b.variadic && c.same(a.result, b.result, 0) &&
		slices.EqualFunc(a.params, b.params, func(x, y *typ) bool { return c.same(x, y, 0) })
}

func (s signature) String() string {
	name := func(t *typ) string {
		if bare(t) == nil {
			return "void"
		}
		return describe(t)
	}
	var params []string
	for _, p := range s.params {
		params = append(params, name(p))
	}
	if s.variadic {
		params = append(params, "...")
	}
	if len(params) == 0 {
		params = []string{"void"}
	}
	return fmt.Sprintf("%s (%s)", name(s.result), strings.Join(params, ", "))
}

// callable notes a function of the source, as it is declared: what is compiled of it, several times perhaps, refers to that.
func (l *loader) callable(e *dwarf.Entry, f *function) {
	external, _ := e.Val(dwarf.AttrExternal).(bool)
	if !f.body || !external || f.origin != 0 || f.name == "" {
		return
	}
	f.of, _ = e.Val(dwarf.AttrType).(dwarf.Offset)
	f.cu = len(l.cus) - 1
	f.file, f.line = number(e.Val(dwarf.AttrDeclFile), 0), number(e.Val(dwarf.AttrDeclLine), 0)
	l.signatures[f.name] = f
}
