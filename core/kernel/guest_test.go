package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
)

// TestGuest boots real kernels. It compares their images, and cores of the guests, with what the booted kernels say of
// themselves, and runs the tests of the running kernel inside.
func TestGuest(t *testing.T) {
	vmtest.Need(t)
	for _, series := range []string{"6.1", "6.12"} {
		t.Run(series, func(t *testing.T) {
			t.Parallel()
			k, share := vmtest.MustFetch(t, series), t.TempDir()
			build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", filepath.Join(share, "kernel.test"), ".")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("build the tests for the guest: %v\n%s", err, out)
			}
			g := vmtest.Test(t, vmtest.Options{Kernel: k, Share: share, Debug: true, MemoryMiB: 512})
			modules := []string{"dummy", "8021q", "nf_tables", "ext4"}
			for _, m := range modules {
				g.MustRun(t, "modprobe", m)
			}
			g.MustRun(t, "sh", "-c", "gzip -c < /proc/kallsyms > /share/kallsyms.gz && cat /proc/modules > /share/modules")
			t.Run("image", func(t *testing.T) { testImage(t, k.Vmlinuz, readKallsyms(t, filepath.Join(share, "kallsyms.gz"))) })
			t.Run("live", func(t *testing.T) {
				g.MustRun(t, "mkdir", "-p", "/tmp/ko")
				for _, m := range modules {
					b, err := k.ReadModule(m)
					if err != nil {
						t.Fatal(err)
					}
					if err := g.WriteFile("/tmp/ko/"+m+".ko", b, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				t.Log(g.MustRun(t, "env", "KSPLICE_TEST_LIVE=1", "KSPLICE_TEST_TRACEFS=/sys/kernel/tracing", "KSPLICE_TEST_MODULES=/tmp/ko",
					"/share/kernel.test", "-test.run", "Live", "-test.v"))
			})
			t.Run("core", func(t *testing.T) {
				if err := g.DumpMemory(filepath.Join(share, "core")); err != nil {
					t.Fatal(err)
				}
				testCore(t, share)
			})
		})
	}
}
