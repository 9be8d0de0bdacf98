package kernel

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// CPU is one that the kernel has per-CPU data for.
type CPU struct {
	Number int
	// Offset is what is added to the address of a per-CPU variable (include/asm-generic/percpu.h: per_cpu_offset).
	Offset uint64
}

// possiblePath lists the CPUs that there can be (Documentation/admin-guide/cputopology.rst).
const possiblePath = "/sys/devices/system/cpu/possible"

// CPUs lists the possible CPUs of the running kernel.
func (k *Kernel) CPUs() ([]CPU, error) {
	text, err := os.ReadFile(possiblePath)
	if err != nil {
		return nil, fmt.Errorf("read the list of CPUs: %w", err)
	}
	numbers, err := parseCPUs(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", possiblePath, err)
	}
	table := k.Symbols.LookupIn("", "__per_cpu_offset")
	if len(table) != 1 {
		return nil, fmt.Errorf("the kernel's symbol table has %d __per_cpu_offset", len(table))
	}
	out := make([]CPU, len(numbers))
	for i, n := range numbers {
		var word [8]byte
		if err := k.Memory.ReadMemory(word[:], table[0].Address+uint64(n)*uint64(len(word))); err != nil {
			return nil, fmt.Errorf("read __per_cpu_offset[%d]: %w", n, err)
		}
		out[i] = CPU{n, k.Word(word[:])}
	}
	return out, nil
}

// maxCPUs bounds the numbers of CPUs.
const maxCPUs = 1 << 16

// parseCPUs reads a list such as "0-3,8".
func parseCPUs(text string) ([]int, error) {
	var out []int
	for _, r := range strings.Split(text, ",") {
		a, b, ok := strings.Cut(r, "-")
		if !ok {
			b = a
		}
		first, err1 := strconv.Atoi(a)
		last, err2 := strconv.Atoi(b)
		if err1 != nil || err2 != nil || first < 0 || last < first || last >= maxCPUs {
			return nil, fmt.Errorf("%q is no list of CPUs", text)
		}
		for n := first; n <= last; n++ {
			out = append(out, n)
		}
	}
	return out, nil
}
