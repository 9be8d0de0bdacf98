package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// moduleLayout is the layout of what describes a module, from the core's own BTF: include/linux/module.h.
type moduleLayout struct {
	module, memory, kallsyms btfLayout
	export                   uint64 // size of struct kernel_symbol
	areas                    uint64 // offset of the first memory area in struct module
	count                    int    // how many areas there may be
}

// maxModules bounds the list of modules, which damage may have closed to a circle.
const maxModules = 1 << 16

// readModules reads the list of modules of a core, with their symbols.
func (k *Kernel) readModules() error {
	l, err := k.moduleLayout()
	if err != nil {
		return err
	}
	heads := k.Symbols.LookupIn("", "modules")
	if len(heads) == 0 {
		return errors.New("the kernel has no symbol modules: was it built without CONFIG_KALLSYMS_ALL?")
	}
	var list []Symbol
	for _, head := range heads {
		var symbols []Symbol
		var modules map[string]Module
		if modules, symbols, err = k.walkModules(l, head.Address); err == nil {
			k.Modules, k.layout = modules, l
			list = append(list, k.Symbols.All()...)
			list = append(list, symbols...)
			k.Symbols = newSymbols(list)
			return nil
		}
	}
	return err
}

func (k *Kernel) moduleLayout() (*moduleLayout, error) {
	start, stop := k.Symbols.LookupIn("", "__start_BTF"), k.Symbols.LookupIn("", "__stop_BTF")
	if len(start) != 1 || len(stop) != 1 || stop[0].Address-start[0].Address > maxTable {
		return nil, errors.New("the kernel has no BTF (CONFIG_DEBUG_INFO_BTF), so its list of modules cannot be read")
	}
	p := make([]byte, stop[0].Address-start[0].Address)
	if err := k.Memory.ReadMemory(p, start[0].Address); err != nil {
		return nil, fmt.Errorf("read BTF: %w", err)
	}
	b, err := readBTF(p, k.order)
	if err != nil {
		return nil, err
	}
	s, err := b.structs("module", "module_layout", "module_memory", "mod_kallsyms", "kernel_symbol")
	if err != nil {
		return nil, err
	}
	l := &moduleLayout{module: s["module"], kallsyms: s["mod_kallsyms"], export: s["kernel_symbol"].size}
	// Up to Linux 6.3 core_layout, since then mem, an array over enum mod_mem_type.
	if at, ok := l.module.members["core_layout"]; ok {
		l.memory, l.areas, l.count = s["module_layout"], at, 1
	} else if at, ok := l.module.members["mem"]; ok && s["module_memory"].size > 0 {
		const types = 7 // MOD_MEM_NUM_TYPES
		l.memory, l.areas, l.count = s["module_memory"], at, types
	}
	for _, need := range []struct {
		layout btfLayout
		names  string
	}{{l.module, "state list name kallsyms syms num_syms"}, {l.memory, "base size"},
		{l.kallsyms, "symtab num_symtab strtab typetab"}} {
		for name := range strings.FieldsSeq(need.names) {
			if _, ok := need.layout.members[name]; !ok {
				return nil, fmt.Errorf("the kernel's BTF describes no module with member %s: %w", name, ErrFormat)
			}
		}
	}
	return l, nil
}

// word reads a pointer.
func (k *Kernel) word(address uint64) (uint64, error) {
	p := make([]byte, 8)
	err := k.Memory.ReadMemory(p, address)
	return k.order.Uint64(p), err
}

func (k *Kernel) walkModules(l *moduleLayout, head uint64) (map[string]Module, []Symbol, error) {
	out := map[string]Module{}
	var symbols []Symbol
	at, err := k.word(head)
	for n := 0; err == nil && at != head; n++ {
		if n == maxModules {
			return nil, nil, fmt.Errorf("the list of modules at %#x does not end: %w", head, ErrFormat)
		}
		desc := at - l.module.members["list"]
		p := make([]byte, l.module.size)
		if err := k.Memory.ReadMemory(p, desc); err != nil {
			return nil, nil, fmt.Errorf("read the list of modules: %w", err)
		}
		if k.order.Uint32(p[l.module.members["state"]:]) == 0 { // MODULE_STATE_LIVE
			m := k.coreModule(l, p)
			m.descriptor = desc
			if m.Name == "" || len(m.Ranges) == 0 {
				return nil, nil, fmt.Errorf("the list of modules at %#x holds no module at %#x: %w", head, desc, ErrFormat)
			}
			list, err := k.moduleSymbols(l, m.Name, p)
			if err != nil {
				return nil, nil, fmt.Errorf("symbols of module %s: %w", m.Name, err)
			}
			out[m.Name] = m
			symbols = append(symbols, list...)
		}
		at, err = k.word(at)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the list of modules: %w", err)
	}
	return out, symbols, nil
}

// coreModule takes a module's name and memory from its struct module.
func (k *Kernel) coreModule(l *moduleLayout, p []byte) Module {
	name := p[l.module.members["name"]:]
	var m Module
	if i := bytes.IndexByte(name, 0); i > 0 {
		m.Name = string(name[:i])
	}
	for i := range l.count {
		at := l.areas + uint64(i)*l.memory.size
		if at+l.memory.size > uint64(len(p)) {
			break
		}
		area := p[at:]
		base, size := k.order.Uint64(area[l.memory.members["base"]:]), uint64(k.order.Uint32(area[l.memory.members["size"]:]))
		if size == 0 || base == 0 {
			continue
		}
		if m.Base == 0 {
			m.Base = base
		}
		m.Size += size
		m.Ranges = append(m.Ranges, Range{base, base + size})
	}
	return m
}

// moduleSymbols reads a module's symbol table: struct mod_kallsyms; an ELF symbol of 64 bits is 24 bytes. desc is the
// module's struct module.
func (k *Kernel) moduleSymbols(l *moduleLayout, module string, desc []byte) ([]Symbol, error) {
	p := make([]byte, l.kallsyms.size)
	if err := k.Memory.ReadMemory(p, k.order.Uint64(desc[l.module.members["kallsyms"]:])); err != nil {
		return nil, err
	}
	exports := k.order.Uint64(desc[l.module.members["syms"]:])
	exportsEnd := exports + l.export*uint64(k.order.Uint32(desc[l.module.members["num_syms"]:]))
	member := func(name string) uint64 { return k.order.Uint64(p[l.kallsyms.members[name]:]) }
	count := uint64(k.order.Uint32(p[l.kallsyms.members["num_symtab"]:]))
	if count > maxSymbols {
		return nil, fmt.Errorf("%d symbols: %w", count, ErrFormat)
	}
	table, types := make([]byte, 24*count), make([]byte, count)
	if err := k.Memory.ReadMemory(table, member("symtab")); err != nil {
		return nil, err
	}
	if err := k.Memory.ReadMemory(types, member("typetab")); err != nil {
		return nil, err
	}
	strtab := member("strtab")
	out := make([]Symbol, 0, count)
	exported := map[string]bool{}
	for i := range count {
		e := table[24*i:]
		at := uint64(k.order.Uint32(e))
		if at == 0 {
			continue
		}
		name, err := readString(k.Memory, strtab+at, 1024)
		if err != nil {
			return nil, err
		}
		if name == "" {
			continue
		}
		value := k.order.Uint64(e[8:])
		if n, ok := strings.CutPrefix(name, "__ksymtab_"); ok && value >= exports && value < exportsEnd {
			exported[n] = true
		}
		out = append(out, Symbol{Name: name, Module: module, Address: value, Type: types[i]})
	}
	// kernel/kallsyms.c: s_show: capitals for what is_exported finds, which looks at exports to all modules only.
	for i := range out {
		t := bytes.ToLower([]byte{out[i].Type})
		if exported[out[i].Name] {
			t = bytes.ToUpper(t)
		}
		out[i].Type = t[0]
	}
	return out, nil
}

// coreTable reads a module's table of sites out of a core.
func (k *Kernel) coreTable(m Module, pointer, number string, entry uint64) ([]byte, uint64, error) {
	at, ok1 := k.layout.module.members[pointer]
	n, ok2 := k.layout.module.members[number]
	if !ok1 || !ok2 {
		return nil, 0, nil // the kernel was built without the mechanism
	}
	p := make([]byte, k.layout.module.size)
	if err := k.Memory.ReadMemory(p, m.descriptor); err != nil {
		return nil, 0, fmt.Errorf("module %s: %w", m.Name, err)
	}
	address, size := k.order.Uint64(p[at:]), uint64(k.order.Uint32(p[n:]))*entry
	if size == 0 {
		return nil, 0, nil
	}
	if !within(m.Ranges, address, size) {
		return nil, 0, fmt.Errorf("module %s: %s at %#x, %d bytes, lies outside it: %w", m.Name, pointer, address, size, ErrFormat)
	}
	out := make([]byte, size)
	if err := k.Memory.ReadMemory(out, address); err != nil {
		return nil, 0, fmt.Errorf("module %s: %s: %w", m.Name, pointer, err)
	}
	return out, address, nil
}
