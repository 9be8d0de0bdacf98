package main

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// describer describes one object. Its steps build on each other.
type describer struct {
	*object
	desc arch.ObjectDescription
	// owners has, by section, the index of the function that each instruction is of, -1 where it is none's.
	owners map[uint32][]int32
}

func describe(o *object) (*arch.ObjectDescription, error) {
	d := &describer{object: o, owners: map[uint32][]int32{}}
	for _, step := range []func() error{d.checkTables, d.functions, d.refs, d.branches, d.tracer} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return &d.desc, nil
}

// where names a place for people.
func (d *describer) where(section uint32, at uint64) string {
	return fmt.Sprintf("%s: %s+%#x", d.path, d.sections[section].Name, at)
}

// bad is the error of a damaged object.
func (d *describer) bad(section uint32, at uint64, format string, args ...any) error {
	return plugin.Errorf(plugin.FaultToolchain, d.where(section, at), format, args...)
}

// unported are tables that the kernel reads about code: an object that has one is not described, since what its entries say would be left out.
var unported = map[string]note{
	"__jump_table":               noteJumpLabels,
	".altinstructions":           noteAlternatives,
	"__ex_table":                 noteTables,
	"__bug_table":                noteTables,
	"_kprobe_blacklist":          noteTables,
	"_error_injection_whitelist": noteTables,
	"__dyndbg":                   noteTables,
	"__tracepoints_ptrs":         noteTables,
	".eh_frame":                  noteBoot, // arch/arm64/kernel/pi/patch-scs.c finds by it what to rewrite
	".init.eh_frame":             noteBoot,
	".static_call_sites":         noteBoot, // arm64 has no inline static calls: a kernel that does is newer than this
	".hyp.text":                  noteBoot, // KVM's, and what it rewrites (arch/arm64/kvm/va_layout.c)
}

// runtimePrefix begins the tables of runtime constants (arch/arm64/include/asm/runtime-const.h).
const runtimePrefix = "runtime_"

func (d *describer) checkTables() error {
	for i := range d.sections {
		s := &d.sections[i]
		if !s.alloc() || s.Size == 0 {
			continue
		}
		n, ok := unported[s.Name]
		if !ok && strings.HasPrefix(s.Name, runtimePrefix) {
			n, ok = noteBoot, true
		}
		if ok {
			return missing(n, d.path, "the object has a table %s, whose entries this plugin does not read", s.Name)
		}
	}
	return nil
}

// isMapping says that a symbol tells code ($x) from data ($d) and names nothing ("ELF for the Arm 64-bit Architecture", "Mapping symbols").
func isMapping(name string) bool {
	return name == "$x" || name == "$d" || strings.HasPrefix(name, "$x.") || strings.HasPrefix(name, "$d.")
}

// functions lists the functions, and which instruction is whose.
func (d *describer) functions() error {
	typed := map[elf.SectionIndex]bool{}
	for _, y := range d.symbols {
		typed[y.Section] = typed[y.Section] || elf.ST_TYPE(y.Info) == elf.STT_FUNC
	}
	for i, y := range d.symbols {
		if y.Section == elf.SHN_UNDEF || y.Section >= elf.SHN_LORESERVE || y.Name == "" || isMapping(y.Name) || !d.sections[y.Section].code() {
			continue
		}
		s := &d.sections[y.Section]
		// SYM_CODE_START gives a size and no type (include/linux/linkage.h); other labels begin code where nothing has a type.
		label := elf.ST_TYPE(y.Info) == elf.STT_NOTYPE && (y.Size > 0 || !typed[y.Section]) && y.Value < s.Size
		if elf.ST_TYPE(y.Info) != elf.STT_FUNC && !label {
			continue
		}
		if y.Value > uint64(len(s.data)) || y.Size > uint64(len(s.data))-y.Value || y.Value%instruction != 0 {
			return d.bad(uint32(y.Section), y.Value, "function %s of %d bytes lies outside, or between two instructions", y.Name, y.Size)
		}
		d.desc.Functions = append(d.desc.Functions, arch.Function{Symbol: uint32(i), Name: y.Name, Section: uint32(y.Section), Offset: y.Value, Size: y.Size, Parent: -1})
	}
	fs := d.desc.Functions
	slices.SortStableFunc(fs, func(a, b arch.Function) int {
		return cmp.Or(cmp.Compare(a.Section, b.Section), cmp.Compare(a.Offset, b.Offset))
	})
	byName := map[string]int32{}
	for i := range fs {
		fn := &fs[i]
		byName[fn.Name] = int32(i)
		code := d.sections[fn.Section].data
		if fn.Size == 0 { // assembly without .size: up to the next function
			fn.Size = uint64(len(code)) - fn.Offset
			if j := slices.IndexFunc(fs[i:], func(g arch.Function) bool { return g.Section != fn.Section || g.Offset > fn.Offset }); j > 0 && fs[i+j].Section == fn.Section {
				fn.Size = fs[i+j].Offset - fn.Offset
			}
		}
		fn.Endbr = fn.Size >= instruction && isLandingPad(word(code, fn.Offset))
		owners := d.owners[fn.Section]
		if owners == nil {
			owners = slices.Repeat([]int32{-1}, len(code)/instruction)
			d.owners[fn.Section] = owners
		}
		for at := fn.Offset; at+instruction <= fn.Offset+fn.Size; at += instruction {
			owners[at/instruction] = int32(i)
		}
	}
	for i := range fs {
		fs[i].Parent = parent(byName, fs[i].Name)
	}
	return nil
}

// parent finds the function that a piece was split from: gcc names it NAME.cold, or NAME.cold.NUMBER (gcc/cgraphclones.cc:
// clone_function_name).
func parent(byName map[string]int32, name string) int32 {
	i := strings.LastIndex(name, ".cold")
	if i <= 0 {
		return -1
	}
	if rest := name[i+len(".cold"):]; rest != "" {
		if _, err := strconv.ParseUint(strings.TrimPrefix(rest, "."), 10, 32); err != nil || rest[0] != '.' {
			return -1
		}
	}
	if p, ok := byName[name[:i]]; ok {
		return p
	}
	return -1
}

// refs lists the references. A relocation's place is its instruction's own, so that there is no bias: what is meant is symbol + addend.
func (d *describer) refs() error {
	for i := range d.sections {
		s := &d.sections[i]
		for _, r := range s.relocs {
			if r.typ == elf.R_AARCH64_NONE {
				continue
			}
			f, ok := fields[r.typ]
			if !ok {
				return missing(noteReferences, d.where(uint32(i), r.at), "a relocation of type %v", r.typ)
			}
			if uint64(f.size) > uint64(len(s.data))-r.at {
				return d.bad(uint32(i), r.at, "the relocation reaches beyond the section")
			}
			d.desc.Refs = append(d.desc.Refs, arch.Ref{Section: uint32(i), At: r.at, Size: f.size, Type: uint32(r.typ), PCRel: f.pcRel, Kind: f.kind,
				Symbol: r.symbol, Addend: r.addend, Offset: r.addend})
		}
	}
	return nil
}

// data says which instructions of a section are none: the words from each $d up to the next $x.
func (d *describer) data(section uint32, length int) []bool {
	marks := map[uint64]bool{} // by offset: data begins
	for _, y := range d.symbols {
		if uint32(y.Section) == section && isMapping(y.Name) {
			marks[y.Value] = strings.HasPrefix(y.Name, "$d")
		}
	}
	out := make([]bool, length/instruction)
	for i := range out {
		at := uint64(i) * instruction
		out[i] = i > 0 && out[i-1]
		for k := at; k < at+instruction; k++ {
			if begins, ok := marks[k]; ok {
				out[i] = begins
			}
		}
	}
	return out
}

// branches lists the branches that the assembler resolved and that leave their function, and refuses other things that it resolved so.
func (d *describer) branches() error {
	for i := range d.sections {
		s := &d.sections[i]
		if !s.code() {
			continue
		}
		section := uint32(i)
		owners, data := d.owners[section], d.data(section, len(s.data))
		if owners == nil {
			continue // no function is in it
		}
		relocated := map[uint64]bool{}
		for _, r := range s.relocs {
			relocated[r.at] = r.typ != elf.R_AARCH64_NONE
		}
		for n, from := range owners {
			at := uint64(n) * instruction
			if data[n] || relocated[at] {
				continue
			}
			u, distance := direct(word(s.data, at))
			if u == usesNothing {
				continue
			}
			target := at + uint64(distance)
			if target >= uint64(len(s.data)) || u == branches && target%instruction != 0 {
				return d.bad(section, at, "the instruction %#08x leads to %#x, which is not in the section", word(s.data, at), target)
			}
			if target/instruction < uint64(len(owners)) && owners[target/instruction] == from {
				continue
			}
			if u != branches {
				return missing(noteBranches, d.where(section, at), "the assembler resolved an address or a literal outside of the function (%#08x)", word(s.data, at))
			}
			d.desc.Branches = append(d.desc.Branches, arch.Branch{Section: section, At: at, Length: instruction, Field: at, FieldSize: instruction, Target: target})
		}
	}
	return nil
}

// tracerTable lists the instructions that the compiler left for the tracer (-fpatchable-function-entry=2), of every function section
// its own.
const tracerTable = "__patchable_function_entries"

// tracer finds the sites by which ftrace enters: two NOPs, of which the kernel makes MOV X9, LR when it boots, and BL while somebody
// traces (arch/arm64/kernel/ftrace.c: ftrace_init_nop, ftrace_make_call).
func (d *describer) tracer() error {
	const entry, length = 8, 2 * instruction
	for i := range d.sections {
		s := &d.sections[i]
		if s.Name != tracerTable || !s.alloc() {
			continue
		}
		table := uint32(i)
		if s.Size%entry != 0 || uint64(len(s.relocs))*entry != s.Size {
			return d.bad(table, 0, "the table of %d bytes has %d relocations: an address each is expected", s.Size, len(s.relocs))
		}
		for n, r := range s.relocs {
			section, at := d.place(r.symbol, r.addend)
			if r.at != uint64(n)*entry || r.typ != elf.R_AARCH64_ABS64 || section == 0 || at > d.sections[section].Size || d.sections[section].Size-at < length {
				return d.bad(table, r.at, "the entry is not the address of code in this object")
			}
			code := d.sections[section].data
			owner := int32(-1)
			if owners := d.owners[section]; at%instruction == 0 && owners != nil {
				owner = owners[at/instruction]
			}
			if owner < 0 || word(code, at) != nop || word(code, at+instruction) != nop {
				return missing(noteTracer, d.where(section, at), "the tracer's place is not two NOPs in a function")
			}
			fn := &d.desc.Functions[owner]
			before := at - fn.Offset
			if before != 0 && (before != instruction || !isLandingPad(word(code, fn.Offset))) {
				return missing(noteTracer, d.where(section, at), "the tracer's place is %d bytes into %s, and not just behind a landing pad", before, fn.Name)
			}
			for k := range d.desc.Functions { // aliases too
				if f := &d.desc.Functions[k]; f.Section == section && f.Offset == fn.Offset {
					f.Fentry, f.FentryOffset = true, before
				}
			}
			d.desc.Sites = append(d.desc.Sites, arch.Site{Section: section, At: at, Length: length, Kind: arch.SiteFentry, Live: true,
				Table: table, Entry: r.at, Key: -1, Detail: "patchable function entry"})
			d.desc.Entries = append(d.desc.Entries, arch.TableEntry{Table: table, At: r.at, Size: entry, Owner: section, OwnerOffset: at, OwnerLength: length})
		}
	}
	slices.SortStableFunc(d.desc.Sites, func(a, b arch.Site) int { return cmp.Or(cmp.Compare(a.Section, b.Section), cmp.Compare(a.At, b.At)) })
	return nil
}
