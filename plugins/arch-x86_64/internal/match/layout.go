package match

import (
	"strconv"

	"github.com/ksplice/ksplice/sdk/arch"
)

// layout is what a kernel's configuration says of where code lies.
type layout struct {
	// modules is the lowest address of modules (arch/x86/include/asm/pgtable_64_types.h:MODULES_VADDR).
	modules uint64
	// align is the alignment of functions where calls may go to their pads, else 0.
	align uint64
}

// newLayout reads the configuration.
func newLayout(t arch.Target) layout {
	l := layout{modules: 0xffffffffa0000000}
	if t.Config["CONFIG_RANDOMIZE_BASE"] == "y" { // KERNEL_IMAGE_SIZE is then 1 GiB instead of 512 MiB
		l.modules = 0xffffffffc0000000
	}
	if t.Config["CONFIG_CALL_THUNKS"] == "y" {
		if n, err := strconv.ParseUint(t.Config["CONFIG_FUNCTION_ALIGNMENT"], 0, 32); err == nil && n > 0 && n&(n-1) == 0 {
			l.align = n
		}
	}
	return l
}

// The sizes of the code that counts calls in a function's pad: sarq $5 with a per-cpu operand that is absolute or relative
// to rip (arch/x86/include/asm/nospec-branch.h:INCREMENT_CALL_DEPTH).
const (
	minThunk = 9
	maxThunk = 10
)

// inPad says that a call's target is in the pad of the function behind it: call depth tracking lets calls go there
// (arch/x86/kernel/callthunks.c:patch_call). Functions are aligned, and the kernel itself tells by that (is_callthunk).
func (l layout) inPad(target uint64) bool {
	if l.align == 0 {
		return false
	}
	d := -target % l.align
	return d >= minThunk && d <= maxThunk
}

// function is the function that a call to target means.
func (l layout) function(target uint64) uint64 {
	if l.inPad(target) {
		return target + -target%l.align
	}
	return target
}

// ConfigSymbols are the configuration symbols that matching depends on.
var ConfigSymbols = []string{"CONFIG_RANDOMIZE_BASE", "CONFIG_CALL_THUNKS", "CONFIG_FUNCTION_ALIGNMENT"}
