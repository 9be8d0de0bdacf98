// Package semantic says which types a patch gives another layout: objects that live when an update goes in were made by the
// old code, and the new code would misread them. core/create calls it with every translation unit's pre and post object.
//
// Types are compared by name, as DWARF describes them: C gives a tag, a typedef or a variable one meaning at the file scope
// of a unit. Types inside functions do not count, since no object of theirs outlives the function (but for a static variable
// there, which is compared by the function's name and its own). A type that only pre or only post mentions is no change either: no
// old code, or no new code, handles objects of it in this unit.
//
// Of a structure that one source file has for itself it can prove that no object outlives the functions that have to do with it (Holders).
//
// It also says where an object's static variables are declared (Statics): their symbols' names do not.
package semantic

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
)

// ErrNoTypes says that an object does not describe its types.
var ErrNoTypes = errors.New("the object does not describe its types")

// Change is a type whose layout or meaning of values differs.
type Change struct {
	// Kind is "struct", "union", "enum" or "variable".
	Kind string
	// Name is the tag, the name of the typedef or, for a type without either, whose type it is; of a static variable of a function,
	// "function.variable".
	Name string
	// Where is the definition in pre, "include/linux/sched.h:737", relative to the directory of compilation if inside it.
	Where string
	// Detail says what differs, offsets and sizes in bytes.
	Detail string
	// Bound says that only constants of an enum differ that count the others: objects that exist are not misread, unless somebody
	// stores the count.
	Bound bool
	// Told says that all memory is as it was, and only the names of members' types differ: a number that becomes atomic, a lock of another kind.
	Told bool
	// Added are the members that a structure gains, where all others stay what they are, if not where they are; none for every other change.
	Added []Member
	// Confined says that nothing but functions of this unit can have to do with the structure, before and after: Holders may prove more.
	Confined bool
}

// Member is a member of a structure.
type Member struct {
	// Name is as C writes it behind the object's: "filters_lock", or "at.x" for one of an unnamed structure.
	Name string
	// Type is as the source names it: "spinlock_t", "struct list_head", "unsigned long *".
	Type string
	// Size is in bytes, Bits a bit field's width, else 0.
	Size, Bits uint64
	// Kind is "number" (an enum, or an array of numbers, too), "pointer", or empty for everything else.
	Kind string
}

func (c Change) String() string {
	return fmt.Sprintf("%s %s (%s): %s", c.Kind, c.Name, c.Where, c.Detail)
}

// CompareFiles compares the types of two relocatable objects with debug information, sorted by where they are defined. An
// object of the compiler without debug information is ErrNoTypes; an assembler's has no types.
func CompareFiles(prePath, postPath string) ([]Change, error) {
	pre, err := os.Open(prePath)
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	defer pre.Close()
	post, err := os.Open(postPath)
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	defer post.Close()
	changes, err := Compare(pre, post)
	if err != nil {
		return nil, fmt.Errorf("compare types of %s and %s: %w", prePath, postPath, err)
	}
	return changes, nil
}

// Compare is CompareFiles on what is already open. It never panics, whatever the bytes.
func Compare(pre, post io.ReaderAt) (changes []Change, err error) {
	defer func() {
		// debug/elf and debug/dwarf can panic on damaged input.
		if r := recover(); r != nil {
			changes, err = nil, fmt.Errorf("damaged debug information: %v", r)
		}
	}()
	a, err := openELF(pre)
	if err != nil {
		return nil, fmt.Errorf("pre: %w", err)
	}
	b, err := openELF(post)
	if err != nil {
		return nil, fmt.Errorf("post: %w", err)
	}
	if same, err := sameDebug(a, b); err != nil || same {
		return nil, err
	}
	// In turn, not side by side: the caller compares units in parallel, and one unit's types can take 50 MB.
	was, err := load(a)
	if err != nil {
		return nil, fmt.Errorf("pre: %w", err)
	}
	is, err := load(b)
	if err != nil {
		return nil, fmt.Errorf("post: %w", err)
	}
	return compare(was, is)
}

func openELF(r io.ReaderAt) (*elf.File, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	if f.Type != elf.ET_REL {
		return nil, fmt.Errorf("read object: it is %s, not a relocatable object", f.Type)
	}
	return f, nil
}

// sameDebug reports whether all that names and describes types is the same bytes.
func sameDebug(a, b *elf.File) (bool, error) {
	for _, name := range []string{".debug_info", ".debug_abbrev", ".debug_str", ".rela.debug_info"} {
		x, y := a.Section(name), b.Section(name)
		if x == nil || y == nil || x.Size != y.Size {
			return false, nil
		}
		p, err := x.Data()
		if err != nil {
			return false, fmt.Errorf("pre: read %s: %w", name, err)
		}
		q, err := y.Data()
		if err != nil {
			return false, fmt.Errorf("post: read %s: %w", name, err)
		}
		if !bytes.Equal(p, q) {
			return false, nil
		}
	}
	return true, nil
}

// compare reports the types in both that differ.
func compare(pre, post *unit) ([]Change, error) {
	c := &comparer{}
	type found struct {
		t *typ
		Change
	}
	var out []found
	for k, a := range pre.named {
		b := post.named[k]
		if b == nil || a.kind != b.kind && (a.kind == kindEnum || b.kind == kindEnum) {
			continue // another thing under the same name of a variable or typedef: its users change with it
		}
		d := c.differences(a, b)
		if renamed := c.renamed(a, b); len(d) == 0 && len(renamed) > 0 {
			out = append(out, found{a, Change{Kind: a.kind.String(), Name: k.shown(), Detail: join(renamed), Told: true}})
		}
		if len(d) > 0 {
			out = append(out, found{a, Change{Kind: a.kind.String(), Name: k.shown(), Detail: join(d), Bound: a.kind == kindEnum && bounds(a, b),
				Confined: k.space == "tag" && pre.confined(a) && post.confined(b), Added: c.added(a, b)}})
		}
	}
	for _, e := range pre.enums {
		if d := constants(e, post.constants); len(d) > 0 {
			out = append(out, found{e, Change{Kind: "enum", Name: "with " + e.members[0].name, Detail: join(d)}})
		}
	}
	changes := c.variables(pre, post)
	if c.err != nil {
		return nil, c.err
	}
	for _, f := range out {
		f.Where = pre.where(f.t.cu, f.t.file, f.t.line)
		changes = append(changes, f.Change)
	}
	sort.Slice(changes, func(i, j int) bool {
		a, b := changes[i], changes[j]
		if a.Where != b.Where {
			return a.Where < b.Where
		}
		return a.Kind+a.Name < b.Kind+b.Name
	})
	return changes, nil
}
