package objfile

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sample makes a small object that has a table of every kind, and its bytes.
func sample(t testing.TB) []byte {
	t.Helper()
	f := New(elf.EM_X86_64)
	text := &Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR | elf.SHF_GROUP, Align: 16, Data: make([]byte, 16)}
	data := &Section{Name: ".data", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 8, Data: make([]byte, 8)}
	signature := &Symbol{Name: "signature", Type: elf.STT_FUNC, Bind: elf.STB_WEAK, Section: text, Size: 16}
	group := &Section{Name: ".group", Type: elf.SHT_GROUP, Align: 4, EntSize: 4}
	group.Group = &Group{Signature: signature, Flags: 1, Members: []*Section{text}}
	text.Group = group.Group
	data.Relocs = []*Reloc{{Type: uint32(elf.R_X86_64_64), Symbol: signature, Addend: 3}}
	for _, s := range []*Section{group, text, data} {
		f.AddSection(s)
	}
	f.AddSymbol(signature)
	var b bytes.Buffer
	if err := f.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadRefuses(t *testing.T) {
	good := sample(t)
	le := binary.LittleEndian
	shoff := le.Uint64(good[40:])
	index := map[string]int{}
	f, err := Read(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range f.Sections {
		index[s.Name] = i
	}
	// header returns the header of a section, and content its content.
	header := func(b []byte, name string) []byte { return b[shoff+uint64(index[name])*sectionSize:] }
	content := func(b []byte, name string) []byte { return b[le.Uint64(header(b, name)[24:]):] }
	for _, tt := range []struct {
		name string
		edit func(b []byte) []byte
		want string
	}{
		{"empty", func(b []byte) []byte { return nil }, "not a relocatable"},
		{"cut header", func(b []byte) []byte { return b[:63] }, "not a relocatable"},
		{"cut", func(b []byte) []byte { return b[:len(b)-1] }, "do not fit the file"},
		{"class", func(b []byte) []byte { b[4] = 1; return b }, "ELFCLASS32"},
		{"byte order", func(b []byte) []byte { b[5] = 9; return b }, "byte order 9"},
		{"type", func(b []byte) []byte { b[16] = 2; return b }, "ET_EXEC"},
		{"header size", func(b []byte) []byte { b[58] = 40; return b }, "section headers have 40 bytes"},
		{"header offset", func(b []byte) []byte { le.PutUint64(b[40:], 1<<63); return b }, "outside the file"},
		{"header count", func(b []byte) []byte { le.PutUint16(b[60:], 0xfeff); return b }, "65279 section headers"},
		{"extended count", func(b []byte) []byte { le.PutUint16(b[60:], 0); le.PutUint64(b[shoff+32:], 1<<60); return b }, "section headers at offset"},
		{"names", func(b []byte) []byte { le.PutUint16(b[62:], 200); return b }, "section 200 of"},
		{"names' type", func(b []byte) []byte { le.PutUint16(b[62:], uint16(index[".text"])); return b }, "want SHT_STRTAB"},
		{"name", func(b []byte) []byte { le.PutUint32(header(b, ".data"), 1<<20); return b }, "its name is at offset 0x100000"},
		{"data", func(b []byte) []byte { le.PutUint64(header(b, ".data")[24:], 1<<40); return b }, "[3] .data: 0x8 bytes at offset 0x10000000000"},
		{"data size", func(b []byte) []byte { le.PutUint64(header(b, ".data")[32:], 1<<63); return b }, "lie outside the file"},
		{"overlap", func(b []byte) []byte { copy(header(b, ".data")[24:32], header(b, ".text")[24:32]); return b }, "overlaps section"},
		{"alignment", func(b []byte) []byte { le.PutUint64(header(b, ".data")[48:], 12); return b }, "no power of two"},
		{"link", func(b []byte) []byte { le.PutUint32(header(b, ".data")[40:], 77); return b }, "sh_link names section 77"},
		{"entry size", func(b []byte) []byte { le.PutUint64(header(b, ".symtab")[56:], 16); return b }, "want entries of 24"},
		{"symbol's name", func(b []byte) []byte { le.PutUint32(content(b, ".symtab")[24:], 1<<30); return b }, "symbol 1: its name"},
		{"symbol's section", func(b []byte) []byte { le.PutUint16(content(b, ".symtab")[30:], 99); return b }, "symbol [1] signature: defined in section 99"},
		{"extended symbol", func(b []byte) []byte { le.PutUint16(content(b, ".symtab")[30:], 0xffff); return b }, "SHT_SYMTAB_SHNDX"},
		{"relocation's symbol", func(b []byte) []byte { le.PutUint32(content(b, ".rela.data")[12:], 5); return b }, "relocation 0: symbol 5 of 2"},
		{"relocation's offset", func(b []byte) []byte { le.PutUint64(content(b, ".rela.data"), 9); return b }, "relocation 0: offset 0x9 of 0x8 bytes"},
		{"relocated section", func(b []byte) []byte { le.PutUint32(header(b, ".rela.data")[44:], 0); return b }, "names no section to relocate"},
		{"relocated table", func(b []byte) []byte {
			le.PutUint32(header(b, ".rela.data")[44:], uint32(index[".symtab"]))
			return b
		}, "a table"},
		{"group's signature", func(b []byte) []byte { le.PutUint32(header(b, ".group")[44:], 9); return b }, "its signature is symbol 9"},
		{"group's member", func(b []byte) []byte { le.PutUint32(content(b, ".group")[4:], 0); return b }, "member 1 is section 0"},
		{"group in group", func(b []byte) []byte { le.PutUint32(content(b, ".group")[4:], uint32(index[".group"])); return b }, "is a group or in one already"},
		{"REL", func(b []byte) []byte { le.PutUint32(header(b, ".data")[4:], uint32(elf.SHT_REL)); return b }, "SHT_REL are not supported"},
		{"second symbol table", func(b []byte) []byte {
			le.PutUint32(header(b, ".data")[4:], uint32(elf.SHT_SYMTAB))
			return b
		}, "a second symbol table"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.edit(bytes.Clone(good))
			_, err := Read(bytes.NewReader(b), int64(len(b)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Read gives error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestReadFileErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no.o")
	if _, err := ReadFile(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadFile of nothing gives %v, want %v", err, os.ErrNotExist)
	}
	if err := os.WriteFile(path, []byte("int main;"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); !errors.Is(err, ErrNotObject) || !strings.Contains(err.Error(), path) {
		t.Errorf("ReadFile of text gives %v, want %v with the path", err, ErrNotObject)
	}
	good := sample(t)
	if _, err := Read(bytes.NewReader(good), 1<<62); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Read of a file said to be larger than it is gives %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

// TestBigEndian turns an object round and back.
func TestBigEndian(t *testing.T) {
	good := sample(t)
	f, err := Read(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	f.Header.Data, f.Header.Machine = elf.ELFDATA2MSB, elf.EM_S390
	g := rewrite(t, f)
	if g.Header != f.Header {
		t.Errorf("header %+v, want %+v", g.Header, f.Header)
	}
	g.Header.Data, g.Header.Machine = elf.ELFDATA2LSB, elf.EM_X86_64
	var b bytes.Buffer
	if err := g.Write(&b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), good) {
		t.Error("an object turned to the other byte order and back differs")
	}
}

// FuzzRead reads anything. What can be read can be written, gives the same file from then on, and can be stripped.
func FuzzRead(f *testing.F) {
	f.Add(sample(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		var first, second bytes.Buffer
		if err := o.Write(&first); err != nil {
			t.Fatalf("write what was read: %v", err)
		}
		again, err := Read(bytes.NewReader(first.Bytes()), int64(first.Len()))
		if err != nil {
			t.Fatalf("read what was written: %v", err)
		}
		if err := again.Write(&second); err != nil {
			t.Fatalf("write what was read again: %v", err)
		}
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Fatal("the second round gives another file than the first")
		}
		again.StripDebug()
		if err := again.Write(io.Discard); err != nil {
			t.Fatalf("write what was stripped: %v", err)
		}
	})
}
