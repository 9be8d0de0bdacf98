package kernel

import (
	"fmt"
	"os"
)

// The tables' entries, in bytes, on 64-bit machines with relative entries.
const (
	// include/linux/jump_label.h: struct jump_entry { s32 code; s32 target; long key; }, each relative to itself
	// (CONFIG_HAVE_ARCH_JUMP_LABEL_RELATIVE); the low two bits of key are flags.
	jumpEntrySize = 16
	// include/linux/static_call_types.h: struct static_call_site { s32 addr; s32 key; }, each relative to itself; the low
	// two bits of key are STATIC_CALL_SITE_FLAGS.
	staticCallSize = 8
	keyFlags       = 3
	keyInit        = 2 // the site lies in init code, gone after boot
)

// JumpKeys returns the static keys of one module, or of the kernel proper when module is empty: from the address of the
// code that a static branch stands at to the address of its key.
func (k *Kernel) JumpKeys(module string) (map[uint64]uint64, error) {
	p, at, err := k.table(module, "__start___jump_table", "__stop___jump_table", "__jump_table", jumpEntrySize)
	if err != nil {
		return nil, fmt.Errorf("read the jump table: %w", err)
	}
	out := make(map[uint64]uint64, len(p)/jumpEntrySize)
	for ; len(p) >= jumpEntrySize; p, at = p[jumpEntrySize:], at+jumpEntrySize {
		key := k.order.Uint64(p[8:])
		if k.Booted && key&keyInit != 0 && (module == "" || module != k.Coming) {
			continue // before boot the bit is objtool's (tools/objtool: handle_jump_alt)
		}
		out[at+uint64(int64(int32(k.order.Uint32(p))))] = at + 8 + key&^keyFlags
	}
	return out, nil
}

// StaticCallKeys returns the static calls of one module, or of the kernel proper when module is empty: from the address of
// the calling instruction to the address of the call's key.
func (k *Kernel) StaticCallKeys(module string) (map[uint64]uint64, error) {
	p, at, err := k.table(module, "__start_static_call_sites", "__stop_static_call_sites", ".static_call_sites", staticCallSize)
	if err != nil {
		return nil, fmt.Errorf("read the static call sites: %w", err)
	}
	out := make(map[uint64]uint64, len(p)/staticCallSize)
	for ; len(p) >= staticCallSize; p, at = p[staticCallSize:], at+staticCallSize {
		// kernel/static_call_inline.c: static_call_key: the flags go after the address has been added.
		key := at + 4 + uint64(int64(int32(k.order.Uint32(p[4:]))))
		if k.Booted && key&keyInit != 0 && (module == "" || module != k.Coming) {
			continue
		}
		out[at+uint64(int64(int32(k.order.Uint32(p))))] = key &^ keyFlags
	}
	return out, nil
}

// maxTable bounds a table, in bytes.
const maxTable = 64 << 20

// table reads a table of sites: between two symbols in the kernel proper, a section in a module. It returns its bytes and
// its address; no bytes where there is none.
func (k *Kernel) table(module, start, stop, section string, entry uint64) ([]byte, uint64, error) {
	if module != "" {
		return k.moduleTable(module, section, entry)
	}
	a, b := k.Symbols.LookupIn("", start), k.Symbols.LookupIn("", stop)
	if len(a) == 0 && len(b) == 0 {
		return nil, 0, nil // the kernel was built without the mechanism
	}
	if len(a) != 1 || len(b) != 1 || b[0].Address < a[0].Address || b[0].Address-a[0].Address > maxTable ||
		(b[0].Address-a[0].Address)%entry != 0 {
		return nil, 0, fmt.Errorf("%s and %s do not enclose entries of %d bytes: %w", start, stop, entry, ErrFormat)
	}
	p := make([]byte, b[0].Address-a[0].Address)
	if err := k.Memory.ReadMemory(p, a[0].Address); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", start, err)
	}
	return p, a[0].Address, nil
}

// moduleTable reads a module's table. Its address is that of its section; sysfs does not tell sizes, so the number of
// entries is the one beside the pointer to it in struct module.
func (k *Kernel) moduleTable(module, section string, entry uint64) ([]byte, uint64, error) {
	m, ok := k.Modules[module]
	if !ok {
		err := ErrNoModules
		if k.noModules != nil {
			err = k.noModules
		}
		return nil, 0, fmt.Errorf("module %s: %w", module, err)
	}
	if k.layout != nil {
		if section == "__jump_table" {
			return k.coreTable(m, "jump_entries", "num_jump_entries", entry)
		}
		return k.coreTable(m, "static_call_sites", "num_static_call_sites", entry)
	}
	address, ok, err := k.section(module, section)
	if err != nil || !ok {
		return nil, 0, err
	}
	this, err := k.thisModule(module)
	if err != nil {
		return nil, 0, err
	}
	desc, err := structModule(k.Memory, this)
	if err != nil {
		return nil, 0, fmt.Errorf("module %s: %w", module, err)
	}
	// Pointers to the table before the one we want are the module's memory areas, one of which may begin with it.
	for at := (len(desc) - 16) &^ 7; at >= 8; at -= 8 {
		if k.order.Uint64(desc[at:]) != address {
			continue
		}
		count := uint64(k.order.Uint32(desc[at+8:])) // jump_entries, num_jump_entries
		if section == ".static_call_sites" {
			// num_static_call_sites, static_call_sites; the number is padded where it begins at a multiple of eight
			if count = uint64(k.order.Uint32(desc[at-4:])); count == 0 {
				count = uint64(k.order.Uint32(desc[at-8:]))
			}
		}
		size := count * entry
		if !within(m.Ranges, address, size) {
			continue
		}
		p := make([]byte, size)
		if err := k.Memory.ReadMemory(p, address); err != nil {
			return nil, 0, fmt.Errorf("module %s: %s: %w", module, section, err)
		}
		return p, address, nil
	}
	return nil, 0, fmt.Errorf("module %s: its struct module at %#x names no table at %#x (%s): %w",
		module, this, address, section, ErrFormat)
}

func within(ranges []Range, address, size uint64) bool {
	for _, r := range ranges {
		if r.Contains(address) && size <= r.End-address {
			return true
		}
	}
	return false
}

// Freed says whether the address lies in what a kernel frees when it has booted (mm/page_alloc.c or init/main.c: free_initmem, which
// frees from __init_begin to __init_end).
func (k *Kernel) Freed(address uint64) bool {
	a, b := k.Symbols.LookupIn("", "__init_begin"), k.Symbols.LookupIn("", "__init_end")
	return len(a) == 1 && len(b) == 1 && address >= a[0].Address && address < b[0].Address
}

// ReadOnlyAfterInit says whether what lies at the address can never change again: include/linux/cache.h:
// __ro_after_init, in the kernel proper between two symbols, in a module the section .data..ro_after_init. When a module's
// sections cannot be read it says yes, the answer that does no harm.
func (k *Kernel) ReadOnlyAfterInit(address uint64) bool {
	a, b := k.Symbols.LookupIn("", "__start_ro_after_init"), k.Symbols.LookupIn("", "__end_ro_after_init")
	if len(a) == 1 && len(b) == 1 && address >= a[0].Address && address < b[0].Address {
		return true
	}
	module, ok := k.Owner(address)
	if !ok || !k.live {
		return false
	}
	entries, err := os.ReadDir(k.path("/sys/module/" + module + "/sections"))
	if err != nil {
		return true
	}
	// The section that the address lies in is the last that begins before it.
	var best uint64
	name := ""
	for _, e := range entries {
		v, ok, err := k.section(module, e.Name())
		if err != nil {
			return true
		}
		if ok && v <= address && v >= best && sameRange(k.Modules[module].Ranges, v, address) {
			if v > best || e.Name() == ".data..ro_after_init" {
				best, name = v, e.Name()
			}
		}
	}
	return name == ".data..ro_after_init"
}

func sameRange(ranges []Range, a, b uint64) bool {
	for _, r := range ranges {
		if r.Contains(a) && r.Contains(b) {
			return true
		}
	}
	return false
}
