package describe

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/forms"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/object"
	"github.com/ksplice/ksplice/sdk/arch"
)

// The kinds of site beside those that sdk/arch names.
const (
	// SiteAlternative is code that the CPU's features replace (.altinstructions).
	SiteAlternative arch.SiteKind = "alternative"
	// SiteParavirt is a paravirtual call of 6.1 (.parainstructions).
	SiteParavirt arch.SiteKind = "paravirt"
	// SiteRetpoline is a call or jump to a thunk for an indirect branch.
	SiteRetpoline arch.SiteKind = "retpoline"
	// SiteReturn is a jump to the return thunk.
	SiteReturn arch.SiteKind = "return"
	// SiteEndbr is an endbr64 that may be sealed.
	SiteEndbr arch.SiteKind = "endbr"
	// SiteSMPLock is a lock prefix.
	SiteSMPLock arch.SiteKind = "smp_lock"
	// SiteStaticTramp is the trampoline of a static call.
	SiteStaticTramp arch.SiteKind = "static_call_trampoline"
)

// addSite adds a site with its details.
func (u *Unit) addSite(s arch.Site, d SiteDetail) {
	u.Desc.Sites = append(u.Desc.Sites, s)
	u.Sites = append(u.Sites, d)
}

// sortSites puts sites and their details in order of place, entries at one place in the order of their table, and
// indexes them by section.
func (u *Unit) sortSites() {
	order := make([]int, len(u.Sites))
	for i := range order {
		order[i] = i
	}
	all := u.Desc.Sites
	sort.SliceStable(order, func(i, j int) bool {
		a, b := &all[order[i]], &all[order[j]]
		return a.Section < b.Section || a.Section == b.Section && a.At < b.At
	})
	sites, details := make([]arch.Site, len(order)), make([]SiteDetail, len(order))
	for i, k := range order {
		sites[i], details[i] = all[k], u.Sites[k]
	}
	u.Desc.Sites, u.Sites = sites, details
	for i := range sites {
		r, ok := u.sitesOf[sites[i].Section]
		if !ok {
			r[0] = i
		}
		r[1] = i + 1
		u.sitesOf[sites[i].Section] = r
	}
}

// add makes the site of a table entry and sets the entry's length to it.
func (t *tables) add(e *arch.TableEntry, kind arch.SiteKind, length uint64, live bool, key int32, detail string, d SiteDetail) error {
	code := t.unit.File.Sections[e.Owner].Data
	if e.OwnerOffset > uint64(len(code)) || length > uint64(len(code))-e.OwnerOffset {
		return fmt.Errorf("%s site of %d bytes at %s+%#x lies outside it", kind, length, t.unit.File.Sections[e.Owner].Name, e.OwnerOffset)
	}
	e.OwnerLength = length
	t.unit.addSite(arch.Site{Section: e.Owner, At: e.OwnerOffset, Length: length, Kind: kind, Live: live, Table: e.Table, Entry: e.At,
		Key: key, Detail: detail}, d)
	return nil
}

// simpleSite is for tables whose entries are places only.
func simpleSite(kind arch.SiteKind, length uint64, live bool) func(*tables, *object.Section, *arch.TableEntry) error {
	return func(t *tables, s *object.Section, e *arch.TableEntry) error {
		detail := ""
		if kind == arch.SiteRuntimeConst {
			detail = s.Name
		}
		return t.add(e, kind, length, live, -1, detail, SiteDetail{})
	}
}

// runtimePointerSite is for runtime_ptr_ tables, whose entries are places of immediates. The site is the whole instruction: an
// update that stands on another one meets the load of a variable there (the fixup package).
func runtimePointerSite(t *tables, s *object.Section, e *arch.TableEntry) error {
	const immediate = 8
	code := t.unit.File.Sections[e.Owner].Data
	if e.OwnerOffset >= forms.MovabsImm && e.OwnerOffset <= uint64(len(code)) && immediate <= uint64(len(code))-e.OwnerOffset &&
		forms.Movabs(code[e.OwnerOffset-forms.MovabsImm:e.OwnerOffset+immediate]) {
		e.OwnerLength = immediate
		t.unit.addSite(arch.Site{Section: e.Owner, At: e.OwnerOffset - forms.MovabsImm, Length: forms.MovabsLen, Kind: arch.SiteRuntimeConst,
			Table: e.Table, Entry: e.At, Key: -1, Detail: s.Name}, SiteDetail{})
		return nil
	}
	return t.add(e, arch.SiteRuntimeConst, immediate, false, -1, s.Name, SiteDetail{})
}

// instructionSite is for tables whose entries are the places of one instruction each.
func instructionSite(kind arch.SiteKind) func(*tables, *object.Section, *arch.TableEntry) error {
	return func(t *tables, _ *object.Section, e *arch.TableEntry) error {
		in, err := t.unit.at(Place{e.Owner, e.OwnerOffset})
		if err != nil {
			return err
		}
		return t.add(e, kind, uint64(in.Len), false, -1, "", SiteDetail{})
	}
}

// jumpSite reads a struct jump_entry (include/linux/jump_label.h): the site is a jump or a nop of 2 or 5 bytes.
func jumpSite(t *tables, s *object.Section, e *arch.TableEntry) error {
	target, err := t.fact(s.Name, factJumpTarget)
	if err != nil {
		return err
	}
	key, err := t.fact(s.Name, factJumpKey)
	if err != nil {
		return err
	}
	in, err := t.unit.at(Place{e.Owner, e.OwnerOffset})
	if err != nil {
		return err
	}
	if in.Len != 2 && in.Len != 5 {
		return fmt.Errorf("the instruction there is %d bytes long, expected 2 or 5", in.Len)
	}
	return t.add(e, arch.SiteJumpLabel, uint64(in.Len), true, t.unit.ref(s.Index, e.At+key), "",
		SiteDetail{Target: t.unit.target(s.Index, e.At+target)})
}

// staticCallSite reads a struct static_call_site (include/linux/static_call_types.h).
func staticCallSite(t *tables, s *object.Section, e *arch.TableEntry) error {
	key, err := t.fact(s.Name, factStaticCallKey)
	if err != nil {
		return err
	}
	in, err := t.unit.at(Place{e.Owner, e.OwnerOffset})
	if err != nil {
		return err
	}
	if in.Len != 5 && in.Len != 6 {
		return fmt.Errorf("the instruction there is %d bytes long, expected 5 or 6", in.Len)
	}
	return t.add(e, arch.SiteStaticCall, uint64(in.Len), true, t.unit.ref(s.Index, e.At+key), "", SiteDetail{})
}

// Flags of struct alt_instr in 6.12 (arch/x86/include/asm/alternative.h); 6.1 has ALTINSTR_FLAG_INV in the feature.
const (
	altReplOffset    = 4
	altFeatureOffset = 8
	altFlagsOffset   = 10
	altInvert        = 1 << 15
	altFlagNot       = 1
	altFlagDirect    = 2
)

// alternativeSite reads a struct alt_instr: s32 instr_offset, s32 repl_offset, u16 feature, in later versions u16 flags, then
// the lengths. The replacement belongs to the code, too.
func alternativeSite(t *tables, s *object.Section, e *arch.TableEntry) error {
	lenAt, err := t.fact(s.Name, factAltLen)
	if err != nil {
		return err
	}
	replLenAt, err := t.fact(s.Name, factAltReplLen)
	if err != nil {
		return err
	}
	if lenAt < altFlagsOffset || replLenAt < altFlagsOffset || lenAt >= e.Size || replLenAt >= e.Size {
		return fmt.Errorf("the facts %s=%d and %s=%d do not fit an entry of %d bytes", factAltLen, lenAt, factAltReplLen, replLenAt, e.Size)
	}
	d := SiteDetail{Replacement: t.unit.target(s.Index, e.At+altReplOffset), ReplacementLen: uint64(s.Data[e.At+replLenAt])}
	feature, not := u16(s, e.At+altFeatureOffset), false
	if lenAt >= altFlagsOffset+2 {
		flags := u16(s, e.At+altFlagsOffset)
		not, d.DirectCall = flags&altFlagNot != 0, flags&altFlagDirect != 0
	} else {
		not = feature&altInvert != 0
		feature &^= altInvert
	}
	detail := fmt.Sprintf("altinstr feature %#x", feature)
	if not {
		detail = fmt.Sprintf("altinstr feature not %#x", feature)
	}
	if d.ReplacementLen == 0 {
		// Nothing is there: what the entry refers to is whatever follows.
		e.Ignore = append(slices.Clip(e.Ignore), arch.Range{Offset: altReplOffset, Length: 4})
	}
	if p := d.Replacement; d.ReplacementLen != 0 {
		if n := uint64(len(t.unit.File.Sections[p.Section].Data)); p.Section == 0 || p.At > n || d.ReplacementLen > n-p.At {
			return fmt.Errorf("its replacement of %d bytes is not in the object", d.ReplacementLen)
		}
		t.unit.Desc.Entries = append(t.unit.Desc.Entries, arch.TableEntry{Table: p.Section, At: p.At, Size: d.ReplacementLen,
			Owner: e.Owner, OwnerOffset: e.OwnerOffset, OwnerLength: uint64(s.Data[e.At+lenAt])})
	}
	return t.add(e, SiteAlternative, uint64(s.Data[e.At+lenAt]), false, -1, detail, d)
}

// paravirtSite reads a struct paravirt_patch_site of 6.1: address, type, len.
func paravirtSite(t *tables, s *object.Section, e *arch.TableEntry) error {
	const lenAt = 9
	length := uint64(s.Data[e.At+lenAt])
	if length < 5 || length > 16 {
		return fmt.Errorf("its length is %d, expected that of an indirect call", length)
	}
	return t.add(e, SiteParavirt, length, false, -1, fmt.Sprintf("pv_ops %d", s.Data[e.At+8]), SiteDetail{})
}

// RuntimeSymbol is the symbol of a runtime constant by the name of the table that lists its sites, and whether it is a shift.
func RuntimeSymbol(table string) (symbol string, shift bool) {
	if s, ok := strings.CutPrefix(table, RuntimeShiftPrefix); ok {
		return s, true
	}
	return strings.TrimPrefix(table, RuntimePtrPrefix), false
}
