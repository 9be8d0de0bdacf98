package part

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
)

// TestSums: no byte of the description that says something can change without a sum that changes: only what a loader fills in, what the
// kernel module compares with a constant, and the sums themselves.
func TestSums(t *testing.T) {
	o := build(t, input(t, preSource, postSource))
	s := o.Description.Section(descriptionSection)
	var self *objfile.Symbol
	loaded := map[uint64]bool{}
	for _, r := range s.Relocs {
		if r.Symbol.Section == s {
			self = r.Symbol
		}
		for i := range uint64(8) {
			loaded[r.Offset+i] = true
		}
	}
	sums := func(data []byte) (part, function uint64) {
		d := &describer{self: self, section: &objfile.Section{Data: data, Relocs: s.Relocs}}
		d.sums()
		return d.get64(partSumAt), d.get64(partSize + funcSumAt)
	}
	part, function := sums(bytes.Clone(s.Data))
	le := binary.LittleEndian
	if part != le.Uint64(s.Data[partSumAt:]) || function != le.Uint64(s.Data[partSize+funcSumAt:]) || part == function {
		t.Fatalf("the sums are %#x and %#x, the description has % x", part, function, s.Data[partSumAt:partSumAt+8])
	}
	free, tried := 0, 0
	for at := range uint64(len(s.Data)) {
		size := at >= partSize+funcSizeAt && at < partSize+funcSizeAt+8 || at >= partSize+funcCountAt && at < partSize+funcCountAt+4
		count := at >= partFuncCountAt && at < partFuncCountAt+8 || at >= partCopyCountAt && at < partCopyCountAt+8 || at >= hookCount && at < hookCount+8 ||
			at >= partWriteCountAt && at < partWriteCountAt+8
		if loaded[at] || size || count { // of another size there is no sum at all
			continue
		}
		tried++
		data := bytes.Clone(s.Data)
		data[at] ^= 0x10
		if got, _ := sums(data); got != part {
			continue
		}
		free++
		compared := at < partFlagsAt || at >= 88 && at < partSize || at >= partSize+funcSumAt && at < partSize+funcSize
		if !compared && s.Data[at] != 0 { // zeros are alignment
			t.Errorf("byte %#x (%#02x) is in no sum", at, s.Data[at])
		}
	}
	if tried < 200 || free > 120 {
		t.Errorf("%d of %d bytes are in no sum", free, tried)
	}
}

// TestCallees: whom a call names that call depth tracking may lead elsewhere is checked for all that; of other places that the kernel
// rewrites nothing is.
func TestCallees(t *testing.T) {
	for kind, want := range map[arch.SiteKind]int{arch.SiteCall: 1, arch.SiteStaticCall: 0} {
		in := input(t, preSource, postSource)
		pre := in.Units[0].Pre
		y := pre.File.Symbol("f")
		calls := 0
		for i := range pre.Desc.Refs {
			r := &pre.Desc.Refs[i]
			if int(r.Section) == y.Section.Index && r.Kind == arch.RefBranch && y.Section.Data[r.At-1] == 0xe8 {
				pre.Desc.Sites = append(pre.Desc.Sites, arch.Site{Section: r.Section, At: r.At - 1, Length: 5, Kind: kind, Key: -1})
				calls++
			}
		}
		if calls == 0 {
			t.Fatal("f calls nobody")
		}
		s := build(t, in).Description.Section(descriptionSection)
		relocs, addend := pointer(t, s, partSize+funcRelocsAt)
		if relocs.Section != s {
			t.Fatal("the relocations are not in the description")
		}
		marked := 0
		for i := range uint64(binary.LittleEndian.Uint32(s.Data[partSize+funcCountAt:])) {
			if binary.LittleEndian.Uint32(s.Data[uint64(addend)+i*relocSize+relocTypeAt:])&relocCall != 0 {
				marked++
			}
		}
		if marked != want*calls {
			t.Errorf("%s: %d of %d calls are checked for whom they call", kind, marked, calls)
		}
	}
}
