package part

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/objfile"
)

// TestTrampoline: a static call of the update's own has a trampoline, which goes along (include/linux/static_call.h:
// __DEFINE_STATIC_CALL); the address of what it calls first escapes through its key. A list of strings for trace tools goes as data.
func TestTrampoline(t *testing.T) {
	const call = `
static int one(int n) { return n + 1; }
struct { void *func, *sites; } __SCK__mine = { (void *)one, 0 };
asm(".pushsection .static_call.text,\"ax\"\n.align 4\n.globl __SCT__mine\n__SCT__mine: jmp one\n.byte 0x0f, 0xb9, 0xcc\n"
	".type __SCT__mine,@function\n.size __SCT__mine,.-__SCT__mine\n.popsection");
extern int __SCT__mine(int);
static const char *str __attribute__((used, section("__tracepoint_str"))) = "traced";
extern void use(const void *);
`
	in := input(t, "int f(int n) { return n * 54321; }", call+"int f(int n) { use(str); return __SCT__mine(n) + 2; }")
	o := build(t, in)
	for _, s := range o.Slots {
		if strings.HasPrefix(s.Name, "__SC") {
			t.Errorf("slot %+v: the running kernel has no such call", s)
		}
	}
	y := o.Objects[0].Symbol("__SCT__mine")
	if y == nil || y.Section == nil || y.Section.Name != ".text" || y.Section.Align < 4 {
		t.Fatalf("the trampoline: %+v", y)
	}
	at := slices.IndexFunc(y.Section.Relocs, func(r *objfile.Reloc) bool { return r.Offset == y.Value+1 })
	if at < 0 || y.Section.Data[y.Value] != 0xe9 {
		t.Errorf("the trampoline % x does not jump: %+v", y.Section.Data[y.Value:y.Value+8], y.Section.Relocs)
	}
	if !slices.Contains(o.Escapes, "one") {
		t.Errorf("escapes: %q", o.Escapes)
	}
	link(t, o)
}

// TestPad: the pad before a function has a name of its own, as in the kernel's code, whatever lies before it.
func TestPad(t *testing.T) {
	o := build(t, input(t, preSource, postSource, padded))
	for _, name := range []string{"f" + replacedSuffix, "fresh"} {
		y, pad := o.Objects[0].Symbol(name), o.Objects[0].Symbol("__pfx_"+name)
		if y == nil || pad == nil {
			t.Fatalf("%s: %v, its pad: %v", name, y, pad)
		}
		if pad.Section != y.Section || pad.Size != 16 || pad.Value+pad.Size != y.Value || pad.Type != elf.STT_FUNC || pad.Bind != elf.STB_LOCAL {
			t.Errorf("%s is %+v, its pad %+v", name, y, pad)
		}
	}
	link(t, o)
	if o = build(t, input(t, preSource, postSource)); o.Objects[0].Symbol("__pfx_fresh") != nil {
		t.Error("a function without a pad has one")
	}
}

// textTables are tables whose entries begin with the distance to the code that they are about, with the rest of an entry.
var textTables = []struct{ name, rest string }{
	{"__ex_table", ".long 2b - ., 3"}, {"__bug_table", ".long 0, 0"}, {".smp_locks", ""}, {".retpoline_sites", ""}, {".return_sites", ""},
	{".call_sites", ""}, {".static_call_sites", ".long __SCK__call - ."}, {"__jump_table", ".long 2b - .; .quad key - ."},
}

// TestTables: what tables say of a replaced function goes along, about its replacement, and nothing of what they say of others.
func TestTables(t *testing.T) {
	// marked is code in which every table has an entry; the places are marked by long nops that hold a number each.
	marked := func(first int) string {
		var s strings.Builder
		for i, table := range textTables {
			fmt.Fprintf(&s, `asm volatile("1: .byte 0x0f, 0x1f, 0x80; .long %d\n2:\n.pushsection %s,\"aw\"\n.long 1b - .\n%s\n.popsection");`,
				first+i, table.name, table.rest)
		}
		return s.String()
	}
	const first = 7000
	other := "int g(int n) { " + marked(8000) + " return n * 3; }\n"
	pre := other + "int f(int n) { " + marked(first) + " return n * 54321; }"
	post := other + "int f(int n) { " + marked(first) + " return n * 54322; }"
	f := link(t, build(t, input(t, pre, post)))
	for i, table := range textTables {
		var s *objfile.Section
		for _, x := range f.Sections[1:] {
			if x.Name == table.name {
				s = x
			}
		}
		if s == nil {
			t.Errorf("%s: it is not carried", table.name)
			continue
		}
		var at []*objfile.Reloc
		for _, r := range s.Relocs {
			if r.Offset == 0 {
				at = append(at, r)
			}
		}
		if len(at) != 1 || s.Size > 24 || at[0].Symbol.Section == nil || at[0].Symbol.Section.Name != ".text" {
			t.Errorf("%s: %d bytes, relocations %+v, want one entry about .text", table.name, s.Size, s.Relocs)
			continue
		}
		to := at[0].Symbol.Value + uint64(at[0].Addend)
		want := binary.LittleEndian.AppendUint32([]byte{0x0f, 0x1f, 0x80}, uint32(first+i))
		if code := at[0].Symbol.Section.Data; to > uint64(len(code)) || !bytes.HasPrefix(code[to:], want) {
			t.Errorf("%s: its entry is about .text+%#x, which is not the code that is marked % x", table.name, to, want)
		}
	}
}
