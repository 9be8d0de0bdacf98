package match_test

import (
	"debug/elf"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/match/matchtest"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
)

// described is a world with a function that has all that a description tells of: a datum, a string, a static branch, padding.
func described(t *testing.T) (*matchtest.World, *matchtest.Unit) {
	w := matchtest.New(t)
	u := w.Unit("a.o", "")
	u.Data(".data.count", "count", local)
	u.Func(".text.f", "f", global, "f", ref{Symbol: "count", Addend: 4},
		ref{Symbol: ".rodata.str", Addend: 2, Obligation: arch.ObligationString, Bytes: []byte("hello\x00")},
		ref{Symbol: "my_key", Addend: 1, Obligation: arch.ObligationJumpKey})
	u.Func(".text.g", "g", global, "g", ref{Symbol: "f"})
	w.Symbol("", "f", text)
	w.Symbol("", "g", text+0x100)
	w.Memory[text] = matchtest.Code("f", data+4, data+0x200, 0)
	w.Memory[text+0x100] = matchtest.Code("g", text)
	w.Memory[data+0x200] = []byte("hello\x00")
	const table = data + 0x1000
	w.Memory[table] = matchtest.JumpEntry(table, text+24, data+0x400)
	w.Symbol("", "__start___jump_table", table)
	w.Symbol("", "__stop___jump_table", table+16)
	return w, u
}

// TestDescription: what the architecture plugin says of an object is what the object says.
func TestDescription(t *testing.T) {
	w, _ := described(t)
	verdicts(t, solve(t, w, around{}), verdict{"f", match.StatusMatched, text}, verdict{"g", match.StatusMatched, text + 0x100})
	refs := func(d *arch.ObjectDescription, kind uint64) *arch.Ref { return &d.Refs[kind] }
	for name, c := range map[string]struct {
		edit func(u *matchtest.Unit, d *arch.ObjectDescription)
		want string
	}{
		"reference missing":  {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Refs = d.Refs[:len(d.Refs)-1] }, "does not list the relocation"},
		"reference too many": {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Refs = append(d.Refs, d.Refs[len(d.Refs)-1]) }, "no relocation"},
		"addend":             {func(_ *matchtest.Unit, d *arch.ObjectDescription) { refs(d, 0).Addend++ }, "another reference"},
		"symbol":             {func(_ *matchtest.Unit, d *arch.ObjectDescription) { refs(d, 0).Symbol-- }, "another reference"},
		"type":               {func(_ *matchtest.Unit, d *arch.ObjectDescription) { refs(d, 0).Type++ }, "another reference"},
		"place":              {func(_ *matchtest.Unit, d *arch.ObjectDescription) { refs(d, 0).At++ }, "another reference"},
		"meaning":            {func(_ *matchtest.Unit, d *arch.ObjectDescription) { refs(d, 0).Offset += 8 }, "means +12"},
		"width":              {func(_ *matchtest.Unit, d *arch.ObjectDescription) { refs(d, 1).Size = 4 }, "4 bytes of the relocation"},
		"pc-relative":        {func(_ *matchtest.Unit, d *arch.ObjectDescription) { refs(d, 1).PCRel = true }, "of the relocation"},
		"unknown type":       {func(u *matchtest.Unit, _ *arch.ObjectDescription) { u.File.Section(".text.f").Relocs[0].Type = 99 }, "another reference"},
		"symbol's kind":      {func(u *matchtest.Unit, _ *arch.ObjectDescription) { u.File.Symbols[1].Type = 10 }, "of a kind"},
		"symbol's binding":   {func(u *matchtest.Unit, _ *arch.ObjectDescription) { u.File.Symbols[1].Bind = 11 }, "of a kind"},
		"function missing":   {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Functions = d.Functions[:1] }, "section .text.g has code that is no function's"},
		"function twice":     {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Functions = append(d.Functions, d.Functions[1]) }, "twice"},
		"function's symbol":  {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Functions[0].Symbol = 99 }, "symbol 99 of"},
		"function's size":    {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Functions[0].Size-- }, "of the function"},
		"function's place":   {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Functions[0].Offset = 1 }, "does not lie in its section"},
		"function's name":    {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Functions[0].Name = "g" }, "of the function"},
		"function's section": {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Functions[0].Section++ }, "does not lie in its section"},
		"landing pad": {func(_ *matchtest.Unit, d *arch.ObjectDescription) {
			d.Functions[0].Endbr, d.Functions[1].Endbr = true, true
		}, "landing pad"},
		"site's place":        {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Sites[0].At -= 8 }, "about another place"},
		"site's length":       {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Sites[0].Length = 0 }, "about another place"},
		"site's entry":        {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Sites[0].Entry++ }, "no entry of a table"},
		"site's table":        {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Sites[0].Table = 0 }, "names no table"},
		"site's key":          {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Sites[0].Key-- }, "its key is not that of the entry"},
		"site without key":    {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Sites[0].Key = -1 }, "no key"},
		"constant's name":     {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Sites[0].Kind = arch.SiteRuntimeConst }, "its name is"},
		"entry not described": {func(_ *matchtest.Unit, d *arch.ObjectDescription) { d.Entries = nil }, "is not described"},
		"symbol's size":       {func(u *matchtest.Unit, _ *arch.ObjectDescription) { u.File.Symbol("count").Size = 9 }, "lies outside section"},
		"symbol's value":      {func(u *matchtest.Unit, _ *arch.ObjectDescription) { u.File.Symbol("count").Value = ^uint64(8) }, "lies outside section"},
		"function in data": {func(u *matchtest.Unit, d *arch.ObjectDescription) {
			u.File.Section(".text.g").Flags = elf.SHF_ALLOC
			d.Functions = d.Functions[:1]
		}, "which holds no code"},
		"code of no function": {func(u *matchtest.Unit, _ *arch.ObjectDescription) {
			u.File.AddSection(&objfile.Section{Name: ".text.h", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Data: []byte{0xc3}, Size: 1, Index: 77})
		}, "section .text.h has code"},
	} {
		w, u := described(t)
		c.edit(u, u.Desc)
		_, err := match.RunWith(t.Context(), w.Kernel(true), w, w.Units(), nil, &kernel.Tracing{})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "a.o") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestHelperSymbol: a symbol of the padding before a function is no function that is missing.
func TestHelperSymbol(t *testing.T) {
	for pad, want := range map[uint64]bool{8: true, 0: false} {
		w := matchtest.New(t)
		u := w.Unit("a.o", "")
		u.Func(".text.f", "__pfx_f", local, "padding")
		u.Func(".text.f", "f", global, "f")
		u.Desc.Functions = u.Desc.Functions[1:]
		u.Desc.Functions[0].Pad = pad
		w.Symbol("", "f", text)
		w.Memory[text] = matchtest.Code("f")
		_, err := match.RunWith(t.Context(), w.Kernel(true), w, w.Units(), nil, &kernel.Tracing{})
		if want != (err == nil) || err != nil && !strings.Contains(err.Error(), "does not describe function") {
			t.Errorf("a pad of %d bytes: %v", pad, err)
		}
	}
}
