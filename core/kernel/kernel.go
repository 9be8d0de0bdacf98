// Package kernel is a kernel as seen from user space: who it is, its symbols, modules, memory, and the tables that it
// keeps of the places it rewrites in itself. It may be the running kernel (Live), a kernel image (Image) or the memory of
// a machine (Core). The matching, binding and apply stages call it; it writes nothing.
package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ksplice/ksplice/core/engine"
)

// Errors that callers may branch on.
var (
	// ErrHidden says that the kernel does not show its addresses to us.
	ErrHidden = errors.New("the kernel hides its addresses; run as root, and with the sysctl kernel.kptr_restrict at 0 or 1")
	// ErrFormat says that a file or a table is not in the form that it should be.
	ErrFormat = errors.New("not in the expected format")
	// ErrNoModules says that modules of this kernel are not known: an image has none.
	ErrNoModules = errors.New("no such module in this kernel; an image holds the kernel proper only")
)

// Memory is a kernel's memory. ReadMemory fills p from address, or fails where any byte of it is not there.
type Memory interface {
	ReadMemory(p []byte, address uint64) error
}

// Identity says which kernel it is. Fields that are not known are zero.
type Identity struct {
	Release string // as `uname -r` prints it
	Version string // as `uname -v` prints it
	BuildID string // the GNU build id, in hexadecimal
	Machine uint16 // e_machine of the ELF header
}

// Range is addresses from Start up to, not including, End.
type Range struct {
	Start, End uint64
}

// Contains says whether the address lies in the range.
func (r Range) Contains(address uint64) bool { return address-r.Start < r.End-r.Start }

// Module is a loaded kernel module. Its init memory, freed once it has run, does not count.
type Module struct {
	Name string
	// Base is the address of its text, 0 where it has none; Size the bytes of all its memory (/proc/modules).
	Base, Size uint64
	// Ranges are where its memory lies: one range, or since Linux 6.4 one for each kind of memory, far apart.
	Ranges []Range

	descriptor uint64 // address of its struct module, in a core
}

// Kernel is a kernel.
type Kernel struct {
	Identity Identity
	Symbols  *Symbols
	// Modules are the loaded modules by name; an image has none.
	Modules map[string]Module
	Memory  Memory
	// Booted says that the kernel has run and rewritten places in itself: true but for an image.
	Booted bool
	// Coming is a module that counts as loaded although its init has not run, and waits; empty: there is none.
	Coming string

	order     binary.ByteOrder
	live      bool
	root      string   // of the live kernel's proc and sys; "" but in tests
	through   []string // IDs of updates whose redirects are as if they were not
	closers   []io.Closer
	mapped    []Range       // the kernel proper's own memory
	layout    *moduleLayout // in a core
	noModules error         // why the modules of a core are not known
}

// Close releases the files that are open. The kernel cannot be read afterwards.
func (k *Kernel) Close() error {
	var err error
	for _, c := range k.closers {
		err = errors.Join(err, c.Close())
	}
	k.closers = nil
	return err
}

// Word reads an address from the first eight bytes of b, in the kernel's byte order.
func (k *Kernel) Word(b []byte) uint64 { return k.order.Uint64(b) }

// Owner returns the name of the module that the address lies in; ok is false when it lies in none.
func (k *Kernel) Owner(address uint64) (module string, ok bool) {
	for _, m := range k.Modules {
		for _, r := range m.Ranges {
			if r.Contains(address) {
				return m.Name, true
			}
		}
	}
	return "", false
}

// Inside says whether an address lies in the memory of a module, or of the kernel proper where module is empty, or ends it. known is
// false where that memory is not known.
func (k *Kernel) Inside(module string, address uint64) (inside, known bool) {
	ranges := k.mapped
	if module != "" {
		ranges = k.Modules[module].Ranges
	}
	return slices.ContainsFunc(ranges, func(r Range) bool { return r.Contains(address) || address == r.End }), len(ranges) > 0
}

// setRanges tells the symbol table where the kernel proper and the modules end.
func (k *Kernel) setRanges() {
	one := func(name string) (uint64, bool) {
		s := k.Symbols.LookupIn("", name)
		if len(s) == 0 {
			return 0, false
		}
		return s[0].Address, true
	}
	k.mapped = nil
	// arch/*/kernel/vmlinux.lds.S: _text .. _end; per-CPU symbols are offsets from zero on x86-64 (PERCPU_VADDR).
	if start, ok := one("_text"); ok {
		if end, ok := one("_end"); ok && end > start {
			k.mapped = append(k.mapped, Range{start, end})
		}
	}
	if start, ok := one("__per_cpu_start"); ok {
		if end, ok := one("__per_cpu_end"); ok && end > start {
			k.mapped = append(k.mapped, Range{start, end})
		}
	}
	ranges := map[string][]Range{"": k.mapped}
	for _, m := range k.Modules {
		ranges[m.Name] = m.Ranges
	}
	k.Symbols.ranges = ranges
}

// Redirect is a function of this kernel that an applied update has replaced.
type Redirect struct {
	// Code is the function's address, where its code lay before any update; Replacement is where its code lies now.
	Code, Replacement uint64
	// ID is the newest update that replaced it, Part the module name of that update's part.
	ID, Part, Name string
}

// Redirects lists the functions that applied updates have replaced, one entry a function, in order of first replacement.
// Only the running kernel can be asked: for an image or a core the list is empty.
func (k *Kernel) Redirects() ([]Redirect, error) {
	if !k.live {
		return nil, nil
	}
	updates, err := engine.Updates()
	if err != nil {
		return nil, fmt.Errorf("read the redirects of applied updates: %w", err)
	}
	return redirects(slices.DeleteFunc(updates, func(a engine.Applied) bool { return slices.Contains(k.through, engine.UpdateID(a.ID)) })), nil
}

// redirects follows updates that stand on one another: the newest one's replacement is the code that runs.
func redirects(updates []engine.Applied) []Redirect {
	var out []Redirect
	at := map[uint64]int{}
	for _, u := range updates {
		if u.Stage != "applied" {
			continue
		}
		for _, c := range u.Functions {
			r := Redirect{Code: c.Address, Replacement: c.Replacement, ID: engine.UpdateID(u.ID), Part: c.Part, Name: c.Name}
			if i, ok := at[c.Address]; ok {
				out[i] = r
				continue
			}
			at[c.Address] = len(out)
			out = append(out, r)
		}
	}
	return out
}
