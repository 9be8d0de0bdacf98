package vmtest_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/vmtest"
)

// series are the kernels that everything is tested on.
var series = []string{"6.1", "6.12"}

func TestBoot(t *testing.T) {
	vmtest.Need(t)
	for _, s := range series {
		t.Run(s, func(t *testing.T) {
			k := vmtest.MustFetch(t, s)
			share := t.TempDir()
			g := vmtest.Test(t, vmtest.Options{Kernel: k, Modules: []string{"sch_qfq"}, Share: share,
				Files: map[string]string{"/opt/vmtest/test.go": "vmtest_test.go"}})
			if got := strings.TrimSpace(g.MustRun(t, "uname", "-r")); got != k.Release {
				t.Errorf("uname -r is %s, not %s", got, k.Release)
			}
			t.Run("run", func(t *testing.T) { run(t, g) })
			t.Run("files", func(t *testing.T) { files(t, g, share) })
			t.Run("many", func(t *testing.T) { many(t, g) })
			t.Run("hang", func(t *testing.T) { hang(t, g) })
			t.Run("setup", func(t *testing.T) { setUp(t, g) })
		})
	}
}

func run(t *testing.T, g *vmtest.Guest) {
	r, err := g.Run(t.Context(), "sh", "-c", "echo out; echo err >&2; exit 7")
	if err != nil {
		t.Fatal(err)
	}
	if *r != (vmtest.Result{Stdout: "out\n", Stderr: "err\n", Exit: 7}) {
		t.Errorf("run: %+v", r)
	}
	if r, err = g.Run(t.Context(), "sh", "-c", "kill -TERM $$"); err != nil || r.Exit != 128+15 {
		t.Errorf("a program ended by SIGTERM: %+v, %v", r, err)
	}
	if _, err = g.Run(t.Context(), "no-such-program"); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("a program that is not there: %v", err)
	}
	// A background process that keeps the pipes must not keep Run.
	if got := g.MustRun(t, "sh", "-c", "sleep 1000 & echo started"); got != "started\n" {
		t.Errorf("with a background process: %q", got)
	}
	g.MustRun(t, "killall", "sleep")
}

func files(t *testing.T, g *vmtest.Guest, share string) {
	want := bytes.Repeat([]byte("0123456789abcde\n"), 50_000)
	if err := g.WriteFile("/tmp/a/b", want, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := g.ReadFile("/tmp/a/b"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes read back as %d, %v", len(want), len(got), err)
	}
	if got := g.MustRun(t, "cat", "/tmp/a/b"); got != string(want) {
		t.Errorf("%d bytes printed as %d", len(want), len(got))
	}
	if _, err := g.ReadFile("/tmp/none"); err == nil || !strings.Contains(err.Error(), "/tmp/none") {
		t.Errorf("reading a file that is not there: %v", err)
	}
	if got := g.MustRun(t, "head", "-n1", "/opt/vmtest/test.go"); got != "package vmtest_test\n" {
		t.Errorf("a file of Options.Files begins with %q", got)
	}
	if err := os.WriteFile(filepath.Join(share, "in"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	g.MustRun(t, "sh", "-c", "cat /share/in > /share/out && cp /bin/busybox /share/ && /share/busybox true")
	if got, err := os.ReadFile(filepath.Join(share, "out")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("through the share: %d bytes of %d, %v", len(got), len(want), err)
	}
}

func many(t *testing.T, g *vmtest.Guest) {
	var all []*vmtest.Process
	for range 30 {
		all = append(all, g.MustStart(t, "sh", "-c", "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo line $i; done"))
	}
	forever := g.MustStart(t, "sh", "-c", "while :; do echo x; done")
	for _, p := range all {
		r, err := p.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(r.Stdout, "\n"); n != 200 || r.Exit != 0 {
			t.Errorf("%d lines, exit status %d", n, r.Exit)
		}
	}
	if got := strings.TrimSpace(g.MustRun(t, "cat", "/proc/sys/kernel/ostype")); got != "Linux" {
		t.Errorf("under load: %q", got)
	}
	if err := forever.Kill(); err != nil {
		t.Fatal(err)
	}
	if r, err := forever.Wait(t.Context()); err != nil || r.Exit != 128+9 || r.Stdout == "" {
		t.Errorf("a killed process: exit %+v, %v", r, err)
	}
}

func hang(t *testing.T, g *vmtest.Guest) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := g.Run(ctx, "sh", "-c", "echo before; sleep 1000 | cat")
	if err == nil || !strings.Contains(err.Error(), "before") || strings.Contains(err.Error(), "cannot be killed") {
		t.Errorf("a program that hangs: %v", err)
	}
	if r, err := g.Run(t.Context(), "pidof", "sleep"); err != nil || r.Exit == 0 {
		t.Errorf("what hung is still there: %+v, %v", r, err)
	}
}

func setUp(t *testing.T, g *vmtest.Guest) {
	g.MustRun(t, "sh", "-ec", `
		grep -q sch_qfq /proc/modules
		modprobe dummy && grep -q ^dummy /proc/modules
		test -e /sys/kernel/debug/tracing/trace
		test -e /sys/fs/cgroup/cgroup.procs
		ping -c1 -W5 127.0.0.1`)
	if a, b := g.MustRun(t, "cat", "/proc/kallsyms"), g.MustRun(t, "cat", "/proc/cmdline"); len(a) < 1_000_000 || strings.Contains(b, "nokaslr") {
		t.Errorf("kallsyms has %d bytes, the command line is %s", len(a), b)
	}
}

func TestTwoAtOnce(t *testing.T) {
	k := vmtest.MustFetch(t, "6.1")
	a := vmtest.Test(t, vmtest.Options{Kernel: k, CPUs: 1})
	b := vmtest.Test(t, vmtest.Options{Kernel: k, CPUs: 1, CPU: "max", MemoryMiB: 512})
	for _, g := range []*vmtest.Guest{a, b} {
		if got := strings.TrimSpace(g.MustRun(t, "nproc")); got != "1" {
			t.Errorf("%s CPUs, not 1", got)
		}
	}
	// Each boot has its own place for the kernel.
	const line = "grep -m1 ' _stext$' /proc/kallsyms"
	if x, y := a.MustRun(t, "sh", "-c", line), b.MustRun(t, "sh", "-c", line); x == y {
		t.Errorf("two boots have the kernel at the same place: %s", x)
	}
}

func TestPanic(t *testing.T) {
	k := vmtest.MustFetch(t, "6.1")
	g, err := vmtest.Boot(t.Context(), vmtest.Options{Kernel: k})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := g.Err(); err != nil {
		t.Fatal(err)
	}
	_, err = g.Run(t.Context(), "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 100")
	if err == nil || !strings.Contains(err.Error(), "sysrq triggered crash") {
		t.Errorf("a program that crashes the kernel: %v", err)
	}
	if err := g.Err(); err == nil || !strings.Contains(err.Error(), "sysrq triggered crash") {
		t.Errorf("the guest after a panic: %v", err)
	}
	if err := g.Close(); err == nil {
		t.Error("a machine that has crashed closes without an error")
	}
}

func TestBootFails(t *testing.T) {
	k := vmtest.MustFetch(t, "6.1")
	if _, err := vmtest.Boot(t.Context(), vmtest.Options{Kernel: k, Modules: []string{"no_such_module"}}); err == nil ||
		!strings.Contains(err.Error(), "no_such_module") {
		t.Errorf("a module that is not there: %v", err)
	}
	if _, err := vmtest.Boot(t.Context(), vmtest.Options{Kernel: k, CPU: "no-such-cpu"}); err == nil ||
		!strings.Contains(err.Error(), "no-such-cpu") {
		t.Errorf("a CPU that is not there: %v", err)
	}
	if _, err := vmtest.Boot(t.Context(), vmtest.Options{Kernel: k, Append: "rdinit=/none init=/none"}); err == nil ||
		!strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("no init: %v", err)
	}
	if _, err := vmtest.Fetch(t.Context(), "9.99"); err == nil || !strings.Contains(err.Error(), "apt-get update") {
		t.Errorf("a series that is not there: %v", err)
	}
}
