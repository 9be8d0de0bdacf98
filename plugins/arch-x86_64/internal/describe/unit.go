// Package describe finds out what is in one x86-64 relocatable kernel object: functions, references, branches that
// the assembler resolved, the places the kernel rewrites, and whose each table entry is. Its Unit answers the Describe
// call and is what the match, fixup and redirect packages work on.
package describe

import (
	"fmt"
	"sort"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/decode"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/object"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Unit is a described object. It is immutable once made and safe for use by several goroutines.
type Unit struct {
	File   *object.File
	Target arch.Target
	// Desc is the description as it crosses to the host.
	Desc arch.ObjectDescription
	// Fields are the relocations of each section, normalised, in the order of object.Section.Relocs. The outer index is
	// the section number.
	Fields [][]Field
	// Sites holds, for each of Desc.Sites, what only this plugin needs.
	Sites []SiteDetail
	// UnknownRuntime names sections of the runtime constants' family that this plugin has no rule for.
	UnknownRuntime []string

	bySymbol map[uint32]int
	// spans are the functions of each section with the largest end so far, for lookup by place.
	spans map[uint32][]span
	// gaps are the ranges of executable sections that hold no instructions we know, by section.
	gaps map[uint32][]arch.Range
	// sitesOf is the range of indices in Sites of each section.
	sitesOf map[uint32][2]int
}

// span is a function in the lookup list of its section.
type span struct {
	function int
	start    uint64
	end      uint64
	maxEnd   uint64
}

// Field is one relocation of a section, with what the instruction around it says.
type Field struct {
	object.Reloc
	Size  int
	PCRel bool
	Kind  arch.RefKind
	// Indexed says that registers are added.
	Indexed bool
	// Means is the distance from the symbol to the place meant (arch.Ref.Offset).
	Means int64
	// Inst and InstLen give the instruction that the field is in; InstLen 0: none that is known.
	Inst    uint64
	InstLen int
}

// Place is a place in the object; Section 0 is none.
type Place struct {
	Section uint32
	At      uint64
}

// SiteDetail is what matching needs to know of a site beyond arch.Site.
type SiteDetail struct {
	// Replacement and ReplacementLen are an alternative's replacement.
	Replacement    Place
	ReplacementLen uint64
	// DirectCall says that the replacement is the template of a call whose target is found at boot (ALT_FLAG_DIRECT_CALL).
	DirectCall bool
	// Target is where a jump label jumps.
	Target Place
}

// New describes an object. Errors say which section or fact is wrong.
func New(f *object.File, target arch.Target) (*Unit, error) {
	u := &Unit{File: f, Target: target, Fields: make([][]Field, len(f.Sections)), bySymbol: map[uint32]int{},
		spans: map[uint32][]span{}, gaps: map[uint32][]arch.Range{}, sitesOf: map[uint32][2]int{}}
	if err := u.findFunctions(); err != nil {
		return nil, err
	}
	for i := range f.Sections {
		s := &f.Sections[i]
		if !s.Alloc() {
			continue
		}
		u.dataFields(s)
		if s.Exec() && len(s.Data) > 0 {
			u.sweep(s)
		}
	}
	u.listRefs()
	t := &tables{unit: u}
	if err := t.read(); err != nil {
		return nil, err
	}
	u.implicitSites()
	u.sortSites()
	u.entryPoints()
	sort.SliceStable(u.Desc.Entries, func(i, j int) bool {
		a, b := &u.Desc.Entries[i], &u.Desc.Entries[j]
		return a.Table < b.Table || a.Table == b.Table && a.At < b.At
	})
	return u, nil
}

// Function returns the function with a symbol index, nil where the symbol is none.
func (u *Unit) Function(symbol uint32) *arch.Function {
	if i, ok := u.bySymbol[symbol]; ok {
		return &u.Desc.Functions[i]
	}
	return nil
}

// FunctionAt returns the innermost function that holds a place, nil where none does.
func (u *Unit) FunctionAt(p Place) *arch.Function {
	spans := u.spans[p.Section]
	i := sort.Search(len(spans), func(i int) bool { return spans[i].start > p.At })
	for i--; i >= 0 && spans[i].maxEnd > p.At; i-- {
		if p.At < spans[i].end {
			return &u.Desc.Functions[spans[i].function]
		}
	}
	return nil
}

// FieldsIn returns the fields of a section with offsets in [from, to).
func (u *Unit) FieldsIn(section uint32, from, to uint64) []Field {
	f := u.Fields[section]
	i := sort.Search(len(f), func(i int) bool { return f[i].Offset >= from })
	j := sort.Search(len(f), func(i int) bool { return f[i].Offset >= to })
	return f[i:max(i, j)]
}

// SitesIn returns the range of indices in Sites of the sites of a section that begin in [from, to).
func (u *Unit) SitesIn(section uint32, from, to uint64) (first, end int) {
	r := u.sitesOf[section]
	all := u.Desc.Sites
	i := r[0] + sort.Search(r[1]-r[0], func(i int) bool { return all[r[0]+i].At >= from })
	j := r[0] + sort.Search(r[1]-r[0], func(i int) bool { return all[r[0]+i].At >= to })
	return i, max(i, j)
}

// ref returns the index in Desc.Refs of the reference at a place, -1 where there is none.
func (u *Unit) ref(section uint32, at uint64) int32 {
	refs := u.Desc.Refs
	i := sort.Search(len(refs), func(i int) bool {
		return refs[i].Section > section || refs[i].Section == section && refs[i].At >= at
	})
	if i < len(refs) && refs[i].Section == section && refs[i].At == at {
		return int32(i)
	}
	return -1
}

// at decodes the instruction at a place.
func (u *Unit) at(p Place) (decode.Inst, error) {
	s := &u.File.Sections[p.Section]
	if p.At >= uint64(len(s.Data)) {
		return decode.Inst{}, fmt.Errorf("%s+%#x lies outside the section", s.Name, p.At)
	}
	return decode.Decode(s.Data[p.At:])
}

// fieldAt returns the field that begins at a place, nil where none does.
func (u *Unit) fieldAt(section uint32, at uint64) *Field {
	f := u.FieldsIn(section, at, at+1)
	if len(f) == 0 {
		return nil
	}
	return &f[0]
}

// target is the place in the object that the field at a place means; Section 0 where there is no field or its symbol is
// not defined in the object.
func (u *Unit) target(section uint32, at uint64) Place {
	f := u.fieldAt(section, at)
	if f == nil {
		return Place{}
	}
	s, o := u.File.Place(f.Symbol, f.Means)
	return Place{s, o}
}
