package apply

import (
	"fmt"
)

// probeIn finds a probe in the bytes that a jump takes. One that is disabled counts as well: enabled later, or removed, it would write
// over the jump (kernel/kprobes.c, arm_kprobe; arch/x86/kernel/kprobes/core.c, arch_disarm_kprobe).
func probeIn(kprobes []uint64, window, length uint64) (at uint64, ok bool) {
	for _, p := range kprobes {
		if p-window < length {
			return p, true
		}
	}
	return 0, false
}

func probed(offset uint64) string {
	return fmt.Sprintf("a kprobe stands at +%#x, enabled or not, where the jump to the new code is: remove it first", offset)
}

// deadProbes lists the probes in code that a redirect at offset window of it cuts off.
func deadProbes(kprobes []uint64, name string, code, window, size uint64) []string {
	var out []string
	for _, p := range kprobes {
		if p-code >= window && p-code < size {
			out = append(out, fmt.Sprintf("%s+%#x", name, p-code))
		}
	}
	return out
}
