package match

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/objtest"
	"github.com/ksplice/ksplice/sdk/arch"
)

// base is where the function under test lies in run.
const base = 0xffffffff81000000

// one matches one function.
func one(t *testing.T, u *describe.Unit, symbol uint32, run []byte, image bool) arch.MatchResult {
	t.Helper()
	req := &arch.MatchRequest{Candidates: []arch.Candidate{{Function: symbol, Address: base, RunLength: uint64(len(run))}}, NoSelfModification: image}
	r, err := Run(context.Background(), u, req, run)
	if err != nil {
		t.Fatal(err)
	}
	return r[0]
}

// rel is the displacement, in hexadecimal, of a four-byte field at an offset of the function that ends its instruction.
func rel(field int64, target uint64) string {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], uint32(int64(target)-int64(base+uint64(field)+4)))
	return hexOf(b[:])
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, x := range b {
		s.WriteByte(digits[x>>4])
		s.WriteByte(digits[x&15])
	}
	return s.String()
}

// want compares a match with what is expected of it.
func want(t *testing.T, got arch.MatchResult, w arch.MatchResult) {
	t.Helper()
	if got.Mismatch != nil {
		t.Errorf("mismatch: %+v", *got.Mismatch)
		return
	}
	w.Matched = true
	if d := cmp.Diff(w, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("result (-want +got):\n%s", d)
	}
}

// refused requires a mismatch at an offset of pre whose reason, or decoded instructions, have the words.
func refused(t *testing.T, got arch.MatchResult, at uint64, words ...string) {
	t.Helper()
	if got.Matched || got.Mismatch == nil {
		t.Errorf("matched: %+v, want a mismatch", got)
		return
	}
	m := got.Mismatch
	text := m.Reason + "|" + m.Pre + "|" + m.Run
	if m.PreOffset != at {
		t.Errorf("mismatch at %#x, want %#x: %s", m.PreOffset, at, text)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("mismatch lacks %q: %s", w, text)
		}
	}
}

func TestEquations(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, `e8 00000000
		48 8b 05 00000000
		48 c7 c7 00000000
		bf 00000000
		48 b8 0000000000000000
		65 8b 05 00000000
		83 3d 00000000 07
		c3`)
	f := b.Func("f", s, 0, 44)
	callee, datum, counter := b.Undef("callee"), b.Undef("datum"), b.Undef("counter")
	b.Reloc(s, 1, elf.R_X86_64_PLT32, callee, -4)
	b.Reloc(s, 8, elf.R_X86_64_PC32, datum, 0x10-4)
	b.Reloc(s, 15, elf.R_X86_64_32S, datum, 8)
	b.Reloc(s, 20, elf.R_X86_64_32, counter, 0)
	b.Reloc(s, 26, elf.R_X86_64_64, datum, 1)
	b.Reloc(s, 37, elf.R_X86_64_PC32, counter, -4)
	b.Reloc(s, 43, elf.R_X86_64_PC32, datum, -5)
	u := b.Describe(objtest.Target())
	const c, d, p = 0xffffffff81234560, 0xffffffff82000100, 0x31c40
	word := func(v uint32) string { x := binary.LittleEndian.AppendUint32(nil, v); return hexOf(x) }
	long := hexOf(binary.LittleEndian.AppendUint64(nil, d+1))
	run := objtest.Hex(t, "e8"+rel(1, c)+"48 8b 05"+rel(8, d+0x10)+"48 c7 c7"+word((d+8)&0xffffffff)+"bf"+word(p)+"48 b8"+long+
		"65 8b 05"+rel(37, p)+"83 3d"+rel(43, d-1)+"07 c3")
	f2 := &u.Desc.Functions[0]
	f2.Size = uint64(len(run))
	want(t, one(t, u, f, run, false), arch.MatchResult{RunSize: uint64(len(run)), Equations: []arch.Equation{
		{Symbol: callee, Value: c, At: 1}, {Symbol: datum, Value: d, At: 8}, {Symbol: datum, Value: d, At: 15},
		{Symbol: counter, Value: p, At: 20}, {Symbol: datum, Value: d, At: 26}, {Symbol: counter, Value: p, At: 37},
		{Symbol: datum, Value: d, At: 43}}})
}

func TestMismatch(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "55 48 89 e5 e8 00000000 31 c0 5d c3")
	f := b.Func("f", s, 0, 13)
	b.Reloc(s, 5, elf.R_X86_64_PLT32, b.Undef("callee"), -4)
	u := b.Describe(objtest.Target())
	run := objtest.Hex(t, "55 48 89 e5 e8 11223344 31 c9 5d c3")
	refused(t, one(t, u, f, run, false), 10, "xor %eax,%eax (31 c0)", "xor %ecx,%ecx (31 c9)")
	refused(t, one(t, u, f, run[:6], false), 5, "reaches beyond")
	refused(t, one(t, u, f, run[:4], false), 4, "run ends after 4 bytes, expected 13", "[callee+0x0]")
	refused(t, one(t, u, f, nil, false), 0, "run ends")
	for k := range run {
		if k >= 5 && k < 9 {
			continue
		}
		bad := append([]byte(nil), objtest.Hex(t, "55 48 89 e5 e8 11223344 31 c0 5d c3")...)
		bad[k] ^= 0x10
		if r := one(t, u, f, bad, true); r.Matched {
			t.Errorf("a changed byte at %#x matches", k)
		}
	}
	req := &arch.MatchRequest{Candidates: []arch.Candidate{{Function: f, RunOffset: 5, RunLength: 9}}}
	if _, err := Run(context.Background(), u, req, run); err == nil {
		t.Error("a candidate outside the run file is no error")
	}
	req = &arch.MatchRequest{Candidates: []arch.Candidate{{Function: 1, RunLength: 1}}}
	if _, err := Run(context.Background(), u, req, run); err == nil {
		t.Error("a candidate for no function is no error")
	}
}

func TestMerged(t *testing.T) {
	b := objtest.New(t)
	str := b.Section(".rodata.str1.1", objtest.Str, "68656c6c6f00 776f726c6400") // hello, world
	cst := b.Section(".rodata.cst8", elf.SHF_ALLOC|elf.SHF_MERGE, "0102030405060708 1112131415161718")
	b.File.Sections[cst].EntSize = 8
	wide := b.Section(".rodata.str2.2", objtest.Str, "6100 6200 0000")
	b.File.Sections[wide].EntSize = 2
	s := b.Section(".text.f", objtest.Text, `48 c7 c7 00000000
		48 8d 05 00000000
		f2 0f 10 05 00000000
		48 8d 05 00000000
		48 8d 05 00000000
		c3`)
	f := b.Func("f", s, 0, 37)
	b.Reloc(s, 3, elf.R_X86_64_32S, b.SectionSymbol(str), 6)
	b.Reloc(s, 10, elf.R_X86_64_PC32, b.SectionSymbol(str), 3-4)  // the middle of the first string
	b.Reloc(s, 18, elf.R_X86_64_PC32, b.SectionSymbol(cst), 12-4) // the second half of the second constant
	b.Reloc(s, 25, elf.R_X86_64_PC32, b.SectionSymbol(str), 5-4)  // its end
	b.Reloc(s, 32, elf.R_X86_64_PC32, b.SectionSymbol(wide), 2-4)
	u := b.Describe(objtest.Target())
	const a = 0xffffffff82345678
	abs := hexOf(binary.LittleEndian.AppendUint32(nil, a&0xffffffff))
	run := objtest.Hex(t, "48 c7 c7"+abs+"48 8d 05"+rel(10, a+0x100)+"f2 0f 10 05"+rel(18, a+0x200)+"48 8d 05"+rel(25, a+0x300)+
		"48 8d 05"+rel(32, a+0x400)+"c3")
	want(t, one(t, u, f, run, false), arch.MatchResult{RunSize: 37, Obligations: []arch.Obligation{
		{Kind: arch.ObligationString, At: 3, Address: a, Bytes: []byte("world\x00")},
		{Kind: arch.ObligationString, At: 10, Address: a + 0x100, Bytes: []byte("lo\x00")},
		{Kind: arch.ObligationBytes, At: 18, Address: a + 0x200, Bytes: []byte{0x15, 0x16, 0x17, 0x18}},
		{Kind: arch.ObligationString, At: 25, Address: a + 0x300, Bytes: []byte{0}},
		{Kind: arch.ObligationBytes, At: 32, Address: a + 0x400, Bytes: []byte{'b', 0, 0, 0}},
	}})
}

// TestMergedOutside requires a refusal of a reference that leads behind the merged section.
func TestMergedOutside(t *testing.T) {
	b := objtest.New(t)
	str := b.Section(".rodata.str1.1", objtest.Str, "6100")
	s := b.Section(".text.f", objtest.Text, "48 c7 c7 00000000 c3")
	f := b.Func("f", s, 0, 8)
	b.Reloc(s, 3, elf.R_X86_64_32S, b.SectionSymbol(str), 2)
	refused(t, one(t, b.Describe(objtest.Target()), f, objtest.Hex(t, "48 c7 c7 00000082 c3"), false), 3, "outside of it")
}

// TestUnsupported requires a refusal of relocation types that kernels do not have.
func TestUnsupported(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "48 8b 05 00000000 c3")
	f := b.Func("f", s, 0, 8)
	b.Reloc(s, 3, elf.R_X86_64_GOTPCREL, b.Undef("x"), -4)
	refused(t, one(t, b.Describe(objtest.Target()), f, objtest.Hex(t, "48 8b 05 00000000 c3"), false), 3, "R_X86_64_GOTPCREL")
}

// TestConstant requires that a field without symbol holds its constant.
func TestConstant(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "e8 00000000 c3")
	f := b.Func("f", s, 0, 6)
	b.Reloc(s, 1, elf.R_X86_64_PC32, 0, 0x1000-4)
	u := b.Describe(objtest.Target())
	want(t, one(t, u, f, objtest.Hex(t, "e8"+rel(1, 0x1000)+"c3"), false), arch.MatchResult{RunSize: 6})
	refused(t, one(t, u, f, objtest.Hex(t, "e8"+rel(1, 0x1001)+"c3"), false), 1, "0x1 more")
}

func TestKprobe(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "55 48 89 e5 48 8b 05 00000000 31 c0 5d c3")
	f := b.Func("f", s, 0, 15)
	datum := b.Undef("datum")
	b.Reloc(s, 7, elf.R_X86_64_PC32, datum, -4)
	u := b.Describe(objtest.Target())
	const d = 0xffffffff82000000
	field := rel(7, d)
	probed := func(at uint64) []arch.Obligation {
		return []arch.Obligation{{Kind: arch.ObligationKprobe, At: at, Address: base + at}}
	}
	eq := []arch.Equation{{Symbol: datum, Value: d, At: 7}}
	want(t, one(t, u, f, objtest.Hex(t, "cc 48 89 e5 48 8b 05"+field+"31 c0 5d c3"), false),
		arch.MatchResult{RunSize: 15, Equations: eq, Obligations: probed(0), Sites: []arch.Range{{Offset: 0, Length: 1}}})
	want(t, one(t, u, f, objtest.Hex(t, "55 48 89 e5 cc 8b 05"+field+"31 c0 5d c3"), false),
		arch.MatchResult{RunSize: 15, Equations: eq, Obligations: probed(4), Sites: []arch.Range{{Offset: 4, Length: 1}}})
	// Optimised, over two instructions; the second's tail stays.
	want(t, one(t, u, f, objtest.Hex(t, "55 e9 11223344 05"+field+"31 c0 5d c3"), false),
		arch.MatchResult{RunSize: 15, Equations: eq, Obligations: probed(1), Sites: []arch.Range{{Offset: 1, Length: 5}}})
	// Over the field: no equation.
	want(t, one(t, u, f, objtest.Hex(t, "55 48 89 e5 e9 11223344"+field[4:]+"31 c0 5d c3"), false),
		arch.MatchResult{RunSize: 15, Obligations: probed(4), Sites: []arch.Range{{Offset: 4, Length: 5}}})
	// Not at an instruction, not in an image, not beyond the end.
	refused(t, one(t, u, f, objtest.Hex(t, "55 48 cc e5 48 8b 05"+field+"31 c0 5d c3"), false), 2, "mov %rsp,%rbp")
	refused(t, one(t, u, f, objtest.Hex(t, "cc 48 89 e5 48 8b 05"+field+"31 c0 5d c3"), true), 0, "int3")
	refused(t, one(t, u, f, objtest.Hex(t, "55 48 89 e5 48 8b 05"+field+"e9 c0 5d c3 00 00"), false), 11)
	// The rest of the probed instruction is still compared.
	refused(t, one(t, u, f, objtest.Hex(t, "55 cc 89 e6 48 8b 05"+field+"31 c0 5d c3"), false), 3)
}
