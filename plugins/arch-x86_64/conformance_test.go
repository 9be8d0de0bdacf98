package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/objtest"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/x86"
	"github.com/ksplice/ksplice/sdk/sdktest"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// sources are compiled the way kernels are, as far as a machine without kernel headers can.
var sources = map[string]string{
	"calls": `
extern int far(const char *, ...); extern int table[]; static int hits;
static __attribute__((noinline)) int near(int n) { hits++; return n * 3; }
int f(int n) { if (n > table[2]) far("n is %d\n", n); return near(n) + near(n + 1); }
int (*pointer)(int) = near;
__attribute__((cold)) void g(void) { far("cold"); }
int h(unsigned n) { switch (n) { case 0: return far("a"); case 1: return near(4); case 2: return hits; case 3: return table[7]; } return -1; }`,
	"loops": `
extern unsigned char buf[64];
unsigned sum(unsigned n) { unsigned s = 0; for (unsigned i = 0; i < n; i++) s += buf[i & 63]; return s; }
void set(unsigned n, int v) { __builtin_memset(buf, v, n); }
long mul(long a, long b) { long r; __asm__ ("imul %2, %0" : "=r"(r) : "0"(a), "r"(b)); return r; }`,
}

// fixtures compiles the sources with the flags.
func fixtures(t *testing.T, flags ...string) sdktest.ArchFixtures {
	t.Helper()
	gcc := need.Program(t, "gcc")
	fix := sdktest.ArchFixtures{Target: objtest.Target()}
	dir := t.TempDir()
	for _, name := range []string{"calls", "loops"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".c", []byte(sources[name]), 0o600); err != nil {
			t.Fatal(err)
		}
		args := append([]string{"-O2", "-fno-PIE", "-mcmodel=kernel", "-mno-red-zone", "-fno-asynchronous-unwind-tables",
			"-fno-stack-protector", "-fno-jump-tables", "-c", "-o", path + ".o", path + ".c"}, flags...)
		if out, err := exec.Command(gcc, args...).CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
		fix.Objects = append(fix.Objects, path+".o")
	}
	return fix
}

func TestConformance(t *testing.T) {
	t.Run("sections", func(t *testing.T) {
		sdktest.Arch(t, &x86.Plugin{}, fixtures(t, "-ffunction-sections", "-fdata-sections"))
	})
	t.Run("traced", func(t *testing.T) {
		sdktest.Arch(t, &x86.Plugin{}, fixtures(t, "-ffunction-sections", "-pg", "-mfentry", "-mrecord-mcount", "-fcf-protection=branch"))
	})
	t.Run("one text", func(t *testing.T) { sdktest.Arch(t, &x86.Plugin{}, fixtures(t, "-fcf-protection=none")) })
}

// TestLaunched asks the binary, over the connection that a host has.
func TestLaunched(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short, and this builds the plugin")
	}
	path := filepath.Join(t.TempDir(), "arch-x86_64")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	sdktest.Arch(t, sdktest.LaunchArch(t, path), fixtures(t, "-ffunction-sections"))
}
