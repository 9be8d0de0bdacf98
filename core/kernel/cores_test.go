package kernel

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testCore reads a core. dir holds it, and what the same boot said of itself: kallsyms.gz and modules, from /proc.
func testCore(t *testing.T, dir string) {
	path := filepath.Join(dir, "core")
	if ok, err := IsCore(path); !ok || err != nil {
		t.Fatalf("IsCore = %v, %v", ok, err)
	}
	k, err := Core(path)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	t.Logf("%+v, %d symbols, %d modules", k.Identity, k.Symbols.Len(), len(k.Modules))
	want := readKallsyms(t, filepath.Join(dir, "kallsyms.gz"))
	if d := cmp.Diff(proper(want, ""), proper(k.Symbols, "")); d != "" {
		t.Errorf("symbols of the kernel proper (-/proc/kallsyms +core):\n%.2000s", d)
	}
	checkSites(t, k, "")
	text, err := os.ReadFile(filepath.Join(dir, "modules"))
	if err != nil {
		t.Fatal(err)
	}
	modules, err := parseModules(string(text), "")
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range modules {
		got, ok := k.Modules[name]
		if !ok || got.Base != m.Base || got.Size != m.Size {
			t.Errorf("module %s is %+v, want %+v", name, got, m)
			continue
		}
		if d := cmp.Diff(proper(want, name), proper(k.Symbols, name)); d != "" {
			t.Errorf("symbols of module %s (-/proc/kallsyms +core):\n%.2000s", name, d)
		}
		checkSites(t, k, name)
	}
	if len(modules) != len(k.Modules) {
		t.Errorf("%d modules, want %d", len(k.Modules), len(modules))
	}
}
