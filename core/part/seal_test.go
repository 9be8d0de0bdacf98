package part

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
)

// sealedModule is a module whose .modinfo has what kbuild makes of the glue's MODULE_INFO.
func sealedModule(t *testing.T, info string) []byte {
	t.Helper()
	f := objfile.New(elf.EM_X86_64)
	f.AddSection(&objfile.Section{Name: ".modinfo", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1, Data: []byte(info), Size: uint64(len(info))})
	var b bytes.Buffer
	if err := f.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestSealed: a manifest that says another thing of a slot or a function than the part was made for is refused.
func TestSealed(t *testing.T) {
	o := build(t, input(t, preSource, postSource))
	m := regexp.MustCompile(`MODULE_INFO\((\w+), "([0-9a-f]{64})"\)`).FindStringSubmatch(o.Glue)
	if m == nil {
		t.Fatalf("the glue has no seal:\n%s", o.Glue)
	}
	module := sealedModule(t, "license=GPL\x00"+m[1]+"="+m[2]+"\x00name=x\x00")
	// What create puts into the manifest, and what is read again.
	raw, err := json.Marshal(&update.Part{Name: "ksplice_0badcafe_vmlinux", Target: "vmlinux", Functions: o.Functions, Slots: o.Slots, Globals: o.Globals})
	if err != nil {
		t.Fatal(err)
	}
	read := func() *update.Part {
		var p update.Part
		if err := json.Unmarshal(raw, &p); err != nil {
			t.Fatal(err)
		}
		return &p
	}
	if err := Sealed(module, read()); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(p *update.Part){
		"slot's symbol": func(p *update.Part) { p.Slots[0].Symbol++ }, "slot's name": func(p *update.Part) { p.Slots[0].Name += "x" },
		"slots' order":    func(p *update.Part) { p.Slots[0], p.Slots[1] = p.Slots[1], p.Slots[0] },
		"slot missing":    func(p *update.Part) { p.Slots = p.Slots[1:] },
		"function's size": func(p *update.Part) { p.Functions[0].Size++ },
		"data":            func(p *update.Part) { p.Writes = []update.Write{{Name: "x"}} },
		"redirect":        func(p *update.Part) { p.Functions[0].Redirect.Kind = arch.RedirectFtrace },
		"target":          func(p *update.Part) { p.Target = "ext4" }, "globals": func(p *update.Part) { p.Globals = append(p.Globals, "x") },
	} {
		p := read()
		edit(p)
		if err := Sealed(module, p); err == nil || !strings.Contains(err.Error(), "was made for other functions, data or slots") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Sealed(sealedModule(t, "license=GPL\x00"), read()); err == nil || !strings.Contains(err.Error(), "does not say") {
		t.Errorf("no seal: %v", err)
	}
	if err := Sealed([]byte("no module"), read()); err == nil {
		t.Error("no module: no error")
	}
}
