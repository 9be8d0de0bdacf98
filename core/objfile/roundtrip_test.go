package objfile

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"

	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// run runs a tool and returns its output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// compile compiles a file of testdata and returns the object's path.
func compile(t *testing.T, source string, flags ...string) string {
	t.Helper()
	for _, tool := range []string{"gcc", "readelf"} {
		need.Program(t, tool)
	}
	object := filepath.Join(t.TempDir(), strings.TrimSuffix(source, filepath.Ext(source))+".o")
	run(t, "gcc", append(flags, "-c", "-o", object, filepath.Join("testdata", source))...)
	return object
}

// readelf returns everything that readelf says of an object.
func readelf(t *testing.T, path string) string {
	t.Helper()
	return strings.ReplaceAll(run(t, "readelf", "-aW", path), path, "OBJECT")
}

var kernelFlags = []string{"-O2", "-ffunction-sections", "-fdata-sections", "-fno-pic", "-mcmodel=kernel", "-mno-red-zone", "-fno-asynchronous-unwind-tables"}

func TestRoundTrip(t *testing.T) {
	for _, tt := range []struct {
		name, source string
		flags        []string
	}{
		{"kernel", "unit.c", kernelFlags},
		{"debug", "unit.c", append([]string{"-g"}, kernelFlags...)},
		{"common", "unit.c", []string{"-O0", "-fcommon", "-fPIC"}},
		{"patchable", "unit.c", append([]string{"-fpatchable-function-entry=16,16"}, kernelFlags...)},
		{"profiled", "unit.c", append([]string{"-pg", "-mfentry", "-mrecord-mcount"}, kernelFlags...)},
		{"tables", "tables.S", nil},
		{"many", "many.S", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := compile(t, tt.source, tt.flags...)
			f, err := ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			again := path + ".again"
			if err := f.WriteFile(again); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(contents(t, path), contents(t, again)); diff == "" {
				return
			}
			if diff := cmp.Diff(readelf(t, path), readelf(t, again)); diff != "" {
				t.Errorf("readelf -aW differs (-read +written):\n%s", diff)
			} else {
				t.Error("the file differs, though readelf sees no difference")
			}
		})
	}
}

func contents(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestReaderAgrees compares what is read with what another reader of ELF, debug/elf, sees.
func TestReaderAgrees(t *testing.T) {
	path := compile(t, "tables.S")
	f, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if len(f.Sections) != len(other.Sections) {
		t.Fatalf("%d sections, want %d", len(f.Sections), len(other.Sections))
	}
	for i, s := range f.Sections[1:] {
		o := other.Sections[i+1]
		if s.Name != o.Name || s.Type != o.Type || s.Flags != o.Flags || s.Size != o.Size || s.Align != o.Addralign || s.EntSize != o.Entsize {
			t.Errorf("section %s = %+v, want %+v", s, s, o.SectionHeader)
		}
		if s.Generated() || s.Type == elf.SHT_NOBITS {
			continue
		}
		if want, err := o.Data(); err != nil || !bytes.Equal(s.Data, want) {
			t.Errorf("section %s: data %x, want %x (%v)", s, s.Data, want, err)
		}
	}
	symbols, err := other.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Symbols) != len(symbols)+1 {
		t.Fatalf("%d symbols, want %d", len(f.Symbols), len(symbols)+1)
	}
	for i, y := range f.Symbols[1:] {
		o := symbols[i]
		index := y.Special
		if y.Section != nil {
			index = elf.SectionIndex(y.Section.Index)
		}
		got := elf.Symbol{Name: y.Name, Info: elf.ST_INFO(y.Bind, y.Type), Other: y.Other, Section: index, Value: y.Value, Size: y.Size}
		if diff := cmp.Diff(o, got); diff != "" {
			t.Errorf("symbol %s (-want +got):\n%s", y, diff)
		}
	}
}

func TestExtendedNumbers(t *testing.T) {
	f, err := ReadFile(compile(t, "many.S"))
	if err != nil {
		t.Fatal(err)
	}
	y := f.Symbol("f65299")
	if y == nil || y.Section == nil || y.Section.Name != ".text.f65299" || y.Section.Index < int(elf.SHN_LORESERVE) {
		t.Fatalf("f65299 = %+v, want it in its own section with an extended number", y)
	}
	// Most sections go: no extended numbers are needed any more, and readers must still find their way.
	keep := map[string]bool{".text.f65299": true, ".data.last": true}
	if err := f.Prune(func(s *Section) bool { return keep[s.Name] }); err != nil {
		t.Fatal(err)
	}
	g := rewrite(t, f)
	if y := g.Symbol("f65299"); y == nil || y.Section != g.Section(".text.f65299") {
		t.Errorf("f65299 = %+v after pruning", y)
	}
	if n := len(g.Section(".data.last").Relocs); n != 2 {
		t.Errorf(".data.last has %d relocations, want 2", n)
	}
}

// TestManyNew makes an object with extended numbers from nothing.
func TestManyNew(t *testing.T) {
	f := New(elf.EM_X86_64)
	for range 0xff10 {
		f.AddSection(&Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 1, Data: []byte{0xc3}})
	}
	last := f.Sections[len(f.Sections)-1]
	last.Name = ".text.last"
	f.AddSymbol(&Symbol{Name: "last", Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: last, Size: 1})
	g := rewrite(t, f)
	if y := g.Symbol("last"); y == nil || y.Section == nil || y.Section.Name != ".text.last" {
		t.Errorf("last = %+v, want it in .text.last", y)
	}
}

// TestObjects reads and writes every object and module below KSPLICE_TEST_OBJECTS. What follows the last header of a
// file, a module's signature, does not count.
func TestObjects(t *testing.T) {
	root := os.Getenv("KSPLICE_TEST_OBJECTS")
	if root == "" {
		need.OK(t, errors.New("KSPLICE_TEST_OBJECTS names no directory of kernel objects (.o, .ko, .ko.xz), for example /lib/modules"))
	}
	count, relocs := 0, 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := objectBytes(path)
		if err != nil || b == nil {
			return err
		}
		count++
		f, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return nil
		}
		for _, s := range f.Sections {
			relocs += len(s.Relocs)
		}
		var again bytes.Buffer
		if err := f.Write(&again); err != nil {
			t.Errorf("%s: %v", path, err)
		} else if !bytes.HasPrefix(b, again.Bytes()) {
			compareReadelf(t, path, b, again.Bytes())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if count == 0 {
		t.Fatalf("no object below %s", root)
	}
	t.Logf("%d objects with %d relocations", count, relocs)
}

// compareReadelf reports an object that is written otherwise than it was read.
func compareReadelf(t *testing.T, name string, read, written []byte) {
	t.Helper()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "read.o"), filepath.Join(dir, "written.o")
	if err := os.WriteFile(a, read, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b, written, 0o600); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(readelf(t, a), readelf(t, b)); diff != "" {
		t.Errorf("%s: readelf -aW differs (-read +written):\n%s", name, diff)
	} else {
		t.Logf("%s: bytes differ, though readelf sees no difference", name)
	}
}

// objectBytes returns the object in a file, nothing if it is none by name.
func objectBytes(path string) ([]byte, error) {
	packed := strings.HasSuffix(path, ".ko.xz")
	if !packed && !strings.HasSuffix(path, ".ko") && !strings.HasSuffix(path, ".o") {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil || !packed {
		return b, err
	}
	r, err := xz.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// rewrite writes a graph and reads it again.
func rewrite(t *testing.T, f *File) *File {
	t.Helper()
	var b bytes.Buffer
	if err := f.Write(&b); err != nil {
		t.Fatal(err)
	}
	g, err := Read(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return g
}
