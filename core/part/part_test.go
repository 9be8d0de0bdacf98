package part

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/diff/difftest"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

const (
	preSource = `
extern int printk(const char *, ...); extern int global; static int hits;
static __attribute__((noinline)) int helper(int n) { return ++hits * n; }
int f(int n) { if (n > global) printk("f got %d\n", n); return helper(n); }
int same(int n) { return helper(n) + 1; }`
	postSource = `
extern int printk(const char *, ...); extern int exported(int); extern int global; static int hits;
static __attribute__((noinline)) int helper(int n) { return ++hits * n; }
static int limit = 17;
int fresh(int n) { return exported(n) + ++limit; }
int f(int n) { if (n > global) printk("f really got %d\n", n); return helper(n) + fresh(n); }
int same(int n) { return helper(n) + 1; }`
)

// padded has gcc put 16 bytes before each function, as CONFIG_CALL_PADDING does.
const padded = "-fpatchable-function-entry=16,16"

// input makes the input of a part with one unit. Every changed function is redirected at its first instruction.
func input(t testing.TB, pre, post string, flags ...string) *Input {
	t.Helper()
	return inputOf(t, pre, post, func(*diff.Result) {}, flags...)
}

// inputOf is input with something done to the differences.
func inputOf(t testing.TB, pre, post string, with func(*diff.Result), flags ...string) *Input {
	t.Helper()
	object := func(source string) *diff.Object {
		f, d := difftest.Compile(t, "u", source, flags...)
		if slices.Contains(flags, padded) {
			for i := range d.Functions {
				d.Functions[i].Pad = d.Functions[i].Offset
			}
		}
		return &diff.Object{Name: "fs/u.o", File: f, Desc: d}
	}
	u := UnitInput{Unit: backend.Unit{Source: "fs/u.c", Object: "fs/u.o"}, Pre: object(pre), Post: object(post), Redirects: map[uint32]arch.Redirect{}}
	var err error
	if u.Result, err = diff.Compare(u.Pre, u.Post); err != nil {
		t.Fatal(err)
	}
	with(u.Result)
	if len(u.Result.Refusals) > 0 {
		t.Fatalf("refused: %+v", u.Result.Refusals)
	}
	if u.Closure, err = u.Result.Closure(); err != nil {
		t.Fatal(err)
	}
	for _, f := range u.Result.Functions {
		if f.Pre != nil {
			u.Redirects[uint32(f.Pre.Index)] = arch.Redirect{Kind: arch.RedirectJump, Window: arch.Range{Length: 5}, Template: []byte{0xe9, 0, 0, 0, 0}, Field: 1}
		}
	}
	return &Input{ID: "0badcafe", Target: "vmlinux", Name: "ksplice_0badcafe_vmlinux", Description: `a "test"?`, MaxSlots: 100, Units: []UnitInput{u}}
}

func build(t *testing.T, in *Input) *Output {
	t.Helper()
	out, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// content is all that a part is linked from.
func content(t *testing.T, o *Output) string {
	t.Helper()
	var b bytes.Buffer
	for _, f := range append(slices.Clone(o.Objects), o.Description) {
		if err := f.Write(&b); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintf(&b, "%s%s%+v%+v%q%q%q", o.Glue, o.Script, o.Functions, o.Slots, o.New, o.Escapes, o.Notes)
	return b.String()
}

func TestDeterministic(t *testing.T) {
	first := content(t, build(t, input(t, preSource, postSource)))
	for range 3 {
		if content(t, build(t, input(t, preSource, postSource))) != first {
			t.Fatal("two builds of the same part differ")
		}
	}
}

// link links a part as kbuild does at the end, without the glue.
func link(t *testing.T, o *Output) *objfile.File {
	t.Helper()
	ld := need.Program(t, "ld")
	dir := t.TempDir()
	args := []string{"-r", "-T", filepath.Join(dir, "script.lds"), "-o", filepath.Join(dir, "part.ko")}
	if err := os.WriteFile(args[2], []byte(o.Script), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, f := range append(slices.Clone(o.Objects), o.Description) {
		path := filepath.Join(dir, fmt.Sprintf("%d.o", i))
		if err := f.WriteFile(path); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	if out, err := exec.Command(ld, args...).CombinedOutput(); err != nil {
		t.Fatalf("ld: %v\n%s", err, out)
	}
	b, err := os.ReadFile(args[4])
	if err != nil {
		t.Fatal(err)
	}
	if h, err := Hooks(b); err != nil || !slices.Equal(h, o.Hooks) {
		t.Errorf("hooks = %v, %v, want %v", h, err, o.Hooks)
	}
	f, err := objfile.Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// pointer follows the relocation at a place of the description.
func pointer(t *testing.T, s *objfile.Section, at uint64) (*objfile.Symbol, int64) {
	t.Helper()
	for _, r := range s.Relocs {
		if r.Offset == at {
			if r.Type != uint32(elf.R_X86_64_64) {
				t.Errorf("the pointer at %#x has type %d", at, r.Type)
			}
			return r.Symbol, r.Addend
		}
	}
	t.Fatalf("there is no pointer at %#x of the description", at)
	return nil, 0
}

func text(t *testing.T, s *objfile.Section, at uint64) string {
	t.Helper()
	y, addend := pointer(t, s, at)
	b := s.Data[y.Value+uint64(addend):]
	return string(b[:bytes.IndexByte(b, 0)])
}

// TestLinked reads a linked part back, as the kernel module does.
func TestLinked(t *testing.T) {
	in := input(t, preSource, postSource)
	o := build(t, in)
	f := link(t, o)
	d := f.Symbol(descriptionSymbol)
	if d == nil || d.Section.Name != descriptionSection || d.Value != 0 {
		t.Fatalf("description = %+v", d)
	}
	s := d.Section
	u32 := func(at uint64) uint32 { return binary.LittleEndian.Uint32(s.Data[at:]) }
	u64 := func(at uint64) uint64 { return binary.LittleEndian.Uint64(s.Data[at:]) }
	if u32(0) != partMagic || u32(4) != partVersion || u32(8) != partSize {
		t.Errorf("the description begins with % x", s.Data[:16])
	}
	if got := []string{text(t, s, 16), text(t, s, 24), text(t, s, 32)}; !slices.Equal(got, []string{"0badcafe", "vmlinux", `a "test"?`}) {
		t.Errorf("texts = %q", got)
	}
	if n := u64(48); n != 1 || len(o.Functions) != 1 || o.Functions[0].Name != "f" {
		t.Fatalf("%d functions, manifest %+v", n, o.Functions)
	}
	self, addend := pointer(t, s, 40)
	fn := self.Value + uint64(addend)
	if got := text(t, s, fn); got != "f" {
		t.Errorf("name = %q", got)
	}
	slot := func(at uint64) update.Slot {
		y, addend := pointer(t, s, at)
		n := -1
		if _, err := fmt.Sscanf(y.Name, "ksplice_slot_%x", &n); err != nil || addend != 0 || n >= len(o.Slots) {
			t.Fatalf("at %#x: %q + %d is no slot", at, y.Name, addend)
		}
		return o.Slots[n]
	}
	if a, c := slot(fn+8), slot(fn+16); a.Kind != update.SlotSymbol || c.Kind != update.SlotCode || a.Name != "f" || c.Symbol != o.Functions[0].Symbol {
		t.Errorf("address %+v, code %+v", a, c)
	}
	replacement, addend := pointer(t, s, fn+24)
	if replacement.Section == nil || replacement.Section.Name != ".text" || addend != 0 && replacement.Type != elf.STT_SECTION {
		t.Errorf("replacement = %+v + %d", replacement, addend)
	}
	if replacement.Type != elf.STT_SECTION && replacement.Name != o.Functions[0].Replacement {
		t.Errorf("replacement = %q, the manifest says %q", replacement.Name, o.Functions[0].Replacement)
	}
	checkPre(t, in, s, fn)
	checkNames(t, f, o)
}

// checkPre compares pre's bytes in the part with those of the object, and wants a relocation for each field.
func checkPre(t *testing.T, in *Input, s *objfile.Section, fn uint64) {
	t.Helper()
	pre := in.Units[0].Pre
	y := pre.File.Symbol("f")
	size := binary.LittleEndian.Uint64(s.Data[fn+32:])
	if size != y.Size {
		t.Fatalf("size = %d, want %d", size, y.Size)
	}
	want := bytes.Clone(y.Section.Data[y.Value : y.Value+y.Size])
	fields := 0
	for _, r := range pre.Desc.Refs {
		if int(r.Section) == y.Section.Index && r.At >= y.Value && r.At < y.Value+y.Size {
			clear(want[r.At-y.Value : r.At-y.Value+uint64(r.Size)])
			fields++
		}
	}
	self, addend := pointer(t, s, fn+40)
	at := self.Value + uint64(addend)
	if got := s.Data[at : at+size]; !bytes.Equal(got, want) {
		t.Errorf("pre = % x, want % x", got, want)
	}
	if n := binary.LittleEndian.Uint32(s.Data[fn+64:]); int(n) != fields || fields == 0 {
		t.Errorf("%d relocations for %d fields", n, fields)
	}
	if kind, window := binary.LittleEndian.Uint32(s.Data[fn+68:]), binary.LittleEndian.Uint32(s.Data[fn+76:]); kind != kindJump || window != 5 {
		t.Errorf("kind %d, window of %d bytes", kind, window)
	}
}

// checkNames wants nothing undefined but slots, and every slot to be used.
func checkNames(t *testing.T, f *objfile.File, o *Output) {
	t.Helper()
	used := map[string]bool{}
	for _, y := range f.Symbols[1:] {
		if y.Section != nil || y.Special != elf.SHN_UNDEF {
			continue
		}
		if !regexp.MustCompile(`^ksplice_slot_[0-9a-f]{4}$`).MatchString(y.Name) {
			t.Errorf("%q is undefined", y.Name)
		}
		used[y.Name] = true
	}
	kinds := map[string]update.Slot{}
	for i, s := range o.Slots {
		if !used[slotName(i)] {
			t.Errorf("slot %d (%s) is not used", i, s.Name)
		}
		if s.Kind == update.SlotSymbol {
			kinds[s.Name] = s
		}
	}
	for name, unit := range map[string]int{"global": 0, "printk": 0, "helper": 0, "exported": -1} {
		if s, ok := kinds[name]; !ok || s.Unit != unit {
			t.Errorf("slot of %s = %+v, %t, want it by unit %d", name, s, ok, unit)
		}
	}
	if _, ok := kinds["fresh"]; ok {
		t.Error("new code is looked for in the running kernel")
	}
	if d := cmp.Diff([]string{"fresh", "limit"}, o.New); d != "" {
		t.Errorf("new (-want +got):\n%s", d)
	}
	names := map[string]bool{}
	for _, s := range f.Sections[1:] {
		if names[s.Name] && s.Type != elf.SHT_RELA {
			t.Errorf("section %s is there twice", s.Name)
		}
		names[s.Name] = true
	}
}

func TestGlue(t *testing.T) {
	o := build(t, input(t, preSource, postSource))
	for _, want := range []string{`MODULE_LICENSE("GPL")`, `MODULE_DESCRIPTION("Ksplice update 0badcafe for vmlinux: a \"test\"\?");`,
		"ksplice_part_register(THIS_MODULE, &ksplice_part)"} {
		if !strings.Contains(o.Glue, want) {
			t.Errorf("the glue does not say %s:\n%s", want, o.Glue)
		}
	}
	for text, want := range map[string]string{"a\nb": `"a\012b"`, "é1": `"\303\2511"`, `\`: `"\\"`, "??/": `"\?\?/"`} {
		if got := quote(text); got != want {
			t.Errorf("quote(%q) = %s, want %s", text, got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Input)
		words string
	}{
		"too many slots": {func(in *Input) { in.MaxSlots = 2 }, "the kernel module has 2"},
		"a long name":    {func(in *Input) { in.Name = strings.Repeat("x", 56) }, "56 characters"},
		"no name":        {func(in *Input) { in.Name = "" }, "0 characters"},
		"no units":       {func(in *Input) { in.Units = nil }, "no unit of vmlinux differs"},
		"another machine": {func(in *Input) { in.Units[0].Post.File.Header.Machine = elf.EM_RISCV },
			"EM_RISCV are not known"},
		"a window behind the function": {func(in *Input) {
			for n, r := range in.Units[0].Redirects {
				r.Window.Offset = ^uint64(0)
				in.Units[0].Redirects[n] = r
			}
		}, "does not lie in its"},
	} {
		in := input(t, preSource, postSource)
		c.spoil(in)
		if _, err := Build(in); err == nil || !strings.Contains(err.Error(), c.words) || !strings.HasPrefix(err.Error(), "build part "+in.Name) {
			t.Errorf("%s: %v, want %q", name, err, c.words)
		}
	}
}

// TestShared: a new function of one unit is called from another of the same part; one that both define, and one that moved, are refused.
func TestShared(t *testing.T) {
	a := input(t, "int a(int n) { return n * 54321; }", "int fresh(int n) { return n * 5; } int a(int n) { return fresh(n) + 1; }")
	b := input(t, "int b(int n) { return n * 54321; }", "extern int fresh(int); int b(int n) { return fresh(n) + 2; }")
	b.Units[0].Index, b.Units[0].Unit.Object = 1, "fs/v.o"
	a.Units = append(a.Units, b.Units...)
	o := build(t, a)
	for _, s := range o.Slots {
		if s.Name == "fresh" {
			t.Errorf("slot %+v", s)
		}
	}
	if !slices.Equal(o.Globals, []string{"fresh"}) {
		t.Errorf("Globals = %q, want fresh", o.Globals)
	}
	link(t, o)

	twice := input(t, "int b(int n) { return n * 54321; }", "int fresh(int n) { return n * 6; } int b(int n) { return fresh(n) + 2; }")
	twice.Units[0].Index, twice.Units[0].Unit.Object = 1, "fs/v.o"
	a.Units[1] = twice.Units[0]
	if _, err := Build(a); err == nil || !strings.Contains(err.Error(), "fs/v.o: fresh is new in fs/u.o, too") {
		t.Errorf("new in both: %v", err)
	}
}

// TestExposed: a static variable and a static function that become global are the running kernel's for other units, too, whether or not
// anything else of their unit changes.
func TestExposed(t *testing.T) {
	const statics = "static int v; __attribute__((noinline)) static int s(int n) { return v += n; } int b(int n) { return s(n) * 3; }"
	user := func() *Input {
		return input(t, "int a(int n) { return n * 54321; }", "extern int v, s(int); int a(int n) { return s(n) + v; }")
	}
	for what, post := range map[string]string{
		"nothing else": strings.ReplaceAll(statics, "static ", ""),
		"a change":     strings.ReplaceAll(strings.ReplaceAll(statics, "static ", ""), "* 3", "* 5"),
	} {
		in, other := user(), input(t, statics, post)
		u := other.Units[0]
		u.Index, u.Unit.Object = 1, "fs/v.o"
		if u.Result.Defines() {
			in.Units = append(in.Units, u)
		} else {
			in.Others = append(in.Others, OtherUnit{Index: 1, Pre: u.Pre, Result: u.Result})
		}
		if got := len(in.Units) == 2; got != (what == "a change") {
			t.Fatalf("%s: the unit differs: %t: %+v", what, got, u.Result.Functions)
		}
		o := build(t, in)
		found := 0
		for _, s := range o.Slots {
			y := (*objfile.Symbol)(nil)
			if s.Unit == 1 {
				y = u.Pre.File.Symbols[s.Symbol]
			}
			if (s.Name == "v" || s.Name == "s") && s.Kind == update.SlotSymbol {
				found++
				if y == nil || y.Name != s.Name {
					t.Errorf("%s: slot %+v is not the other unit's", what, s)
				}
			}
		}
		if found < 2 {
			t.Errorf("%s: slots %+v, want v and s among them", what, o.Slots)
		}
		link(t, o)
	}
}

// TestNewData: a unit of which only a variable is new.
func TestNewData(t *testing.T) {
	a := input(t, "int a(int n) { return n * 54321; }", "extern int fresh; int a(int n) { return fresh + 1; }")
	b := input(t, "int b(int n) { return n * 54321; }", "int fresh = 7; int b(int n) { return n * 54321; }")
	b.Units[0].Index, b.Units[0].Unit.Object = 1, "fs/v.o"
	if r := b.Units[0].Result; !r.Defines() {
		t.Errorf("a new global variable is no definition: %+v", r.Data)
	}
	a.Units = append(a.Units, b.Units...)
	o := build(t, a)
	for _, s := range o.Slots {
		if s.Name == "fresh" {
			t.Errorf("slot %+v", s)
		}
	}
	link(t, o)
}

// TestPieces: what pieces of a function refer to in each other's middle is where the code lies, which need not be where the function is.
func TestPieces(t *testing.T) {
	source := func(factor string) string {
		return "extern void bad(int) __attribute__((cold)); extern int ext(int); int f(int n) { if (n > 5) { bad(n); n = ext(n); } return ext(n) * " + factor + "; }"
	}
	o := build(t, input(t, source("3"), source("5"), "-freorder-blocks-and-partition"))
	var names []string
	for _, f := range o.Functions {
		names = append(names, f.Name)
	}
	if !slices.Equal(names, []string{"f", "f.cold"}) {
		t.Fatalf("functions %q: the compiler splits nothing off", names)
	}
	d := o.Description
	y := d.Symbol(descriptionSymbol)
	_, funcs := pointer(t, y.Section, 40)
	kinds := map[update.SlotKind]int{}
	for i := range o.Functions {
		at := uint64(funcs) + uint64(i)*funcSize
		count := binary.LittleEndian.Uint32(y.Section.Data[at+64:])
		_, relocs := pointer(t, y.Section, at+56)
		for n := range uint64(count) {
			slot, _ := pointer(t, y.Section, uint64(relocs)+n*relocSize)
			for k, s := range o.Slots {
				if slot.Name == slotName(k) && (s.Name == "f" || s.Name == "f.cold" || strings.HasPrefix(s.Name, ".text")) {
					kinds[s.Kind]++
					addend := int64(binary.LittleEndian.Uint64(y.Section.Data[uint64(relocs)+n*relocSize+8:]))
					if s.Kind == update.SlotCode && (addend <= -4 || addend >= int64(o.Functions[0].Size)) {
						t.Errorf("%s names %s%+d", o.Functions[i].Name, s.Name, addend)
					}
				}
			}
		}
	}
	// The jump to the beginning of f.cold names a symbol; the one back leads into f.
	if kinds[update.SlotCode] != 1 || kinds[update.SlotSymbol] != 1 {
		t.Errorf("kinds of slots: %v", kinds)
	}
	link(t, o)
}

func FuzzHooks(f *testing.F) {
	o := objfile.New(elf.EM_X86_64)
	s := &objfile.Section{Name: descriptionSection, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 8, Data: make([]byte, partSize+hookSize)}
	o.AddSection(s)
	self := &objfile.Symbol{Type: elf.STT_SECTION, Bind: elf.STB_LOCAL, Section: s}
	o.AddSymbol(self)
	o.AddSymbol(&objfile.Symbol{Name: descriptionSymbol, Type: elf.STT_OBJECT, Bind: elf.STB_GLOBAL, Section: s, Size: partSize})
	binary.LittleEndian.PutUint64(s.Data[hookCount:], 1)
	s.Relocs = []*objfile.Reloc{{Offset: hooksAt, Type: 1, Symbol: self, Addend: partSize}, {Offset: partSize + 8, Type: 1, Symbol: self, Addend: 4}}
	var b bytes.Buffer
	if err := o.Write(&b); err != nil {
		f.Fatal(err)
	}
	got, err := Hooks(b.Bytes())
	if d := cmp.Diff([]update.Hook{{When: "pre_apply", Function: ".ksplice+0x4"}}, got); err != nil || d != "" {
		f.Fatalf("hooks: %v (-want +got):\n%s", err, d)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = Hooks(b) })
}

// TestHooks: a part lists the functions of hooks in their order, and names the kernel module's functions that they call as imports.
func TestHooks(t *testing.T) {
	const hooks = `
extern void ksplice_shadow_leave(void *); static long field __attribute__((section(".data..ksplice_shadow"))) = 1;
static void last(void) { ksplice_shadow_leave(&field); } static int first(void) { return field != 1; }
#define HOOK(n, w, o, fn) static const struct { unsigned when, order; void *function; } n __attribute__((used, aligned(8), section(".ksplice.hooks"))) = { w, o, fn };
HOOK(y, 8, 1, last) HOOK(x, 0, 0, first)`
	o := build(t, input(t, preSource, preSource+hooks))
	want := []update.Hook{{When: "pre_apply", Function: "first"}, {When: "post_reverse", Function: "last"}}
	if d := cmp.Diff(want, o.Hooks); d != "" {
		t.Errorf("hooks (-want +got):\n%s", d)
	}
	if !slices.Equal(o.Offered, []string{"ksplice_shadow_leave"}) || !strings.Contains(o.Glue, ".quad ksplice_shadow_leave") {
		t.Errorf("imports %q, glue\n%s", o.Offered, o.Glue)
	}
	if len(o.Escapes) > 0 || len(o.Data) > 0 {
		t.Errorf("%q escape, data %+v: a shadow field is forgotten on undo, and what it keeps is the kernel module's", o.Escapes, o.Data)
	}
	link(t, o)
}
