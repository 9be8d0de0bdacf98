// Package bind turns what matching solved into the values of a part's slots for this boot: addresses, private copies
// of static keys that are read-only for good, places of runtime constants. It also says which modules must be held.
// The check and apply pipelines call it.
package bind

import (
	"bytes"
	"debug/elf"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Input is what binding works from.
type Input struct {
	Kernel   *kernel.Kernel
	Manifest *update.Manifest
	// Units are the update's pre objects, in the manifest's order, as they were matched.
	Units    []*match.Unit
	Solution *match.Solution
	// KeyCopy returns the address of a private copy of a static key; nil (a dry run): the key itself is used.
	KeyCopy func(key uint64) (uint64, error)
}

// Binding is the outcome for one part.
type Binding struct {
	Part *update.Part
	// Values are the slots' values, by number.
	Values []uint64
	// Modules are the kernel modules that any value lies in, sorted; without the kernel proper.
	Modules []string
	// Windows are the bytes that matching saw where jumps will be written.
	Windows []engine.Window
}

// Error says which slot or function cannot be bound, and why.
type Error struct {
	Part, Name, Reason string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("bind part %s: %s: %s", e.Part, e.Name, e.Reason) }

// Part binds one part.
func Part(in *Input, part *update.Part) (*Binding, error) {
	b := &Binding{Part: part, Values: make([]uint64, len(part.Slots))}
	for _, n := range part.Globals {
		if err := in.absent(part, n); err != nil {
			return nil, err
		}
	}
	modules := map[string]bool{}
	// Functions first: why one is not matched says more than that a slot has no value.
	for i := range part.Functions {
		f := &part.Functions[i]
		w, owner, err := in.window(part, f)
		if err != nil {
			return nil, err
		}
		if owner != "" {
			modules[owner] = true
		}
		if w != nil {
			b.Windows = append(b.Windows, *w)
		}
	}
	for i := range part.Writes {
		if err := in.write(part, &part.Writes[i]); err != nil {
			return nil, err
		}
	}
	for i := range part.Slots {
		s := &part.Slots[i]
		v, err := in.slot(part, s)
		if err != nil {
			return nil, err
		}
		if !reachable(v) {
			return nil, &Error{part.Name, s.Name, fmt.Sprintf("its value %#x is out of reach of a module's 32-bit references", v)}
		}
		b.Values[i] = v
		if n := in.owner(v); n != "" {
			modules[n] = true
		}
	}
	for n := range modules {
		b.Modules = append(b.Modules, n)
	}
	sort.Strings(b.Modules)
	return b, nil
}

// reachable says that S reaches any place where modules live: it lies in the top 2 GiB, or it is a per-cpu offset or
// zero, small enough to wrap (arch/x86/kernel/module.c applies PC32 and PLT32 without an overflow check; MODULES_VADDR
// and MODULES_END in arch/x86/include/asm/pgtable_64_types.h).
func reachable(v uint64) bool { return v >= 0xffffffff80000000 || v < 1<<30 }

func (in *Input) owner(v uint64) string {
	module, _ := in.Kernel.Owner(v)
	return module
}

func (in *Input) slot(part *update.Part, s *update.Slot) (uint64, error) {
	fail := func(format string, args ...any) (uint64, error) {
		return 0, &Error{part.Name, s.Name, fmt.Sprintf(format, args...)}
	}
	switch s.Kind {
	case update.SlotSymbol:
		v, err := in.symbol(part, s)
		if err != nil {
			return 0, err
		}
		if s.AddressTaken {
			if err := in.landing(part, s, v); err != nil {
				return 0, err
			}
		}
		return v, nil
	case update.SlotKey:
		v, err := in.symbol(part, s)
		if err != nil || in.KeyCopy == nil || !in.Kernel.ReadOnlyAfterInit(v) {
			return v, err
		}
		if m := in.owner(v); m != "" && m == in.Kernel.Coming {
			return fail("its key is read-only once the init of module %s has run, which may turn it before that: a copy would miss it", m)
		}
		copied, err := in.KeyCopy(v)
		if err != nil {
			return fail("its key is read-only after init and cannot be copied: %v", err)
		}
		return copied, nil
	case update.SlotCode:
		f, ok := in.Solution.Function(s.Unit, s.Symbol)
		if !ok || f.Status != match.StatusMatched {
			return fail("the function is not matched: %s", reason(f))
		}
		return f.Code, nil
	case update.SlotField:
		a, ok := in.Solution.Field(s.Unit, s.Function, s.At)
		if !ok {
			return fail("matching gave no address for the constant at +%#x", s.At)
		}
		ref, err := in.ref(s)
		if err != nil {
			return fail("%v", err)
		}
		return a - uint64(ref.Offset), nil
	case update.SlotPointer:
		return in.pointer(part, s)
	case update.SlotConst:
		for ui, u := range in.Units {
			for i := range u.Desc.Sites {
				site := &u.Desc.Sites[i]
				if site.Kind != arch.SiteRuntimeConst || site.Detail != s.Name {
					continue
				}
				if a, ok := in.siteAddress(ui, site); ok {
					return a, nil
				}
			}
		}
		return fail("no matched function has a site of this runtime constant")
	}
	return fail("slot kind %q is not known", s.Kind)
}

// symbol returns a symbol's run value: solved by matching, or, where only new code names it, by an export of that name.
// Source of the rule: what no matched code names, nobody has proved; an export is a promise of the kernel's own.
func (in *Input) symbol(part *update.Part, s *update.Slot) (uint64, error) {
	if s.Unit >= 0 {
		if v, ok := in.Solution.Value(s.Unit, s.Symbol); ok {
			return v, nil
		}
	}
	// A static one cannot be anybody's export.
	if s.Unit >= 0 {
		all := in.Units[s.Unit].File.Symbols
		if uint64(s.Symbol) >= uint64(len(all)) {
			return 0, &Error{part.Name, s.Name, fmt.Sprintf("it is symbol %d of %s, which has %d", s.Symbol, in.Units[s.Unit].Name, len(all))}
		}
		y := all[s.Symbol]
		if y.Section != nil && y.Section.Flags&elf.SHF_EXECINSTR == 0 && y.Name != "" {
			if v, ok := in.byContent(s.Unit, y, 0); ok {
				return v, nil
			}
		}
		if y.Section != nil && y.Bind == elf.STB_LOCAL {
			return 0, &Error{part.Name, s.Name, "no code that was matched names it, nor is what it holds found under its name, so nothing proves where it is"}
		}
	}
	candidates := in.Kernel.Symbols.Lookup(s.Name)
	var exported []kernel.Symbol
	for _, c := range candidates {
		// Static-call trampolines are exported with their key, or named by generated code only (include/linux/static_call.h).
		trampoline := strings.HasPrefix(s.Name, "__SCT__") && (c.Module == "" || c.Module == part.Target)
		if trampoline || len(in.Kernel.Symbols.LookupIn(c.Module, "__ksymtab_"+s.Name)) > 0 {
			exported = append(exported, c)
		}
	}
	if part.Target != "vmlinux" && s.Name == "__this_module" {
		exported = in.Kernel.Symbols.LookupIn(part.Target, s.Name)
	}
	// A key that is not exported goes by its trampoline, as in a module: the loader puts the key in its place
	// (kernel/static_call_inline.c:static_call_add_module).
	if call, ok := strings.CutPrefix(s.Name, "__SCK__"); ok && len(exported) == 0 && len(in.Kernel.Symbols.LookupIn("", "__ksymtab___SCT__"+call)) > 0 {
		exported = in.Kernel.Symbols.LookupIn("", "__SCT__"+call)
	}
	switch {
	case len(exported) == 1 && exported[0].Module != "" && in.Kernel.Modules[exported[0].Module].Name == "":
		return 0, &Error{part.Name, s.Name, fmt.Sprintf("module %s, which has it, is on its way in or out", exported[0].Module)}
	case len(exported) == 1:
		return exported[0].Address, nil
	case len(exported) > 1:
		return 0, &Error{part.Name, s.Name, fmt.Sprintf("%d symbols of the running kernel have this name", len(exported))}
	case len(candidates) > 0:
		return 0, &Error{part.Name, s.Name, "only new code names it and it is not exported, so nothing proves where it is; " +
			"name the unit that defines it when the update is made (create --unit FILE)"}
	}
	return 0, &Error{part.Name, s.Name, "the running kernel has no such symbol"}
}

// absent refuses a global name of new code that the target has already: its other code uses what it has. What was freed after boot
// is as good as absent.
func (in *Input) absent(part *update.Part, name string) error {
	module := part.Target
	if module == "vmlinux" {
		module = ""
	}
	for _, y := range in.Kernel.Symbols.LookupIn(module, name) {
		// In a module capitals are exports; any other global of the name would keep the source from being linked.
		global := y.Type >= 'A' && y.Type <= 'Z' || y.Type == 'w' || y.Type == 'v'
		if !global || in.Kernel.Freed(y.Address) {
			continue
		}
		return &Error{part.Name, name, fmt.Sprintf("it is new in the update, but the running kernel has a symbol of that name in %s: "+
			"a second one would live beside it; give it another name in the patch", part.Target)}
	}
	return nil
}

// landing refuses a function whose address the part takes and whose entry is no landing pad for indirect branches: run has sealed
// it (arch/x86/kernel/alternative.c, apply_seal_endbr, 6.12; apply_ibt_endbr, 6.1), or it never had one. Calling it through a pointer
// would fault. Where pre takes the address too, the kernel's build has seen to it.
func (in *Input) landing(part *update.Part, s *update.Slot, v uint64) error {
	pad := in.pad()
	code := slices.ContainsFunc(in.Kernel.Symbols.At(v), func(y kernel.Symbol) bool { return strings.IndexByte("tTwW", y.Type) >= 0 })
	if pad == nil || !code || in.taken(v) {
		return nil
	}
	entry := make([]byte, match.LandingPad)
	if err := in.Kernel.Memory.ReadMemory(entry, v); err != nil {
		return &Error{part.Name, s.Name, fmt.Sprintf("its entry cannot be read: %v", err)}
	}
	if !bytes.Equal(entry, pad) {
		return &Error{part.Name, s.Name, "the update takes the function's address, but the running kernel has sealed its entry against " +
			"indirect calls, or never had a landing pad there"}
	}
	return nil
}

// pad is what landing pads look like in the units; nil where they have none.
func (in *Input) pad() []byte {
	for _, u := range in.Units {
		for i := range u.Desc.Functions {
			fn := &u.Desc.Functions[i]
			if data := u.File.Sections[fn.Section].Data; fn.Endbr && fn.Offset <= uint64(len(data)) && uint64(len(data))-fn.Offset >= match.LandingPad {
				return data[fn.Offset : fn.Offset+match.LandingPad]
			}
		}
	}
	return nil
}

// taken says that a pre object takes the address v.
func (in *Input) taken(v uint64) bool {
	for ui, u := range in.Units {
		for i := range u.Desc.Refs {
			r := &u.Desc.Refs[i]
			if r.Kind != arch.RefAddress || !lasting(u.File.Sections[r.Section]) {
				continue
			}
			if a, ok := in.Solution.Value(ui, r.Symbol); ok && a+uint64(r.Offset) == v {
				return true
			}
		}
	}
	return false
}

// lasting says that addresses in a section are there to be used: it is code or data, no table about code that the kernel's build does not
// count (tools/objtool/check.c: validate_ibt).
func lasting(y *objfile.Section) bool {
	return y.Flags&elf.SHF_EXECINSTR != 0 || y.Flags&elf.SHF_ALLOC != 0 &&
		slices.ContainsFunc([]string{".data", ".rodata", ".ref.data"}, func(p string) bool { return strings.HasPrefix(y.Name, p) })
}

// ref finds the reference at a field slot's place.
func (in *Input) ref(s *update.Slot) (*arch.Ref, error) {
	u := in.Units[s.Unit]
	fn := functionOf(u, s.Function)
	if fn == nil {
		return nil, fmt.Errorf("the pre object has no function with symbol %d", s.Function)
	}
	at := fn.Offset + s.At
	refs := u.Desc.Refs
	i := sort.Search(len(refs), func(i int) bool {
		return refs[i].Section > fn.Section || refs[i].Section == fn.Section && refs[i].At >= at
	})
	if i == len(refs) || refs[i].Section != fn.Section || refs[i].At != at {
		return nil, fmt.Errorf("the pre object has no reference at +%#x", s.At)
	}
	return &refs[i], nil
}

func functionOf(u *match.Unit, symbol uint32) *arch.Function {
	for i := range u.Desc.Functions {
		if u.Desc.Functions[i].Symbol == symbol {
			return &u.Desc.Functions[i]
		}
	}
	return nil
}

// siteAddress returns where a site of a pre object lies in run.
func (in *Input) siteAddress(unit int, site *arch.Site) (uint64, bool) {
	u := in.Units[unit]
	for i := range u.Desc.Functions {
		fn := &u.Desc.Functions[i]
		if fn.Section != site.Section || site.At < fn.Offset || site.At >= fn.Offset+fn.Size {
			continue
		}
		f, ok := in.Solution.Function(unit, fn.Symbol)
		if ok && f.Status == match.StatusMatched && !f.Resized {
			return f.Code + site.At - fn.Offset, true
		}
	}
	return 0, false
}

// window returns the bytes of run where a function's jump will stand, and the module that its code lies in.
func (in *Input) window(part *update.Part, f *update.Function) (*engine.Window, string, error) {
	m, ok := in.Solution.Function(f.Unit, f.Symbol)
	switch {
	case !ok || m.Status != match.StatusMatched:
		return nil, "", &Error{part.Name, f.Name, "the function is not matched: " + reason(m)}
	case m.Resized:
		return nil, "", &Error{part.Name, f.Name, "the running kernel's code uses shorter forms of jumps than the update's own; " +
			"the kernel module cannot check such a function"}
	}
	owner := in.owner(m.Code)
	if f.Fragment || f.Redirect.Kind != arch.RedirectJump {
		return nil, owner, nil
	}
	w := f.Redirect.Window
	if n := uint64(len(m.Run)); w.Length > n || w.Offset > n-w.Length {
		return nil, "", &Error{part.Name, f.Name, "the place for the jump lies outside the function"}
	}
	return &engine.Window{Address: m.Code + w.Offset, Bytes: m.Run[w.Offset : w.Offset+w.Length]}, owner, nil
}

// reason says why a function is not matched; f may be nil.
func reason(f *match.Function) string {
	if f == nil || f.Reason == "" {
		return "the unit has no such function"
	}
	return f.Reason
}
