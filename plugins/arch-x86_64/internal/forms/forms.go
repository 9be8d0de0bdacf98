// Package forms knows the shapes that the kernel gives to the places it rewrites in its own code. Every function takes
// the bytes of one site, as the object has them and as they run, and says whether some supported kernel can have made
// the one of the other. Forms are the union over kernel versions, as distributions port changes back. The match package
// calls it and decides what a target must be.
package forms

import (
	"bytes"
	"encoding/binary"
)

// Outcome is what the run bytes of an accepted site say.
type Outcome struct {
	// Form names what was found, for messages.
	Form string
	// HasTarget says that they are a direct branch, or the load of a variable; Target is where it leads, counted from the
	// site's first byte.
	HasTarget bool
	Target    int64
	// Call says that the branch is a call.
	Call bool
}

// Opcodes.
const (
	opCall  = 0xe8
	opJmp32 = 0xe9
	opJmp8  = 0xeb
	opRet   = 0xc3
	opInt3  = 0xcc
	opEsc   = 0x0f
	opCS    = 0x2e
)

// nops are the kernel's own nops by length (arch/x86/include/asm/nops.h: BYTES_NOP1 to BYTES_NOP8, to BYTES_NOP11 since 6.4).
var nops = [][]byte{
	1:  {0x90},
	2:  {0x66, 0x90},
	3:  {0x0f, 0x1f, 0x00},
	4:  {0x0f, 0x1f, 0x40, 0x00},
	5:  {0x0f, 0x1f, 0x44, 0x00, 0x00},
	6:  {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},
	7:  {0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00},
	8:  {0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
	9:  {0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
	10: {0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
	11: {0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
}

// Nop5 is the nop that stands for a call or a long jump.
var Nop5 = nops[5]

// int3x4 fills what a one-byte return leaves of a five-byte jump.
var int3x4 = []byte{opInt3, opInt3, opInt3, opInt3}

// Nops says whether code is nothing but the kernel's own nops, in any mix of lengths.
func Nops(code []byte) bool {
	for len(code) > 0 {
		n := len(nops) - 1
		for ; n > 0 && !bytes.HasPrefix(code, nops[n]); n-- {
		}
		if n == 0 {
			return false
		}
		code = code[n:]
	}
	return true
}

// NopFill says whether code is what the kernel fills unused bytes of a site with: nops, or a jump over int3
// (arch/x86/kernel/alternative.c:add_nops in 6.1, add_nop in 6.12).
func NopFill(code []byte) bool {
	if Nops(code) {
		return true
	}
	n := len(code)
	switch {
	case n > 2 && n < 128+2 && code[0] == opJmp8 && int(code[1]) == n-2:
		return onlyInt3(code[2:])
	case n > 5 && code[0] == opJmp32 && int64(rel32(code[1:])) == int64(n-5):
		return onlyInt3(code[5:])
	}
	return false
}

// onlyInt3 says whether code is int3 throughout.
func onlyInt3(code []byte) bool {
	for _, b := range code {
		if b != opInt3 {
			return false
		}
	}
	return true
}

// rel32 reads a branch displacement.
func rel32(b []byte) int32 { return int32(binary.LittleEndian.Uint32(b)) }

// branch is the outcome of a direct branch whose four-byte displacement is at offset field.
func branch(form string, run []byte, field int, call bool) (Outcome, bool) {
	return Outcome{Form: form, HasTarget: true, Target: int64(field) + 4 + int64(rel32(run[field:])), Call: call}, true
}

// rejected is the outcome of a form that is none of the known ones.
func rejected() (Outcome, bool) { return Outcome{}, false }

// Fentry accepts the tracer's site: the five-byte nop or a call (arch/x86/kernel/ftrace.c:ftrace_nop_replace, ftrace_call_replace).
func Fentry(run []byte) (Outcome, bool) {
	switch {
	case len(run) != 5:
	case bytes.Equal(run, Nop5):
		return Outcome{Form: "nop"}, true
	case run[0] == opCall:
		return branch("call", run, 1, true)
	}
	return rejected()
}

// JumpLabel accepts a static branch: a nop or a jump of 2 or 5 bytes (arch/x86/kernel/jump_label.c:__jump_label_patch).
func JumpLabel(run []byte) (Outcome, bool) {
	switch {
	case len(run) != 2 && len(run) != 5:
	case bytes.Equal(run, nops[len(run)]):
		return Outcome{Form: "nop"}, true
	case len(run) == 2 && run[0] == opJmp8:
		return Outcome{Form: "jmp", HasTarget: true, Target: 2 + int64(int8(run[1]))}, true
	case len(run) == 5 && run[0] == opJmp32:
		return branch("jmp", run, 1, false)
	}
	return rejected()
}

// ShortJump accepts what a jump of five bytes in a replacement may become: one of two bytes, filled up with nops
// (arch/x86/kernel/alternative.c:recompute_jump in 6.1) or int3 (__apply_relocation in 6.12).
func ShortJump(run []byte) (Outcome, bool) {
	if len(run) == 5 && run[0] == opJmp8 && (onlyInt3(run[2:]) || Nops(run[2:])) {
		return Outcome{Form: "jmp", HasTarget: true, Target: 2 + int64(int8(run[1]))}, true
	}
	return rejected()
}

// xor5rax are the five bytes that stand for a call of __static_call_return0: those of 6.1 and 6.12, and those before 5.19
// (arch/x86/kernel/static_call.c).
var xor5rax = [][]byte{{0x2e, 0x2e, 0x2e, 0x31, 0xc0}, {0x66, 0x66, 0x48, 0x31, 0xc0}}

// StaticCall accepts a static call (arch/x86/kernel/static_call.c:__static_call_transform). What it may become depends on
// whether the object has a call, a tail call or a conditional one.
func StaticCall(pre, run []byte) (Outcome, bool) {
	if len(pre) != len(run) || len(pre) < 5 {
		return rejected()
	}
	switch {
	case pre[0] == opCall && len(pre) == 5:
		for _, x := range xor5rax {
			if bytes.Equal(run, x) {
				return Outcome{Form: "xor"}, true
			}
		}
		if bytes.Equal(run, Nop5) {
			return Outcome{Form: "nop"}, true
		}
		if run[0] == opCall {
			return branch("call", run, 1, true)
		}
	case pre[0] == opJmp32 && len(pre) == 5:
		return tail(run)
	case pre[0] == opEsc && pre[1]&0xf0 == 0x80 && len(pre) == 6 && run[0] == opEsc && run[1] == pre[1]:
		return branch("jcc", run, 2, false)
	}
	return rejected()
}

// tail accepts a tail call: a jump, or a return in its place.
func tail(run []byte) (Outcome, bool) {
	switch {
	case run[0] == opJmp32:
		return branch("jmp", run, 1, false)
	case run[0] == opRet && bytes.Equal(run[1:], int3x4):
		return Outcome{Form: "ret"}, true
	}
	return rejected()
}

// StaticTramp accepts the first five bytes of a static call's trampoline: a jump, a return, or the trampoline of a static
// call that returns 0 (arch/x86/include/asm/static_call.h: ARCH_DEFINE_STATIC_CALL_RET0_TRAMP).
func StaticTramp(pre, run []byte) (Outcome, bool) {
	if len(run) != 5 {
		return rejected()
	}
	if o, ok := tail(run); ok {
		return o, true
	}
	if bytes.Equal(pre, run) {
		return Outcome{Form: "unchanged"}, true
	}
	return rejected()
}

// Return accepts a return: a jump to a return thunk, or ret and int3 (arch/x86/kernel/alternative.c:patch_return).
func Return(run []byte) (Outcome, bool) {
	if len(run) != 5 {
		return rejected()
	}
	return tail(run)
}

// Retpoline accepts an indirect branch through register reg (arch/x86/kernel/alternative.c:patch_retpoline): still the
// call, jump or conditional jump to a thunk, whichever; or, inline, [lfence] and the indirect branch, filled up.
func Retpoline(pre, run []byte, reg int) (Outcome, bool) {
	if len(pre) != len(run) || len(pre) < 5 || reg < 0 || reg > 15 {
		return rejected()
	}
	at, form, call := 0, "jmp", false
	if len(pre) == 6 && pre[0] == opCS {
		at = 1
	}
	conditional := pre[0] == opEsc
	switch {
	case conditional && len(pre) == 6 && pre[1]&0xf0 == 0x80:
		at, form = 1, "jcc"
	case pre[at] == opCall:
		form, call = "call", true
	case pre[at] != opJmp32:
		return rejected()
	}
	if len(pre) != at+5 {
		return rejected()
	}
	if bytes.Equal(run[:at+1], pre[:at+1]) {
		return branch(form, run, at+1, call)
	}
	rest := run
	if conditional {
		// The inverted condition jumps over the rest.
		if run[0] != 0x70|(pre[1]&0xf^1) || int(run[1]) != len(run)-2 {
			return rejected()
		}
		rest = run[2:]
	}
	inline, ok := cutIndirect(rest, reg, call)
	if !ok {
		return rejected()
	}
	if !call && len(inline) > 0 && inline[0] == opInt3 {
		inline = inline[1:]
	}
	if !Nops(inline) {
		return rejected()
	}
	return Outcome{Form: "inline"}, true
}

// cutIndirect takes an optional lfence and a call or jump through a register off the front of code.
func cutIndirect(code []byte, reg int, call bool) (rest []byte, ok bool) {
	code = bytes.TrimPrefix(code, []byte{opEsc, 0xae, 0xe8}) // lfence
	return bytes.CutPrefix(code, indirect(reg, call))
}

// indirect is the branch through a register (arch/x86/kernel/alternative.c:emit_indirect).
func indirect(reg int, call bool) []byte {
	modrm := byte(0xe0)
	if call {
		modrm = 0xd0
	}
	b := []byte{0xff, modrm | byte(reg&7)}
	if reg >= 8 {
		b = append([]byte{0x41}, b...)
	}
	return b
}

// ITSThunk is the code of a thunk for indirect branches through reg on CPUs with Indirect Target Selection
// (arch/x86/kernel/alternative.c:its_init_thunk).
func ITSThunk(reg int) []byte { return append(indirect(reg, false), opInt3) }

// Paravirt accepts a paravirtual call of 6.1: still indirect, a direct call filled up, or nothing
// (arch/x86/kernel/alternative.c:apply_paravirt).
func Paravirt(run []byte) (Outcome, bool) {
	switch {
	case len(run) < 5:
	case Nops(run):
		return Outcome{Form: "nop"}, true
	case run[0] == opCall && Nops(run[5:]):
		return branch("call", run, 1, true)
	}
	return rejected()
}

// DirectCall accepts the replacement of an indirect paravirtual call since 6.8: a direct call filled up, or nothing
// (arch/x86/kernel/alternative.c:alt_replace_call).
func DirectCall(run []byte) (Outcome, bool) { return Paravirt(run) }

// endbrForms are what an endbr64 may be: itself, or sealed (arch/x86/include/asm/ibt.h:gen_endbr_poison; the last form is
// that of 6.15 and later).
var endbrForms = [][]byte{{0xf3, 0x0f, 0x1e, 0xfa}, {0x66, 0x0f, 0x1f, 0x00}, {0x0f, 0x1f, 0x40, 0xd6}}

// Endbr accepts a landing pad for indirect branches.
func Endbr(run []byte) (Outcome, bool) {
	for i, f := range endbrForms {
		if bytes.Equal(run, f) {
			return Outcome{Form: []string{"endbr64", "sealed", "sealed"}[i]}, true
		}
	}
	return rejected()
}

// MovabsLen is the length of movabs $imm64,%reg, and MovabsImm the offset of its immediate.
const (
	MovabsLen = 10
	MovabsImm = 2
)

// Movabs says whether code is movabs $imm64,%reg: REX.W, with REX.B for registers from r8 on, and opcode b8+reg.
func Movabs(code []byte) bool {
	return len(code) == MovabsLen && code[0]&^1 == 0x48 && code[1]&^7 == 0xb8
}

// RuntimeLoadField is the offset of the four-byte pc-relative field of RuntimeLoad's result, whose instruction ends behind it.
const RuntimeLoadField = 3

// RuntimeLoad is what stands in a module, in as many bytes, for the load of a runtime constant: mov sym(%rip),%reg and a nop,
// with the field zero. code is the movabs.
func RuntimeLoad(code []byte) []byte {
	rex := byte(0x48)
	if code[0]&1 != 0 {
		rex |= 4 // REX.R
	}
	return append([]byte{rex, 0x8b, code[1]&7<<3 | 5, 0, 0, 0, 0}, nops[3]...)
}

// RuntimeConst accepts a constant that the kernel writes once at boot (arch/x86/include/asm/runtime-const.h): an immediate of
// any value in the same instruction; or, in a module, the load of the variable that it comes from: the target. Sites other than
// a whole movabs are the immediate alone.
func RuntimeConst(pre, run []byte) (Outcome, bool) {
	switch {
	case len(pre) != len(run):
	case !Movabs(pre):
		return Outcome{Form: "immediate"}, len(pre) == 1 || len(pre) == 8
	case bytes.Equal(pre[:MovabsImm], run[:MovabsImm]):
		return Outcome{Form: "immediate"}, true
	default:
		want := RuntimeLoad(pre)
		if bytes.Equal(run[:RuntimeLoadField], want[:RuntimeLoadField]) && bytes.Equal(run[RuntimeLoadField+4:], want[RuntimeLoadField+4:]) {
			return branch("load", run, RuntimeLoadField, false)
		}
	}
	return rejected()
}

// SMPLock accepts a lock prefix, or the ds prefix that takes its place with one CPU
// (arch/x86/kernel/alternative.c:alternatives_smp_unlock).
func SMPLock(run []byte) (Outcome, bool) {
	switch {
	case len(run) != 1:
	case run[0] == 0xf0:
		return Outcome{Form: "lock"}, true
	case run[0] == 0x3e:
		return Outcome{Form: "ds"}, true
	}
	return rejected()
}

// ReturnThunks are the names of the return thunks of all versions (arch/x86/lib/retpoline.S, arch/x86/entry/entry.S).
var ReturnThunks = []string{"__x86_return_thunk", "retbleed_return_thunk", "zen_return_thunk", "srso_return_thunk",
	"srso_alias_return_thunk", "its_return_thunk", "call_depth_return_thunk", "__x86_return_skl"}

// registers are the names of the general registers in the order of their numbers.
var registers = []string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}

// thunkPrefix begins the names of the thunks for indirect branches.
const thunkPrefix = "__x86_indirect_thunk_"

// ThunkRegister is the number of the register that a thunk for indirect branches is for, -1 for other symbols.
func ThunkRegister(symbol string) int {
	for i, r := range registers {
		if symbol == thunkPrefix+r {
			return i
		}
	}
	return -1
}

// ThunkNames are the names of the thunks that a branch through reg may go to.
func ThunkNames(reg int) []string {
	r := registers[reg]
	return []string{thunkPrefix + r, "__x86_indirect_call_thunk_" + r, "__x86_indirect_jump_thunk_" + r, "__x86_indirect_its_thunk_" + r}
}
