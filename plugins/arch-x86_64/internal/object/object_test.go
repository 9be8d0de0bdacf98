package object

import (
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// unit reads the object that testdata/unit.S makes.
func unit(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/unit.o")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParse(t *testing.T) {
	o, err := Parse(unit(t))
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*Section{}
	for i := range o.Sections {
		if o.Sections[i].Index != uint32(i) {
			t.Errorf("section %d has index %d", i, o.Sections[i].Index)
		}
		byName[o.Sections[i].Name] = &o.Sections[i]
	}
	f := byName[".text.f"]
	if f == nil || !f.Exec() || !f.Alloc() || f.Merged() || len(f.Relocs) == 0 {
		t.Fatalf(".text.f: %+v", f)
	}
	for i := 1; i < len(f.Relocs); i++ {
		if f.Relocs[i].Offset < f.Relocs[i-1].Offset {
			t.Errorf("relocations are not sorted: %#x behind %#x", f.Relocs[i].Offset, f.Relocs[i-1].Offset)
		}
	}
	if got := f.RelocsIn(f.Relocs[1].Offset, f.Relocs[1].Offset+1); len(got) != 1 || got[0] != f.Relocs[1] {
		t.Errorf("RelocsIn finds %+v, want %+v", got, f.Relocs[1])
	}
	if s := byName[".rodata.str1.1"]; s == nil || !s.Merged() || !s.Strings() || s.EntSize != 1 {
		t.Errorf(".rodata.str1.1: %+v", s)
	}
	var fn *Symbol
	for i := range o.Symbols {
		if o.Symbols[i].Index != uint32(i) {
			t.Errorf("symbol %d has index %d", i, o.Symbols[i].Index)
		}
		if o.Symbols[i].Name == "f" {
			fn = &o.Symbols[i]
		}
	}
	if fn == nil || fn.Section != f.Index || fn.Value != 16 || fn.Type != elf.STT_FUNC || fn.Bind != elf.STB_GLOBAL {
		t.Errorf("f: %+v", fn)
	}
	if s, at := o.Place(fn.Index, 4); s != f.Index || at != 20 {
		t.Errorf("f+4 is at section %d, %#x", s, at)
	}
	if s, _ := o.Place(0, 4); s != 0 {
		t.Errorf("the null symbol is in section %d", s)
	}
}

// TestBad has files that are no objects of ours, and damaged ones.
func TestBad(t *testing.T) {
	good := unit(t)
	change := func(at int, b byte) []byte {
		x := append([]byte(nil), good...)
		x[at] = b
		return x
	}
	for name, data := range map[string][]byte{
		"empty": nil, "text": []byte("hello"), "header only": good[:64], "truncated": good[:len(good)/2],
		"machine": change(18, 3), "type": change(16, 2), "class": change(4, 1),
	} {
		if _, err := Parse(data); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: error %v, want ErrFormat", name, err)
		}
	}
}

func TestRead(t *testing.T) {
	path, err := filepath.Abs("testdata/unit.o")
	if err != nil {
		t.Fatal(err)
	}
	f, err := plugin.NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(f); err != nil {
		t.Error(err)
	}
	f.SHA256 = strings.Repeat("0", 64)
	if _, err := Read(f); err == nil {
		t.Error("a file with another digest is read")
	}
	if _, err := Read(plugin.File{Path: path + "x"}); err == nil {
		t.Error("a file that is not there is read")
	}
}

func TestRelocationTypes(t *testing.T) {
	for _, x := range []struct {
		t                elf.R_X86_64
		size             int
		pcrel, supported bool
	}{
		{elf.R_X86_64_NONE, 0, false, true}, {elf.R_X86_64_64, 8, false, true}, {elf.R_X86_64_32, 4, false, true},
		{elf.R_X86_64_32S, 4, false, true}, {elf.R_X86_64_PC32, 4, true, true}, {elf.R_X86_64_PLT32, 4, true, true},
		{elf.R_X86_64_PC64, 8, true, true}, {elf.R_X86_64_16, 2, false, false}, {elf.R_X86_64_8, 1, false, false},
		{elf.R_X86_64_GOTPCREL, 4, true, false}, {elf.R_X86_64_TPOFF32, 0, false, false},
	} {
		if FieldSize(x.t) != x.size || PCRel(x.t) != x.pcrel || Supported(x.t) != x.supported {
			t.Errorf("%v: size %d, pc-relative %t, supported %t; want %d, %t, %t", x.t, FieldSize(x.t), PCRel(x.t), Supported(x.t), x.size, x.pcrel, x.supported)
		}
	}
}

// FuzzParse looks for panics and for places outside of what was parsed.
func FuzzParse(f *testing.F) {
	f.Add(unit(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := Parse(data)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("error %v is no ErrFormat", err)
			}
			return
		}
		for _, s := range o.Sections {
			for _, r := range s.Relocs {
				if r.Offset+uint64(FieldSize(r.Type)) > uint64(len(s.Data)) || uint64(r.Symbol) >= uint64(len(o.Symbols)) {
					t.Errorf("relocation outside: %+v", r)
				}
			}
		}
		for _, y := range o.Symbols {
			if uint64(y.Section) >= uint64(len(o.Sections)) {
				t.Errorf("symbol outside: %+v", y)
			}
		}
	})
}
