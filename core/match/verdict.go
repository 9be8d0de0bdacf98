package match

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
)

// What an architecture plugin says of a candidate is compared with pre and run, as far as that takes no knowledge of instructions:
// outside of sites every byte must be equal, and every field must hold what the plugin's equation or obligation says. Left to the
// plugin are the forms of sites, and functions whose jumps run has in shorter forms; no update replaces those (core/bind).

// maxProbe bounds the bytes that a kprobe writes: a breakpoint, or the jump of an optimised one.
const maxProbe = 8

// verdict is one result that says that run is pre.
type verdict struct {
	unit    *Unit
	fn      *arch.Function
	c       *candidate
	section *objfile.Section
	pre     []byte
	refs    []arch.Ref  // of the function
	sites   []arch.Site // that overlap it
	excused []bool      // by offset: what need not be equal
}

// verify returns an error where the plugin's result cannot be true.
func (m *matcher) verify(unit int, fn *arch.Function, c *candidate) error {
	if c.result.Resized {
		return nil
	}
	if c.result.RunSize != fn.Size {
		return fmt.Errorf("the architecture plugin says that %d bytes of run are the %d of pre, unchanged in length", c.result.RunSize, fn.Size)
	}
	u := m.u.units[unit]
	v := &verdict{unit: u, fn: fn, c: c, section: u.File.Symbols[fn.Symbol].Section, excused: make([]bool, fn.Size)}
	v.pre = v.section.Data[fn.Offset : fn.Offset+fn.Size]
	v.refs = v.within()
	v.sites = v.overlapping()
	for _, step := range []func() error{func() error { return v.excuseSites(m.k.Booted) }, v.keys, v.fields, v.bytes} {
		if err := step(); err != nil {
			return fmt.Errorf("the architecture plugin says that run is pre, but %w", err)
		}
	}
	return nil
}

// within are the references of the function's code.
func (v *verdict) within() []arch.Ref {
	refs := v.unit.Desc.Refs
	from := func(at uint64) int {
		return sort.Search(len(refs), func(i int) bool {
			return refs[i].Section > v.fn.Section || refs[i].Section == v.fn.Section && refs[i].At >= at
		})
	}
	return refs[from(v.fn.Offset):from(v.fn.Offset+v.fn.Size)]
}

// overlapping are the sites that lie in the function, if only in part.
func (v *verdict) overlapping() []arch.Site {
	all := v.unit.Desc.Sites
	i := sort.Search(len(all), func(i int) bool { return all[i].Section >= v.fn.Section })
	var out []arch.Site
	for ; i < len(all) && all[i].Section == v.fn.Section && all[i].At < v.fn.Offset+v.fn.Size; i++ {
		if all[i].At+all[i].Length > v.fn.Offset {
			out = append(out, all[i])
		}
	}
	return out
}

// excuse marks a range of the function's section.
func (v *verdict) excuse(at, length uint64) {
	for i := max(at, v.fn.Offset); i < min(at+length, v.fn.Offset+v.fn.Size); i++ {
		v.excused[i-v.fn.Offset] = true
	}
}

// excuseSites takes the places that were accepted by their form: each is in sites of the object, or where a probe stands.
func (v *verdict) excuseSites(booted bool) error {
	known := make([]bool, v.fn.Size)
	for _, s := range v.sites {
		for i := max(s.At, v.fn.Offset); i < min(s.At+s.Length, v.fn.Offset+v.fn.Size); i++ {
			known[i-v.fn.Offset] = true
		}
	}
	for _, r := range v.c.result.Sites {
		if !booted || r.Offset > v.fn.Size || r.Length > v.fn.Size-r.Offset {
			return fmt.Errorf("it accepts %d bytes at +%#x by their form, which an image does not have, or which lie outside", r.Length, r.Offset)
		}
		at := v.fn.Offset + r.Offset
		if slices.Contains(known[r.Offset:r.Offset+r.Length], false) {
			if r.Length > maxProbe || !v.probe(r.Offset) {
				return fmt.Errorf("at +%#x there is no place of %d bytes that the kernel rewrites", r.Offset, r.Length)
			}
			// What a probe covers in part is not compared.
			for _, s := range v.sites {
				if s.At < at+r.Length && s.At+s.Length > at {
					v.excuse(s.At, s.Length)
				}
			}
		}
		v.excuse(at, r.Length)
	}
	return nil
}

// probe says that the plugin has a probe at an offset checked.
func (v *verdict) probe(offset uint64) bool {
	return slices.ContainsFunc(v.c.result.Obligations, func(o arch.Obligation) bool {
		return o.Kind == arch.ObligationKprobe && o.Address == v.c.code+offset
	})
}

// keyKinds are the obligations that give a site's key.
var keyKinds = map[arch.SiteKind]arch.ObligationKind{arch.SiteJumpLabel: arch.ObligationJumpKey, arch.SiteStaticCall: arch.ObligationStaticCallKey}

// keyFlags are bits of a reference to a key that are no address (include/linux/jump_label.h, include/linux/static_call_types.h).
const keyFlags = 3

// keys wants the key of every site that has one, and no other.
func (v *verdict) keys() error {
	type want struct {
		kind    arch.ObligationKind
		address uint64
		symbol  uint32
		offset  int64
	}
	left := map[want]bool{}
	for _, s := range v.sites {
		kind, ok := keyKinds[s.Kind]
		if !ok || s.At < v.fn.Offset {
			continue
		}
		r := &v.unit.Desc.Refs[s.Key] // Unit.check has seen that it has one
		left[want{kind, v.c.code + s.At - v.fn.Offset, r.Symbol, r.Offset &^ keyFlags}] = true
	}
	all := len(left)
	seen := map[want]bool{}
	for i := range v.c.result.Obligations {
		o := &v.c.result.Obligations[i]
		if o.Kind != arch.ObligationJumpKey && o.Kind != arch.ObligationStaticCallKey {
			continue
		}
		w := want{o.Kind, o.Address, o.Symbol, o.Offset}
		if !left[w] {
			return fmt.Errorf("the object has no site with that key where it has the %s at %#x checked", o.Kind, o.Address)
		}
		seen[w] = true
	}
	if len(seen) != all {
		return fmt.Errorf("it has the keys of %d places checked, the object has %d there", len(seen), all)
	}
	return nil
}

// fields wants every field outside of sites to hold what the plugin says of it, and it to speak of nothing else.
func (v *verdict) fields() error {
	named := map[uint64]bool{}
	for i := range v.refs {
		r := &v.refs[i]
		at := r.At - v.fn.Offset
		if uint64(r.Size) > v.fn.Size-at {
			return fmt.Errorf("the field at +%#x reaches beyond the function", at)
		}
		if slices.Contains(v.excused[at:at+uint64(r.Size)], true) {
			v.excuse(r.At, uint64(r.Size))
			continue
		}
		if err := v.field(r, at); err != nil {
			return err
		}
		named[at] = true
	}
	for _, r := range v.refs {
		v.excuse(r.At, uint64(r.Size))
	}
	nothing := func(at uint64) bool { return !named[at] && (at >= v.fn.Size || !v.excused[at]) }
	for _, e := range v.c.result.Equations {
		if nothing(e.At) {
			return fmt.Errorf("it has an equation of +%#x, where the object has no field", e.At)
		}
	}
	for i := range v.c.result.Obligations {
		if o := &v.c.result.Obligations[i]; (o.Kind == arch.ObligationBytes || o.Kind == arch.ObligationString) && nothing(o.At) {
			return fmt.Errorf("it has a constant checked for +%#x, where the object has no field", o.At)
		}
	}
	return nil
}

// field wants what is said of one field to be what run has there.
func (v *verdict) field(r *arch.Ref, at uint64) error {
	y := v.unit.File.Symbols[r.Symbol]
	said := r.Symbol == 0 // a constant
	if said && !v.holds(r, at, 0) {
		return fmt.Errorf("the constant at +%#x is another", at)
	}
	for _, e := range v.c.result.Equations {
		if e.At != at {
			continue
		}
		if e.Symbol != r.Symbol || merged(y.Section) || !v.holds(r, at, e.Value) {
			return fmt.Errorf("the field at +%#x does not give the value %#x of symbol %d", at, e.Value, e.Symbol)
		}
		said = true
	}
	for i := range v.c.result.Obligations {
		o := &v.c.result.Obligations[i]
		if o.At != at || o.Kind != arch.ObligationBytes && o.Kind != arch.ObligationString {
			continue
		}
		if !merged(y.Section) || !v.holds(r, at, o.Address-uint64(r.Offset)) || !bytes.Equal(o.Bytes, entry(y.Section, y.Value+uint64(r.Offset))) {
			return fmt.Errorf("the field at +%#x does not lead to a constant %q at %#x, or pre has another one", at, o.Bytes, o.Address)
		}
		said = true
	}
	if !said {
		return fmt.Errorf("it says nothing of the field at +%#x", at)
	}
	return nil
}

// holds says that the field in run is what a relocation gives for the symbol's value s (System V ABI, "Relocation").
func (v *verdict) holds(r *arch.Ref, at, s uint64) bool {
	s += uint64(r.Addend)
	if r.PCRel {
		s -= v.c.code + at
	}
	want := binary.LittleEndian.AppendUint64(nil, s)
	if v.unit.File.Header.Data == elf.ELFDATA2MSB {
		want = binary.BigEndian.AppendUint64(nil, s)[8-r.Size:]
	}
	return bytes.Equal(want[:r.Size], v.c.run[at:at+uint64(r.Size)])
}

// bytes wants all else to be equal.
func (v *verdict) bytes() error {
	for i, b := range v.pre {
		if !v.excused[i] && b != v.c.run[i] {
			return fmt.Errorf("at +%#x pre has %02x and run has %02x", i, b, v.c.run[i])
		}
	}
	return nil
}

// merged says that the linker may merge the section's entries with equal ones.
func merged(s *objfile.Section) bool {
	return s != nil && s.Flags&elf.SHF_MERGE != 0 && s.EntSize != 0 && len(s.Relocs) == 0
}

// entry is what a merged section has at an offset, up to the end of the string or constant; nil where that is not in it.
func entry(s *objfile.Section, at uint64) []byte {
	n := uint64(len(s.Data))
	if at >= n {
		return nil
	}
	end := at - at%s.EntSize + s.EntSize
	if s.Flags&elf.SHF_STRINGS == 0 {
		return s.Data[at:min(end, n)]
	}
	for ; end <= n; end += s.EntSize {
		if len(bytes.Trim(s.Data[end-s.EntSize:end], "\x00")) == 0 {
			return s.Data[at:end]
		}
	}
	return nil
}
