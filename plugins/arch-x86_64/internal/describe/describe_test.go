package describe_test

import (
	"debug/elf"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/object"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/objtest"
	"github.com/ksplice/ksplice/sdk/arch"
)

// unit describes the object of ../object/testdata/unit.S.
func unit(t *testing.T, config ...string) *describe.Unit {
	t.Helper()
	b, err := os.ReadFile("../object/testdata/unit.o")
	if err != nil {
		t.Fatal(err)
	}
	o, err := object.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	u, err := describe.New(o, objtest.Target(config...))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUnit(t *testing.T) {
	u := unit(t, "CONFIG_FUNCTION_PADDING_BYTES", "16", "CONFIG_X86_KERNEL_IBT", "y")
	names := map[string]*arch.Function{}
	for i := range u.Desc.Functions {
		names[u.Desc.Functions[i].Name] = &u.Desc.Functions[i]
	}
	f, cold := names["f"], names["f.cold"]
	if f == nil || cold == nil || len(names) != 2 {
		t.Fatalf("functions %+v, want f and f.cold", u.Desc.Functions)
	}
	if f.Offset != 16 || f.Pad != 16 || !f.Endbr || !f.Fentry || f.FentryOffset != 4 || f.Parent != -1 {
		t.Errorf("f: %+v", *f)
	}
	if cold.Offset != 0 || cold.Pad != 0 || cold.Endbr || cold.Fentry || u.Desc.Functions[cold.Parent].Name != "f" {
		t.Errorf("f.cold: %+v", *cold)
	}
	type s struct {
		At, Length uint64
		Kind       arch.SiteKind
		Live       bool
		Key        string
		Detail     string
	}
	var sites []s
	for _, x := range u.Desc.Sites {
		if x.Section != f.Section {
			t.Errorf("a site in another section: %+v", x)
		}
		key := ""
		if x.Key >= 0 {
			key = u.File.Symbols[u.Desc.Refs[x.Key].Symbol].Name
		}
		sites = append(sites, s{x.At - f.Offset, x.Length, x.Kind, x.Live, key, x.Detail})
	}
	if d := cmp.Diff([]s{
		{0, 4, describe.SiteEndbr, false, "", "entry"},
		{4, 5, arch.SiteFentry, true, "", ""},
		{9, 2, arch.SiteJumpLabel, true, "key", ""},
		{32, 6, describe.SiteAlternative, false, "", "altinstr feature 0x3"},
		{45, 5, describe.SiteReturn, false, "", ""},
	}, sites); d != "" {
		t.Errorf("sites (-want +got):\n%s", d)
	}
	type ref struct {
		At     uint64
		Kind   arch.RefKind
		Symbol string
		Offset int64
	}
	var refs []ref
	for _, r := range u.Desc.Refs {
		if r.Section == f.Section {
			refs = append(refs, ref{r.At - f.Offset, r.Kind, u.File.Symbols[r.Symbol].Name, r.Offset})
		}
	}
	if d := cmp.Diff([]ref{
		{14, arch.RefMemory, ".data", 0}, {21, arch.RefAddress, ".rodata.str1.1", 0}, {28, arch.RefPerCPU, ".data..percpu", 0},
		{34, arch.RefMemory, "ops", 0}, {41, arch.RefMemory, ".data", 0}, {46, arch.RefBranch, "__x86_return_thunk", 0},
	}, refs); d != "" {
		t.Errorf("references (-want +got):\n%s", d)
	}
	owners := map[string]uint64{}
	for _, e := range u.Desc.Entries {
		owners[u.File.Sections[e.Table].Name] = e.OwnerOffset
		if e.Owner != f.Section {
			t.Errorf("an entry of %s belongs to section %d", u.File.Sections[e.Table].Name, e.Owner)
		}
	}
	if d := cmp.Diff(map[string]uint64{"__mcount_loc": 20, "__jump_table": 25, ".return_sites": 61, ".altinstructions": 48,
		".altinstr_replacement": 48, ".orc_unwind": 16, ".orc_unwind_ip": 16}, owners); d != "" {
		t.Errorf("owners (-want +got):\n%s", d)
	}
	if fn := u.FunctionAt(describe.Place{Section: f.Section, At: 20}); fn != f {
		t.Errorf("the function at +20 is %+v", fn)
	}
	if fn := u.FunctionAt(describe.Place{Section: f.Section, At: 3}); fn != nil {
		t.Errorf("the function in the pad is %+v", fn)
	}
}

// TestWithoutIBT has no seals where the kernel makes none, and the pad only where there is one.
func TestWithoutIBT(t *testing.T) {
	u := unit(t)
	for _, s := range u.Desc.Sites {
		if s.Kind == describe.SiteEndbr {
			t.Errorf("a seal: %+v", s)
		}
	}
	if f := u.Desc.Functions[0]; f.Pad != 0 {
		t.Errorf("a pad of %d bytes", f.Pad)
	}
}

// TestFacts requires an error that names the table and the fact.
func TestFacts(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "66 90 c3")
	b.Func("f", s, 0, 3)
	n := b.Section("__jump_table", objtest.Data, strings.Repeat("00", 16))
	b.Reloc(n, 0, elf.R_X86_64_PC32, b.SectionSymbol(s), 0)
	for _, x := range []struct {
		change func(*arch.Target)
		words  []string
	}{
		{func(t *arch.Target) { delete(t.Facts, "jump_entry.size") }, []string{"__jump_table", "jump_entry.size"}},
		{func(t *arch.Target) { delete(t.Facts, "jump_entry.target") }, []string{"__jump_table", "jump_entry.target"}},
		{func(t *arch.Target) { t.Facts["jump_entry.size"] = 12 }, []string{"__jump_table", "16 bytes"}},
		{func(t *arch.Target) { t.Facts["jump_entry.size"] = 0 }, []string{"__jump_table"}},
	} {
		target := objtest.Target()
		x.change(&target)
		_, err := describe.New(b.File, target)
		for _, w := range x.words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("error %v, want one with %q", err, w)
			}
		}
	}
}

// TestBranches lists branches that leave their function without a relocation, and those only.
func TestBranches(t *testing.T) {
	b := objtest.New(t)
	// f: jmp f; jne g; ret. g: call f; loop g; ret.
	s := b.Section(".noinstr.text", objtest.Text, "eb fe 75 01 c3 e8 f6ffffff e2 f9 c3")
	b.Func("f", s, 0, 5)
	b.Func("g", s, 5, 8)
	u := b.Describe(objtest.Target())
	want := []arch.Branch{
		{Section: s, At: 2, Length: 2, Field: 3, FieldSize: 1, Target: 5},
		{Section: s, At: 5, Length: 5, Field: 6, FieldSize: 4, Target: 0},
	}
	if d := cmp.Diff(want, u.Desc.Branches); d != "" {
		t.Errorf("branches (-want +got):\n%s", d)
	}
}

// TestBias takes the distance from field to instruction's end out, where an immediate follows.
func TestBias(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "c7 05 00000000 44332211 83 3d 00000000 07 48 8d 05 00000000 c3")
	b.Func("f", s, 0, 25)
	x := b.Undef("x")
	b.Reloc(s, 2, elf.R_X86_64_PC32, x, -8)
	b.Reloc(s, 12, elf.R_X86_64_PC32, x, -5)
	b.Reloc(s, 20, elf.R_X86_64_PC32, x, 8-4)
	u := b.Describe(objtest.Target())
	want := []int64{0, 0, 8}
	kinds := []arch.RefKind{arch.RefMemory, arch.RefMemory, arch.RefAddress}
	for i, r := range u.Desc.Refs {
		if r.Offset != want[i] || r.Kind != kinds[i] || !r.PCRel || r.Size != 4 {
			t.Errorf("reference %d: %+v, want offset %d, kind %d", i, r, want[i], kinds[i])
		}
	}
}

// TestAliases has two names and a function nested in another.
func TestAliases(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text", objtest.Text, "90 90 90 90 c3 90 c3")
	b.Func("__memcpy", s, 0, 7)
	b.Func("memcpy", s, 0, 7)
	b.Func("inner", s, 5, 2)
	b.Func("__pfx_inner", s, 4, 1)
	u := b.Describe(objtest.Target())
	if len(u.Desc.Functions) != 3 {
		t.Fatalf("functions: %+v", u.Desc.Functions)
	}
	if f := u.FunctionAt(describe.Place{Section: s, At: 6}); f == nil || f.Name != "inner" || f.Pad != 1 {
		t.Errorf("the innermost function at +6 is %+v", f)
	}
	if f := u.FunctionAt(describe.Place{Section: s, At: 2}); f == nil || f.Offset != 0 {
		t.Errorf("the function at +2 is %+v", f)
	}
}

// TestLabels takes labels for functions in sections of assembly that have no functions, up to the next label.
func TestLabels(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text..thunk", objtest.Text, "90 c3 0f 0b c3")
	b.Func("first", s, 0, 0)
	b.Func("second", s, 2, 0)
	for i := range b.File.Symbols {
		if b.File.Symbols[i].Type == elf.STT_FUNC {
			b.File.Symbols[i].Type = elf.STT_NOTYPE
		}
	}
	u := b.Describe(objtest.Target())
	if len(u.Desc.Functions) != 2 || u.Desc.Functions[0].Size != 2 || u.Desc.Functions[1].Size != 3 {
		t.Errorf("functions: %+v", u.Desc.Functions)
	}
}

// TestSizedLabel takes a label with a size for a function beside functions, as SYM_CODE_START makes it in .entry.text, and
// none without.
func TestSizedLabel(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".entry.text", objtest.Text, "90 c3 0f 0b c3")
	b.Func("function", s, 0, 2)
	b.Func("code", s, 2, 3)
	b.Func("inner", s, 4, 0)
	for i := range b.File.Symbols {
		if y := &b.File.Symbols[i]; y.Name == "code" || y.Name == "inner" {
			y.Type = elf.STT_NOTYPE
		}
	}
	u := b.Describe(objtest.Target())
	if len(u.Desc.Functions) != 2 || u.Desc.Functions[1].Name != "code" || u.Desc.Functions[1].Size != 3 {
		t.Errorf("functions: %+v", u.Desc.Functions)
	}
}

// TestRuntime tells known tables of runtime constants from others.
func TestRuntime(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "48 b8 efcdab8967452301 c1 e8 0c c3")
	b.Func("f", s, 0, 14)
	b.Table("runtime_ptr_x", objtest.Place{Section: s, Offset: 2})
	b.Table("runtime_shift_y", objtest.Place{Section: s, Offset: 12})
	b.Table("runtime_mask_z", objtest.Place{Section: s, Offset: 0})
	u := b.Describe(objtest.Target())
	if len(u.Desc.Sites) != 2 || u.Desc.Sites[0].Detail != "runtime_ptr_x" || u.Desc.Sites[0].At != 0 || u.Desc.Sites[0].Length != 10 || u.Desc.Sites[1].Detail != "runtime_shift_y" {
		t.Errorf("sites: %+v", u.Desc.Sites)
	}
	if len(u.UnknownRuntime) != 1 || u.UnknownRuntime[0] != "runtime_mask_z" {
		t.Errorf("unknown tables: %v", u.UnknownRuntime)
	}
	for table, want := range map[string]string{"runtime_ptr_x": "x", "runtime_shift_y": "y"} {
		if got, shift := describe.RuntimeSymbol(table); got != want || shift != strings.Contains(table, "shift") {
			t.Errorf("RuntimeSymbol(%s) = %s, %t", table, got, shift)
		}
	}
}

// TestWildRuntime: an entry that leads to before its section is an error, as is every other that leads outside.
func TestWildRuntime(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "90 90 c3")
	b.Func("f", s, 0, 3)
	b.Table("runtime_ptr_x", objtest.Place{Section: s, Offset: -5})
	if _, err := describe.New(b.File, objtest.Target()); err == nil || !strings.Contains(err.Error(), "lies outside it") {
		t.Errorf("err = %v, want that it lies outside", err)
	}
}

// TestEmptyReplacement ignores what an alternative without replacement refers to, and only there.
func TestEmptyReplacement(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "90 90 90 90 c3")
	b.Func("f", s, 0, 5)
	r := b.Section(".altinstr_replacement", objtest.Text, "0f 01 ca")
	b.Alternatives(false, objtest.Alternative{At: objtest.Place{Section: s}, Feature: 1, Length: 3},
		objtest.Alternative{At: objtest.Place{Section: s}, Repl: objtest.Place{Section: r}, Feature: 2, Flags: 1, Length: 3, Replaced: 3})
	u := b.Describe(objtest.Target())
	var ignored [][]arch.Range
	for _, e := range u.Desc.Entries {
		if u.File.Sections[e.Table].Name == ".altinstructions" {
			ignored = append(ignored, e.Ignore)
		}
	}
	if d := cmp.Diff([][]arch.Range{{{Offset: 4, Length: 4}}, nil}, ignored); d != "" {
		t.Errorf("ignored (-want +got):\n%s", d)
	}
	if d := u.Desc.Sites[1].Detail; d != "altinstr feature not 0x2" {
		t.Errorf("detail %q", d)
	}
}

// TestBugLine ignores file and line of a bug entry, as far as there are such.
func TestBugLine(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "0f 0b c3")
	b.Func("f", s, 0, 3)
	n := b.Section("__bug_table", objtest.Data, strings.Repeat("00", 12))
	b.Reloc(n, 0, elf.R_X86_64_PC32, b.SectionSymbol(s), 0)
	for config, want := range map[string][]arch.Range{"y": {{Offset: 4, Length: 6}}, "": nil} {
		u := b.Describe(objtest.Target("CONFIG_DEBUG_BUGVERBOSE", config))
		if d := cmp.Diff(want, u.Desc.Entries[0].Ignore); d != "" {
			t.Errorf("verbose %q: ignored (-want +got):\n%s", config, d)
		}
	}
}

// TestFactExpressions requires names that are unique and expressions that are not empty.
func TestFactExpressions(t *testing.T) {
	seen := map[string]bool{}
	facts := objtest.Facts()
	for _, f := range describe.FactExpressions() {
		if f.Name == "" || f.Expression == "" || len(f.Includes) == 0 || seen[f.Name] {
			t.Errorf("fact %+v", f)
		}
		seen[f.Name] = true
		if _, ok := facts[f.Name]; !ok {
			t.Errorf("the tests have no value for %s", f.Name)
		}
	}
}
