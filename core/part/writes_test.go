package part

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
)

const (
	writesPre = `
extern int ext(int), other(int);
struct ops { const char *name; int (*peek)(int); int number; };
__attribute__((noinline)) static int old(int x) { return ext(x); }
static struct ops ops = { "plug", old, 1 }; int f(int x) { return ops.peek(x) + ops.number; } void set(int n) { ops.number = n; }`
	writesPost = `
extern int ext(int), other(int);
struct ops { const char *name; int (*peek)(int); int number; };
__attribute__((noinline)) static int old(int x) { return ext(x); }
__attribute__((noinline)) static int fresh(int x) { return other(old(x)); }
static struct ops ops = { "flag", fresh, 2 }; int f(int x) { return ops.peek(x) + ops.number; } void set(int n) { ops.number = n; }`
)

// writesInput is the input of a part that replaces nothing and sets fields of a datum.
func writesInput(t testing.TB) *Input {
	t.Helper()
	rewrite := func(r *diff.Result) {
		fields := []diff.Field{{Name: ".name", Size: 8}, {Name: ".peek", Offset: 8, Size: 8}, {Name: ".number", Offset: 16, Size: 4}}
		if err := r.Rewrite("ops", fields); err != nil {
			t.Fatal(err)
		}
	}
	return inputOf(t, writesPre, writesPost, rewrite)
}

// TestWrites: the description of kmod/ksplice_part.h says what data get, with relocations where an address stands.
func TestWrites(t *testing.T) {
	o := build(t, writesInput(t))
	if len(o.Functions) > 0 || len(o.Writes) != 3 {
		t.Fatalf("functions %+v, writes %+v", o.Functions, o.Writes)
	}
	s := o.Description.Section(descriptionSection)
	le := binary.LittleEndian
	if n := le.Uint64(s.Data[partWriteCountAt:]); n != 3 {
		t.Fatalf("the description counts %d writes", n)
	}
	if n := le.Uint64(s.Data[partFuncCountAt:]); n != 0 {
		t.Errorf("the description counts %d functions", n)
	}
	_, table := pointer(t, s, partWritesAt)
	reloc := func(at uint64) *objfile.Reloc {
		for _, r := range s.Relocs {
			if r.Offset == at {
				return r
			}
		}
		return nil
	}
	slotOf := func(name string) string {
		return slotName(slices.IndexFunc(o.Slots, func(x update.Slot) bool { return x.Name == name }))
	}
	for i, want := range []struct {
		name          string
		offset        int64
		length, flags uint64
		before, after string // symbols
	}{
		{"ops.name", 0, 8, writeAddress, slotOf("ops.name"), "ksplice_data_0000"},
		{"ops.peek", 8, 8, writeAddress, slotOf("old"), "ksplice_data_0001"},
		{"ops.number", 16, 4, 0, "", ""},
	} {
		at := uint64(table) + uint64(i)*writeSize
		_, name := pointer(t, s, at)
		if text := s.Data[name : int(name)+bytes.IndexByte(s.Data[name:], 0)]; string(text) != want.name {
			t.Errorf("write %d is called %s", i, text)
		}
		if y, offset := pointer(t, s, at+8); y.Name != slotOf("ops") || offset != want.offset {
			t.Errorf("%s: address %s%+d", want.name, y.Name, offset)
		}
		if n, f := le.Uint64(s.Data[at+writeLengthAt:]), le.Uint64(s.Data[at+writeFlagsAt:]); n != want.length || f != want.flags {
			t.Errorf("%s: %d bytes, flags %#x", want.name, n, f)
		}
		for k, symbol := range []string{want.before, want.after} {
			_, value := pointer(t, s, at+writeOldAt+8*uint64(k))
			r := reloc(uint64(value))
			if symbol == "" && (r != nil || s.Data[value] != byte(k+1)) || symbol != "" && (r == nil || r.Symbol.Name != symbol) {
				t.Errorf("%s: value %d: %+v, bytes % x", want.name, k, r, s.Data[value:][:want.length])
			}
		}
	}
	link(t, o)
}

// TestWritesSum: no byte that a write's sum goes over can change without it.
func TestWritesSum(t *testing.T) {
	o := build(t, writesInput(t))
	s := o.Description.Section(descriptionSection)
	var self *objfile.Symbol
	for _, r := range s.Relocs {
		if r.Symbol.Section == s {
			self = r.Symbol
		}
	}
	sum := func(data []byte) uint64 {
		d := &describer{self: self, section: &objfile.Section{Data: data, Relocs: s.Relocs}}
		d.sums()
		return d.get64(partSumAt)
	}
	want := binary.LittleEndian.Uint64(s.Data[partSumAt:])
	_, table := pointer(t, s, partWritesAt)
	number := uint64(table) + 2*writeSize
	_, name := pointer(t, s, number)
	_, before := pointer(t, s, number+writeOldAt)
	_, after := pointer(t, s, number+writeOldAt+8)
	for what, at := range map[string]uint64{"nothing": 0, "name": uint64(name), "length": number + writeLengthAt, "flags": number + writeFlagsAt + 1, "old": uint64(before), "new": uint64(after) + 3} {
		data := bytes.Clone(s.Data)
		data[at] ^= 1
		if got := sum(data); (got == want) != (what == "nothing") {
			t.Errorf("%s changed: sum %#x, was %#x", what, got, want)
		}
	}
}
