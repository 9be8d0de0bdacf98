package main

import (
	"debug/elf"

	"github.com/ksplice/ksplice/sdk/arch"
)

// field is what a relocation type says of its place.
type field struct {
	// size is the width in bytes. In code the place is a whole instruction, of which the relocation changes some bits.
	size  uint8
	pcRel bool
	kind  arch.RefKind
}

// instruction is the length of every instruction.
const instruction = 4

// fields are the relocation types that gcc and gas use in kernel objects, all of which the module loader applies (arch/arm64/kernel/module.c:
// apply_relocate_add; its R_AARCH64_MOVW_PREL types come from no compiler yet). The types' meaning: "ELF for the Arm 64-bit Architecture (AArch64)", "Static AArch64 relocations".
var fields = map[elf.R_AARCH64]field{
	elf.R_AARCH64_ABS64:  {8, false, arch.RefAddress},
	elf.R_AARCH64_ABS32:  {4, false, arch.RefAddress},
	elf.R_AARCH64_ABS16:  {2, false, arch.RefAddress},
	elf.R_AARCH64_PREL64: {8, true, arch.RefAddress},
	elf.R_AARCH64_PREL32: {4, true, arch.RefAddress},
	elf.R_AARCH64_PREL16: {2, true, arch.RefAddress},

	elf.R_AARCH64_MOVW_UABS_G0:    {instruction, false, arch.RefAddress},
	elf.R_AARCH64_MOVW_UABS_G0_NC: {instruction, false, arch.RefAddress},
	elf.R_AARCH64_MOVW_UABS_G1:    {instruction, false, arch.RefAddress},
	elf.R_AARCH64_MOVW_UABS_G1_NC: {instruction, false, arch.RefAddress},
	elf.R_AARCH64_MOVW_UABS_G2:    {instruction, false, arch.RefAddress},
	elf.R_AARCH64_MOVW_UABS_G2_NC: {instruction, false, arch.RefAddress},
	elf.R_AARCH64_MOVW_UABS_G3:    {instruction, false, arch.RefAddress},
	elf.R_AARCH64_MOVW_SABS_G0:    {instruction, false, arch.RefAddress},
	elf.R_AARCH64_MOVW_SABS_G1:    {instruction, false, arch.RefAddress},
	elf.R_AARCH64_MOVW_SABS_G2:    {instruction, false, arch.RefAddress},

	elf.R_AARCH64_LD_PREL_LO19:        {instruction, true, arch.RefMemory},
	elf.R_AARCH64_ADR_PREL_LO21:       {instruction, true, arch.RefAddress},
	elf.R_AARCH64_ADR_PREL_PG_HI21:    {instruction, true, arch.RefAddress},
	elf.R_AARCH64_ADR_PREL_PG_HI21_NC: {instruction, true, arch.RefAddress},
	elf.R_AARCH64_ADD_ABS_LO12_NC:     {instruction, false, arch.RefAddress},
	elf.R_AARCH64_LDST8_ABS_LO12_NC:   {instruction, false, arch.RefMemory},
	elf.R_AARCH64_LDST16_ABS_LO12_NC:  {instruction, false, arch.RefMemory},
	elf.R_AARCH64_LDST32_ABS_LO12_NC:  {instruction, false, arch.RefMemory},
	elf.R_AARCH64_LDST64_ABS_LO12_NC:  {instruction, false, arch.RefMemory},
	elf.R_AARCH64_LDST128_ABS_LO12_NC: {instruction, false, arch.RefMemory},

	elf.R_AARCH64_TSTBR14:  {instruction, true, arch.RefBranch},
	elf.R_AARCH64_CONDBR19: {instruction, true, arch.RefBranch},
	elf.R_AARCH64_JUMP26:   {instruction, true, arch.RefBranch},
	elf.R_AARCH64_CALL26:   {instruction, true, arch.RefBranch},
}
