package describe

import (
	"encoding/binary"
	"fmt"
	"sort"
	"strings"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/object"
	"github.com/ksplice/ksplice/sdk/arch"
)

// tables reads the table sections of an object.
type tables struct {
	unit *Unit
}

// layout is the format of a table: entries of Size bytes that begin with the address of the code they are about.
type layout struct {
	// sizeFact names the fact that gives the size of an entry; where empty, size does.
	sizeFact string
	size     uint64
	// data says that the entries are about data: they have no owner.
	data bool
	// site adds the site that an entry names, nil where entries name none.
	site func(t *tables, s *object.Section, e *arch.TableEntry) error
	// ignore finds the ranges of an entry that say nothing of what the code does.
	ignore func(t *tables, table string) ([]arch.Range, error)
}

// Prefixes of the sections that list runtime constants (arch/x86/include/asm/runtime-const.h).
const (
	RuntimePrefix      = "runtime_"
	RuntimePtrPrefix   = "runtime_ptr_"
	RuntimeShiftPrefix = "runtime_shift_"
)

// Fixed sizes: 4 is an s32 offset to the code, 8 an address.
var layouts = map[string]layout{
	"__ex_table":             {sizeFact: factExtableSize},
	"__bug_table":            {sizeFact: factBugSize, ignore: bugIgnore},
	"__jump_table":           {sizeFact: factJumpSize, site: jumpSite},
	".static_call_sites":     {sizeFact: factStaticCallSize, site: staticCallSite},
	".static_call_tramp_key": {size: 8},
	".altinstructions":       {sizeFact: factAltSize, site: alternativeSite},
	// struct paravirt_patch_site of 6.1: instr, type, len and padding (arch/x86/include/asm/paravirt_types.h). Later
	// kernels have no such structure, so it cannot be asked for.
	".parainstructions":            {size: 16, site: paravirtSite},
	".smp_locks":                   {size: 4, site: simpleSite(SiteSMPLock, 1, true)},
	".retpoline_sites":             {size: 4, site: instructionSite(SiteRetpoline)},
	".return_sites":                {size: 4, site: simpleSite(SiteReturn, 5, false)},
	".call_sites":                  {size: 4, site: simpleSite(arch.SiteCall, 5, false)},
	".cfi_sites":                   {size: 4},
	".ibt_endbr_seal":              {size: 4, site: simpleSite(SiteEndbr, 4, false)},
	"__mcount_loc":                 {size: 8, site: simpleSite(arch.SiteFentry, 5, true)},
	"__patchable_function_entries": {size: 8},
	"_kprobe_blacklist":            {size: 8},
	"_error_injection_whitelist":   {sizeFact: factInjectionSize},
	"__dyndbg":                     {sizeFact: factDebugSize, data: true, ignore: debugIgnore},
	"__tracepoints_ptrs":           {size: 4, data: true},
}

// layoutOf finds the format of a section by its name.
func layoutOf(name string) (layout, bool) {
	if l, ok := layouts[name]; ok {
		return l, true
	}
	switch {
	case strings.HasPrefix(name, RuntimePtrPrefix):
		return layout{size: 4, site: runtimePointerSite}, true
	case strings.HasPrefix(name, RuntimeShiftPrefix):
		return layout{size: 4, site: simpleSite(arch.SiteRuntimeConst, 1, false)}, true
	}
	return layout{}, false
}

// read goes through all tables of the object.
func (t *tables) read() error {
	sections := t.unit.File.Sections
	for i := range sections {
		s := &sections[i]
		if !s.Alloc() || s.Size == 0 {
			continue
		}
		l, ok := layoutOf(s.Name)
		if !ok {
			if strings.HasPrefix(s.Name, RuntimePrefix) {
				t.unit.UnknownRuntime = append(t.unit.UnknownRuntime, s.Name)
			}
			continue
		}
		if err := t.readTable(s, l); err != nil {
			return err
		}
	}
	if err := t.readOrc(); err != nil {
		return err
	}
	t.readAux()
	return nil
}

// readTable lists the entries of one table and the sites they name.
func (t *tables) readTable(s *object.Section, l layout) error {
	size, err := l.size, error(nil)
	if l.sizeFact != "" {
		if size, err = t.fact(s.Name, l.sizeFact); err != nil {
			return err
		}
	}
	if size == 0 || s.Size%size != 0 || uint64(len(s.Data)) != s.Size {
		return fmt.Errorf("table %s is %d bytes long, which is no multiple of its entries' %d: the object is of another kernel than the facts", s.Name, s.Size, size)
	}
	var ignore []arch.Range
	if l.ignore != nil {
		if ignore, err = l.ignore(t, s.Name); err != nil {
			return err
		}
	}
	for at := uint64(0); at < s.Size; at += size {
		e := arch.TableEntry{Table: s.Index, At: at, Size: size, Ignore: ignore}
		if !l.data {
			p := t.unit.target(s.Index, at)
			e.Owner, e.OwnerOffset = p.Section, p.At
		}
		if l.site != nil && e.Owner != 0 && t.unit.File.Sections[e.Owner].Exec() {
			if err := l.site(t, s, &e); err != nil {
				return fmt.Errorf("entry %d of table %s: %w", at/size, s.Name, err)
			}
		}
		t.unit.Desc.Entries = append(t.unit.Desc.Entries, e)
	}
	return nil
}

// bugIgnore leaves out where in the source a bug entry stands: file and line (include/asm-generic/bug.h:struct bug_entry,
// where both stand between the address and the flags).
func bugIgnore(t *tables, table string) ([]arch.Range, error) {
	if t.unit.Target.Config["CONFIG_DEBUG_BUGVERBOSE"] != "y" {
		return nil, nil
	}
	line, err := t.fact(table, factBugLine)
	if err != nil {
		return nil, err
	}
	const afterAddress = 4
	if line < afterAddress {
		return nil, fmt.Errorf("table %s: the fact %s is %d", table, factBugLine, line)
	}
	return []arch.Range{{Offset: afterAddress, Length: line + 2 - afterAddress}}, nil
}

// debugIgnore leaves out the line number of a dynamic debug descriptor: the low 18 bits of a bit field, of which whole
// bytes are left out (include/linux/dynamic_debug.h:struct _ddebug).
func debugIgnore(t *tables, table string) ([]arch.Range, error) {
	line, err := t.fact(table, factDebugLine)
	if err != nil {
		return nil, err
	}
	return []arch.Range{{Offset: line, Length: 3}}, nil
}

// readOrc lists the unwind tables: .orc_unwind_ip holds the addresses, .orc_unwind the entries, in the same order
// (tools/objtool/orc_gen.c). An entry is good up to the next address in the same section.
func (t *tables) readOrc() error {
	var ips, orcs []*object.Section
	for i := range t.unit.File.Sections {
		switch s := &t.unit.File.Sections[i]; s.Name {
		case ".orc_unwind_ip":
			ips = append(ips, s)
		case ".orc_unwind":
			orcs = append(orcs, s)
		}
	}
	if len(ips) == 0 && len(orcs) == 0 {
		return nil
	}
	if len(ips) != 1 || len(orcs) != 1 {
		return fmt.Errorf("the object has %d sections .orc_unwind_ip and %d .orc_unwind, expected one each", len(ips), len(orcs))
	}
	size, err := t.fact(".orc_unwind", factOrcSize)
	if err != nil {
		return err
	}
	ip, orc := ips[0], orcs[0]
	n := ip.Size / 4
	if size == 0 || ip.Size%4 != 0 || orc.Size != n*size {
		return fmt.Errorf("table .orc_unwind is %d bytes long for %d addresses, expected %d bytes each", orc.Size, n, size)
	}
	first := len(t.unit.Desc.Entries)
	for i := range n {
		p := t.unit.target(ip.Index, i*4)
		t.unit.Desc.Entries = append(t.unit.Desc.Entries, arch.TableEntry{Table: ip.Index, At: i * 4, Size: 4, Owner: p.Section, OwnerOffset: p.At})
	}
	entries := t.unit.Desc.Entries[first:]
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(i, j int) bool {
		a, b := &entries[order[i]], &entries[order[j]]
		return a.Owner < b.Owner || a.Owner == b.Owner && a.OwnerOffset < b.OwnerOffset
	})
	for i, k := range order {
		e := &entries[k]
		if e.Owner == 0 {
			continue
		}
		end := t.unit.File.Sections[e.Owner].Size
		if i+1 < len(order) && entries[order[i+1]].Owner == e.Owner {
			end = entries[order[i+1]].OwnerOffset
		}
		e.OwnerLength = max(end, e.OwnerOffset) - e.OwnerOffset
	}
	for i := range n {
		e := t.unit.Desc.Entries[first+int(i)]
		e.Table, e.At, e.Size = orc.Index, i*size, size
		t.unit.Desc.Entries = append(t.unit.Desc.Entries, e)
	}
	return nil
}

// readAux lists the pieces of .altinstr_aux: code that static_cpu_has runs before alternatives are applied
// (arch/x86/include/asm/cpufeature.h:_static_cpu_has). A piece begins where code branches into the section and belongs
// to that code.
func (t *tables) readAux() {
	for i := range t.unit.File.Sections {
		aux := &t.unit.File.Sections[i]
		if aux.Name != ".altinstr_aux" {
			continue
		}
		owner := map[uint64]Place{}
		var starts []uint64
		for section, fields := range t.unit.Fields {
			if uint32(section) == aux.Index || !t.unit.File.Sections[section].Exec() {
				continue
			}
			for k := range fields {
				s, at := t.unit.File.Place(fields[k].Symbol, fields[k].Means)
				if _, seen := owner[at]; s != aux.Index || seen || at >= aux.Size {
					continue
				}
				owner[at] = Place{uint32(section), fields[k].Offset}
				starts = append(starts, at)
			}
		}
		sort.Slice(starts, func(i, j int) bool { return starts[i] < starts[j] })
		for k, at := range starts {
			end := aux.Size
			if k+1 < len(starts) {
				end = starts[k+1]
			}
			t.unit.Desc.Entries = append(t.unit.Desc.Entries, arch.TableEntry{Table: aux.Index, At: at, Size: end - at,
				Owner: owner[at].Section, OwnerOffset: owner[at].At})
		}
	}
}

// u16 reads a little-endian 16-bit number of a table.
func u16(s *object.Section, at uint64) uint16 {
	if at+2 > uint64(len(s.Data)) {
		return 0
	}
	return binary.LittleEndian.Uint16(s.Data[at:])
}
