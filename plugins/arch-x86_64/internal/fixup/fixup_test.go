package fixup

import (
	"debug/elf"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/objtest"
	"github.com/ksplice/ksplice/sdk/arch"
)

func TestPointer(t *testing.T) {
	const imm = "efcdab8967452301"
	for _, x := range []struct{ load, edit string }{
		{"48 b8", "48 8b 05 00000000 0f1f00"}, // rax
		{"48 ba", "48 8b 15 00000000 0f1f00"}, // rdx
		{"48 bf", "48 8b 3d 00000000 0f1f00"}, // rdi
		{"49 b8", "4c 8b 05 00000000 0f1f00"}, // r8
		{"49 bf", "4c 8b 3d 00000000 0f1f00"}, // r15
	} {
		b := objtest.New(t)
		s := b.Section(".text.f", objtest.Text, "90"+x.load+imm+"c3")
		b.Func("f", s, 0, 12)
		b.Table("runtime_ptr_table", objtest.Place{Section: s, Offset: 3})
		y := b.Undef("table")
		got := Run(b.Describe(objtest.Target()), []uint32{s})
		want := &arch.FixupResponse{Edits: []arch.Edit{{Section: s, At: 1, Bytes: objtest.Hex(t, x.edit),
			Reloc: &arch.NewReloc{At: 4, Type: uint32(elf.R_X86_64_PC32), Symbol: "table", SymbolIndex: y, Addend: -4}}}}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", x.load, d)
		}
	}
}

func TestShift(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "c1 e8 0c c3")
	b.Func("f", s, 0, 4)
	other := b.Section(".text.g", objtest.Text, "c1 e8 0c c3")
	b.Func("g", other, 0, 4)
	b.Table("runtime_shift_count", objtest.Place{Section: s, Offset: 2}, objtest.Place{Section: other, Offset: 2})
	got := Run(b.Describe(objtest.Target()), []uint32{s})
	want := &arch.FixupResponse{Copies: []arch.Copy{{Section: s, At: 2, Length: 1, Name: "runtime_shift_count"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestRefusals(t *testing.T) {
	for _, x := range []struct {
		name  string
		build func(b *objtest.Builder, s uint32)
		words string
	}{
		{"unknown table", func(b *objtest.Builder, s uint32) { b.Table("runtime_mask_x", objtest.Place{Section: s, Offset: 1}) }, "runtime_mask_x"},
		{"table without references", func(b *objtest.Builder, _ uint32) { b.Section("runtime_mask_x", objtest.Read, "00000000") }, "runtime_mask_x"},
		{"not a load", func(b *objtest.Builder, s uint32) { b.Table("runtime_ptr_x", objtest.Place{Section: s, Offset: 2}) }, "movabs"},
		{"relocation type", func(b *objtest.Builder, s uint32) { b.Reloc(s, 0, elf.R_X86_64_GOTPCREL, b.Undef("y"), -4) }, "R_X86_64_GOTPCREL"},
	} {
		b := objtest.New(t)
		s := b.Section(".text.f", objtest.Text, strings.Repeat("90", 12)+"c3")
		b.Func("f", s, 0, 13)
		x.build(b, s)
		u := b.Describe(objtest.Target())
		got := Run(u, []uint32{s})
		if len(got.Refusals) != 1 || len(got.Edits) != 0 {
			t.Errorf("%s: %+v, want one refusal", x.name, got)
			continue
		}
		r := got.Refusals[0]
		if text := r.Error(); !strings.Contains(text, x.words) || r.Where == "" || r.Detail == "" {
			t.Errorf("%s: %s", x.name, text)
		}
		if x.name != "table without references" {
			if got := Run(u, nil); len(got.Refusals) != 0 {
				t.Errorf("%s: code that nobody extracts is refused: %v", x.name, got.Refusals)
			}
		}
	}
}
