package kernel

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// IsCore says whether the file is an ELF core.
func IsCore(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("open kernel: %w", err)
	}
	defer f.Close()
	p := make([]byte, 18)
	if _, err := io.ReadFull(f, p); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("read kernel: %w", err)
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if elf.Data(p[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	return string(p[:4]) == elf.ELFMAG && elf.Type(order.Uint16(p[16:])) == elf.ET_CORE, nil
}

// coreFile is an ELF core.
type coreFile struct {
	virtual, physical *segments
	notes             []note
	machine           uint16
	order             binary.ByteOrder
}

func readCore(f io.ReaderAt) (*coreFile, error) {
	e, err := openELF(f)
	if err != nil {
		return nil, err
	}
	if e.Type != elf.ET_CORE {
		return nil, fmt.Errorf("ELF type is %v, not %v: %w", e.Type, elf.ET_CORE, ErrFormat)
	}
	c := &coreFile{machine: uint16(e.Machine), order: e.ByteOrder}
	var virtual, physical []segment
	for _, p := range e.Progs {
		switch p.Type {
		case elf.PT_NOTE:
			n, err := readNotes(p, e.ByteOrder)
			if err != nil {
				return nil, err
			}
			c.notes = append(c.notes, n...)
		case elf.PT_LOAD:
			if p.Off > 1<<62 {
				return nil, fmt.Errorf("segment at offset %#x: %w", p.Off, ErrFormat)
			}
			// What is not in a core's file (filesz < memsz) was not dumped: it is not zero but unknown.
			s := segment{address: p.Vaddr, filesz: p.Filesz, memsz: min(p.Memsz, p.Filesz), offset: int64(p.Off)}
			if s.memsz == 0 {
				continue
			}
			// Dumps of guests by physical address leave the virtual one zero; a kernel's is in the upper half.
			if s.address >= 1<<63 {
				virtual = append(virtual, s)
			}
			// /proc/kcore gives -1 or 0 where there is no one physical address (fs/proc/kcore.c: read_kcore_iter).
			if s.address = p.Paddr; p.Paddr != ^uint64(0) && (p.Paddr != 0 || p.Vaddr < 1<<63) {
				physical = append(physical, s)
			}
		}
	}
	c.virtual, c.physical = newSegments(f, virtual), newSegments(f, physical)
	return c, nil
}

// Core opens an ELF core of a machine: a dump by kdump, by QEMU's dump-guest-memory, or a copy of /proc/kcore. Symbols of
// the kernel proper come from the kallsyms tables in its memory; VMCOREINFO says where they are (since Linux 6.0).
func Core(path string) (*Kernel, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open core: %w", err)
	}
	k, err := coreOf(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read core %s: %w", path, err)
	}
	k.closers = append(k.closers, f)
	return k, nil
}

func coreOf(f io.ReaderAt) (*Kernel, error) {
	c, err := readCore(f)
	if err != nil {
		return nil, err
	}
	info, err := c.vmcoreinfo()
	if err != nil {
		return nil, err
	}
	k := &Kernel{Booted: true, order: c.order, Modules: map[string]Module{},
		Identity: Identity{Release: info["OSRELEASE"], BuildID: info["BUILD-ID"], Machine: c.machine}}
	if k.Memory, err = c.memory(info); err != nil {
		return nil, err
	}
	if k.Symbols, err = coreSymbols(k.Memory, info, c.order); err != nil {
		return nil, err
	}
	stext, err := info.symbol("_stext")
	if err != nil {
		return nil, err
	}
	if s := k.Symbols.LookupIn("", "_stext"); len(s) != 1 || s[0].Address != stext {
		return nil, fmt.Errorf("the kallsyms tables do not have _stext at %#x, where VMCOREINFO has it: damaged core? %w",
			stext, ErrFormat)
	}
	k.noModules = k.readModules()
	k.setRanges()
	return k, k.readBanner()
}

// vmcoreinfo is the text that the kernel leaves for readers of its dumps (kernel/crash_core.c, kernel/vmcore_info.c),
// by key.
type vmcoreinfo map[string]string

func parseVmcoreinfo(text string) vmcoreinfo {
	out := vmcoreinfo{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimRight(line, "\n\x00"), "="); ok {
			out[key] = value
		}
	}
	return out
}

// symbol returns SYMBOL(name).
func (v vmcoreinfo) symbol(name string) (uint64, error) { return v.number("SYMBOL("+name+")", 16) }

func (v vmcoreinfo) number(key string, base int) (uint64, error) {
	s, ok := v[key]
	if !ok {
		return 0, fmt.Errorf("VMCOREINFO has no %s; kernels since Linux 6.0 write what is needed: %w", key, ErrFormat)
	}
	if base == 10 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("VMCOREINFO %s: %w", key, err)
		}
		return uint64(n), nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), base, 64)
	if err != nil {
		return 0, fmt.Errorf("VMCOREINFO %s: %w", key, err)
	}
	return n, nil
}

// vmcoreinfo finds the text: in the note, or, where the dump's maker had none (QEMU without -device vmcoreinfo), in the
// page of memory that it begins (kernel/crash_core.c: crash_save_vmcoreinfo_init).
func (c *coreFile) vmcoreinfo() (vmcoreinfo, error) {
	for _, n := range c.notes {
		if n.name == "VMCOREINFO" {
			return parseVmcoreinfo(string(n.desc)), nil
		}
	}
	const page = 4096
	chunk := make([]byte, 4<<20)
	for _, s := range c.physical.list {
		for at := uint64(0); at < s.filesz; at += uint64(len(chunk)) {
			b := chunk[:min(uint64(len(chunk)), s.filesz-at)]
			if _, err := c.physical.file.ReadAt(b, s.offset+int64(at)); err != nil {
				return nil, fmt.Errorf("look for VMCOREINFO at %#x: %w", s.address+at, err)
			}
			for i := 0; i+page <= len(b); i += page {
				if string(b[i:i+10]) != "OSRELEASE=" {
					continue
				}
				text, _, _ := strings.Cut(string(b[i:i+page]), "\x00")
				info := parseVmcoreinfo(text)
				if _, err := info.symbol("kallsyms_names"); err == nil {
					return info, nil
				}
			}
		}
	}
	return nil, fmt.Errorf("the core has no VMCOREINFO, as a note or in memory; kernels since Linux 6.0 with "+
		"CONFIG_CRASH_CORE or CONFIG_VMCORE_INFO write what is needed: %w", ErrFormat)
}

// coreSymbols reads the kallsyms tables through the kernel's memory.
func coreSymbols(m Memory, info vmcoreinfo, order binary.ByteOrder) (*Symbols, error) {
	at := map[string]uint64{}
	for _, n := range []string{"names", "num_syms", "token_table", "token_index", "offsets", "relative_base"} {
		a, err := info.symbol("kallsyms_" + n)
		if err != nil {
			return nil, err
		}
		at[n] = a
	}
	read := func(name string, n uint64) ([]byte, error) {
		p := make([]byte, n)
		if err := m.ReadMemory(p, at[name]); err != nil {
			return nil, fmt.Errorf("kallsyms_%s: %w", name, err)
		}
		return p, nil
	}
	b, err := read("num_syms", 4)
	if err != nil {
		return nil, err
	}
	t := &tables{count: int(order.Uint32(b))}
	// The names end before the tokens, the tokens before their index.
	names, tokens := at["token_table"]-at["names"], at["token_index"]-at["token_table"]
	if t.count == 0 || t.count > maxSymbols || names > 64*maxSymbols || tokens > 1<<16+512 {
		return nil, fmt.Errorf("kallsyms tables: %d symbols, %d bytes of names, %d of tokens: %w",
			t.count, names, tokens, ErrFormat)
	}
	if t.names, err = read("names", names); err != nil {
		return nil, err
	}
	if t.tokens, err = read("token_table", tokens); err != nil {
		return nil, err
	}
	if t.tokenIndex, err = read("token_index", 512); err != nil {
		return nil, err
	}
	if t.offsets, err = read("offsets", 4*uint64(t.count)); err != nil {
		return nil, err
	}
	if b, err = read("relative_base", 8); err != nil {
		return nil, err
	}
	t.base = order.Uint64(b)
	return t.decode(order)
}
