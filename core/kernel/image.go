package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxImage bounds a kernel image once unpacked, and any piece of it, in bytes.
const maxImage = 1 << 30

// Image opens a kernel image that has not been booted: vmlinux, or vmlinuz, which is unpacked. Symbols come from the
// kallsyms tables inside it; addresses are those it was linked for.
func Image(path string) (*Kernel, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open kernel image: %w", err)
	}
	k, err := readImage(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read kernel image %s: %w", path, err)
	}
	k.closers = append(k.closers, f)
	return k, nil
}

func readImage(f io.ReaderAt) (*Kernel, error) {
	f, err := Vmlinux(f)
	if err != nil {
		return nil, err
	}
	return imageOf(f)
}

// Vmlinux gives the ELF file of a kernel image: the image itself, or what is packed in an x86 bzImage.
func Vmlinux(f io.ReaderAt) (io.ReaderAt, error) {
	head := make([]byte, 16)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("its first bytes: %w", err)
	}
	switch {
	case string(head[:8]) == "KDUMP   ":
		return nil, errors.New("this is a compressed dump; make an ELF core of it (makedumpfile -E)")
	case string(head[:4]) == elf.ELFMAG:
		return f, nil
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxImage))
	if err != nil {
		return nil, err
	}
	if b, err = unpackBzImage(b); err != nil {
		return nil, err
	}
	return bytes.NewReader(b), nil
}

// openELF reads ELF headers. debug/elf does not promise to survive every input.
func openELF(f io.ReaderAt) (e *elf.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			e, err = nil, fmt.Errorf("read ELF headers: %v: %w", r, ErrFormat)
		}
	}()
	if e, err = elf.NewFile(f); err != nil {
		return nil, fmt.Errorf("read ELF headers: %w", err)
	}
	if e.Class != elf.ELFCLASS64 {
		return nil, fmt.Errorf("read ELF headers: %v; only 64-bit kernels are supported: %w", e.Class, ErrFormat)
	}
	return e, nil
}

func imageOf(f io.ReaderAt) (*Kernel, error) {
	e, err := openELF(f)
	if err != nil {
		return nil, err
	}
	if e.Type != elf.ET_EXEC && e.Type != elf.ET_DYN {
		return nil, fmt.Errorf("ELF type is %v, a kernel's is %v: %w", e.Type, elf.ET_EXEC, ErrFormat)
	}
	k := &Kernel{Identity: Identity{Machine: uint16(e.Machine)}, Modules: map[string]Module{}, order: e.ByteOrder}
	var list []segment
	for _, p := range e.Progs {
		if p.Type == elf.PT_LOAD {
			if p.Filesz > maxImage || p.Memsz > maxImage || p.Off > 1<<62 || p.Vaddr+p.Memsz < p.Vaddr {
				return nil, fmt.Errorf("segment at %#x of %d bytes: %w", p.Vaddr, p.Memsz, ErrFormat)
			}
			list = append(list, segment{address: p.Vaddr, filesz: min(p.Filesz, p.Memsz), memsz: p.Memsz, offset: int64(p.Off)})
		}
	}
	if k.Identity.BuildID, err = imageBuildID(e); err != nil {
		return nil, err
	}
	memory := newSegments(f, list)
	k.Memory = memory
	if k.Symbols, err = imageSymbols(memory, e.ByteOrder); err != nil {
		return nil, err
	}
	k.setRanges()
	return k, k.readBanner()
}

// BuildID returns the GNU build id of a kernel image (vmlinux, or vmlinuz, which is unpacked), in hexadecimal; empty when it has none.
func BuildID(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the build id of a kernel image: %w", err)
	}
	defer f.Close()
	r, err := Vmlinux(f)
	if err != nil {
		return "", fmt.Errorf("read the build id of %s: %w", path, err)
	}
	e, err := openELF(r)
	if err != nil {
		return "", fmt.Errorf("read the build id of %s: %w", path, err)
	}
	id, err := imageBuildID(e)
	if err != nil {
		return "", fmt.Errorf("read the build id of %s: %w", path, err)
	}
	return id, nil
}

// imageBuildID looks for the build id in all note segments; one that cannot be read matters only when no other has it.
func imageBuildID(e *elf.File) (string, error) {
	var bad error
	for _, p := range e.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		list, err := readNotes(p, e.ByteOrder)
		if err != nil {
			bad = err
		} else if id := buildID(list); id != "" {
			return id, nil
		}
	}
	return "", bad
}

// readNotes reads a note segment of at most 64 MiB.
func readNotes(p *elf.Prog, order binary.ByteOrder) ([]note, error) {
	if p.Filesz > 64<<20 {
		return nil, fmt.Errorf("note segment of %d bytes: %w", p.Filesz, ErrFormat)
	}
	b, err := io.ReadAll(p.Open())
	if err != nil {
		return nil, fmt.Errorf("read ELF notes: %w", err)
	}
	return notes(b, order)
}

func imageSymbols(m *segments, order binary.ByteOrder) (*Symbols, error) {
	err := fmt.Errorf("no loaded segments: %w", ErrFormat)
	for _, s := range m.list {
		var b []byte
		if b, err = io.ReadAll(io.NewSectionReader(m.file, s.offset, int64(s.filesz))); err != nil {
			return nil, fmt.Errorf("segment at %#x: %w", s.address, err)
		}
		skip := min(int(-s.address&7), len(b))
		var t *tables
		if t, err = findTables(b[skip:], order); err == nil {
			return t.decode(order)
		}
	}
	return nil, err
}

// readBanner takes release and version from linux_banner (init/version.c, init/version-timestamp.c): "Linux version
// RELEASE (who@where) (compiler) VERSION\n".
func (k *Kernel) readBanner() error {
	s := k.Symbols.LookupIn("", "linux_banner")
	if len(s) != 1 {
		return fmt.Errorf("the kernel has %d symbols linux_banner, not 1: %w", len(s), ErrFormat)
	}
	text, err := readString(k.Memory, s[0].Address, 1024)
	if err != nil {
		return fmt.Errorf("read linux_banner: %w", err)
	}
	k.Identity.Release, k.Identity.Version, err = parseBanner(text)
	return err
}

// readString reads a string that ends with a NUL, of at most n bytes.
func readString(m Memory, address uint64, n int) (string, error) {
	var out []byte
	p := make([]byte, 16)
	for len(out) < n {
		if err := m.ReadMemory(p, address+uint64(len(out))); err != nil {
			return "", err
		}
		if i := bytes.IndexByte(p, 0); i >= 0 {
			return string(append(out, p[:i]...)), nil
		}
		out = append(out, p...)
	}
	return "", fmt.Errorf("string at %#x is longer than %d bytes: %w", address, n, ErrFormat)
}

func parseBanner(text string) (release, version string, err error) {
	bad := fmt.Errorf("linux_banner is %.200q: %w", text, ErrFormat)
	rest, ok := strings.CutPrefix(text, "Linux version ")
	if !ok {
		return "", "", bad
	}
	if release, rest, ok = strings.Cut(rest, " "); !ok {
		return "", "", bad
	}
	// Two groups in parentheses, which may hold others: "(gcc-12 (Debian 12.2.0-14) 12.2.0, GNU ld ...)".
	for range 2 {
		depth, end := 0, -1
		for i, c := range rest {
			if c == '(' {
				depth++
			} else if c == ')' {
				if depth--; depth == 0 {
					end = i
					break
				}
			}
			if depth == 0 && c != ' ' {
				return "", "", bad
			}
		}
		if end < 0 {
			return "", "", bad
		}
		rest = rest[end+1:]
	}
	return release, strings.TrimSpace(rest), nil
}
