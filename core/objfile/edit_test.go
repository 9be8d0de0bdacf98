package objfile

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// describe tells a graph's sections with their relocations and symbols, as names.
func describe(f *File) []string {
	var out []string
	for _, s := range f.Sections[1:] {
		if s.Generated() {
			continue
		}
		out = append(out, "section "+s.Name)
		for _, r := range s.Relocs {
			name := r.Symbol.Name
			if r.Symbol.Type == elf.STT_SECTION {
				name = "section " + r.Symbol.Section.Name
			}
			out = append(out, "  reloc "+name)
		}
	}
	for _, y := range f.Symbols[1:] {
		if y.Type != elf.STT_SECTION {
			out = append(out, "symbol "+y.Name+" in "+strings.TrimLeft(y.Section.String(), "[]0123456789 "))
		}
	}
	return out
}

func TestPrune(t *testing.T) {
	f, err := ReadFile(compile(t, "tables.S"))
	if err != nil {
		t.Fatal(err)
	}
	before := describe(f)
	// .data.one refers to one in .text.one.
	err = f.Prune(func(s *Section) bool { return s.Name == ".data.one" })
	if err == nil || !strings.Contains(err.Error(), ".data.one") || !strings.Contains(err.Error(), "one in section") {
		t.Errorf("pruning what is referred to: error %v, want one that names .data.one and one", err)
	}
	// __entries is linked to .text.
	err = f.Prune(func(s *Section) bool { return s.Name == "__entries" })
	if err == nil || !strings.Contains(err.Error(), "names section") {
		t.Errorf("pruning what is linked to: error %v, want one that names the link", err)
	}
	if diff := cmp.Diff(before, describe(f)); diff != "" {
		t.Errorf("a refused Prune changed the file (-before +after):\n%s", diff)
	}

	keep := map[string]bool{".text": true, "__entries": true, ".text.plain": true}
	if err := f.Prune(func(s *Section) bool { return keep[s.Name] }); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"section .text", "  reloc common", "  reloc two",
		"section .text.plain",
		"section __entries", "  reloc two",
		"symbol tables.S in none", "symbol plain_group in .group",
		"symbol two in .text", "symbol absolute in none", "symbol common in none",
	}
	got := describe(rewrite(t, f))
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pruned (-want +got):\n%s", diff)
	}
}

// TestPruneSignature drops the section that defines a group's name and keeps another member.
func TestPruneSignature(t *testing.T) {
	f, err := ReadFile(compile(t, "tables.S"))
	if err != nil {
		t.Fatal(err)
	}
	f.Section(".data.one").Relocs = nil
	if err := f.Prune(func(s *Section) bool { return s.Name == ".data.one" }); err != nil {
		t.Fatal(err)
	}
	g := rewrite(t, f).Section(".data.one").Group
	if g == nil || g.Signature.Name != "one" || g.Signature.Section != nil {
		t.Fatalf("group = %+v, want one with the undefined signature one", g)
	}
}

func TestStripDebug(t *testing.T) {
	f, err := ReadFile(compile(t, "unit.c", append([]string{"-g"}, kernelFlags...)...))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := ReadFile(compile(t, "unit.c", append([]string{"-g0"}, kernelFlags...)...))
	if err != nil {
		t.Fatal(err)
	}
	f.StripDebug()
	if diff := cmp.Diff(describe(plain), describe(rewrite(t, f))); diff != "" {
		t.Errorf("compiled without debug information, and stripped of it (-want +got):\n%s", diff)
	}
}

// TestWriteSymbolOrder checks that local symbols go first, and that references follow.
func TestWriteSymbolOrder(t *testing.T) {
	f := New(elf.EM_X86_64)
	text := &Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 16, Data: make([]byte, 16)}
	f.AddSection(text)
	global := &Symbol{Name: "global", Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: text, Size: 8}
	local := &Symbol{Name: "local", Type: elf.STT_FUNC, Section: text, Value: 8, Size: 8}
	undefined := &Symbol{Name: "undefined", Bind: elf.STB_GLOBAL}
	for _, y := range []*Symbol{undefined, global, local} {
		f.AddSymbol(y)
	}
	text.Relocs = []*Reloc{
		{Offset: 9, Type: uint32(elf.R_X86_64_PLT32), Symbol: undefined, Addend: -4},
		{Offset: 1, Type: uint32(elf.R_X86_64_PLT32), Symbol: local, Addend: -4},
		{Offset: 5, Type: uint32(elf.R_X86_64_32S), Symbol: f.SectionSymbol(text), Addend: 7},
	}
	if first, second := f.SectionSymbol(text), f.SectionSymbol(text); first != second {
		t.Error("SectionSymbol makes a second symbol")
	}
	g := rewrite(t, f)
	var names []string
	for _, y := range g.Symbols[1:] {
		names = append(names, y.Name)
	}
	if diff := cmp.Diff([]string{"local", "", "undefined", "global"}, names); diff != "" {
		t.Errorf("symbols (-want +got):\n%s", diff)
	}
	var relocs []string
	for _, r := range g.Section(".text").SortedRelocs() {
		relocs = append(relocs, strings.TrimLeft(r.Symbol.String(), "[]0123456789 "))
	}
	if diff := cmp.Diff([]string{"local", ".text", "undefined"}, relocs); diff != "" {
		t.Errorf("relocations by offset (-want +got):\n%s", diff)
	}
	if r := g.Section(".rela.text"); r == nil || r.InfoSection != g.Section(".text") || r.Flags != elf.SHF_INFO_LINK {
		t.Errorf("relocation table = %+v", r)
	}
	var first, second bytes.Buffer
	if err := f.Write(&first); err != nil {
		t.Fatal(err)
	}
	if err := f.Write(&second); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("the same graph gives two files (%v)", err)
	}
}

// TestEditedLinks renames, adds and drops, and lets the linker and the machine judge.
func TestEditedLinks(t *testing.T) {
	f, err := ReadFile(compile(t, "unit.c", "-O2", "-g", "-fPIC", "-ffunction-sections", "-fdata-sections"))
	if err != nil {
		t.Fatal(err)
	}
	f.StripDebug()
	f.RenameSection(f.Section(".text.open_file"), ".text.renamed_much_longer")
	if f.Section(".rela.text.renamed_much_longer") == nil {
		t.Error("the relocation table has kept its name")
	}
	open := f.Symbol("open_file")
	open.Name = "another_open"
	// A new table with a pointer to the function, and the function that main calls through it.
	table := &Section{Name: ".data.table", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 8, Data: make([]byte, 8)}
	table.Relocs = []*Reloc{{Type: uint32(elf.R_X86_64_64), Symbol: open}}
	f.AddSection(table)
	f.AddSymbol(&Symbol{Name: "table", Type: elf.STT_OBJECT, Bind: elf.STB_GLOBAL, Section: table, Size: 8})
	dir := t.TempDir()
	object, program := filepath.Join(dir, "edited.o"), filepath.Join(dir, "program")
	if err := f.WriteFile(object); err != nil {
		t.Fatal(err)
	}
	const main = `extern int (*table)(int); extern int another_open(int);
int outside(const char *s, int n) { return s[0] == 'o' ? n + 40 : 0; }
int main(void) { return table(1) == 42 && table == another_open && table(4) == -4 ? 0 : 1; }
`
	source := filepath.Join(dir, "main.c")
	if err := os.WriteFile(source, []byte(main), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "gcc", "-o", program, source, object)
	if out, err := exec.Command(program).CombinedOutput(); err != nil {
		t.Errorf("the program with the edited object: %v %s", err, out)
	}
	if out := run(t, "readelf", "-aW", object); strings.Contains(strings.ToLower(out), "warning") {
		t.Errorf("readelf warns:\n%s", out)
	}
}

func TestStringAt(t *testing.T) {
	f, err := ReadFile(compile(t, "tables.S"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		section string
		offset  uint64
		want    string
		ok      bool
	}{
		{".rodata.str1.1", 0, "a merged string\x00", true},
		{".rodata.str1.1", 9, "string\x00", true},
		{".rodata.str1.1", 16, "", false},
		{".rodata.str1.1", 1 << 63, "", false},
		{".rodata.str4.4", 4, "B\x00\x00\x00\x00\x00\x00\x00", true},
		{".rodata.cst8", 0, "", false},
	} {
		got, err := f.Section(tt.section).StringAt(tt.offset)
		if string(got) != tt.want || (err == nil) != tt.ok {
			t.Errorf("%s: StringAt(%#x) = %q, %v, want %q", tt.section, tt.offset, got, err, tt.want)
		}
	}
}

func TestSymbolsIn(t *testing.T) {
	f, err := ReadFile(compile(t, "unit.c", kernelFlags...))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, y := range f.SymbolsIn(f.Section(".text.open_file")) {
		if y.Type == elf.STT_FUNC {
			names = append(names, y.Name)
		}
	}
	if diff := cmp.Diff([]string{"open_file", "alias_of_open"}, names); diff != "" {
		t.Errorf("functions of .text.open_file (-want +got):\n%s", diff)
	}
}

func TestWriteRefuses(t *testing.T) {
	text := func() *Section {
		return &Section{Name: ".text", Type: elf.SHT_PROGBITS, Data: make([]byte, 8)}
	}
	for _, tt := range []struct {
		name string
		edit func(f *File)
		want string
	}{
		{"symbol's section", func(f *File) { f.AddSymbol(&Symbol{Name: "lost", Section: text()}) }, "symbol lost: its section .text is not in the file"},
		{"relocation's symbol", func(f *File) {
			s := text()
			s.Relocs = []*Reloc{{Offset: 4, Symbol: &Symbol{Name: "lost"}}}
			f.AddSection(s)
		}, "section .text: relocation 0 at offset 0x4: symbol lost is not in the file"},
		{"link", func(f *File) { f.AddSection(&Section{Name: "entries", Type: elf.SHT_PROGBITS, Link: text()}) }, "sh_link names, .text, is not in the file"},
		{"twice", func(f *File) { s := text(); f.AddSection(s); f.AddSection(s) }, "twice in the file"},
		{"alignment", func(f *File) { f.AddSection(&Section{Name: "odd", Type: elf.SHT_PROGBITS, Align: 3}) }, "no power of two"},
		{"special number", func(f *File) { f.AddSymbol(&Symbol{Name: "odd", Special: 7}) }, "no special section number"},
		{"group", func(f *File) { f.AddSection(&Section{Name: ".group", Type: elf.SHT_GROUP}) }, "a group without a signature"},
		{"member", func(f *File) {
			f.AddSection(&Section{Name: "lonely", Type: elf.SHT_PROGBITS, Group: &Group{}})
		}, "it is in a group that no section of the file defines"},
		{"name", func(f *File) { f.AddSymbol(&Symbol{Name: "a\x00b"}) }, "holds a NUL"},
	} {
		f := New(elf.EM_X86_64)
		tt.edit(f)
		if err := f.Write(&bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Write gives error %v, want %q", tt.name, err, tt.want)
		}
	}
}
