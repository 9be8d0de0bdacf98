package match

import (
	"debug/elf"
	"slices"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/objtest"
	"github.com/ksplice/ksplice/sdk/arch"
)

// directCall is ALT_FLAG_DIRECT_CALL.
const directCall = 2

// alternative makes a function of ret with the given code at its beginning that has one entry for each replacement.
func alternative(t *testing.T, old bool, code string, replacements ...string) (b *objtest.Builder, f, text, repl uint32) {
	b = objtest.New(t)
	text = b.Section(".text.f", objtest.Text, code+"c3")
	n := b.File.Sections[text].Size
	f = b.Func("f", text, 0, n)
	repl = b.Section(".altinstr_replacement", objtest.Text, strings.Join(replacements, " "))
	var entries []objtest.Alternative
	at := int64(0)
	for i, r := range replacements {
		size := len(objtest.Hex(t, r))
		entries = append(entries, objtest.Alternative{At: objtest.Place{Section: text}, Repl: objtest.Place{Section: repl, Offset: at},
			Feature: uint16(i + 1), Length: uint8(n - 1), Replaced: uint8(size)})
		at += int64(size)
	}
	b.Alternatives(old, entries...)
	return b, f, text, repl
}

// facts61 changes facts to the layout of 6.1.
func facts61(t arch.Target) arch.Target {
	t.Facts["alt_instr.size"], t.Facts["alt_instr.instrlen"], t.Facts["alt_instr.replacementlen"] = 12, 10, 11
	return t
}

// TestAlternativePlain has nops that one of two replacements may fill.
func TestAlternativePlain(t *testing.T) {
	for _, old := range []bool{false, true} {
		b, f, _, _ := alternative(t, old, "90 90 90 90 90 90", "0f ae e8", "0f 01 ca 90 0f ae f0")
		target := objtest.Target()
		if old {
			target = facts61(target)
		}
		b.File.Sections[1].Data = objtest.Hex(t, "90 90 90 90 90 90 90 c3")
		b.File.Sections[1].Size = 8
		b.File.Symbols[f].Size = 8
		u := b.Describe(target)
		// The entries say 6 bytes; the second replacement has 7 and cannot be.
		for run, ok := range map[string]bool{
			"90 90 90 90 90 90":       true,
			"66 0f 1f 44 00 00":       true,
			"0f ae e8 0f 1f 00":       true,
			"0f ae e8 90 90 90":       true,
			"0f ae f0 0f 1f 00":       false,
			"0f ae e8 0f ae e8":       false,
			"0f 01 ca 90 0f ae":       false,
			"eb 04 cc cc cc cc":       true,
			"eb 03 cc cc cc cc":       false,
			"66 90 0f 1f 40 00":       true,
			"0f 1f 40 00 66 90":       true,
			"cc 90 90 90 90 90":       true, // a kprobe, which the host must find
			"0f 1f 44 00 00 0f 1f 00": false,
		} {
			got := one(t, u, f, objtest.Hex(t, run+"90 c3"), false)
			if got.Matched != ok {
				t.Errorf("old %t: %s: matched %t, want %t: %+v", old, run, got.Matched, ok, got.Mismatch)
			}
			if ok && (len(got.Sites) != 1 || got.Sites[0] != (arch.Range{Offset: 0, Length: 6})) {
				t.Errorf("old %t: %s: sites %v", old, run, got.Sites)
			}
		}
		if r := one(t, u, f, objtest.Hex(t, "66 0f 1f 44 00 00 90 c3"), true); r.Matched {
			t.Errorf("old %t: optimised nops match in an image that was never booted", old)
		}
	}
}

// TestAlternativeCall has a call that may go to one of several functions: any of the names will do.
func TestAlternativeCall(t *testing.T) {
	b, f, text, repl := alternative(t, true, "e8 00000000", "e8 00000000", "e8 00000000")
	b.Reloc(text, 1, elf.R_X86_64_PLT32, b.Undef("copy_orig"), -4)
	b.Reloc(repl, 1, elf.R_X86_64_PLT32, b.Undef("copy_rep"), -4)
	b.Reloc(repl, 6, elf.R_X86_64_PLT32, b.Undef("copy_erms"), -4)
	u := b.Describe(facts61(objtest.Target()))
	want(t, one(t, u, f, objtest.Hex(t, "e8"+rel(1, textAt)+"c3"), false), arch.MatchResult{RunSize: 6, Sites: site(0, 5),
		Obligations: symbolAt(0, textAt, "copy_orig", "copy_rep", "copy_erms")})
	refused(t, one(t, u, f, objtest.Hex(t, "e9"+rel(1, textAt)+"c3"), true), 0)
	// Call depth tracking leads calls of alternatives to pads, too.
	u = b.Describe(facts61(objtest.Target("CONFIG_CALL_THUNKS", "y", "CONFIG_FUNCTION_ALIGNMENT", "16")))
	want(t, one(t, u, f, objtest.Hex(t, "e8"+rel(1, textAt-9)+"c3"), false), arch.MatchResult{RunSize: 6, Sites: site(0, 5),
		Obligations: symbolAt(0, textAt, "copy_orig", "copy_rep", "copy_erms")})
}

// TestAlternativeCallSite has an original that is a call site as well: its callee is known by name only.
func TestAlternativeCallSite(t *testing.T) {
	b, f, text, repl := alternative(t, false, "e8 00000000", "e8 00000000")
	b.Reloc(text, 1, elf.R_X86_64_PLT32, b.Undef("clear_orig"), -4)
	b.Reloc(repl, 1, elf.R_X86_64_PLT32, b.Undef("clear_rep"), -4)
	b.Table(".call_sites", objtest.Place{Section: text})
	u := b.Describe(objtest.Target())
	want(t, one(t, u, f, objtest.Hex(t, "e8"+rel(1, textAt)+"c3"), false), arch.MatchResult{RunSize: 6, Sites: site(0, 5),
		Obligations: symbolAt(0, textAt, "clear_orig", "clear_rep")})
}

// TestAlternativeJump has static_cpu_has: a jump to code that is gone after boot, a jump into the function, or nops.
func TestAlternativeJump(t *testing.T) {
	b, f, text, repl := alternative(t, false, "e9 00000000", "e9 00000000", "")
	b.File.Sections[text].Data = objtest.Hex(t, "e9 00000000 31 c0 31 c9 c3")
	b.File.Sections[text].Size, b.File.Symbols[f].Size = 10, 10
	aux := b.Section(".altinstr_aux", objtest.Text, "f6 05 00000000 01 eb fe")
	b.Reloc(text, 1, elf.R_X86_64_PC32, b.SectionSymbol(aux), -4)
	b.Reloc(repl, 1, elf.R_X86_64_PC32, b.SectionSymbol(text), 7-4)
	u := b.Describe(objtest.Target())
	for _, run := range []string{"e9 02 00 00 00", "eb 05 cc cc cc", "eb 05 0f 1f 00", "0f 1f 44 00 00"} {
		want(t, one(t, u, f, objtest.Hex(t, run+"31 c0 31 c9 c3"), false), arch.MatchResult{RunSize: 10, Sites: site(0, 5)})
	}
	for _, run := range []string{"eb 06 cc cc cc", "eb 05 cc cc 90", "eb 05 90 cc cc"} {
		refused(t, one(t, u, f, objtest.Hex(t, run+"31 c0 31 c9 c3"), false), 0, "alternative")
	}
}

// TestAlternativeNested has entries of different lengths at one place: the longest counts for all.
func TestAlternativeNested(t *testing.T) {
	b := objtest.New(t)
	text := b.Section(".text.f", objtest.Text, "90 90 90 90 90 90 c3")
	f := b.Func("f", text, 0, 7)
	repl := b.Section(".altinstr_replacement", objtest.Text, "0f ae e8 0f ae f0 0f ae e8")
	b.Alternatives(false,
		objtest.Alternative{At: objtest.Place{Section: text}, Repl: objtest.Place{Section: repl}, Feature: 1, Length: 3, Replaced: 3},
		objtest.Alternative{At: objtest.Place{Section: text}, Repl: objtest.Place{Section: repl, Offset: 3}, Feature: 2, Flags: 1, Length: 6, Replaced: 6})
	u := b.Describe(objtest.Target())
	for _, run := range []string{"0f ae e8 0f 1f 00", "0f ae f0 0f ae e8", "66 0f 1f 44 00 00"} {
		want(t, one(t, u, f, objtest.Hex(t, run+"c3"), false), arch.MatchResult{RunSize: 7, Sites: site(0, 6)})
	}
	refused(t, one(t, u, f, objtest.Hex(t, "0f ae e8 0f ae e8 c3"), false), 0, "altinstr feature not 0x2")
}

// TestAlternativeDirectCall has a paravirtual call of 6.8 and later: indirect, the native instruction, or a direct call whose
// target the kernel finds at boot.
func TestAlternativeDirectCall(t *testing.T) {
	b := objtest.New(t)
	text := b.Section(".text.f", objtest.Text, "ff 15 00000000 c3")
	f := b.Func("f", text, 0, 7)
	repl := b.Section(".altinstr_replacement", objtest.Text, "e8 00000000 9c 58")
	ops := b.Undef("pv_ops")
	b.Reloc(text, 2, elf.R_X86_64_PC32, ops, 8-4)
	b.Reloc(repl, 1, elf.R_X86_64_PLT32, b.Undef("BUG_func"), -4)
	at := objtest.Place{Section: text}
	b.Alternatives(false, objtest.Alternative{At: at, Repl: objtest.Place{Section: repl}, Feature: 1, Flags: directCall, Length: 6, Replaced: 5},
		objtest.Alternative{At: at, Repl: objtest.Place{Section: repl, Offset: 5}, Feature: 2, Length: 6, Replaced: 2})
	u := b.Describe(objtest.Target())
	for _, run := range []string{"e8 11223344 90", "66 0f 1f 44 00 00", "9c 58 0f 1f 40 00"} {
		want(t, one(t, u, f, objtest.Hex(t, run+"c3"), false), arch.MatchResult{RunSize: 7, Sites: site(0, 6)})
	}
	want(t, one(t, u, f, objtest.Hex(t, "ff 15"+rel(2, textAt+8)+"c3"), false), arch.MatchResult{RunSize: 7, Sites: site(0, 6),
		Equations: []arch.Equation{{Symbol: ops, Value: textAt, At: 0}}})
	refused(t, one(t, u, f, objtest.Hex(t, "ff 25 00000000 c3"), false), 0)
	refused(t, one(t, u, f, objtest.Hex(t, "e8 11223344 c3 c3"), false), 0)
}

// TestAlternativeInner has sites inside an original and inside a replacement.
func TestAlternativeInner(t *testing.T) {
	b, f, text, repl := alternative(t, true, "ff d0 90 90 90", "e8 00000000", "0f ae e8 ff d0")
	_ = text
	b.Reloc(repl, 1, elf.R_X86_64_PLT32, b.Undef("__x86_indirect_thunk_rax"), -4)
	b.Table(".retpoline_sites", objtest.Place{Section: repl, Offset: 0})
	u := b.Describe(facts61(objtest.Target()))
	for _, run := range []string{"ff d0 0f 1f 00", "0f ae e8 ff d0"} {
		want(t, one(t, u, f, objtest.Hex(t, run+"c3"), false), arch.MatchResult{RunSize: 6, Sites: site(0, 5)})
	}
	got := one(t, u, f, objtest.Hex(t, "e8"+rel(1, moduleAt)+"c3"), false)
	want(t, got, arch.MatchResult{RunSize: 6, Sites: site(0, 5), Obligations: []arch.Obligation{
		{Kind: arch.ObligationCode, Address: moduleAt, Forms: [][]byte{{0xff, 0xe0, 0xcc}}}}})
	refused(t, one(t, u, f, objtest.Hex(t, "ff d1 0f 1f 00 c3"), false), 0)
}

// TestAlternativeData has a replacement whose operand is relative to rip: since 6.12 the kernel relocates it.
func TestAlternativeData(t *testing.T) {
	b, f, _, repl := alternative(t, false, "90 90 90 90 90 90 90", "48 8b 05 00000000")
	datum := b.Undef("datum")
	b.Reloc(repl, 3, elf.R_X86_64_PC32, datum, -4)
	u := b.Describe(objtest.Target())
	want(t, one(t, u, f, objtest.Hex(t, "48 8b 05"+rel(3, textAt)+"c3"), false), arch.MatchResult{RunSize: 8, Sites: site(0, 7),
		Equations: []arch.Equation{{Symbol: datum, Value: textAt}}})
}

// TestAlternativeBranchOut refuses a replacement that branches out of itself without a relocation.
func TestAlternativeBranchOut(t *testing.T) {
	b, f, _, _ := alternative(t, false, "90 90 90 90 90", "75 40 90", "75 01 90")
	u := b.Describe(objtest.Target())
	want(t, one(t, u, f, objtest.Hex(t, "75 01 0f 1f 00 c3"), false), arch.MatchResult{RunSize: 6, Sites: site(0, 5)})
	refused(t, one(t, u, f, objtest.Hex(t, "75 40 0f 1f 00 c3"), false), 0)
}

// TestEither keeps the first of forms that claim different things.
func TestEither(t *testing.T) {
	a := claims{obligations: symbolAt(0, 1, "a")}
	b := claims{obligations: symbolAt(0, 1, "b")}
	other := claims{obligations: symbolAt(0, 2, "c")}
	if got := either([]claims{a, other, b}); strings.Join(got.obligations[0].Names, " ") != "a b" {
		t.Errorf("names %v, want a b", got.obligations[0].Names)
	}
	x, y := arch.Equation{Symbol: 1, Value: 8}, arch.Equation{Symbol: 2, Value: 8}
	if got := either([]claims{{equations: []arch.Equation{x, y}}, {equations: []arch.Equation{y}}}); !slices.Equal(got.equations, []arch.Equation{y}) {
		t.Errorf("equations %v, want what both say", got.equations)
	}
	if got := either([]claims{a, {}}); len(got.obligations) != 0 {
		t.Errorf("a form without claims leaves %v", got.obligations)
	}
}

// TestResized has a jump to a function nearby that the assembler made short in run.
func TestResized(t *testing.T) {
	b := objtest.New(t)
	// test %eax,%eax; jne +14; jmp near; jmp -11 (to +0); xor; call near; ret
	text := b.Section(".text.f", objtest.Text, "85 c0 75 07 e9 00000000 eb f5 31 c0 e8 00000000 c3")
	f := b.Func("f", text, 0, 19)
	near := b.Undef("near")
	b.Reloc(text, 5, elf.R_X86_64_PLT32, near, -4)
	b.Reloc(text, 14, elf.R_X86_64_PLT32, near, -4)
	u := b.Describe(objtest.Target())
	const to = base + 0x40
	run := "85 c0 75 04 eb 3a eb f8 31 c0 e8" + rel(11, to) + "c3"
	w := arch.MatchResult{RunSize: 16, Resized: true, Equations: []arch.Equation{{Symbol: near, Value: to, At: 5}, {Symbol: near, Value: to, At: 14}}}
	want(t, one(t, u, f, objtest.Hex(t, run), false), w)
	want(t, one(t, u, f, objtest.Hex(t, run), true), w)
	refused(t, one(t, u, f, objtest.Hex(t, "85 c0 75 04 eb 3a eb f9 31 c0 e8"+rel(11, to)+"c3"), false), 9, "expected the function's +0x0")
	refused(t, one(t, u, f, objtest.Hex(t, "85 c0 75 04 eb 3a eb f8 31 c9 e8"+rel(11, to)+"c3"), false), 11, "xor")
	refused(t, one(t, u, f, objtest.Hex(t, "85 c0 74 04 eb 3a eb f8 31 c0 e8"+rel(11, to)+"c3"), false), 2)
	refused(t, one(t, u, f, objtest.Hex(t, "85 c0 75 04 eb 3a eb f8 31 c0"), false), 13, "run ends")
}

// TestResizedField has a jump to a function nearby whose relocation is none of a jump's: no form of it is accepted.
func TestResizedField(t *testing.T) {
	for kind, ok := range map[elf.R_X86_64]bool{elf.R_X86_64_PLT32: true, elf.R_X86_64_PC32: true, elf.R_X86_64_PC64: false, elf.R_X86_64_GOTPCREL: false,
		elf.R_X86_64_32S: false} {
		b := objtest.New(t)
		s := b.Section(".text.f", objtest.Text, "55 e9 00000000 5d c3 cccccccc")
		f := b.Func("f", s, 0, 12)
		b.Reloc(s, 2, kind, b.Undef("near"), -4)
		r := one(t, b.Describe(objtest.Target()), f, objtest.Hex(t, "55 eb 10 5d c3 cccccccc"), false)
		if r.Matched != ok {
			t.Errorf("%v: matched %t (%+v)", kind, r.Matched, r.Mismatch)
		}
	}
}

// TestResizedPrefix has a branch with another prefix, which is no other form of it.
func TestResizedPrefix(t *testing.T) {
	b := objtest.New(t)
	text := b.Section(".text.f", objtest.Text, "2e e8 00000000 c3")
	f := b.Func("f", text, 0, 7)
	b.Reloc(text, 2, elf.R_X86_64_PLT32, b.Undef("callee"), -4)
	u := b.Describe(objtest.Target())
	for run, at := range map[string]uint64{"3e e8 11223344 c3": 0, "e8 11223344 c3 90": 0, "2e e9 11223344 c3": 1} {
		refused(t, one(t, u, f, objtest.Hex(t, run), false), at)
	}
}

// TestResizedJumpLabel covers a static branch that another length of a jump made short.
func TestResizedJumpLabel(t *testing.T) {
	b := objtest.New(t)
	text := b.Section(".text.f", objtest.Text, "0f 1f 44 00 00 e9 00000000 31 c0 c3")
	f := b.Func("f", text, 0, 13)
	near, key := b.Undef("near"), b.Undef("key")
	b.Reloc(text, 6, elf.R_X86_64_PLT32, near, -4)
	n := b.Section("__jump_table", objtest.Data, strings.Repeat("00", 16))
	b.Reloc(n, 0, elf.R_X86_64_PC32, b.SectionSymbol(text), 0)
	b.Reloc(n, 4, elf.R_X86_64_PC32, b.SectionSymbol(text), 10)
	b.Reloc(n, 8, elf.R_X86_64_PC64, key, 0)
	u := b.Describe(objtest.Target())
	w := arch.MatchResult{RunSize: 7, Resized: true, Equations: []arch.Equation{{Symbol: near, Value: base + 0x14, At: 6}},
		Obligations: []arch.Obligation{{Kind: arch.ObligationJumpKey, Address: base, Symbol: key}}, Sites: site(0, 2)}
	want(t, one(t, u, f, objtest.Hex(t, "66 90 eb 10 31 c0 c3"), false), w)
	want(t, one(t, u, f, objtest.Hex(t, "eb 02 eb 10 31 c0 c3"), false), w)
	refused(t, one(t, u, f, objtest.Hex(t, "eb 03 eb 10 31 c0 c3"), false), 0)
}
