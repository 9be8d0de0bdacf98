// Package difftest makes described objects for tests of packages that work on pre and post objects: it compiles C and
// describes the result by its relocations alone, well enough for what a compiler makes of small test sources. Only tests
// call it.
package difftest

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// flags are the kernel's own as far as they shape objects, and the two that differencing wants.
var flags = []string{"-c", "-O2", "-std=gnu11", "-mcmodel=kernel", "-mno-red-zone", "-mno-sse", "-mpreferred-stack-boundary=3", "-fno-pic", "-fno-common", "-fno-strict-aliasing",
	"-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-fno-stack-protector", "-ffreestanding", "-fno-reorder-blocks-and-partition", "-fno-ipa-ra",
	"-ffunction-sections", "-fdata-sections", "-w"}

// Compile compiles C source and returns the object and its description. The test needs gcc.
func Compile(t testing.TB, name, source string, extra ...string) (*objfile.File, *arch.ObjectDescription) {
	t.Helper()
	return read(t, compile(t, name, source, extra...))
}

// Object compiles C source with debug information and returns the object as the create pipeline compares it: without.
func Object(t testing.TB, name, source string, extra ...string) *diff.Object {
	t.Helper()
	path := compile(t, name, source, append(extra, "-g")...)
	statics, err := semantic.Statics(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := objfile.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f.StripDebug()
	if err := f.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	o := &diff.Object{Name: name, Statics: statics}
	o.File, o.Desc = read(t, path)
	return o
}

// CompileDebug compiles C source with debug information and returns the object's path.
func CompileDebug(t testing.TB, name, source string, extra ...string) string {
	t.Helper()
	return compile(t, name, source, append(extra, "-g")...)
}

func compile(t testing.TB, name, source string, extra ...string) string {
	t.Helper()
	gcc := need.Program(t, "gcc")
	dir := t.TempDir()
	c, o := filepath.Join(dir, name+".c"), filepath.Join(dir, name+".o")
	if err := os.WriteFile(c, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(append(append([]string{}, flags...), extra...), "-o", o, name+".c")
	cmd := exec.Command(gcc, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile %s: %v\n%s", name, err, out)
	}
	return o
}

func read(t testing.TB, path string) (*objfile.File, *arch.ObjectDescription) {
	t.Helper()
	f, err := objfile.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return f, Describe(t, f)
}

// entrySizes are the tables that Describe knows: sizes of entries that begin with a 32-bit distance to the code.
var entrySizes = map[string]uint64{"__ex_table": 12, "__bug_table": 12, ".smp_locks": 4, ".retpoline_sites": 4, ".return_sites": 4,
	".call_sites": 4, ".static_call_sites": 8, "__jump_table": 16}

// Describe describes an x86-64 object by its relocations.
func Describe(t testing.TB, f *objfile.File) *arch.ObjectDescription {
	t.Helper()
	d := &arch.ObjectDescription{}
	index := map[*objfile.Symbol]uint32{}
	for i, y := range f.Symbols {
		index[y] = uint32(i)
		if y.Section != nil && y.Type == elf.STT_FUNC {
			d.Functions = append(d.Functions, arch.Function{Symbol: uint32(i), Name: y.Name, Section: uint32(y.Section.Index),
				Offset: y.Value, Size: y.Size, Parent: -1, Endbr: bytes.HasPrefix(y.Section.Data[y.Value:], []byte{0xf3, 0x0f, 0x1e, 0xfa})})
		}
	}
	sort.SliceStable(d.Functions, func(i, j int) bool {
		a, b := d.Functions[i], d.Functions[j]
		return a.Section < b.Section || a.Section == b.Section && a.Offset < b.Offset
	})
	for i := range d.Functions {
		for k := range d.Functions {
			if d.Functions[i].Name == d.Functions[k].Name+".cold" {
				d.Functions[i].Parent = int32(k)
			}
		}
	}
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		for _, r := range s.SortedRelocs() {
			d.Refs = append(d.Refs, describeRef(s, r, index[r.Symbol]))
		}
		if n := entrySizes[s.Name]; n > 0 {
			for at := uint64(0); at < s.Size; at += n {
				d.Entries = append(d.Entries, entry(s, at, n))
			}
		}
	}
	d.Branches = append(d.Branches, branches(f, d)...)
	return d
}

// describeRef normalises a relocation, supposing that pc-relative fields of code end their instruction.
func describeRef(s *objfile.Section, r *objfile.Reloc, symbol uint32) arch.Ref {
	x := arch.Ref{Section: uint32(s.Index), At: r.Offset, Size: 4, Type: r.Type, Symbol: symbol, Addend: r.Addend, Offset: r.Addend}
	switch elf.R_X86_64(r.Type) {
	case elf.R_X86_64_64, elf.R_X86_64_PC64:
		x.Size = 8
	}
	if t := elf.R_X86_64(r.Type); t != elf.R_X86_64_PC32 && t != elf.R_X86_64_PLT32 {
		return x
	}
	x.PCRel = true
	if s.Flags&elf.SHF_EXECINSTR == 0 {
		return x
	}
	x.Offset += 4
	x.Kind = arch.RefMemory
	switch b := s.Data[r.Offset-1]; {
	case b == 0xe8, b == 0xe9, b&0xf0 == 0x80 && s.Data[r.Offset-2] == 0x0f:
		x.Kind = arch.RefBranch
	case r.Offset >= 2 && s.Data[r.Offset-2] == 0x8d:
		x.Kind = arch.RefAddress
	}
	return x
}

func entry(s *objfile.Section, at, size uint64) arch.TableEntry {
	e := arch.TableEntry{Table: uint32(s.Index), At: at, Size: size}
	for _, r := range s.Relocs {
		if r.Offset == at && r.Symbol.Section != nil {
			e.Owner, e.OwnerOffset = uint32(r.Symbol.Section.Index), r.Symbol.Value+uint64(r.Addend)
		}
	}
	return e
}

// branches finds direct calls of five bytes without a relocation that leave their function, in sections that hold
// several functions.
func branches(f *objfile.File, d *arch.ObjectDescription) []arch.Branch {
	var out []arch.Branch
	related := map[[2]uint64]bool{}
	for _, r := range d.Refs {
		related[[2]uint64{uint64(r.Section), r.At}] = true
	}
	for _, fn := range d.Functions {
		s := f.Sections[fn.Section]
		if strings.HasPrefix(s.Name, ".text") {
			continue
		}
		for at := fn.Offset; at+5 <= fn.Offset+fn.Size; at++ {
			if s.Data[at] != 0xe8 || related[[2]uint64{uint64(fn.Section), at + 1}] {
				continue
			}
			disp := int32(uint32(s.Data[at+1]) | uint32(s.Data[at+2])<<8 | uint32(s.Data[at+3])<<16 | uint32(s.Data[at+4])<<24)
			target := uint64(int64(at) + 5 + int64(disp))
			for _, to := range d.Functions {
				if to.Section == fn.Section && to.Offset == target && to.Symbol != fn.Symbol {
					out = append(out, arch.Branch{Section: fn.Section, At: at, Length: 5, Field: at + 1, FieldSize: 4, Target: target})
				}
			}
		}
	}
	return out
}
