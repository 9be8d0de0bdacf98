package scaffold

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// checkout is this repository.
const checkout = "../.."

// all are a project of each kind.
var all = []Project{
	{Kind: plugin.KindArch, Name: "riscv64"}, {Kind: plugin.KindArch, Name: "acme", Machine: 0xfe00},
	{Kind: plugin.KindBackend, Name: "acme"}, {Kind: plugin.KindTransform, Name: "a.very-long_name.2"},
}

// TestWrite looks at what is written; that it builds, passes and is found good the scripts of `ksplice plugin new` show.
func TestWrite(t *testing.T) {
	for _, p := range all {
		t.Run(p.File(), func(t *testing.T) {
			p.SDK = checkout
			dir := filepath.Join(t.TempDir(), "project")
			files, err := Write(dir, p)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.IsSorted(files) {
				t.Errorf("the files are not sorted: %q", files)
			}
			for _, want := range []string{
				".github/workflows/ci.yml", ".gitignore", "Makefile", "README.md", "go.mod", "go.sum", "main.go", string(p.Kind) + ".go", string(p.Kind) + "_test.go",
			} {
				if !slices.Contains(files, want) {
					t.Errorf("%s is missing", want)
				}
			}
			for _, name := range files {
				text, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Error(err)
				}
				if strings.Contains(string(text), "[[") || strings.Contains(string(text), "<no value>") {
					t.Errorf("%s is not filled in:\n%s", name, text)
				}
			}
			if p.Kind == plugin.KindArch {
				want := "const machine = uint16(elf.EM_RISCV)\n"
				if p.Machine != 0 {
					want = fmt.Sprintf("const machine = uint16(%d)\n", p.Machine)
				}
				if source := string(read(t, filepath.Join(dir, "arch.go"))); !strings.Contains(source, want) {
					t.Errorf("arch.go does not have %q:\n%s", want, source)
				}
			}
			mod := read(t, filepath.Join(dir, "go.mod"))
			f, err := modfile.Parse("go.mod", mod, nil)
			if err != nil {
				t.Fatal(err)
			}
			if f.Module.Mod.Path != "example.org/"+p.File() || len(f.Replace) != 1 || f.Replace[0].Old.Path != sdkModule {
				t.Errorf("go.mod:\n%s", mod)
			}
			to := f.Replace[0].New.Path
			if got := modfile.ModulePath(read(t, filepath.Join(dir, to, "go.mod"))); filepath.IsAbs(to) || got != sdkModule {
				t.Errorf("the replace line leads to %s, which is module %q", to, got)
			}
		})
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWriteVersion: without a checkout the project requires a version, and nothing of this machine.
func TestWriteVersion(t *testing.T) {
	dir := t.TempDir()
	files, err := Write(dir, Project{Kind: plugin.KindBackend, Name: "acme", Module: "acme.example/backend", Version: "v1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := modfile.Parse("go.mod", read(t, filepath.Join(dir, "go.mod")), nil)
	if err != nil {
		t.Fatal(err)
	}
	if f.Module.Mod.Path != "acme.example/backend" || len(f.Require) != 1 || f.Require[0].Mod.Version != "v1.2.3" || len(f.Replace) != 0 || f.Go == nil {
		t.Errorf("go.mod: %+v", f)
	}
	if slices.Contains(files, "go.sum") {
		t.Error("there is a go.sum, of what nobody has downloaded")
	}
	if ci := string(read(t, filepath.Join(dir, ".github/workflows/ci.yml"))); !strings.Contains(ci, "/cmd/ksplice@v1.2.3\n") || strings.Contains(ci, "../ksplice ") {
		t.Errorf("its CI takes ksplice from elsewhere:\n%s", ci)
	}
}

func TestRefuses(t *testing.T) {
	empty := t.TempDir()
	for _, c := range []struct {
		p    Project
		want string
	}{
		{Project{Kind: "", Name: "acme"}, `there is no kind of plugin ""`},
		{Project{Kind: "kernel", Name: "acme"}, `there is no kind of plugin "kernel"`},
		{Project{Kind: plugin.KindBackend}, `a plugin cannot be called ""`},
		{Project{Kind: plugin.KindBackend, Name: "Acme"}, `cannot be called "Acme"`},
		{Project{Kind: plugin.KindBackend, Name: "../acme"}, `cannot be called "../acme"`},
		{Project{Kind: plugin.KindBackend, Name: "a..b"}, `cannot be called "a..b"`},
		{Project{Kind: plugin.KindBackend, Name: "acme."}, `cannot be called "acme."`},
		{Project{Kind: plugin.KindBackend, Name: "-acme"}, `cannot be called "-acme"`},
		{Project{Kind: plugin.KindBackend, Name: "acme\n"}, `cannot be called "acme\n"`},
		{Project{Kind: plugin.KindBackend, Name: strings.Repeat("a", 65)}, `cannot be called "aaa`},
		{Project{Kind: plugin.KindBackend, Name: "acme", Module: "/acme"}, `the Go module cannot be called "/acme"`},
		{Project{Kind: plugin.KindBackend, Name: "acme", Machine: 62}, "serves no ELF machine"},
		{Project{Kind: plugin.KindArch, Name: "acme"}, "which ELF machine"},
		{Project{Kind: plugin.KindBackend, Name: "acme", Version: "(devel)"}, `"(devel)" is no version of Ksplice`},
		{Project{Kind: plugin.KindBackend, Name: "acme", SDK: empty}, "is no checkout of Ksplice"},
		{Project{Kind: plugin.KindBackend, Name: "acme", SDK: filepath.Join(checkout, example)}, `its module is "example.org/transform-chrdev"`},
	} {
		dir := filepath.Join(t.TempDir(), "project")
		_, err := Write(dir, c.p)
		var d *plugin.Diagnostic
		if !errors.As(err, &d) || d.Fault != plugin.FaultUser || d.Detail == "" || !strings.Contains(d.Summary, c.want) {
			t.Errorf("%+v: %v, want %q by the user's fault, with what to do", c.p, err, c.want)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%+v: something is left behind: %v", c.p, err)
		}
	}
}

// TestNothingLeft: when a file cannot be written, those before it go, and directories that were made; what was there stays.
func TestNothingLeft(t *testing.T) {
	long := strings.Repeat("n", 300) // more than a file name can have (NAME_MAX, limits.h)
	names := []string{"a", "b/c/d", long}
	files := map[string][]byte{"a": nil, "b/c/d": []byte("text"), long: nil}
	parent := t.TempDir()
	if err := writeAll(filepath.Join(parent, "new"), names, files); err == nil {
		t.Error("a file of 300 letters can be written")
	}
	there := filepath.Join(parent, "there")
	if err := os.Mkdir(there, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeAll(there, names, files); err == nil {
		t.Error("a file of 300 letters can be written")
	}
	var left []string
	err := filepath.WalkDir(parent, func(path string, _ os.DirEntry, err error) error {
		left = append(left, strings.TrimPrefix(path, parent))
		return err
	})
	if want := []string{"", "/there"}; err != nil || !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q: %v", left, want, err)
	}
}
