// Package matchtest makes small units, memory and an architecture for tests of the stages that work on matching: nothing in
// it knows an instruction set. A function's code is an eight-byte tag and one eight-byte field for each reference. Only tests
// call it.
package matchtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Ref is a field of a function's code.
type Ref struct {
	// Symbol is what it refers to; a name that the unit does not define is an undefined symbol.
	Symbol string
	// Addend is added to the symbol's value.
	Addend int64
	// Obligation, where set, is what the field gives instead of an equation: "bytes" for Bytes at the address that the field
	// holds, "jump_key" for the key of the site, "symbol" for one of the names in Symbol and so on.
	Obligation arch.ObligationKind
	Bytes      []byte
}

// Unit builds a pre object.
type Unit struct {
	*match.Unit
	t    testing.TB
	refs map[uint32][]Ref
}

// World is what a test's kernel has in memory and the units that are matched with it. It implements arch.Arch.
type World struct {
	arch.Mock
	Memory  Memory
	Symbols []kernel.Symbol
	Modules map[string]kernel.Module

	// Coming is as in kernel.Kernel.
	Coming string

	t     testing.TB
	units []*Unit
	// Asked counts the candidates that were judged.
	Asked int
}

// Memory is memory in pieces, by address.
type Memory map[uint64][]byte

// ReadMemory implements kernel.Memory.
func (m Memory) ReadMemory(p []byte, address uint64) error {
	for at, b := range m {
		if address >= at && address-at <= uint64(len(b)) && uint64(len(p)) <= uint64(len(b))-(address-at) {
			copy(p, b[address-at:])
			return nil
		}
	}
	return errors.New("nothing is there")
}

// New returns an empty world.
func New(t testing.TB) *World {
	return &World{t: t, Memory: Memory{}, Modules: map[string]kernel.Module{}}
}

// Symbol adds an entry to the kernel's symbol table.
func (w *World) Symbol(module, name string, address uint64) {
	w.Symbols = append(w.Symbols, kernel.Symbol{Module: module, Name: name, Address: address, Type: 't'})
}

// Kernel returns the kernel.
func (w *World) Kernel(booted bool) *kernel.Kernel {
	k := kernel.New(kernel.Identity{Release: "test", Machine: 62}, w.Symbols, w.Modules, w.Memory, booted)
	k.Coming = w.Coming
	return k
}

// Units returns the units in the order that they were made.
func (w *World) Units() []*match.Unit {
	out := make([]*match.Unit, len(w.units))
	for i, u := range w.units {
		out[i] = u.Unit
	}
	return out
}

// Unit adds an empty unit of a module, or of the kernel proper.
func (w *World) Unit(name, module string) *Unit {
	u := &Unit{t: w.t, refs: map[uint32][]Ref{}, Unit: &match.Unit{Name: name, Module: module, File: objfile.New(elf.EM_X86_64),
		Object: plugin.File{Path: "/" + name}, Desc: &arch.ObjectDescription{}}}
	w.units = append(w.units, u)
	return u
}

// Tag is the beginning of a function's code.
func Tag(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:8]
}

// Section returns the section of that name, which it makes where there is none.
func (u *Unit) Section(name string, flags elf.SectionFlag) *objfile.Section {
	if s := u.File.Section(name); s != nil {
		return s
	}
	s := &objfile.Section{Name: name, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | flags, Align: 8, Index: len(u.File.Sections)}
	u.File.AddSection(s)
	return s
}

func (u *Unit) add(y *objfile.Symbol) uint32 {
	y.Index = len(u.File.Symbols)
	u.File.AddSymbol(y)
	return uint32(y.Index)
}

// Data adds a datum of eight bytes at the end of a section and returns its symbol's number.
func (u *Unit) Data(section, name string, bind elf.SymBind) uint32 {
	s := u.Section(section, elf.SHF_WRITE)
	at := s.Size
	s.Data = append(s.Data, make([]byte, 8)...)
	s.Size += 8
	return u.add(&objfile.Symbol{Name: name, Section: s, Value: at, Size: 8, Type: elf.STT_OBJECT, Bind: bind})
}

// Words adds a datum of words at the end of a section and returns its symbol's number; a word with a symbol is an address.
func (u *Unit) Words(section, name string, bind elf.SymBind, words ...Ref) uint32 {
	s := u.Section(section, elf.SHF_WRITE)
	at := s.Size
	s.Data = append(s.Data, make([]byte, 8*len(words))...)
	s.Size += 8 * uint64(len(words))
	n := u.add(&objfile.Symbol{Name: name, Section: s, Value: at, Size: 8 * uint64(len(words)), Type: elf.STT_OBJECT, Bind: bind})
	for i, r := range words {
		field := at + 8*uint64(i)
		if r.Symbol == "" {
			binary.LittleEndian.PutUint64(s.Data[field:], uint64(r.Addend))
			continue
		}
		if len(r.Bytes) > 0 {
			u.merge(&r)
		}
		u.ref(s, field, u.Number(r.Symbol), r.Addend)
		u.Desc.Refs[len(u.Desc.Refs)-1].Kind = arch.RefAddress
	}
	u.sort()
	return n
}

// Undefined returns the number of the undefined symbol of a name.
func (u *Unit) Undefined(name string) uint32 {
	return u.add(&objfile.Symbol{Name: name, Bind: elf.STB_GLOBAL, Special: elf.SHN_UNDEF})
}

// Number returns the number of the symbol with that name, which it makes undefined where there is none.
func (u *Unit) Number(name string) uint32 {
	if y := u.File.Symbol(name); y != nil {
		return uint32(y.Index)
	}
	return u.Undefined(name)
}

// word is the relocation type of all fields: a whole address.
const word = uint32(elf.R_X86_64_64)

// Func adds a function at the end of a section. Its code begins with the tag of body and has a field for each reference.
func (u *Unit) Func(section, name string, bind elf.SymBind, body string, refs ...Ref) uint32 {
	s := u.Section(section, elf.SHF_EXECINSTR)
	at := s.Size
	s.Data = append(append(s.Data, Tag(body)...), make([]byte, 8*len(refs))...)
	s.Size = uint64(len(s.Data))
	n := u.add(&objfile.Symbol{Name: name, Section: s, Value: at, Size: s.Size - at, Type: elf.STT_FUNC, Bind: bind})
	u.refs[n] = refs
	u.Desc.Functions = append(u.Desc.Functions, arch.Function{Symbol: n, Name: name, Section: uint32(s.Index), Offset: at, Size: s.Size - at, Parent: -1})
	for i, r := range refs {
		field := at + 8 + 8*uint64(i)
		switch r.Obligation {
		case "":
		case arch.ObligationBytes, arch.ObligationString:
			u.merge(&r)
		case arch.ObligationJumpKey:
			u.Site("__jump_table", arch.SiteJumpLabel, s, field, &r)
		case arch.ObligationStaticCallKey:
			u.Site(".static_call_sites", arch.SiteStaticCall, s, field, &r)
		default:
			u.Site("sites", "made up", s, field, nil)
		}
		u.ref(s, field, u.Number(r.Symbol), r.Addend)
	}
	u.sort()
	return n
}

// ref adds a relocation and its reference.
func (u *Unit) ref(s *objfile.Section, at uint64, symbol uint32, addend int64) {
	s.Relocs = append(s.Relocs, &objfile.Reloc{Offset: at, Type: word, Symbol: u.File.Symbols[symbol], Addend: addend})
	u.Desc.Refs = append(u.Desc.Refs, arch.Ref{Section: uint32(s.Index), At: at, Size: 8, Type: word, Symbol: symbol, Addend: addend, Offset: addend})
}

// merge gives the unit a section of constants that linkers merge, with those of a reference.
func (u *Unit) merge(r *Ref) {
	s := u.Section(r.Symbol, elf.SHF_MERGE)
	s.EntSize = uint64(len(r.Bytes))
	if r.Obligation == arch.ObligationString {
		s.Flags, s.EntSize = s.Flags|elf.SHF_STRINGS, 1
	}
	s.Data = append(s.Data, make([]byte, max(0, int(r.Addend)+len(r.Bytes)-len(s.Data)))...)
	copy(s.Data[r.Addend:], r.Bytes)
	s.Size = uint64(len(s.Data))
	if u.File.Symbol(r.Symbol) == nil {
		u.add(&objfile.Symbol{Name: r.Symbol, Section: s, Type: elf.STT_SECTION})
	}
}

// Site adds a site of eight bytes and the entry of a table that names it; key, where not nil, is what the entry names besides.
func (u *Unit) Site(table string, kind arch.SiteKind, s *objfile.Section, at uint64, key *Ref) {
	t := u.Section(table, 0)
	entry := t.Size
	t.Data = append(t.Data, make([]byte, 16)...)
	t.Size = uint64(len(t.Data))
	u.ref(t, entry, u.add(&objfile.Symbol{Section: s, Type: elf.STT_SECTION}), int64(at))
	site := arch.Site{Section: uint32(s.Index), At: at, Length: 8, Kind: kind, Table: uint32(t.Index), Entry: entry, Key: -1}
	if kind == arch.SiteRuntimeConst {
		site.Detail = table
	}
	if key != nil {
		site.Key = int32(len(u.Desc.Refs))
		u.ref(t, entry+8, u.Number(key.Symbol), key.Addend)
	}
	u.Desc.Entries = append(u.Desc.Entries, arch.TableEntry{Table: uint32(t.Index), At: entry, Size: 16, Owner: uint32(s.Index), OwnerOffset: at})
	u.Desc.Sites = append(u.Desc.Sites, site)
	u.sort()
}

// sort puts the description in the order that it must have.
func (u *Unit) sort() {
	d := u.Desc
	key := map[int32]arch.Ref{}
	for _, x := range d.Sites {
		if x.Key >= 0 {
			key[x.Key] = d.Refs[x.Key]
		}
	}
	slices.SortStableFunc(d.Refs, func(a, b arch.Ref) int {
		return cmp.Or(cmp.Compare(a.Section, b.Section), cmp.Compare(a.At, b.At))
	})
	slices.SortStableFunc(d.Entries, func(a, b arch.TableEntry) int { return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.At, b.At)) })
	slices.SortStableFunc(d.Sites, func(a, b arch.Site) int { return cmp.Or(cmp.Compare(a.Section, b.Section), cmp.Compare(a.At, b.At)) })
	for i := range d.Sites {
		if x := &d.Sites[i]; x.Key >= 0 {
			x.Key = int32(slices.Index(d.Refs, key[x.Key]))
		}
	}
}

// Code is what run has for a function: the tag of body and the fields' values.
func Code(body string, fields ...uint64) []byte {
	b := Tag(body)
	for _, f := range fields {
		b = binary.LittleEndian.AppendUint64(b, f)
	}
	return b
}

// JumpEntry is an entry at an address of the kernel's jump table, for a site and its key (include/linux/jump_label.h).
func JumpEntry(at, site, key uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(site-at))
	return binary.LittleEndian.AppendUint64(append(b, 0, 0, 0, 0), key-(at+8))
}

// Match implements arch.Arch.
func (w *World) Match(_ context.Context, req *arch.MatchRequest) (*arch.MatchResponse, error) {
	run, err := req.Run.Read()
	if err != nil {
		return nil, err
	}
	var u *Unit
	for _, have := range w.units {
		if have.Object.Path == req.Object.Path {
			u = have
		}
	}
	if u == nil {
		return nil, fmt.Errorf("there is no object %s", req.Object.Path)
	}
	resp := &arch.MatchResponse{}
	for _, c := range req.Candidates {
		w.Asked++
		y := u.File.Symbols[c.Function]
		resp.Results = append(resp.Results, compare(u, c, y.Section.Data[y.Value:y.Value+y.Size], run[c.RunOffset:c.RunOffset+c.RunLength]))
	}
	return resp, nil
}

func compare(u *Unit, c arch.Candidate, pre, run []byte) arch.MatchResult {
	if len(run) < len(pre) || !bytes.Equal(pre[:8], run[:8]) {
		return arch.MatchResult{Mismatch: &arch.Mismatch{Pre: fmt.Sprintf("%x", pre[:8]), Run: fmt.Sprintf("%x", run[:min(8, len(run))]), Reason: "the tags differ"}}
	}
	r := arch.MatchResult{Matched: true, RunSize: uint64(len(pre))}
	for i, ref := range u.refs[c.Function] {
		at := 8 + 8*uint64(i)
		value := binary.LittleEndian.Uint64(run[at:])
		o := arch.Obligation{Kind: ref.Obligation, At: at, Address: value, Bytes: ref.Bytes}
		switch ref.Obligation {
		case "":
			r.Equations = append(r.Equations, arch.Equation{Symbol: u.Number(ref.Symbol), Value: value - uint64(ref.Addend), At: at})
			continue
		case arch.ObligationJumpKey, arch.ObligationStaticCallKey:
			o.Address, o.Symbol, o.Offset = c.Address+at, u.Number(ref.Symbol), ref.Addend&^3
		case arch.ObligationSymbol:
			o.Names = []string{ref.Symbol}
		case arch.ObligationCode:
			o.Forms = [][]byte{ref.Bytes}
		}
		if ref.Obligation != arch.ObligationBytes && ref.Obligation != arch.ObligationString {
			r.Sites = append(r.Sites, arch.Range{Offset: at, Length: 8})
		}
		r.Obligations = append(r.Obligations, o)
	}
	return r
}
