// Package part makes the objects of a part, the loadable module that an update holds for one target: what pre-post
// differencing found to be needed of each post object, a description of the functions that are replaced, a glue source
// for kbuild and a linker script. The create pipeline calls it and has a backend link the result.
//
// Everything that the running kernel has is an undefined symbol ksplice_slot_%04x; the manifest says what each stands for.
package part

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
)

// Input is what a part is made of.
type Input struct {
	// ID is the update's, Target the kernel proper ("vmlinux") or a module's name, Name the part's own module name.
	ID, Target, Name string
	// Description is one line for people.
	Description string
	// Units are the target's units that differ.
	Units []UnitInput
	// Others are units of the target that do not differ but are matched, so that new code may name their symbols.
	Others []OtherUnit
	// MaxSlots is how many slots the kernel module has.
	MaxSlots int
}

// UnitInput is one unit that differs.
type UnitInput struct {
	Unit backend.Unit
	// Index is the unit's in the manifest.
	Index     int
	Pre, Post *diff.Object
	Result    *diff.Result
	Closure   *diff.Closure
	// Fixup edits code of post for life in a module; nil: nothing.
	Fixup *arch.FixupResponse
	// Redirects are by symbol number in Pre.
	Redirects map[uint32]arch.Redirect
}

// OtherUnit is a unit without differences.
type OtherUnit struct {
	Index  int
	Pre    *diff.Object
	Result *diff.Result
}

// Output is a part before it is linked, and what the manifest says of it.
type Output struct {
	// Objects hold the extracted code, one a unit; Description the structures of kmod/ksplice_part.h.
	Objects     []*objfile.File
	Description *objfile.File
	// Glue is the C source that kbuild compiles, Script the linker script of the final relocatable link.
	Glue, Script string

	Functions []update.Function
	Slots     []update.Slot
	// Data are the new variables; where they lie is known once the part is linked, their shapes their objects tell (Place).
	Data []update.Datum
	// Writes are the values that data of the running kernel get.
	Writes []update.Write
	// Hooks are the patch's own.
	Hooks []update.Hook
	// Offered names functions of the kernel module that code of the patch calls.
	Offered []string
	// New, Globals, Escapes and Notes are as in update.Part.
	New, Globals, Escapes, Notes []string
}

// builder is one part in the making.
type builder struct {
	in      *Input
	out     *Output
	loader  *loader
	slots   map[slotKey]int
	imports map[string]bool
	shared  map[string]*UnitInput // new global symbols, by name
	units   []*unitBuilder
	copies  []copyPlace
	writes  []write
	hooks   []hookPlace
}

// copyPlace is a place of the part that is filled from the running kernel.
type copyPlace struct {
	symbol string
	slot   int
	length uint64
}

// Build makes a part. Errors name the unit and the function or symbol, and say what cannot be carried and why.
func Build(in *Input) (*Output, error) {
	b := &builder{in: in, out: &Output{}, slots: map[slotKey]int{}, imports: map[string]bool{}, shared: map[string]*UnitInput{}}
	if err := b.build(); err != nil {
		return nil, fmt.Errorf("build part %s: %w", in.Name, err)
	}
	return b.out, nil
}

func (b *builder) build() error {
	// MODULE_NAME_LEN is 64 - sizeof(unsigned long) with the NUL (include/linux/moduleparam.h).
	if n := len(b.in.Name); n == 0 || n > 55 {
		return fmt.Errorf("the module name has %d characters, 1 to 55 are possible", n)
	}
	if len(b.in.Units) == 0 {
		return fmt.Errorf("no unit of %s differs", b.in.Target)
	}
	machine := b.in.Units[0].Post.File.Header.Machine
	l, ok := loaders[machine]
	if !ok {
		return fmt.Errorf("the module loader's rules for machine %v are not known", machine)
	}
	b.loader = &l
	if err := b.findShared(); err != nil {
		return err
	}
	for i := range b.in.Units {
		u := &b.in.Units[i]
		x := &unitBuilder{b: b, in: u, out: objfile.New(machine)}
		if err := x.extract(); err != nil {
			return fmt.Errorf("%s: %w", u.Unit.Object, err)
		}
		b.units = append(b.units, x)
		b.out.Objects = append(b.out.Objects, x.out)
		b.out.New = append(b.out.New, u.Closure.New...)
		b.out.Escapes = append(b.out.Escapes, u.Closure.Escapes...)
		for _, n := range u.Result.Notes {
			b.out.Notes = append(b.out.Notes, u.Unit.Object+": "+n)
		}
	}
	replacements := b.replacements()
	for _, x := range b.units {
		if err := x.replaced(replacements); err != nil {
			return fmt.Errorf("%s: %w", x.in.Unit.Object, err)
		}
	}
	d := &describer{b: b}
	if err := d.describe(machine); err != nil {
		return err
	}
	for _, l := range []*[]string{&b.out.New, &b.out.Globals, &b.out.Escapes, &b.out.Notes} {
		slices.Sort(*l)
		*l = slices.Compact(*l)
	}
	if n := len(b.out.Slots); n > b.in.MaxSlots {
		return fmt.Errorf("it needs %d slots, the kernel module has %d: split the patch", n, b.in.MaxSlots)
	}
	if n := len(b.hooks); n > maxHooks {
		return fmt.Errorf("it has %d hooks, the kernel module takes %d: split the patch", n, maxHooks)
	}
	sealed, err := seal(b.in.Target, b.out.Functions, b.out.Writes, b.out.Slots, b.out.Globals)
	if err != nil {
		return err
	}
	b.out.Glue, b.out.Script = b.glue(sealed), b.script()
	return nil
}

// findShared lists the new global symbols.
func (b *builder) findShared() error {
	for i := range b.in.Units {
		u := &b.in.Units[i]
		for _, p := range u.Closure.Pieces {
			if !p.Shared {
				continue
			}
			for _, y := range p.Symbols {
				if y.Bind == elf.STB_LOCAL {
					continue
				}
				if o := b.shared[y.Name]; o != nil && o != u {
					return fmt.Errorf("%s: %s is new in %s, too", u.Unit.Object, y.Name, o.Unit.Object)
				}
				b.shared[y.Name] = u
				b.out.Globals = append(b.out.Globals, y.Name)
			}
		}
	}
	return nil
}

// trampolinePrefix begins the names of static call trampolines (include/linux/static_call_types.h). No relocation outside
// a site names them, so that only their name can be trusted.
const trampolinePrefix = "__SCT__"

// shadowPrefix begins the names of what the kernel module offers to code of patches (kmod/include/ksplice.h).
const shadowPrefix = "ksplice_shadow_"

// symbol returns the name that the part's objects use for what a reference leads to outside of them.
func (b *builder) symbol(u *UnitInput, t *diff.Target) string {
	if offered := strings.HasPrefix(t.Name, shadowPrefix); offered || b.loader.imported(t.Name) {
		if offered && !b.imports[t.Name] {
			b.out.Offered = append(b.out.Offered, t.Name)
		}
		b.imports[t.Name] = true
		return t.Name
	}
	if t.Pre == nil && b.shared[t.Name] != nil {
		return t.Name
	}
	s := update.Slot{Kind: update.SlotSymbol, Name: t.Name, Unit: -1, AddressTaken: t.Address && !isData(t.Pre)}
	switch {
	case strings.HasPrefix(t.Name, trampolinePrefix):
	case t.Pre != nil:
		s.Unit, s.Symbol = u.Index, uint32(t.Pre.Index)
		if s.Name == "" {
			s.Name = sectionName(t.Pre)
		}
	default:
		if i, y := b.known(t.Name); y != nil {
			s.Unit, s.Symbol = i, uint32(y.Index)
		}
	}
	if t.Key && t.Addend >= 0 && t.Addend < keyFlags {
		s.Kind = update.SlotKey
	}
	return slotName(b.slot(s, t.Pre == nil || t.Pre.Bind != elf.STB_LOCAL))
}

// keyFlags bounds what a jump table's entry adds to the key's address (include/linux/jump_label.h, JUMP_TYPE_MASK and the
// branch bit): a larger addend leads into the middle of a structure that holds the key.
const keyFlags = 4

func isData(y *objfile.Symbol) bool {
	return y != nil && y.Section != nil && y.Section.Flags&elf.SHF_EXECINSTR == 0
}

func sectionName(y *objfile.Symbol) string {
	if y.Name != "" || y.Section == nil {
		return y.Name
	}
	return y.Section.Name
}

// known finds a symbol that another matched unit of the target defines or at least names, or that it has under a local name and the
// patch makes global.
func (b *builder) known(name string) (unit int, y *objfile.Symbol) {
	for i := range b.in.Units {
		if y := b.in.Units[i].Result.Exposed()[name]; y != nil {
			return b.in.Units[i].Index, y
		}
	}
	for i := range b.in.Others {
		if y := b.in.Others[i].Result.Exposed()[name]; y != nil {
			return b.in.Others[i].Index, y
		}
	}
	found := func(index int, o *diff.Object, defined bool) bool {
		y = o.File.Symbol(name)
		unit = index
		return y != nil && y.Bind != elf.STB_LOCAL && (y.Section != nil || !defined && y.Special == elf.SHN_UNDEF)
	}
	for _, defined := range []bool{true, false} {
		for i := range b.in.Units {
			if found(b.in.Units[i].Index, b.in.Units[i].Pre, defined) {
				return unit, y
			}
		}
		for i := range b.in.Others {
			if found(b.in.Others[i].Index, b.in.Others[i].Pre, defined) {
				return unit, y
			}
		}
	}
	return -1, nil
}
