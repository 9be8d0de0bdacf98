package match

import (
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/forms"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/objtest"
	"github.com/ksplice/ksplice/sdk/arch"
)

// text and module are addresses in the kernel's text and in a page of ITS thunks.
const (
	textAt   = 0xffffffff81234560
	moduleAt = 0xffffffffc0000420
)

func site(offset, length uint64) []arch.Range { return []arch.Range{{Offset: offset, Length: length}} }

func symbolAt(at, address uint64, names ...string) []arch.Obligation {
	return []arch.Obligation{{Kind: arch.ObligationSymbol, At: at, Address: address, Names: names}}
}

func TestFentry(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "f3 0f 1e fa 0f 1f 44 00 00 31 c0 c3")
	f := b.Func("f", s, 0, 12)
	n := b.Section("__mcount_loc", objtest.Read, "0000000000000000")
	b.Reloc(n, 0, elf.R_X86_64_64, b.SectionSymbol(s), 4)
	u := b.Describe(objtest.Target("CONFIG_X86_KERNEL_IBT", "y"))
	sites := []arch.Range{{Offset: 0, Length: 4}, {Offset: 4, Length: 5}}
	for _, endbr := range []string{"f3 0f 1e fa", "66 0f 1f 00", "0f 1f 40 d6"} {
		want(t, one(t, u, f, objtest.Hex(t, endbr+"0f 1f 44 00 00 31 c0 c3"), false), arch.MatchResult{RunSize: 12, Sites: sites})
	}
	want(t, one(t, u, f, objtest.Hex(t, "f3 0f 1e fa e8"+rel(5, moduleAt)+"31 c0 c3"), false), arch.MatchResult{RunSize: 12, Sites: sites,
		Obligations: []arch.Obligation{{Kind: arch.ObligationFtrace, At: 4, Address: moduleAt}}})
	refused(t, one(t, u, f, objtest.Hex(t, "90 90 90 90 0f 1f 44 00 00 31 c0 c3"), false), 0, "endbr")
	refused(t, one(t, u, f, objtest.Hex(t, "f3 0f 1e fa 90 90 90 90 90 31 c0 c3"), false), 4, "fentry")
	refused(t, one(t, u, f, objtest.Hex(t, "66 0f 1f 00 0f 1f 44 00 00 31 c0 c3"), true), 0)
	// Without IBT an endbr64 is code like any other.
	u = b.Describe(objtest.Target())
	refused(t, one(t, u, f, objtest.Hex(t, "66 0f 1f 00 0f 1f 44 00 00 31 c0 c3"), false), 0)
}

func TestReturn(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "31 c0 e9 00000000 cc")
	f := b.Func("f", s, 0, 8)
	thunk := b.Undef("__x86_return_thunk")
	b.Reloc(s, 3, elf.R_X86_64_PLT32, thunk, -4)
	b.Table(".return_sites", objtest.Place{Section: s, Offset: 2})
	u := b.Describe(objtest.Target())
	want(t, one(t, u, f, objtest.Hex(t, "31 c0 c3 cc cc cc cc cc"), false), arch.MatchResult{RunSize: 8, Sites: site(2, 5)})
	want(t, one(t, u, f, objtest.Hex(t, "31 c0 e9"+rel(3, textAt)+"cc"), false), arch.MatchResult{RunSize: 8, Sites: site(2, 5),
		Obligations: symbolAt(2, textAt, forms.ReturnThunks...)})
	refused(t, one(t, u, f, objtest.Hex(t, "31 c0 e8"+rel(3, textAt)+"cc"), false), 2, "return")
	refused(t, one(t, u, f, objtest.Hex(t, "31 c0 c3 cc cc cc cc 90"), false), 7)
	// In an image it is a relocation.
	want(t, one(t, u, f, objtest.Hex(t, "31 c0 e9"+rel(3, textAt)+"cc"), true), arch.MatchResult{RunSize: 8,
		Equations: []arch.Equation{{Symbol: thunk, Value: textAt, At: 3}}})
}

func TestRetpoline(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "e8 00000000 2e e8 00000000 e9 00000000 cc")
	f := b.Func("f", s, 0, 17)
	rax, r11 := b.Undef("__x86_indirect_thunk_rax"), b.Undef("__x86_indirect_thunk_r11")
	b.Reloc(s, 1, elf.R_X86_64_PLT32, rax, -4)
	b.Reloc(s, 7, elf.R_X86_64_PLT32, r11, -4)
	b.Reloc(s, 12, elf.R_X86_64_PLT32, rax, -4)
	b.Table(".retpoline_sites", objtest.Place{Section: s, Offset: 0}, objtest.Place{Section: s, Offset: 5}, objtest.Place{Section: s, Offset: 11})
	u := b.Describe(objtest.Target())
	sites := []arch.Range{{Offset: 0, Length: 5}, {Offset: 5, Length: 6}, {Offset: 11, Length: 5}}
	want(t, one(t, u, f, objtest.Hex(t, "ff d0 0f 1f 00 0f ae e8 41 ff d3 ff e0 cc 66 90 cc"), false), arch.MatchResult{RunSize: 17, Sites: sites})
	// Through named thunks, and through one of Indirect Target Selection's, which no symbol names.
	want(t, one(t, u, f, objtest.Hex(t, "e8"+rel(1, textAt)+"2e e8"+rel(7, moduleAt)+"e9"+rel(12, moduleAt)+"cc"), false),
		arch.MatchResult{RunSize: 17, Sites: sites, Obligations: []arch.Obligation{
			{Kind: arch.ObligationSymbol, At: 0, Address: textAt, Names: forms.ThunkNames(0)},
			{Kind: arch.ObligationCode, At: 5, Address: moduleAt, Forms: [][]byte{{0x41, 0xff, 0xe3, 0xcc}}},
			{Kind: arch.ObligationCode, At: 11, Address: moduleAt, Forms: [][]byte{{0xff, 0xe0, 0xcc}}}}})
	// A thunk whose last byte is in the lower half of its cache line is none of those: it needs a name.
	const low = moduleAt - 0x20
	want(t, one(t, u, f, objtest.Hex(t, "ff d0 0f 1f 00 2e e8"+rel(7, low)+"ff e0 cc 66 90 cc"), false),
		arch.MatchResult{RunSize: 17, Sites: sites, Obligations: []arch.Obligation{{Kind: arch.ObligationSymbol, At: 5, Address: low, Names: forms.ThunkNames(11)}}})
	refused(t, one(t, u, f, objtest.Hex(t, "ff d1 0f 1f 00 0f ae e8 41 ff d3 ff e0 cc 66 90 cc"), false), 0, "indirect branch")
}

func TestCall(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "e8 00000000 c3")
	f := b.Func("f", s, 0, 6)
	callee := b.Undef("callee")
	b.Reloc(s, 1, elf.R_X86_64_PLT32, callee, -4)
	b.Table(".call_sites", objtest.Place{Section: s, Offset: 0})
	u := b.Describe(objtest.Target("CONFIG_CALL_THUNKS", "y", "CONFIG_FUNCTION_ALIGNMENT", "16"))
	eq := []arch.Equation{{Symbol: callee, Value: textAt, At: 1}}
	want(t, one(t, u, f, objtest.Hex(t, "e8"+rel(1, textAt)+"c3"), false), arch.MatchResult{RunSize: 6, Sites: site(0, 5), Equations: eq})
	for _, size := range []uint64{9, 10} { // the pad's code
		want(t, one(t, u, f, objtest.Hex(t, "e8"+rel(1, textAt-size)+"c3"), false), arch.MatchResult{RunSize: 6, Sites: site(0, 5), Equations: eq,
			Obligations: symbolAt(0, textAt, "callee")})
	}
	// An address that is no thunk's counts as it is.
	want(t, one(t, u, f, objtest.Hex(t, "e8"+rel(1, textAt-8)+"c3"), false), arch.MatchResult{RunSize: 6, Sites: site(0, 5),
		Equations: []arch.Equation{{Symbol: callee, Value: textAt - 8, At: 1}}})
	refused(t, one(t, u, f, objtest.Hex(t, "0f 1f 44 00 00 c3"), false), 0, "expected a direct call")
	// Without call thunks nothing is rounded.
	u = b.Describe(objtest.Target())
	want(t, one(t, u, f, objtest.Hex(t, "e8"+rel(1, textAt-10)+"c3"), false), arch.MatchResult{RunSize: 6, Sites: site(0, 5),
		Equations: []arch.Equation{{Symbol: callee, Value: textAt - 10, At: 1}}})
}

// TestCallSelf has a function that calls itself, through its pad too.
func TestCallSelf(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "31 c0 e8 00000000 e8 f4ffffff c3")
	f := b.Func("f", s, 0, 13)
	b.Reloc(s, 3, elf.R_X86_64_PLT32, b.SectionSymbol(s), -4)
	b.Table(".call_sites", objtest.Place{Section: s, Offset: 2}, objtest.Place{Section: s, Offset: 7})
	u := b.Describe(objtest.Target("CONFIG_CALL_THUNKS", "y", "CONFIG_FUNCTION_ALIGNMENT", "16"))
	for _, to := range []uint64{base, base - 9} {
		want(t, one(t, u, f, objtest.Hex(t, "31 c0 e8"+rel(3, to)+"e8"+rel(8, to)+"c3"), false), arch.MatchResult{RunSize: 13,
			Sites: []arch.Range{{Offset: 2, Length: 5}, {Offset: 7, Length: 5}}})
	}
	refused(t, one(t, u, f, objtest.Hex(t, "31 c0 e8"+rel(3, base+2)+"e8"+rel(8, base)+"c3"), false), 2, "expected +0x0")
	refused(t, one(t, u, f, objtest.Hex(t, "31 c0 e8"+rel(3, base)+"e8"+rel(8, base+2)+"c3"), false), 7, "expected +0x0")
}

// jumpLabel makes an object with a static branch of five bytes at +2 whose target is at +9, or in f.cold.
func jumpLabel(t *testing.T, cold bool) (b *objtest.Builder, f, key uint32) {
	b = objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "31 c0 0f 1f 44 00 00 31 c9 c3")
	f = b.Func("f", s, 0, 10)
	target := objtest.Place{Section: s, Offset: 9}
	if cold {
		c := b.Section(".text.unlikely.f", objtest.Text, "90 0f 0b")
		b.Func("f.cold", c, 0, 3)
		target = objtest.Place{Section: c, Offset: 1}
	}
	key = b.Undef("key")
	n := b.Section("__jump_table", objtest.Data, strings.Repeat("00", 16))
	b.Reloc(n, 0, elf.R_X86_64_PC32, b.SectionSymbol(s), 2)
	b.Reloc(n, 4, elf.R_X86_64_PC32, b.SectionSymbol(target.Section), target.Offset)
	b.Reloc(n, 8, elf.R_X86_64_PC64, key, 8+1) // the key is in a structure; the low bit is the branch's
	return b, f, key
}

func TestJumpLabel(t *testing.T) {
	b, f, key := jumpLabel(t, false)
	u := b.Describe(objtest.Target())
	ob := []arch.Obligation{{Kind: arch.ObligationJumpKey, At: 2, Address: base + 2, Symbol: key, Offset: 8}}
	want(t, one(t, u, f, objtest.Hex(t, "31 c0 0f 1f 44 00 00 31 c9 c3"), false), arch.MatchResult{RunSize: 10, Sites: site(2, 5), Obligations: ob})
	want(t, one(t, u, f, objtest.Hex(t, "31 c0 e9 02 00 00 00 31 c9 c3"), false), arch.MatchResult{RunSize: 10, Sites: site(2, 5), Obligations: ob})
	want(t, one(t, u, f, objtest.Hex(t, "31 c0 0f 1f 44 00 00 31 c9 c3"), true), arch.MatchResult{RunSize: 10, Obligations: ob})
	refused(t, one(t, u, f, objtest.Hex(t, "31 c0 e9 03 00 00 00 31 c9 c3"), false), 2, "expected +0x9")
	refused(t, one(t, u, f, objtest.Hex(t, "31 c0 90 90 90 90 90 31 c9 c3"), false), 2, "static branch")

	b, f, key = jumpLabel(t, true)
	u = b.Describe(objtest.Target())
	ob[0].Symbol = key
	want(t, one(t, u, f, objtest.Hex(t, "31 c0 e9"+rel(3, textAt+1)+"31 c9 c3"), false), arch.MatchResult{RunSize: 10, Sites: site(2, 5),
		Obligations: append(ob, symbolAt(2, textAt, "f.cold")...)})
}

func TestStaticCall(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "e8 00000000 e9 00000000")
	f := b.Func("f", s, 0, 10)
	tramp, key := b.Undef("__SCT__x"), b.Undef("__SCK__x")
	b.Reloc(s, 1, elf.R_X86_64_PLT32, tramp, -4)
	b.Reloc(s, 6, elf.R_X86_64_PLT32, tramp, -4)
	n := b.Section(".static_call_sites", objtest.Data, strings.Repeat("00", 16))
	b.Reloc(n, 0, elf.R_X86_64_PC32, b.SectionSymbol(s), 0)
	b.Reloc(n, 4, elf.R_X86_64_PC32, key, 0)
	b.Reloc(n, 8, elf.R_X86_64_PC32, b.SectionSymbol(s), 5)
	b.Reloc(n, 12, elf.R_X86_64_PC32, key, 1) // a tail call
	u := b.Describe(objtest.Target())
	ob := []arch.Obligation{{Kind: arch.ObligationStaticCallKey, At: 0, Address: base, Symbol: key},
		{Kind: arch.ObligationStaticCallKey, At: 5, Address: base + 5, Symbol: key}}
	sites := []arch.Range{{Offset: 0, Length: 5}, {Offset: 5, Length: 5}}
	for _, run := range []string{"2e 2e 2e 31 c0 c3 cc cc cc cc", "0f 1f 44 00 00 c3 cc cc cc cc"} {
		want(t, one(t, u, f, objtest.Hex(t, run), false), arch.MatchResult{RunSize: 10, Sites: sites, Obligations: ob})
	}
	// Whom it calls, the key must say.
	calls := func(at, to uint64) arch.Obligation {
		return arch.Obligation{Kind: arch.ObligationStaticCallFunc, At: at, Address: base + at, Forms: [][]byte{binary.LittleEndian.AppendUint64(nil, to)}, Names: noFunction}
	}
	want(t, one(t, u, f, objtest.Hex(t, "e8"+rel(1, base+0x1000)+"e9"+rel(6, base+0x2000)), false), arch.MatchResult{RunSize: 10, Sites: sites,
		Obligations: []arch.Obligation{ob[0], calls(0, base+0x1000), ob[1], calls(5, base+0x2000)}})
	refused(t, one(t, u, f, objtest.Hex(t, "90 90 90 90 90 e9 11223344"), false), 0, "static_call")
	refused(t, one(t, u, f, objtest.Hex(t, "e8 11223344 0f 1f 44 00 00"), false), 5, "static_call")
}

func TestStaticTramp(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".static_call.text", objtest.Text, "e9 00000000 0f b9 cc")
	f := b.Func("__SCT__x", s, 0, 8)
	b.Reloc(s, 1, elf.R_X86_64_PLT32, b.Undef("initial"), -4)
	u := b.Describe(objtest.Target())
	for _, run := range []string{"e9 11223344 0f b9 cc", "c3 cc cc cc cc 0f b9 cc"} {
		want(t, one(t, u, f, objtest.Hex(t, run), false), arch.MatchResult{RunSize: 8, Sites: site(0, 5)})
	}
	refused(t, one(t, u, f, objtest.Hex(t, "e9 11223344 0f b9 cd"), false), 7)
	refused(t, one(t, u, f, objtest.Hex(t, "e8 11223344 0f b9 cc"), false), 0, "trampoline")
}

// TestStaticTrampReturn has the trampoline of a static call that has no function at first: it is a return site, too.
func TestStaticTrampReturn(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".static_call.text", objtest.Text, "e9 00000000 0f b9 cc")
	f := b.Func("__SCT__x", s, 0, 8)
	b.Reloc(s, 1, elf.R_X86_64_PLT32, b.Undef("__x86_return_thunk"), -4)
	b.Table(".return_sites", objtest.Place{Section: s, Offset: 0})
	u := b.Describe(objtest.Target())
	for _, run := range []string{"e9 11223344 0f b9 cc", "c3 cc cc cc cc 0f b9 cc"} {
		want(t, one(t, u, f, objtest.Hex(t, run), false), arch.MatchResult{RunSize: 8, Sites: site(0, 5)})
	}
}

func TestSMPLock(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "f0 ff 05 00000000 c3")
	f := b.Func("f", s, 0, 8)
	datum := b.Undef("datum")
	b.Reloc(s, 3, elf.R_X86_64_PC32, datum, -4)
	b.Table(".smp_locks", objtest.Place{Section: s, Offset: 0})
	u := b.Describe(objtest.Target())
	for _, prefix := range []string{"f0", "3e"} {
		want(t, one(t, u, f, objtest.Hex(t, prefix+"ff 05"+rel(3, textAt)+"c3"), false), arch.MatchResult{RunSize: 8, Sites: site(0, 1),
			Equations: []arch.Equation{{Symbol: datum, Value: textAt, At: 3}}})
	}
	refused(t, one(t, u, f, objtest.Hex(t, "2e ff 05 00000000 c3"), false), 0, "smp_lock")
}

// TestSMPLockSecond has an operand-size prefix before the lock prefix: the kernel looks at the first byte only.
func TestSMPLockSecond(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "66 f0 0f b1 0f c3")
	f := b.Func("f", s, 0, 6)
	b.Table(".smp_locks", objtest.Place{Section: s, Offset: 0})
	u := b.Describe(objtest.Target())
	want(t, one(t, u, f, objtest.Hex(t, "66 f0 0f b1 0f c3"), false), arch.MatchResult{RunSize: 6, Sites: site(0, 1)})
	refused(t, one(t, u, f, objtest.Hex(t, "f0 f0 0f b1 0f c3"), false), 0, "smp_lock")
	refused(t, one(t, u, f, objtest.Hex(t, "66 3e 0f b1 0f c3"), false), 1)
}

func TestRuntimeConst(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "48 b8 efcdab8967452301 c1 e8 0c c3")
	f := b.Func("f", s, 0, 14)
	b.Table("runtime_ptr_table", objtest.Place{Section: s, Offset: 2})
	b.Table("runtime_shift_count", objtest.Place{Section: s, Offset: 12})
	u := b.Describe(objtest.Target())
	sites := []arch.Range{{Offset: 0, Length: 10}, {Offset: 12, Length: 1}}
	want(t, one(t, u, f, objtest.Hex(t, "48 b8 00 10 20 30 40 88 ff ff c1 e8 11 c3"), false), arch.MatchResult{RunSize: 14, Sites: sites})
	// What a part has in its place.
	want(t, one(t, u, f, objtest.Hex(t, "48 8b 05"+rel(3, textAt)+"0f 1f 00 c1 e8 11 c3"), false), arch.MatchResult{RunSize: 14, Sites: sites,
		Obligations: symbolAt(0, textAt, "table")})
	refused(t, one(t, u, f, objtest.Hex(t, "48 b9 00 10 20 30 40 88 ff ff c1 e8 11 c3"), false), 0, "%rcx")
	refused(t, one(t, u, f, objtest.Hex(t, "48 8b 0d"+rel(3, textAt)+"0f 1f 00 c1 e8 11 c3"), false), 0, "runtime_ptr_table")
	refused(t, one(t, u, f, objtest.Hex(t, "48 b8 00 10 20 30 40 88 ff ff c1 e9 11 c3"), false), 11, "%ecx")
	refused(t, one(t, u, f, objtest.Hex(t, "48 b8 00 10 20 30 40 88 ff ff c1 e8 11 c3"), true), 2)
}

func TestParavirt(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "ff 15 00000000 c3")
	f := b.Func("f", s, 0, 7)
	ops := b.Undef("pv_ops")
	b.Reloc(s, 2, elf.R_X86_64_PC32, ops, 0x40-4)
	n := b.Section(".parainstructions", objtest.Read, "0000000000000000 05 06 000000000000")
	b.Reloc(n, 0, elf.R_X86_64_64, b.SectionSymbol(s), 0)
	u := b.Describe(objtest.Target())
	for _, run := range []string{"e8 11223344 90 c3", "66 0f 1f 44 00 00 c3"} {
		want(t, one(t, u, f, objtest.Hex(t, run), false), arch.MatchResult{RunSize: 7, Sites: site(0, 6)})
	}
	// Not patched: the operand counts.
	want(t, one(t, u, f, objtest.Hex(t, "ff 15"+rel(2, textAt+0x40)+"c3"), false), arch.MatchResult{RunSize: 7, Sites: site(0, 6),
		Equations: []arch.Equation{{Symbol: ops, Value: textAt, At: 0}}})
	refused(t, one(t, u, f, objtest.Hex(t, "e8 11223344 c3 c3"), false), 0)
}

// TestProbedSite has a breakpoint of a kprobe on a site.
func TestProbedSite(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, "31 c0 e9 00000000 cc")
	f := b.Func("f", s, 0, 8)
	b.Reloc(s, 3, elf.R_X86_64_PLT32, b.Undef("__x86_return_thunk"), -4)
	b.Table(".return_sites", objtest.Place{Section: s, Offset: 2})
	u := b.Describe(objtest.Target())
	got := one(t, u, f, objtest.Hex(t, "31 c0 cc cc cc cc cc cc"), false)
	want(t, got, arch.MatchResult{RunSize: 8, Sites: site(2, 5),
		Obligations: []arch.Obligation{{Kind: arch.ObligationKprobe, At: 2, Address: base + 2}}})
	refused(t, one(t, u, f, objtest.Hex(t, "31 c0 90 cc cc cc cc cc"), false), 2)
}
