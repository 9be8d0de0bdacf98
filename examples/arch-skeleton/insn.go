package main

import "encoding/binary"

// How instructions are told apart: "Arm Architecture Reference Manual for A-profile" (DDI 0487), C4.1 "A64 instruction set encoding".
const (
	nop     = 0xd503201f
	btiC    = 0xd503245f
	btiJC   = 0xd50324df
	paciasp = 0xd503233f
	pacibsp = 0xd503237f
)

func word(code []byte, at uint64) uint32 { return binary.LittleEndian.Uint32(code[at:]) }

// isLandingPad says that a call by pointer may go to the instruction: BTI c, BTI jc, and what signs the return address, which is such a pad as
// well (the manual's pages on BTI and PACIASP).
func isLandingPad(w uint32) bool { return w == btiC || w == btiJC || w == paciasp || w == pacibsp }

// use is what an instruction does with a place that it names itself.
type use int

const (
	usesNothing use = iota
	branches
	takesAddress // ADR, ADRP
	loads        // LDR, LDRSW or PRFM of a literal
)

// direct says what an instruction does with the place that it names relative to its own, and how far that is, in bytes. ADRP counts pages: its
// distance is none, since it always comes with a relocation.
func direct(w uint32) (u use, distance int64) {
	switch {
	case w&0x7c000000 == 0x14000000: // B, BL
		return branches, signed(w, 0, 26) * instruction
	case w&0xff000000 == 0x54000000: // B.cond, BC.cond
		return branches, signed(w, 5, 19) * instruction
	case w&0x7e000000 == 0x34000000: // CBZ, CBNZ
		return branches, signed(w, 5, 19) * instruction
	case w&0x7e000000 == 0x36000000: // TBZ, TBNZ
		return branches, signed(w, 5, 14) * instruction
	case w&0x9f000000 == 0x10000000: // ADR: immhi:immlo
		return takesAddress, signed(w, 5, 19)<<2 | int64(w>>29&3)
	case w&0x9f000000 == 0x90000000: // ADRP
		return takesAddress, 0
	case w&0x3b000000 == 0x18000000: // LDR (literal) of all kinds
		return loads, signed(w, 5, 19) * instruction
	}
	return usesNothing, 0
}

// signed takes a field of bits as a signed number.
func signed(w uint32, shift, width uint) int64 {
	return int64(int32(w<<(32-shift-width))) >> (32 - width)
}
