package kernel

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// parseModules reads the text of /proc/modules: "NAME SIZE REFS USERS STATE ADDRESS [TAINTS]" (kernel/module/procfs.c:
// m_show). A module on its way in or out is left out, but for the one named coming. Since Linux 6.4 the address is that of the module's text, and 0 where
// it has none (nls_ucs2_utils holds tables only); where all are 0 the kernel hides them.
func parseModules(text, coming string) (map[string]Module, error) {
	out := map[string]Module{}
	hidden := true
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 {
			return nil, fmt.Errorf("parse modules: line %.100q has %d fields, not 6: %w", line, len(f), ErrFormat)
		}
		m := Module{Name: f[0]}
		var err error
		if m.Size, err = strconv.ParseUint(f[1], 10, 64); err != nil {
			return nil, fmt.Errorf("parse modules: size of %s: %w", m.Name, err)
		}
		address, found := strings.CutPrefix(f[5], "0x")
		if m.Base, err = strconv.ParseUint(address, 16, 64); err != nil || !found {
			return nil, fmt.Errorf("parse modules: address of %s: %q: %w", m.Name, f[5], ErrFormat)
		}
		if f[4] != "Live" && (f[4] != "Loading" || m.Name != coming) {
			continue
		}
		if m.Base != 0 {
			hidden = false
			m.Ranges = []Range{{m.Base, m.Base + m.Size}}
		}
		out[m.Name] = m
	}
	if hidden && len(out) > 0 {
		return nil, fmt.Errorf("read modules: %w", ErrHidden)
	}
	return out, nil
}

// IsLive says that the running kernel has a module, and its init has run.
func IsLive(module string) (bool, error) {
	text, err := os.ReadFile("/proc/modules")
	if err != nil {
		return false, fmt.Errorf("read the running kernel's modules: %w", err)
	}
	list, err := parseModules(string(text), "")
	_, live := list[module]
	return live, err
}

// structModuleSize bounds what is read of a struct module, in bytes.
const structModuleSize = 4096

// structModule reads the beginning of a module's struct module: 4 KiB, or what is mapped of it.
func structModule(mem Memory, address uint64) ([]byte, error) {
	p := make([]byte, structModuleSize)
	err := mem.ReadMemory(p, address)
	for err != nil && len(p) > 512 {
		p = p[:len(p)-256]
		err = mem.ReadMemory(p, address)
	}
	if err != nil {
		return nil, fmt.Errorf("read struct module at %#x: %w", address, err)
	}
	return p, nil
}

// moduleRanges finds in a struct module where the module's memory lies. The layout of the struct depends on version and
// configuration, so the place is found by what must hold: include/linux/module.h has {void *base; unsigned int size; ...},
// once as core_layout up to Linux 6.3, since then as an array over enum mod_mem_type whose first is text; the first base
// and the sum of all sizes are in /proc/modules; a module without text has 0 for the first base. It returns nil when nothing fits.
func moduleRanges(p []byte, order binary.ByteOrder, base, size uint64) []Range {
	const (
		types   = 7 // MOD_MEM_NUM_TYPES
		layouts = 2 // core_layout and init_layout, behind each other
	)
	for at := 0; at+16 <= len(p); at += 8 {
		if order.Uint64(p[at:]) != base {
			continue
		}
		if base != 0 && uint64(order.Uint32(p[at+8:])) == size {
			return []Range{{base, base + size}}
		}
		// An element has a struct mod_tree_node behind base and size, 56 bytes, or none.
		for stride := 16; stride <= 128; stride += 8 {
			for _, n := range []int{types, layouts} {
				if r := memoryArray(p[at:], order, stride, n, size); r != nil {
					return r
				}
			}
		}
	}
	return nil
}

func memoryArray(p []byte, order binary.ByteOrder, stride, types int, size uint64) []Range {
	var out []Range
	sum := uint64(0)
	for i := range types {
		at := i * stride
		if at+12 > len(p) {
			return nil
		}
		base, n := order.Uint64(p[at:]), uint64(order.Uint32(p[at+8:]))
		if n == 0 {
			continue
		}
		if base == 0 || base%8 != 0 || base+n < base {
			return nil
		}
		if sum += n; sum > size {
			return nil
		}
		out = append(out, Range{base, base + n})
	}
	if sum != size {
		return nil
	}
	return out
}
