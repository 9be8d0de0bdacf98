// Package match is run-pre matching: it proves that the code in a running kernel (run) is what given pre objects
// compiled to, and solves the run address of every symbol on the way, since each relocation field in run is an equation
// for one. The check, apply and match commands call it; it writes nothing.
//
// Source: J. Arnold and M. F. Kaashoek, "Ksplice: Automatic Rebootless Kernel Updates", EuroSys 2009, section 4.
package match

import (
	"debug/elf"
	"fmt"
	"strings"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Unit is one pre object to match.
type Unit struct {
	// Name is the object's name for people, for example "net/sched/sch_qfq.o".
	Name string
	// Module is the module it is part of; empty for the kernel proper.
	Module string
	// Init says that the module's init has not run: its code is there, and is matched like the rest.
	Init bool
	// Parts are modules of updates that the object was compiled on top of: what those brought lies there.
	Parts []string
	// Object is the object file, for the architecture plugin; File the same as a graph.
	Object plugin.File
	File   *objfile.File
	// Target is what the plugin is told of the kernel; Desc what it told of the object.
	Target arch.Target
	Desc   *arch.ObjectDescription
}

// variable is one unknown: where a section of a unit lies in run, or what value a global symbol has that no unit defines.
type variable struct {
	unit    int // index of the unit for a section; -1 for a global symbol
	section uint32
	scope   string // for a global symbol: the module that names it, "" for the kernel proper
	name    string
}

// value is a solved variable.
type value struct {
	value uint64
	from  string // who says so
}

// place is a variable and an offset from it.
type place struct {
	v      variable
	offset uint64
}

// unknowns maps symbols of units to variables and keeps what was solved.
type unknowns struct {
	units   []*Unit
	globals map[variable]place // global symbols that units define
	solved  map[variable]value
	// named are the functions and objects of a section, numbered the objects whose names have numbers of the compiler's, which move. Functions
	// of such names are compared themselves, and replacements have other names.
	named, numbered map[variable][]*objfile.Symbol
}

func newUnknowns(units []*Unit) *unknowns {
	u := &unknowns{units: units, globals: map[variable]place{}, solved: map[variable]value{},
		named: map[variable][]*objfile.Symbol{}, numbered: map[variable][]*objfile.Symbol{}}
	for i, unit := range units {
		for _, s := range unit.File.Symbols {
			if s.Section != nil && (s.Type == elf.STT_FUNC || s.Type == elf.STT_OBJECT) && s.Bind != elf.STB_WEAK {
				v := variable{unit: i, section: uint32(s.Section.Index)}
				if _, numbered := objfile.Stem(s.Name); numbered && s.Type == elf.STT_OBJECT {
					u.numbered[v] = append(u.numbered[v], s)
				} else if !strings.Contains(s.Name, ".") && !strings.HasPrefix(s.Name, "__UNIQUE_ID_") {
					u.named[v] = append(u.named[v], s)
				}
			}
			if s.Section == nil || s.Bind != elf.STB_GLOBAL || s.Name == "" {
				continue
			}
			u.globals[variable{unit: -1, scope: unit.Module, name: s.Name}] =
				place{variable{unit: i, section: uint32(s.Section.Index)}, s.Value}
		}
	}
	return u
}

// symbol returns the symbol with the given index of a unit.
func (u *unknowns) symbol(unit int, index uint32) (*objfile.Symbol, error) {
	f := u.units[unit].File
	if uint64(index) >= uint64(len(f.Symbols)) || index == 0 {
		return nil, fmt.Errorf("%s: symbol %d of %d: no such symbol", u.units[unit].Name, index, len(f.Symbols))
	}
	return f.Symbols[index], nil
}

// place says which variable gives the symbol's value. ok is false for symbols that need none (absolute ones).
func (u *unknowns) place(unit int, index uint32) (p place, ok bool, err error) {
	s, err := u.symbol(unit, index)
	if err != nil {
		return place{}, false, err
	}
	if s.Section != nil && s.Bind != elf.STB_WEAK {
		return place{variable{unit: unit, section: uint32(s.Section.Index)}, s.Value}, true, nil
	}
	if s.Special == elf.SHN_ABS {
		return place{}, false, nil
	}
	v := variable{unit: -1, scope: u.units[unit].Module, name: s.Name}
	if p, defined := u.globals[v]; defined {
		return p, true, nil
	}
	return place{v, 0}, true, nil
}

// get returns the solved value of a place.
func (u *unknowns) get(p place) (uint64, bool) {
	v, ok := u.solved[p.v]
	return v.value + p.offset, ok
}

// set records that p has the value, or returns an error when another was solved before.
func (u *unknowns) set(p place, x uint64, from string) error {
	x -= p.offset
	if old, ok := u.solved[p.v]; ok {
		if old.value != x {
			return fmt.Errorf("%s lies at %#x according to %s, at %#x according to %s", u.describe(p.v), old.value, old.from, x, from)
		}
		return nil
	}
	u.solved[p.v] = value{x, from}
	return nil
}

func (u *unknowns) describe(v variable) string {
	if v.unit < 0 {
		return "symbol " + v.name
	}
	f := u.units[v.unit].File
	if int(v.section) < len(f.Sections) {
		return fmt.Sprintf("%s of %s", f.Sections[v.section].Name, u.units[v.unit].Name)
	}
	return fmt.Sprintf("section %d of %s", v.section, u.units[v.unit].Name)
}

// discarded says that run has thrown away a section's code, or never had it. The exit code of a module stays as long as the module
// (kernel/module/main.c:layout_sections, where modules can be unloaded, as the kernel module of ours wants it).
func (u *Unit) discarded(section string) bool {
	return Discarded(section) && !(u.Init && Init(section)) && !(u.Module != "" && under(section, ".exit.text"))
}

// Init says that the section holds code of a module's init.
func Init(section string) bool {
	return under(section, ".init.text")
}

// under says that a section is one of a name, or a function's own of that kind.
func under(section, name string) bool {
	return section == name || strings.HasPrefix(section, name+".")
}

// Discarded says whether code of the section is gone after boot or after a module's init, or was never linked in
// (include/asm-generic/vmlinux.lds.h: INIT_TEXT, EXIT_TEXT, DISCARDS).
func Discarded(section string) bool {
	for _, p := range []string{".init.", ".exit.", ".head.text", ".ref.text.exit", ".discard.", ".altinstr_replacement", ".altinstr_aux"} {
		if strings.HasPrefix(section, p) || section == strings.TrimSuffix(p, ".") {
			return true
		}
	}
	return false
}
