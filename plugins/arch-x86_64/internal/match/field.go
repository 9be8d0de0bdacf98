package match

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/forms"
	"github.com/ksplice/ksplice/sdk/arch"
)

// solve computes S, the value of a field's symbol, from run: the inverse of what the linker computed (System V ABI, AMD64
// supplement, "Relocation Types": A the addend, P the field's place). why is not empty where that cannot be.
func (c *comparison) solve(f *describe.Field, at uint64) (s uint64, why string) {
	if at > uint64(len(c.run)) || uint64(f.Size) > uint64(len(c.run))-at {
		return 0, "the field reaches beyond what there is of run"
	}
	b := c.run[at:]
	a, p := uint64(f.Addend), c.addr+at
	switch f.Type {
	case elf.R_X86_64_64:
		return binary.LittleEndian.Uint64(b) - a, ""
	case elf.R_X86_64_32:
		return uint64(binary.LittleEndian.Uint32(b)) - a, ""
	case elf.R_X86_64_32S:
		return uint64(int32(binary.LittleEndian.Uint32(b))) - a, ""
	case elf.R_X86_64_PC32, elf.R_X86_64_PLT32:
		// Per-cpu offsets are small and P is in the top 2 GiB: the sum wraps to the offset.
		return uint64(int32(binary.LittleEndian.Uint32(b))) + p - a, ""
	case elf.R_X86_64_PC64:
		return binary.LittleEndian.Uint64(b) + p - a, ""
	}
	return 0, fmt.Sprintf("the relocation type %v is none that kernels use", f.Type)
}

// field makes an equation of a field outside every site, or an obligation where the linker may have merged its target.
// at is the field's offset in run.
func (c *comparison) field(f *describe.Field, at uint64) (why string) {
	s, why := c.solve(f, at)
	if why != "" {
		return why
	}
	return c.means(f, s)
}

// means says that run has the value s for a field's symbol.
func (c *comparison) means(f *describe.Field, s uint64) (why string) {
	sym := &c.u.File.Symbols[f.Symbol]
	switch {
	case f.Symbol == 0:
		if s != 0 {
			return fmt.Sprintf("run has %#x more than the constant in pre", s)
		}
		return ""
	case sym.Section != 0 && c.u.File.Sections[sym.Section].Merged():
		return c.content(f, s)
	case c.moved != nil && c.own(sym.Section, sym.Value+uint64(f.Means)):
		c.target(c.offset(f), sym.Value+uint64(f.Means), s+uint64(f.Means))
		return ""
	}
	c.res.Equations = append(c.res.Equations, arch.Equation{Symbol: f.Symbol, Value: s, At: c.offset(f)})
	return ""
}

// offset is a field's offset in the function; for fields of replacements, which lie elsewhere, 0.
func (c *comparison) offset(f *describe.Field) uint64 {
	if at := f.Offset - c.fn.Offset; at < c.fn.Size {
		return at
	}
	return 0
}

// own says that a place lies in the function itself, its end included.
func (c *comparison) own(section uint32, at uint64) bool {
	return section == c.fn.Section && at >= c.fn.Offset && at <= c.fn.Offset+c.fn.Size
}

// target checks that the run address is where the place of the function lies in run.
func (c *comparison) target(at, place, run uint64) (why string) {
	if c.moved != nil {
		c.pending = append(c.pending, pendingTarget{at, place - c.fn.Offset, run})
		return ""
	}
	if want := c.addr + place - c.fn.Offset; run != want {
		return fmt.Sprintf("run goes to %#x, expected +%#x of the function (%#x)", run, place-c.fn.Offset, want)
	}
	return ""
}

// content obliges run to have the same string or constant as pre.
func (c *comparison) content(f *describe.Field, s uint64) (why string) {
	sym := &c.u.File.Symbols[f.Symbol]
	sec := &c.u.File.Sections[sym.Section]
	at := sym.Value + uint64(f.Means)
	if at >= uint64(len(sec.Data)) {
		return fmt.Sprintf("the reference leads to %s+%#x, outside of it: nothing proves what is there", sec.Name, at)
	}
	o := arch.Obligation{Kind: arch.ObligationBytes, At: c.offset(f), Address: s + uint64(f.Means)}
	o.Bytes = sec.Data[at:min(at-at%sec.EntSize+sec.EntSize, uint64(len(sec.Data)))]
	if sec.Strings() {
		end := uint64(0)
		if sec.EntSize == 1 {
			o.Kind = arch.ObligationString
			end = at + uint64(bytes.IndexByte(sec.Data[at:], 0)) + 1
		} else {
			end = wideEnd(sec.Data, at, sec.EntSize)
		}
		if end <= at || end > uint64(len(sec.Data)) {
			return fmt.Sprintf("the string at %s+%#x has no end", sec.Name, at)
		}
		o.Bytes = sec.Data[at:end]
	}
	c.res.Obligations = append(c.res.Obligations, o)
	return ""
}

// wideEnd is the end of a string of wide characters, 0 where it has none.
func wideEnd(data []byte, at, width uint64) uint64 {
	for at -= at % width; at+width <= uint64(len(data)); at += width {
		if len(bytes.Trim(data[at:at+width], "\x00")) == 0 {
			return at + width
		}
	}
	return 0
}

// leads checks what a branch inside a site leads to. Such fields give no equations, since the kernel may have written them:
// a place of the function itself must be that, everything else is known by name.
func (c *comparison) leads(at uint64, symbol uint32, means int64, run uint64) (why string) {
	sym := &c.u.File.Symbols[symbol]
	if sym.Section == 0 {
		if sym.Name == "" {
			return "the branch leads to no symbol"
		}
		c.namedTarget(at, sym.Name, run-uint64(means))
		return ""
	}
	return c.leadsPlace(at, describe.Place{Section: sym.Section, At: sym.Value + uint64(means)}, run)
}

// leadsPlace is the same for a place in the object.
func (c *comparison) leadsPlace(at uint64, p describe.Place, run uint64) (why string) {
	if c.own(p.Section, p.At) {
		return c.target(at, p.At, run)
	}
	if fn := c.u.FunctionAt(p); fn != nil {
		base := run - (p.At - fn.Offset)
		if p.At == fn.Offset {
			base = c.layout.function(base)
		}
		names := c.namesAt(describe.Place{Section: fn.Section, At: fn.Offset})
		c.oblige(arch.Obligation{Kind: arch.ObligationSymbol, At: at, Address: base, Names: names})
		return ""
	}
	return fmt.Sprintf("nothing in the object names %s+%#x", c.u.File.Sections[p.Section].Name, p.At)
}

// namesAt returns the names of the functions that begin at a place.
func (m *matcher) namesAt(p describe.Place) []string {
	if m.names == nil {
		m.names = map[describe.Place][]string{}
		for i := range m.u.Desc.Functions {
			fn := &m.u.Desc.Functions[i]
			k := describe.Place{Section: fn.Section, At: fn.Offset}
			m.names[k] = append(m.names[k], fn.Name)
		}
	}
	return m.names[p]
}

// namedTarget obliges the run address of a branch's target to have the symbol's name, or one that stands for it.
func (c *comparison) namedTarget(at uint64, name string, run uint64) {
	if reg := forms.ThunkRegister(name); reg >= 0 {
		c.thunk(at, reg, run)
		return
	}
	names := []string{name}
	if name == forms.ReturnThunks[0] {
		names = forms.ReturnThunks
	} else {
		run = c.layout.function(run)
	}
	c.oblige(arch.Obligation{Kind: arch.ObligationSymbol, At: at, Address: run, Names: names})
}

// thunk obliges a run address to be a thunk for indirect branches through a register. Those of Indirect Target Selection
// lie in pages that no symbol names, where modules live, each with its last byte in the upper half of a cache line
// (arch/x86/kernel/alternative.c:its_alloc, its_allocate_thunk).
func (c *comparison) thunk(at uint64, reg int, run uint64) {
	if code := forms.ITSThunk(reg); run >= c.layout.modules && (run+uint64(len(code))-1)%64 >= 32 {
		c.oblige(arch.Obligation{Kind: arch.ObligationCode, At: at, Address: run, Forms: [][]byte{code}})
		return
	}
	c.oblige(arch.Obligation{Kind: arch.ObligationSymbol, At: at, Address: run, Names: forms.ThunkNames(reg)})
}

func (c *comparison) oblige(o arch.Obligation) { c.res.Obligations = append(c.res.Obligations, o) }
