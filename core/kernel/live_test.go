package kernel

import (
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// live opens the running kernel. That needs root and a kernel that shows its memory, as the tests' guests do.
func live(t *testing.T) *Kernel {
	t.Helper()
	if os.Getenv("KSPLICE_TEST_LIVE") != "1" {
		t.Skip("SKIPPED: KSPLICE_TEST_LIVE is not 1: this test looks at the running kernel's memory, as root")
	}
	start := time.Now()
	k, err := Live(LiveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	t.Logf("%+v, %d symbols, %d modules, in %v", k.Identity, k.Symbols.Len(), len(k.Modules), time.Since(start))
	return k
}

func TestLive(t *testing.T) {
	k := live(t)
	version, err := os.ReadFile("/proc/version")
	if err != nil {
		t.Fatal(err)
	}
	banner := k.Symbols.LookupIn("", "linux_banner")
	if len(banner) != 1 {
		t.Fatalf("linux_banner: %v", banner)
	}
	if got, err := readString(k.Memory, banner[0].Address, 1024); err != nil || got != string(version) {
		t.Errorf("linux_banner = %q, %v; /proc/version has %q", got, err, version)
	}
	release, v, err := parseBanner(string(version))
	if err != nil || release != k.Identity.Release || v != k.Identity.Version {
		t.Errorf("parseBanner(/proc/version) = %q, %q, %v; want %q, %q", release, v, err, k.Identity.Release, k.Identity.Version)
	}
	if k.Identity.BuildID == "" {
		t.Error("no build id")
	}
	checkSites(t, k, "")
}

// checkSites holds the tables of one module to what must be true of them.
func checkSites(t *testing.T, k *Kernel, module string) {
	t.Helper()
	inside := func(a uint64) bool {
		if _, ok := k.Owner(a); ok {
			return true
		}
		return slices.ContainsFunc(k.mapped, func(r Range) bool { return r.Contains(a) })
	}
	for name, read := range map[string]func(string) (map[uint64]uint64, error){"jump": k.JumpKeys, "static call": k.StaticCallKeys} {
		keys, err := read(module)
		if err != nil {
			t.Errorf("%s keys of %q: %v", name, module, err)
			continue
		}
		bad := 0
		for code, key := range keys {
			owner, _ := k.Owner(code)
			if owner != module || !inside(code) || !inside(key) {
				bad++
			}
		}
		if bad > 0 || module == "" && len(keys) < 100 {
			t.Errorf("%s keys of %q: %d of %d are nowhere", name, module, bad, len(keys))
		}
		t.Logf("%s keys of %q: %d", name, module, len(keys))
	}
}

func TestLiveModules(t *testing.T) {
	k := live(t)
	if len(k.Modules) == 0 {
		t.Fatal("no modules are loaded")
	}
	for _, y := range k.Symbols.All() {
		if m, ok := k.Modules[y.Module]; ok {
			if owner, _ := k.Owner(y.Address); owner != m.Name && y.Type != 'a' && y.Type != 'A' {
				t.Errorf("%s of module %s at %#x lies in %q; ranges are %x", y.Name, m.Name, y.Address, owner, m.Ranges)
				break
			}
		}
	}
	for name, m := range k.Modules {
		sum := uint64(0)
		for _, r := range m.Ranges {
			sum += r.End - r.Start
		}
		if sum != m.Size {
			t.Errorf("module %s: its ranges have %d bytes, it %d", name, sum, m.Size)
		}
		checkSites(t, k, name)
	}
}

// TestLiveModuleTables compares the tables' sizes with the module files that KSPLICE_TEST_MODULES holds.
func TestLiveModuleTables(t *testing.T) {
	k := live(t)
	files, err := filepath.Glob(filepath.Join(os.Getenv("KSPLICE_TEST_MODULES"), "*.ko"))
	if err != nil || len(files) == 0 {
		t.Skipf("SKIPPED: KSPLICE_TEST_MODULES=%q holds no modules", os.Getenv("KSPLICE_TEST_MODULES"))
	}
	for _, path := range files {
		name := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
		if _, ok := k.Modules[name]; !ok {
			continue
		}
		f, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for section, entry := range map[string]uint64{"__jump_table": jumpEntrySize, ".static_call_sites": staticCallSize} {
			want := 0
			if s := f.Section(section); s != nil {
				want = int(s.Size)
			}
			got, _, err := k.moduleTable(name, section, entry)
			if err != nil || len(got) != want {
				t.Errorf("%s: %s: %d bytes (%v), want %d", name, section, len(got), err, want)
			}
			t.Log(name, section, len(got))
		}
		f.Close()
	}
}

func TestLiveReadOnlyAfterInit(t *testing.T) {
	k := live(t)
	yes := k.Symbols.LookupIn("", "__start_ro_after_init")
	no := k.Symbols.LookupIn("", "jiffies_64")
	if len(yes) != 1 || !k.ReadOnlyAfterInit(yes[0].Address) {
		t.Errorf("%v: not read-only after init", yes)
	}
	if len(no) > 0 && k.ReadOnlyAfterInit(no[0].Address) {
		t.Errorf("%v: read-only after init", no)
	}
	for name, m := range k.Modules {
		a, ok, err := k.section(name, ".data..ro_after_init")
		if err != nil {
			t.Fatal(err)
		}
		if ok != k.ReadOnlyAfterInit(a) && ok {
			t.Errorf("%s: .data..ro_after_init at %#x: not read-only after init", name, a)
		}
		if k.ReadOnlyAfterInit(m.Base) {
			t.Errorf("%s: its text: read-only after init", name)
		}
		t.Log(name, ok)
	}
}

func TestLiveTracing(t *testing.T) {
	k := live(t)
	events := os.Getenv("KSPLICE_TEST_TRACEFS")
	if events == "" {
		t.Skip("SKIPPED: KSPLICE_TEST_TRACEFS does not say where tracefs is mounted")
	}
	f := filepath.Join(events, "kprobe_events")
	if err := os.WriteFile(f, []byte("p:ksplicetest do_sys_openat2+0x0\n"), 0); err != nil {
		t.Fatal(err)
	}
	enable := filepath.Join(events, "events/kprobes/ksplicetest/enable")
	if err := os.WriteFile(enable, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	tr, err := k.Tracing()
	if err != nil {
		t.Fatal(err)
	}
	s := k.Symbols.LookupIn("", "do_sys_openat2")
	t.Logf("kprobes %x, do_sys_openat2 %x", tr.Kprobes, s[0].Address)
	if !slices.ContainsFunc(tr.Kprobes, func(a uint64) bool { return a-s[0].Address < 16 }) {
		t.Errorf("kprobes are at %x, none at %v", tr.Kprobes, s)
	}
	if err := os.WriteFile(enable, []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f, []byte(""), 0); err != nil {
		t.Fatal(err)
	}
}
