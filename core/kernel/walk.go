package kernel

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"sync"
)

// coreMemory is a machine's memory: where the core has a virtual address, that; else the kernel's page tables say which
// physical address it is.
type coreMemory struct {
	virtual *segments
	walk    *pageTables // nil: none
}

// memory makes the memory of a core.
func (c *coreFile) memory(info vmcoreinfo) (Memory, error) {
	m := &coreMemory{virtual: c.virtual}
	if len(c.physical.list) == 0 {
		return m, nil
	}
	if elf.Machine(c.machine) != elf.EM_X86_64 {
		if len(c.virtual.list) > 0 {
			return m, nil
		}
		return nil, fmt.Errorf("the core is by physical address, and page tables of %v are not known; "+
			"use a dump by virtual address (kdump)",
			elf.Machine(c.machine))
	}
	var err error
	m.walk, err = newPageTables(c.physical, info)
	return m, err
}

// ReadMemory implements Memory.
func (m *coreMemory) ReadMemory(p []byte, address uint64) error {
	for len(p) > 0 {
		n := min(uint64(len(p)), pageSize-address%pageSize)
		err := m.page(p[:n], address)
		if err != nil {
			return err
		}
		p, address = p[n:], address+n
	}
	return nil
}

func (m *coreMemory) page(p []byte, address uint64) error {
	if m.virtual.find(address) != nil || m.walk == nil {
		return m.virtual.ReadMemory(p, address)
	}
	physical, err := m.walk.physical(address)
	if err != nil {
		return err
	}
	if err := m.walk.memory.ReadMemory(p, physical); err != nil {
		return fmt.Errorf("read kernel memory at %#x: physical: %w", address, err)
	}
	return nil
}

// Page tables of x86-64: Intel SDM volume 3, "4-Level Paging and 5-Level Paging".
const (
	pageSize    = 4096
	pagePresent = 1 << 0
	pageLarge   = 1 << 7
	pageAddress = 1<<52 - pageSize
	// kernelMap is where the kernel's text is mapped: arch/x86/include/asm/page_64_types.h: __START_KERNEL_map.
	kernelMap = 0xffffffff80000000
)

// pageTables translates virtual addresses of an x86-64 kernel.
type pageTables struct {
	memory *segments
	top    uint64 // physical address of the top table
	levels int
	mask   uint64 // address bits of an entry

	mu    sync.Mutex
	cache map[uint64][]byte // tables by physical address
}

// newPageTables takes from VMCOREINFO what arch/x86/kernel/crash_core_64.c (vmcore_info_64.c) writes there.
func newPageTables(physical *segments, info vmcoreinfo) (*pageTables, error) {
	w := &pageTables{memory: physical, levels: 4, mask: pageAddress, cache: map[uint64][]byte{}}
	top, err := info.symbol("init_top_pgt")
	if err != nil {
		return nil, err
	}
	base, err := info.number("NUMBER(phys_base)", 10)
	if err != nil {
		return nil, err
	}
	w.top = top - kernelMap + base
	if five, err := info.number("NUMBER(pgtable_l5_enabled)", 10); err == nil && five == 1 {
		w.levels = 5
	}
	// Memory encryption marks entries with a bit of the address.
	if sme, err := info.number("NUMBER(sme_mask)", 10); err == nil {
		w.mask &^= sme
	}
	return w, nil
}

func (w *pageTables) entry(table uint64, index uint64) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, ok := w.cache[table]
	if !ok {
		t = make([]byte, pageSize)
		if err := w.memory.ReadMemory(t, table); err != nil {
			return 0, fmt.Errorf("page table: %w", err)
		}
		w.cache[table] = t
	}
	return binary.LittleEndian.Uint64(t[8*index:]), nil
}

func (w *pageTables) physical(address uint64) (uint64, error) {
	table := w.top
	for level := w.levels; ; level-- {
		shift := 12 + 9*(level-1)
		e, err := w.entry(table, address>>shift&511)
		if err != nil {
			return 0, fmt.Errorf("translate address %#x: %w", address, err)
		}
		switch {
		case e&pagePresent == 0:
			return 0, fmt.Errorf("read kernel memory at %#x: nothing is mapped there", address)
		case level == 1 || e&pageLarge != 0 && level <= 3:
			in := uint64(1)<<shift - 1
			return e&w.mask&^in | address&in, nil
		}
		table = e & w.mask
	}
}
