package examples

import (
	"io/fs"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/patch"
)

// series are the kernels that every patch is for.
var series = []string{"6.1", "6.12"}

// notListed are patches that others use.
var notListed = []string{"proc-version"}

func TestPatches(t *testing.T) {
	check := func(name string, b []byte, err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
			return
		}
		subject, rest, _ := strings.Cut(string(b), "\n")
		if !strings.HasPrefix(subject, "Subject: ") || !strings.HasPrefix(rest, "\n") {
			t.Errorf("%s: it does not begin with a subject and an empty line", name)
		}
		if _, err := patch.Parse(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, s := range series {
		for _, e := range append(slices.Clone(All), Always) {
			b, err := e.Patch(s)
			check(e.Name, b, err)
		}
		for _, r := range Refusals {
			b, err := r.Patch(s)
			check(r.Name+"-FAIL", b, err)
		}
	}
}

func TestEveryPatchIsListed(t *testing.T) {
	listed := append(slices.Clone(notListed), Always.Name)
	for _, e := range All {
		listed = append(listed, e.Name)
	}
	for _, r := range Refusals {
		listed = append(listed, r.Name+"-FAIL")
	}
	err := fs.WalkDir(patches, "patches", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !slices.Contains(listed, strings.TrimSuffix(path.Base(p), ".patch")) {
			t.Errorf("%s is in no list", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestList(t *testing.T) {
	names := map[string]bool{}
	for _, e := range All {
		if names[e.Name] {
			t.Errorf("%s is listed twice", e.Name)
		}
		names[e.Name] = true
		if e.Base != "" && !names[e.Base] {
			t.Errorf("%s stands on %s, which is not listed before it", e.Name, e.Base)
		}
		if len(e.Functions) == 0 || e.Traits.Has(Vmlinux) != slices.Contains(e.Targets, "vmlinux") {
			t.Errorf("%s: traits %b, targets %q, functions %q", e.Name, e.Traits, e.Targets, e.Functions)
		}
		for _, x := range e.Show {
			for _, re := range []string{x.Old, x.New} {
				if _, err := regexp.Compile(re); err != nil || re == "" {
					t.Errorf("%s: expression %q: %v", e.Name, re, err)
				}
			}
		}
	}
	for _, r := range Refusals {
		if _, err := regexp.Compile(r.Words); err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}
		if r.Command != "create" && r.Command != "apply" {
			t.Errorf("%s: command %q", r.Name, r.Command)
		}
	}
	for i := range 11 {
		if len(With(Trait(1)<<i)) == 0 {
			t.Errorf("no example has trait %b", 1<<i)
		}
	}
}

// TestProjects vets, builds and tests the examples that are projects of their own, as their authors would: `./...` does not reach them.
func TestProjects(t *testing.T) {
	files, err := filepath.Glob("*/go.mod")
	if err != nil || len(files) == 0 {
		t.Fatalf("projects: %q, %v", files, err)
	}
	for _, f := range files {
		dir := filepath.Dir(f)
		t.Run(dir, func(t *testing.T) {
			onlySDK(t, dir)
			for _, argv := range [][]string{
				{"go", "vet", "./..."},
				{"go", "build", "-o", t.TempDir(), "./..."},
				{"go", "test", "-timeout", "40m", "./..."},
			} {
				cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
				cmd.Dir = dir
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s in %s: %v\n%s", strings.Join(argv, " "), dir, err, out)
				}
			}
		})
	}
}

// onlySDK wants a project to use what any other project may: of Ksplice the SDK, and not its internal packages.
func onlySDK(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-test", "-f", `{{join .Imports "\n"}}`, "./...")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list in %s: %v", dir, err)
	}
	for _, path := range strings.Fields(string(out)) {
		rest, ours := strings.CutPrefix(path, "github.com/ksplice/ksplice/")
		if ours && (!strings.HasPrefix(rest, "sdk/") || strings.Contains(rest, "internal")) {
			t.Errorf("%s imports %s", dir, path)
		}
	}
}
