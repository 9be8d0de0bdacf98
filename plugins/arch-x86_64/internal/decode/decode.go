// Package decode reads single x86-64 instructions: how long they are, what they do to control flow and where
// their pc-relative field is. The description, matching and fix-up packages of this plugin call it.
//
// Two decoders look at every instruction. A small structural one of our own (prefixes, opcode maps, ModRM, SIB,
// displacement, immediate) gives lengths and field positions; golang.org/x/arch/x86/x86asm, or the table in
// extra.go for what x86asm does not know or gets wrong, must name the instruction and agree on its length. Where
// they do not, Decode fails: a wrong length is worse than no length.
package decode

import (
	"errors"
	"fmt"

	"golang.org/x/arch/x86/x86asm"
)

// MaxLen is the longest instruction in bytes (Intel SDM volume 2, 2.3.11).
const MaxLen = 15

// ErrTruncated says that the bytes end within an instruction.
var ErrTruncated = errors.New("truncated instruction")

// ErrUnknown says that the bytes are no instruction that both decoders know.
var ErrUnknown = errors.New("unknown instruction")

// Class is what an instruction does to control flow.
type Class uint8

// The classes.
const (
	// None goes on with the next instruction.
	None Class = iota
	// Call is a direct call.
	Call
	// Jmp is a direct unconditional jump.
	Jmp
	// Jcc is a direct conditional jump, the loop instructions and xbegin included.
	Jcc
	// Ret returns: near, far, from an interrupt or to user space.
	Ret
	// IndirectCall calls through a register or memory.
	IndirectCall
	// IndirectJmp jumps through a register or memory.
	IndirectJmp
	// Trap stops or traps: int3, ud2 and their like, hlt.
	Trap
)

// Inst is one decoded instruction. Offsets count bytes from its first byte.
type Inst struct {
	// Len is the length in bytes.
	Len int
	// Class is what it does to control flow.
	Class Class
	// Map is the opcode map: 0 for one-byte opcodes, 1 for 0f, 2 for 0f 38, 3 for 0f 3a, as VEX and EVEX number them.
	Map uint8
	// Opcode is the opcode byte in Map, at offset OpcodeOff.
	Opcode    byte
	OpcodeOff int
	// ModRM is the ModRM byte where HasModRM.
	ModRM    byte
	HasModRM bool
	// PCRelOff and PCRelSize give the pc-relative field, a branch displacement or a RIP-relative operand; size 0: none.
	PCRelOff, PCRelSize int
	// DispOff and DispSize give the displacement of a memory operand, RIP-relative or not; size 0: none.
	DispOff, DispSize int
	// ImmOff and ImmSize give the immediate, moffs addresses included and branch displacements not; size 0: none.
	ImmOff, ImmSize int
	// Segment is the segment override prefix byte (0x65 is %gs); 0: none.
	Segment byte
	// Lea says that the memory operand's address is computed and memory not touched.
	Lea bool

	// asm is x86asm's view, name that of the table of extra instructions; one of them names the instruction.
	asm   x86asm.Inst
	name  string
	bytes [MaxLen]byte
}

// Indexed says that the memory operand's address is made of registers and the displacement (SDM volume 2, 2.1.5, tables 2-2 and 2-3).
func (i *Inst) Indexed() bool {
	const mod, rm, sp, bp = 0xc0, 7, 4, 5
	switch {
	case i.DispSize == 0, i.PCRelSize != 0 && i.PCRelOff == i.DispOff:
		return false
	case i.HasModRM && i.ModRM&(mod|rm) == sp:
		sib := i.bytes[i.OpcodeOff+2]
		return sib&7 != bp || sib>>3&7 != sp
	}
	return i.HasModRM
}

// IsBranch says whether the instruction is a direct branch, whose target is in its pc-relative field.
func (i *Inst) IsBranch() bool { return i.Class == Call || i.Class == Jmp || i.Class == Jcc }

// Rel is the value of the pc-relative field, sign-extended; 0 where there is none.
func (i *Inst) Rel() int64 {
	switch i.PCRelSize {
	case 1:
		return int64(int8(i.bytes[i.PCRelOff]))
	case 4:
		b := i.bytes[i.PCRelOff:]
		return int64(int32(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24))
	}
	return 0
}

// Target is where the pc-relative field points when the instruction lies at address at.
func (i *Inst) Target(at uint64) uint64 { return at + uint64(i.Len) + uint64(i.Rel()) }

// Bytes are the instruction's bytes.
func (i *Inst) Bytes() []byte { return i.bytes[:i.Len] }

// Text is the instruction in GNU syntax as if it lay at address at.
func (i *Inst) Text(at uint64) string {
	if i.name != "" {
		return i.name
	}
	return x86asm.GNUSyntax(i.asm, at, nil)
}

// Decode decodes the first instruction of code. Errors wrap ErrTruncated or ErrUnknown and carry the bytes.
func Decode(code []byte) (Inst, error) {
	in, err := layout(code)
	if err != nil {
		return Inst{}, fail(code, err)
	}
	b := code[:in.Len]
	copy(in.bytes[:], b)
	if in.name = extraName(&in, b); in.name != "" {
		return in, nil
	}
	in.asm, err = x86decode(b)
	switch {
	case err != nil:
		return Inst{}, fail(b, fmt.Errorf("%w: %v", ErrUnknown, err))
	case in.asm.Op == 0:
		return Inst{}, fail(b, fmt.Errorf("%w: it has no name", ErrUnknown))
	case in.asm.Len != in.Len:
		return Inst{}, fail(b, fmt.Errorf("%w: the decoders find lengths %d and %d", ErrUnknown, in.Len, in.asm.Len))
	}
	if in.DispSize == 4 {
		signDisplacements(&in.asm)
	}
	return in, nil
}

// signDisplacements makes displacements of four bytes signed, as the processor takes them; x86asm has them unsigned.
func signDisplacements(in *x86asm.Inst) {
	for k, a := range in.Args {
		if m, ok := a.(x86asm.Mem); ok {
			m.Disp = int64(int32(uint32(m.Disp)))
			in.Args[k] = m
		}
	}
}

// x86decode calls x86asm and turns a panic on bytes it cannot bear into an error.
func x86decode(b []byte) (in x86asm.Inst, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("x86asm: %v", r)
		}
	}()
	return x86asm.Decode(b, 64)
}

// fail adds the bytes to a decoding error.
func fail(code []byte, err error) error {
	return fmt.Errorf("decode % x: %w", code[:min(len(code), MaxLen)], err)
}
