package part

import (
	"debug/elf"
	"encoding/binary"
	"slices"
	"strings"
)

// loader is what the stock module loader of one machine takes.
type loader struct {
	// pointer is the relocation type of a 64-bit address, branch that of a 32-bit displacement.
	pointer, branch uint32
	// sizes are the widths in bytes of the fields of all relocation types that the loader applies.
	sizes map[uint32]uint64
	// names and prefixes are the symbols that it checks by name.
	names, prefixes []string
}

// loaders are by ELF machine. Sources for x86-64: arch/x86/kernel/module.c (__apply_relocate_add, __write_relocate_add);
// arch/x86/kernel/alternative.c (apply_returns warns unless a site names __x86_return_thunk, patch_retpoline unless it names a
// thunk of the array); arch/x86/kernel/ftrace.c (ftrace_verify_code wants a call of __fentry__).
var loaders = map[elf.Machine]loader{
	elf.EM_X86_64: {
		pointer: uint32(elf.R_X86_64_64),
		branch:  uint32(elf.R_X86_64_PLT32),
		sizes: map[uint32]uint64{uint32(elf.R_X86_64_64): 8, uint32(elf.R_X86_64_32): 4, uint32(elf.R_X86_64_32S): 4,
			uint32(elf.R_X86_64_PC32): 4, uint32(elf.R_X86_64_PLT32): 4, uint32(elf.R_X86_64_PC64): 8},
		names:    []string{"__x86_return_thunk", "__fentry__"},
		prefixes: []string{"__x86_indirect_thunk_", "__x86_indirect_call_thunk_", "__x86_indirect_jump_thunk_"},
	},
}

// put writes an address of known value.
func (l *loader) put(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }

// imported says that a symbol stays an ordinary import of the part.
func (l *loader) imported(name string) bool {
	return slices.Contains(l.names, name) ||
		slices.ContainsFunc(l.prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}
