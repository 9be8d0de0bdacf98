// Package fixup says how code of an object that was built for the kernel proper must be edited to live in a module. The
// plugin's Fixup call is its only caller.
package fixup

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/forms"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/object"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Run lists the edits of the given sections.
func Run(u *describe.Unit, sections []uint32) *arch.FixupResponse {
	f := &fixer{u: u, resp: &arch.FixupResponse{}, wanted: map[uint32]bool{}}
	for _, s := range sections {
		f.wanted[s] = true
	}
	for i := range u.Desc.Sites {
		s := &u.Desc.Sites[i]
		if s.Kind != arch.SiteRuntimeConst || !f.wanted[s.Section] {
			continue
		}
		if name, shift := describe.RuntimeSymbol(s.Detail); shift {
			f.shift(s)
		} else {
			f.pointer(s, name)
		}
	}
	f.unknownTables()
	f.relocations()
	return f.resp
}

// fixer is one call.
type fixer struct {
	u      *describe.Unit
	wanted map[uint32]bool
	resp   *arch.FixupResponse
}

// refuse adds a refusal about a place.
func (f *fixer) refuse(section uint32, at uint64, summary, detail string) {
	where := fmt.Sprintf("%s+%#x", f.u.File.Sections[section].Name, at)
	if fn := f.u.FunctionAt(describe.Place{Section: section, At: at}); fn != nil {
		where = fmt.Sprintf("%s+%#x", fn.Name, at-fn.Offset)
	}
	f.resp.Refusals = append(f.resp.Refusals, plugin.Diagnostic{Fault: plugin.FaultPatch, Summary: summary,
		Detail: detail, Where: where})
}

// pointer turns the load of a constant that the kernel writes once at boot into a load of the variable it comes from, as
// the same source does in a module (runtime_const_ptr in arch/x86/include/asm/runtime-const.h and
// include/asm-generic/runtime-const.h).
func (f *fixer) pointer(s *arch.Site, name string) {
	in := f.u.File.Sections[s.Section].Data[s.At : s.At+s.Length]
	if !forms.Movabs(in) {
		f.refuse(s.Section, s.At, "runtime constant "+name+" is used in a way that is not known",
			fmt.Sprintf("expected movabs $imm64,%%reg around the site, found % x", in))
		return
	}
	f.resp.Edits = append(f.resp.Edits, arch.Edit{Section: s.Section, At: s.At, Bytes: forms.RuntimeLoad(in),
		Reloc: &arch.NewReloc{At: s.At + forms.RuntimeLoadField, Type: uint32(elf.R_X86_64_PC32), Symbol: name,
			SymbolIndex: f.symbol(name), Addend: -4}})
}

// shift has the count of a shift copied from the running kernel: an instruction of that length cannot load it.
func (f *fixer) shift(s *arch.Site) {
	f.resp.Copies = append(f.resp.Copies, arch.Copy{Section: s.Section, At: s.At, Length: s.Length, Name: s.Detail})
}

// symbol is the index of a symbol that is not local to another unit's place, 0 where the object does not have it.
func (f *fixer) symbol(name string) uint32 {
	for i := range f.u.File.Symbols {
		if s := &f.u.File.Symbols[i]; i > 0 && s.Name == name && s.Type != elf.STT_SECTION && s.Type != elf.STT_FILE {
			return s.Index
		}
	}
	return 0
}

// unknownTables refuses code that a table of the runtime constants' family names and that is of a kind without rule: it would
// keep its placeholder.
func (f *fixer) unknownTables() {
	for i := range f.u.File.Sections {
		t := &f.u.File.Sections[i]
		if !slices.Contains(f.u.UnknownRuntime, t.Name) || !strings.HasPrefix(t.Name, describe.RuntimePrefix) {
			continue
		}
		for k := range f.u.Fields[t.Index] {
			r := &f.u.Fields[t.Index][k]
			section, at := f.u.File.Place(r.Symbol, r.Means)
			if f.wanted[section] {
				f.refuse(section, at, "the code holds a runtime constant of an unknown kind, in table "+t.Name,
					"only runtime_ptr_ and runtime_shift_ tables are known: a module would keep the placeholder; "+
						"use a newer architecture plugin")
			}
		}
		if len(t.Relocs) == 0 {
			f.refuse(t.Index, 0, "table "+t.Name+" holds runtime constants of an unknown kind", "use a newer architecture plugin")
		}
	}
}

// relocations refuses types that the module loader does not apply (arch/x86/kernel/module.c:__apply_relocate_add).
func (f *fixer) relocations() {
	for i := range f.u.File.Sections {
		s := &f.u.File.Sections[i]
		if !f.wanted[s.Index] {
			continue
		}
		for _, r := range s.Relocs {
			if !object.Supported(r.Type) {
				f.refuse(s.Index, r.Offset, fmt.Sprintf("a relocation of type %v", r.Type),
					"the kernel's module loader does not apply this type: it comes from code that only the kernel proper can hold")
			}
		}
	}
}
