package vmtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Variable names the environment variable that demands kernel tests: with "1", what is missing for them is a failure.
const Variable = "KSPLICE_TEST_KERNEL"

// needed are the programs that kernel tests use, with the packages that have them.
var needed = []struct{ program, pkg string }{
	{"qemu-system-x86_64", "qemu-system-x86"}, {"apt-get", "apt"}, {"apt-cache", "apt"}, {"dpkg-deb", "dpkg"}, {"depmod", "kmod"},
	{"make", "make"}, {"x86_64-linux-gnu-gcc-12", "gcc-12"}, {"go", "golang-go"},
}

// Need skips a test that boots a kernel unless KSPLICE_TEST_KERNEL=1. With it, what is missing fails the test.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv(Variable) != "1" {
		t.Skipf("SKIPPED: tests that boot a kernel run with %s=1 only: `make test` sets it and what they need up", Variable)
	}
	var missing []string
	for _, n := range needed {
		if _, err := exec.LookPath(n.program); err != nil {
			missing = append(missing, n.program+" (package "+n.pkg+")")
		}
	}
	if _, err := findBusybox(); err != nil {
		missing = append(missing, "a static busybox (package busybox-static)")
	}
	if len(missing) > 0 {
		t.Fatalf("missing for tests that boot a kernel: %s; `make setup` installs it", strings.Join(missing, ", "))
	}
}

// NeedAll is Need for a test that takes minutes: it runs with KSPLICE_TEST_ALL=1 only.
func NeedAll(t testing.TB) {
	t.Helper()
	Need(t)
	if os.Getenv("KSPLICE_TEST_ALL") != "1" {
		t.Skip("SKIPPED: it takes minutes and runs with KSPLICE_TEST_ALL=1 only: `make image-test` sets it")
	}
}

// MustFetch is Fetch for a test.
func MustFetch(t testing.TB, series string) *Kernel {
	t.Helper()
	Need(t)
	k, err := Fetch(t.Context(), series)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Test boots a machine for a test, which fails when the kernel complains of itself or does not power off. It closes the
// machine when the test ends.
func Test(t testing.TB, o Options) *Guest {
	t.Helper()
	Need(t)
	g, err := Boot(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	g.closeAfter(t)
	return g
}

// TestImage boots an image for a test as Test does a kernel. Without a Disk it makes one that goes with the test.
func TestImage(t testing.TB, o ImageOptions) *Guest {
	t.Helper()
	Need(t)
	if o.Disk == "" {
		o.Disk = filepath.Join(t.TempDir(), "disk.qcow2")
		if err := o.Image.NewDisk(t.Context(), o.Disk); err != nil {
			t.Fatal(err)
		}
	}
	g, err := BootImage(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	g.closeAfter(t)
	return g
}

// MustReboot is Reboot for a test; the kernel must not have complained, and the new machine is closed when the test ends. more is added to
// the kernel's command line in the place of ImageOptions.Append.
func (g *Guest) MustReboot(t testing.TB, more string) *Guest {
	t.Helper()
	next, err := g.Reboot(t.Context(), more)
	if err != nil {
		t.Fatal(err)
	}
	next.closeAfter(t)
	return next
}

// MustBuildImage is BuildImage for a test.
func MustBuildImage(t testing.TB, spec ImageSpec) *Image {
	t.Helper()
	Need(t)
	i, err := BuildImage(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// closeAfter closes the machine when the test ends, which fails when the kernel has complained or does not power off.
func (g *Guest) closeAfter(t testing.TB) {
	t.Cleanup(func() {
		closeErr := g.Close()
		if err := g.Err(); err != nil {
			t.Error(err)
		} else if closeErr != nil {
			t.Error(closeErr)
		}
	})
}

// MustRun runs a program and returns its standard output; an exit status other than 0 fails the test.
func (g *Guest) MustRun(t testing.TB, argv ...string) string {
	t.Helper()
	r, err := g.Run(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Exit != 0 {
		t.Fatalf("%s in the guest: exit status %d\n%s%s", strings.Join(argv, " "), r.Exit, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// MustStart starts a program, which is killed when the test ends.
func (g *Guest) MustStart(t testing.TB, argv ...string) *Process {
	t.Helper()
	p, err := g.Start(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-p.Done():
			return
		default:
		}
		if err := p.Kill(); err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
		defer cancel()
		if _, err := p.Wait(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}
