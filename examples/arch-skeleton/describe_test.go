package main

import (
	"debug/elf"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/arch"
)

// TestDescribe: what objdump and readelf say of testdata/plain.o.
func TestDescribe(t *testing.T) {
	d, err := describeFile(t, "testdata/plain.o")
	if err != nil {
		t.Fatal(err)
	}
	type function struct {
		Name         string
		Size         uint64
		Endbr        bool
		Fentry       bool
		FentryOffset uint64
	}
	var functions []function
	sections := map[uint32]string{}
	for _, f := range d.Functions {
		functions = append(functions, function{f.Name, f.Size, f.Endbr, f.Fentry, f.FentryOffset})
		sections[f.Section] = f.Name
	}
	if diff := cmp.Diff([]function{{"leaf", 28, false, true, 0}, {"calls", 68, true, true, 4}, {"tail", 20, true, true, 4}, {"address", 48, true, true, 4}}, functions); diff != "" {
		t.Errorf("functions: (-want +got)\n%s", diff)
	}
	type site struct {
		Function string
		At       uint64
	}
	var sites []site
	for _, s := range d.Sites {
		if s.Kind != arch.SiteFentry || s.Length != 8 || !s.Live {
			t.Errorf("the site %+v is not one of the tracer's", s)
		}
		sites = append(sites, site{sections[s.Section], s.At})
	}
	if diff := cmp.Diff([]site{{"leaf", 0}, {"calls", 4}, {"tail", 4}, {"address", 4}}, sites); diff != "" {
		t.Errorf("sites: (-want +got)\n%s", diff)
	}
	if len(d.Entries) != len(sites) || len(d.Branches) > 0 {
		t.Errorf("%d entries of tables for %d sites, %d branches between functions that have a section each", len(d.Entries), len(sites), len(d.Branches))
	}
	type ref struct {
		At   uint64
		Type elf.R_AARCH64
		Kind arch.RefKind
	}
	var refs []ref
	for _, r := range d.Refs {
		if sections[r.Section] == "calls" {
			refs = append(refs, ref{r.At, elf.R_AARCH64(r.Type), r.Kind})
		}
	}
	const page, memory = elf.R_AARCH64_ADR_PREL_PG_HI21, elf.R_AARCH64_LDST32_ABS_LO12_NC
	want := []ref{{0x18, elf.R_AARCH64_CALL26, arch.RefBranch}, {0x1c, page, arch.RefAddress}, {0x20, memory, arch.RefMemory}, {0x28, memory, arch.RefMemory},
		{0x2c, elf.R_AARCH64_CALL26, arch.RefBranch}, {0x30, page, arch.RefAddress}, {0x3c, memory, arch.RefMemory}}
	if diff := cmp.Diff(want, refs); diff != "" {
		t.Errorf("references of calls: (-want +got)\n%s", diff)
	}
}

// TestBranches: of what the assembler resolved, that counts which leaves its function; data do not.
func TestBranches(t *testing.T) {
	d, err := describeFile(t, "testdata/branches.o")
	if err != nil {
		t.Fatal(err)
	}
	var got [][2]uint64
	for _, b := range d.Branches {
		got = append(got, [2]uint64{b.At, b.Target})
	}
	want := [][2]uint64{{0x4, 0x18}, {0x8, 0x18}, {0xc, 0x28}, {0x10, 0x18}, {0x18, 0x28}}
	if !slices.Equal(got, want) {
		t.Errorf("branches: %#x, want %#x", got, want)
	}
}

func TestDirect(t *testing.T) {
	for _, tt := range []struct {
		word     uint32
		use      use
		distance int64
	}{ // as GNU as encodes them
		{0x14000002, branches, 8},          // b .+8
		{0x97ffffff, branches, -4},         // bl .-4
		{0x96000000, branches, -(1 << 27)}, // bl .-0x8000000
		{0x54ffffe1, branches, -4},         // b.ne .-4
		{0xb4ffff80, branches, -16},        // cbz x0, .-16
		{0x35000041, branches, 8},          // cbnz w1, .+8
		{0xb7fc0001, branches, -(1 << 15)}, // tbnz x1, #63, .-0x8000
		{0x30000001, takesAddress, 1},      // adr x1, .+1
		{0x70ffffe0, takesAddress, -1},     // adr x0, .-1
		{0xb0000000, takesAddress, 0},      // adrp x0, page
		{0x58000040, loads, 8},             // ldr x0, .+8
		{0x1c000040, loads, 8},             // ldr s0, .+8
		{0x98ffffe0, loads, -4},            // ldrsw x0, .-4
		{0xd65f03c0, usesNothing, 0},       // ret
		{0xd61f0000, usesNothing, 0},       // br x0
		{0xf9400000, usesNothing, 0},       // ldr x0, [x0]
		{0x91000000, usesNothing, 0},       // add x0, x0, #0
		{nop, usesNothing, 0},
		{paciasp, usesNothing, 0},
	} {
		if u, distance := direct(tt.word); u != tt.use || distance != tt.distance {
			t.Errorf("direct(%#08x) = %v, %d, want %v, %d", tt.word, u, distance, tt.use, tt.distance)
		}
	}
}

// FuzzParse: whatever the bytes are, there is a description or an error.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"plain", "callops", "branches", "adr"} {
		b, err := os.ReadFile("testdata/" + name + ".o")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseObject("fuzz", b)
		if err != nil {
			return
		}
		if d, err := describe(o); err == nil && len(d.Functions) > len(o.symbols) {
			t.Errorf("%d functions of %d symbols", len(d.Functions), len(o.symbols))
		}
	})
}
