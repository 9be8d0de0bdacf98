package bind

import (
	"debug/elf"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/match/matchtest"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
)

const (
	text   = 0xffffffff81000000
	data   = 0xffffffff82000000
	module = 0xffffffffc0100000
)

// world is one unit with the function f, which names the datum count, the exported jiffies and a string.
type world struct {
	*matchtest.World
	unit                *matchtest.Unit
	f, count, jiffies   uint32
	keyCopies, keysSeen int
}

func newWorld(t testing.TB) *world {
	w := &world{World: matchtest.New(t)}
	w.unit = w.Unit("a.o", "")
	w.count = w.unit.Data(".data.count", "count", elf.STB_LOCAL)
	w.jiffies = w.unit.Undefined("jiffies")
	w.f = w.unit.Func(".text.f", "f", elf.STB_GLOBAL, "f", matchtest.Ref{Symbol: "count"}, matchtest.Ref{Symbol: "jiffies"},
		matchtest.Ref{Symbol: ".rodata.str", Addend: 3, Obligation: arch.ObligationString, Bytes: []byte("hi\x00")})
	w.Symbol("", "f", text)
	w.Symbol("", "_text", text)
	w.Symbol("", "_end", data+0x100000)
	w.Memory[text] = matchtest.Code("f", data+8, data+0x100, data+0x203)
	w.Memory[data+0x203] = []byte("hi\x00")
	w.Modules["mod_a"] = kernel.Module{Name: "mod_a", Base: module, Size: 0x1000, Ranges: []kernel.Range{{Start: module, End: module + 0x1000}}}
	return w
}

// bind matches and binds one part.
func (w *world) bind(t *testing.T, part *update.Part) (*Binding, error) {
	t.Helper()
	s, err := match.Run(t.Context(), w.Kernel(true), w, w.Units())
	if err != nil {
		t.Fatal(err)
	}
	if part.Name == "" {
		part.Name, part.Target = "ksplice_0badcafe_vmlinux", "vmlinux"
	}
	return Part(&Input{Kernel: w.Kernel(true), Manifest: &update.Manifest{Parts: []update.Part{*part}}, Units: w.Units(), Solution: s,
		KeyCopy: func(key uint64) (uint64, error) {
			w.keysSeen++
			if w.keyCopies == 0 {
				return 0, errors.New("no memory")
			}
			return 0xffffffffc0200000, nil
		}}, part)
}

func refused(t *testing.T, err error, words ...string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("err = %v, want a bind.Error", err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
}

func TestSlots(t *testing.T) {
	w := newWorld(t)
	b, err := w.bind(t, &update.Part{Slots: []update.Slot{
		{Kind: update.SlotSymbol, Name: "count", Symbol: w.count},
		{Kind: update.SlotSymbol, Name: "jiffies", Symbol: w.jiffies},
		{Kind: update.SlotCode, Name: "f", Symbol: w.f},
		{Kind: update.SlotSymbol, Name: "f", Symbol: w.f, AddressTaken: true},
		{Kind: update.SlotField, Name: ".rodata.str", Function: w.f, At: 24},
	}})
	if err != nil {
		t.Fatal(err)
	}
	// The field slot is the section's place: run's field less the offset that the reference names.
	if want := []uint64{data + 8, data + 0x100, text, text, data + 0x200}; !slices.Equal(b.Values, want) {
		t.Errorf("values = %#x, want %#x", b.Values, want)
	}
	if len(b.Modules) > 0 {
		t.Errorf("modules = %q", b.Modules)
	}
}

// TestExported: what only new code names must be exported, and be one symbol.
func TestExported(t *testing.T) {
	slot := func(name string) *update.Part {
		return &update.Part{Slots: []update.Slot{{Kind: update.SlotSymbol, Name: name, Unit: -1}}}
	}
	w := newWorld(t)
	_, err := w.bind(t, slot("kfree"))
	refused(t, err, "ksplice_0badcafe_vmlinux: kfree", "has no such symbol")
	w.Symbol("", "kfree", text+0x1000)
	_, err = w.bind(t, slot("kfree"))
	refused(t, err, "not exported", "--unit")
	w.Symbol("", "__ksymtab_kfree", data)
	b, err := w.bind(t, slot("kfree"))
	if err != nil || b.Values[0] != text+0x1000 {
		t.Errorf("exported: %+v, %v", b, err)
	}
	// A static one of the same name elsewhere is none.
	w.Symbol("mod_a", "kfree", module+8)
	if b, err = w.bind(t, slot("kfree")); err != nil || b.Values[0] != text+0x1000 {
		t.Errorf("exported, and static in a module: %+v, %v", b, err)
	}
	w.Symbol("mod_a", "__ksymtab_kfree", module+16)
	_, err = w.bind(t, slot("kfree"))
	refused(t, err, "2 symbols")

	w.Symbol("mod_a", "helper", module+0x20)
	w.Symbol("mod_a", "__ksymtab_helper", module+0x28)
	if b, err = w.bind(t, slot("helper")); err != nil || !slices.Equal(b.Modules, []string{"mod_a"}) {
		t.Errorf("exported by a module: %+v, %v", b, err)
	}
	// Trampolines of static calls are found by name alone.
	w.Symbol("", "__SCT__might_resched", text+0x2000)
	if b, err = w.bind(t, slot("__SCT__might_resched")); err != nil || b.Values[0] != text+0x2000 {
		t.Errorf("static call: %+v, %v", b, err)
	}
	// What matching did not solve is by name too: pre names it in code that was not matched.
	unsolved := w.unit.Undefined("kfree_rcu")
	w.Symbol("", "kfree_rcu", text+0x3000)
	_, err = w.bind(t, &update.Part{Slots: []update.Slot{{Kind: update.SlotSymbol, Name: "kfree_rcu", Symbol: unsolved}}})
	refused(t, err, "not exported")
}

// TestStaticUnsolved: an export of the name is not the static variable that new code means.
func TestStaticUnsolved(t *testing.T) {
	w := newWorld(t)
	verbose := w.unit.Data(".data.verbose", "verbose", elf.STB_LOCAL)
	w.Symbol("mod_a", "verbose", module+0x20)
	w.Symbol("mod_a", "__ksymtab_verbose", module+0x28)
	_, err := w.bind(t, &update.Part{Slots: []update.Slot{{Kind: update.SlotSymbol, Name: "verbose", Symbol: verbose}}})
	refused(t, err, "verbose", "nothing proves where it is")
	_, err = w.bind(t, &update.Part{Slots: []update.Slot{{Kind: update.SlotSymbol, Name: "verbose", Symbol: 1 << 30}}})
	refused(t, err, "verbose", "symbol 1073741824 of a.o")
	// Nor is another module's trampoline the kernel's.
	w.Symbol("mod_a", "__SCT__x", module+0x30)
	slot := []update.Slot{{Kind: update.SlotSymbol, Name: "__SCT__x", Unit: -1}}
	_, err = w.bind(t, &update.Part{Target: "vmlinux", Slots: slot})
	refused(t, err, "__SCT__x")
	if b, err := w.bind(t, &update.Part{Name: "ksplice_0badcafe_mod_a", Target: "mod_a", Slots: slot}); err != nil || b.Values[0] != module+0x30 {
		t.Errorf("the target's own: %+v, %v", b, err)
	}
}

// TestAbsent: a new global function that run has, because it is weak there or came from another unit, is refused; a static one and what
// the kernel freed are none.
func TestAbsent(t *testing.T) {
	w := newWorld(t)
	part := &update.Part{Name: "ksplice_0badcafe_vmlinux", Target: "vmlinux", Globals: []string{"arch_hook"}}
	if _, err := w.bind(t, part); err != nil {
		t.Error(err)
	}
	for _, x := range []struct {
		module  string
		kind    byte
		address uint64
		refused bool
	}{
		{"", 't', text + 0x100, false}, {"mod_a", 'T', module + 0x100, false}, {"", 'T', data + 0x2000, false},
		{"", 'W', text + 0x100, true}, {"", 'T', text + 0x100, true},
	} {
		w := newWorld(t)
		w.Symbol("", "__init_begin", data+0x1000)
		w.Symbol("", "__init_end", data+0x3000)
		w.Symbols = append(w.Symbols, kernel.Symbol{Module: x.module, Name: "arch_hook", Address: x.address, Type: x.kind})
		_, err := w.bind(t, part)
		if !x.refused {
			if err != nil {
				t.Errorf("%+v: %v", x, err)
			}
			continue
		}
		refused(t, err, "arch_hook", "new in the update", "give it another name")
	}
}

// TestThisModule: a module's own struct is its, however many there are.
func TestThisModule(t *testing.T) {
	w := newWorld(t)
	w.Symbol("mod_a", "__this_module", module+0x800)
	w.Symbol("mod_b", "__this_module", module+0x100800)
	part := &update.Part{Name: "ksplice_0badcafe_mod_a", Target: "mod_a", Slots: []update.Slot{{Kind: update.SlotSymbol, Name: "__this_module", Unit: -1}}}
	b, err := w.bind(t, part)
	if err != nil || b.Values[0] != module+0x800 {
		t.Errorf("%+v, %v", b, err)
	}
}

// TestReach: a module's 32-bit references reach the top 2 GiB, and per-cpu offsets.
func TestReach(t *testing.T) {
	for v, want := range map[uint64]bool{
		0: true, 0x1a040: true, 1<<30 - 1: true, 1 << 30: false, 1 << 40: false, 0xffff888000000000: false,
		0xffffffff7fffffff: false, 0xffffffff80000000: true, ^uint64(0): true,
	} {
		if got := reachable(v); got != want {
			t.Errorf("reachable(%#x) = %t, want %t", v, got, want)
		}
	}
	w := newWorld(t)
	w.Memory[text] = matchtest.Code("f", data+8, 0xffff888000001000, data+0x203)
	_, err := w.bind(t, &update.Part{Slots: []update.Slot{{Kind: update.SlotSymbol, Name: "jiffies", Symbol: w.jiffies}}})
	refused(t, err, "jiffies", "out of reach")
}

// TestKeys: a key that is read-only for good is copied, any other used as it is.
func TestKeys(t *testing.T) {
	w := newWorld(t)
	part := &update.Part{Slots: []update.Slot{{Kind: update.SlotKey, Name: "count", Symbol: w.count}}}
	b, err := w.bind(t, part)
	if err != nil || b.Values[0] != data+8 || w.keysSeen != 0 {
		t.Errorf("writable: %+v, %v, %d copies", b, err, w.keysSeen)
	}
	w.Symbol("", "__start_ro_after_init", data)
	w.Symbol("", "__end_ro_after_init", data+0x80)
	_, err = w.bind(t, part)
	refused(t, err, "read-only after init", "no memory")
	w.keyCopies = 1
	if b, err = w.bind(t, part); err != nil || b.Values[0] != 0xffffffffc0200000 || w.keysSeen != 2 {
		t.Errorf("read-only: %+v, %v, %d copies", b, err, w.keysSeen)
	}
	// Not so while the module's init may turn it.
	w.Modules["mod_b"] = kernel.Module{Name: "mod_b", Base: data, Size: 0x100, Ranges: []kernel.Range{{Start: data, End: data + 0x100}}}
	w.Coming = "mod_b"
	_, err = w.bind(t, part)
	refused(t, err, "the init of module mod_b", "may turn it")
	delete(w.Modules, "mod_b")
	w.Coming = ""
	// A dry run copies nothing.
	s, err := match.Run(t.Context(), w.Kernel(true), w, w.Units())
	if err != nil {
		t.Fatal(err)
	}
	b, err = Part(&Input{Kernel: w.Kernel(true), Manifest: &update.Manifest{}, Units: w.Units(), Solution: s}, part)
	if err != nil || b.Values[0] != data+8 {
		t.Errorf("dry run: %+v, %v", b, err)
	}
}

// TestSealed: the kernel has sealed the entry of a function whose address post takes.
func TestSealed(t *testing.T) {
	part := func(w *world, taken bool) *update.Part {
		return &update.Part{Slots: []update.Slot{{Kind: update.SlotSymbol, Name: "f", Symbol: w.f, AddressTaken: taken}}}
	}
	w := newWorld(t)
	w.unit.Desc.Functions[0].Endbr = true
	if _, err := w.bind(t, part(w, true)); err != nil {
		t.Errorf("not sealed: %v", err)
	}
	// The object's own entry differs from run's, as an architecture accepts it.
	s, err := match.Run(t.Context(), w.Kernel(true), w, w.Units())
	if err != nil {
		t.Fatal(err)
	}
	w.unit.File.Section(".text.f").Data[0] ^= 0xff
	in := &Input{Kernel: w.Kernel(true), Manifest: &update.Manifest{}, Units: w.Units(), Solution: s}
	_, err = Part(in, part(w, true))
	refused(t, err, "f", "sealed")
	if _, err = Part(in, part(w, false)); err != nil {
		t.Errorf("its address is not taken: %v", err)
	}
}

// TestSealedElsewhere: the entry counts, whoever's function it is, unless pre takes its address already. Data have none.
func TestSealedElsewhere(t *testing.T) {
	part := func(name string, symbol uint32) *update.Part {
		return &update.Part{Slots: []update.Slot{{Kind: update.SlotSymbol, Name: name, Symbol: symbol, AddressTaken: true}}}
	}
	w := newWorld(t)
	w.unit.Desc.Functions[0].Endbr = true
	other := w.unit.Undefined("other")
	w.unit.Func(".text.g", "g", elf.STB_GLOBAL, "g", matchtest.Ref{Symbol: "other"})
	r := &w.unit.Desc.Refs[len(w.unit.Desc.Refs)-1]
	r.Kind = arch.RefBranch
	w.Symbol("", "g", text+0x1000)
	w.Symbol("", "other", text+0x2000)
	w.Memory[text+0x1000] = matchtest.Code("g", text+0x2000)
	w.Memory[text+0x2000] = []byte("sealed, and more")
	_, err := w.bind(t, part("other", other))
	refused(t, err, "other", "sealed")
	w.Memory[text+0x2000] = w.Memory[text]
	if _, err := w.bind(t, part("other", other)); err != nil {
		t.Errorf("with a landing pad: %v", err)
	}
	w.Memory[text+0x2000] = []byte("sealed, and more")
	r.Kind = arch.RefAddress
	if _, err := w.bind(t, part("other", other)); err != nil {
		t.Errorf("pre takes the address: %v", err)
	}
	w.Symbols = append(w.Symbols, kernel.Symbol{Name: "jiffies", Address: data + 0x100, Type: 'D'})
	if _, err := w.bind(t, part("jiffies", w.jiffies)); err != nil {
		t.Errorf("data: %v", err)
	}
}

// TestConst: a runtime constant is where any matched function has a site of it.
func TestConst(t *testing.T) {
	w := newWorld(t)
	part := &update.Part{Slots: []update.Slot{{Kind: update.SlotConst, Name: "runtime_ptr_x", Unit: -1}}}
	_, err := w.bind(t, part)
	refused(t, err, "runtime_ptr_x", "no matched function")
	section := w.unit.File.Section(".text.f")
	w.unit.Site("runtime_ptr_y", arch.SiteRuntimeConst, section, 8, nil)
	w.unit.Site("runtime_ptr_x", arch.SiteRuntimeConst, section, 16, nil)
	b, err := w.bind(t, part)
	if err != nil || b.Values[0] != text+16 {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestFieldNotProved(t *testing.T) {
	w := newWorld(t)
	_, err := w.bind(t, &update.Part{Slots: []update.Slot{{Kind: update.SlotField, Name: ".rodata.str", Function: w.f, At: 32}}})
	refused(t, err, "+0x20")
	_, err = w.bind(t, &update.Part{Slots: []update.Slot{{Kind: update.SlotCode, Name: "g", Symbol: 99}}})
	refused(t, err, "not matched")
	_, err = w.bind(t, &update.Part{Slots: []update.Slot{{Kind: "from the future", Name: "g"}}})
	refused(t, err, "from the future")
}

// TestWindows: the bytes where the jump will stand are those that matching saw; the module that the code lies in is held.
func TestWindows(t *testing.T) {
	w := newWorld(t)
	jump := arch.Redirect{Kind: arch.RedirectJump, Window: arch.Range{Offset: 4, Length: 5}, Template: make([]byte, 5)}
	functions := func(f update.Function) *update.Part {
		return &update.Part{Functions: []update.Function{f}}
	}
	b, err := w.bind(t, functions(update.Function{Name: "f", Symbol: w.f, Redirect: jump}))
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Windows) != 1 || b.Windows[0].Address != text+4 || string(b.Windows[0].Bytes) != string(w.Memory[text][4:9]) {
		t.Errorf("windows = %+v", b.Windows)
	}
	for name, f := range map[string]update.Function{
		"fragment": {Name: "f", Symbol: w.f, Redirect: jump, Fragment: true},
		"ftrace":   {Name: "f", Symbol: w.f, Redirect: arch.Redirect{Kind: arch.RedirectFtrace, Reason: "a site is in the way"}},
	} {
		if b, err := w.bind(t, functions(f)); err != nil || len(b.Windows) > 0 {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
	for _, window := range []arch.Range{{Offset: 30, Length: 5}, {Offset: ^uint64(0), Length: 1}, {Length: ^uint64(0)}} {
		long := jump
		long.Window = window
		_, err = w.bind(t, functions(update.Function{Name: "f", Symbol: w.f, Redirect: long}))
		refused(t, err, "outside the function")
	}
	_, err = w.bind(t, functions(update.Function{Name: "g", Symbol: 77, Redirect: jump}))
	refused(t, err, "g", "not matched")

	m := w.Unit("m.o", "mod_a")
	g := m.Func(".text.g", "g", elf.STB_GLOBAL, "g")
	w.Symbol("mod_a", "g", module+0x40)
	w.Memory[module+0x40] = matchtest.Code("g")
	b, err = w.bind(t, functions(update.Function{Name: "g", Unit: 1, Symbol: g, Redirect: arch.Redirect{Kind: arch.RedirectFtrace, Reason: "x"}}))
	if err != nil || !slices.Equal(b.Modules, []string{"mod_a"}) {
		t.Errorf("in a module: %+v, %v", b, err)
	}
}

// TestStaticCallKey: the key of a static call that only new code makes goes by the exported trampoline, and by nothing less.
func TestStaticCallKey(t *testing.T) {
	part := func() *update.Part {
		return &update.Part{Slots: []update.Slot{{Kind: update.SlotSymbol, Name: "__SCK__cond_resched", Unit: -1}}}
	}
	w := newWorld(t)
	w.Symbol("", "__SCK__cond_resched", data+0x4000)
	w.Symbol("", "__SCT__cond_resched", text+0x2000)
	_, err := w.bind(t, part())
	refused(t, err, "not exported")
	w.Symbol("", "__ksymtab___SCT__cond_resched", data+0x5000)
	b, err := w.bind(t, part())
	if err != nil || b.Values[0] != text+0x2000 {
		t.Errorf("by its trampoline: %+v, %v", b, err)
	}
	// Where the key is exported too, it is the key.
	w.Symbol("", "__ksymtab___SCK__cond_resched", data+0x5010)
	if b, err = w.bind(t, part()); err != nil || b.Values[0] != data+0x4000 {
		t.Errorf("exported itself: %+v, %v", b, err)
	}
}
