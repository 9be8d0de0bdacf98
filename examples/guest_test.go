package examples

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/vmtest"
)

const exercise = "/bin/exercise"

// lineLimit bounds the wait for a line of output.
const lineLimit = 5 * time.Minute

// TestOldKernel shows on unpatched kernels that every example's old effect is there, and that the programs work which say so.
func TestOldKernel(t *testing.T) {
	for _, s := range series {
		t.Run(s, func(t *testing.T) {
			k := vmtest.MustFetch(t, s)
			g := vmtest.Test(t, vmtest.Options{Kernel: k, Files: map[string]string{
				exercise: build(t), "/livepatch_getppid.ko": livepatch(t, k),
			}})
			for _, e := range All {
				if e.Base == "" {
					t.Run(e.Name, func(t *testing.T) { old(t, g, &e) })
				}
			}
			for _, kind := range []string{"fentry", "kprobe", "function", "graph"} {
				t.Run(kind, func(t *testing.T) {
					counts(t, g, []string{"file", "/proc/uptime"}, kind, "uptime_proc_show")
					counts(t, g, []string{"file", "/proc/net/pktgen/pgctrl"}, kind, "pgctrl_show", "pktgen")
				})
			}
			t.Run("sleep", func(t *testing.T) {
				p := g.MustStart(t, exercise, "sleep")
				waitFor(t, p, `"asleep":true`)
				finish(t, p, syscall.SIGUSR1)
			})
			t.Run("loop", func(t *testing.T) {
				p := g.MustStart(t, exercise, "loop", "-procs", "3", "-old", All[0].Show[0].Old, "-new", All[0].Show[0].New, "file", "/proc/uptime")
				waitFor(t, p, `"ready":true`)
				var seen struct{ Times, Old, New int }
				parse(t, finish(t, p, syscall.SIGTERM), &seen)
				if seen.Times < 3 || seen.Old != seen.Times || seen.New != 0 {
					t.Errorf("the loop saw %+v, want three times or more, all old", seen)
				}
				r, err := g.Run(t.Context(), exercise, "loop", "-old", "^never$", "file", "/proc/uptime")
				if err != nil || r.Exit != 1 || !strings.Contains(r.Stderr, "matches neither") {
					t.Errorf("a loop that sees something else = %+v, %v, want a failure", r, err)
				}
			})
			t.Run("bench", func(t *testing.T) {
				out := g.MustRun(t, exercise, "bench", "-calls", "1000", "-rounds", "3")
				if n := strings.Count(out, `"median_ns":`); n != 2 {
					t.Errorf("bench = %s, want two lines", out)
				}
			})
			t.Run("livepatch", func(t *testing.T) {
				g.MustRun(t, "insmod", "/livepatch_getppid.ko")
				// I: somebody changes where the function goes on (kernel/trace/ftrace.c:t_show).
				g.MustRun(t, "sh", "-c", "[ -e /sys/kernel/tracing/enabled_functions ] || mount -t tracefs none /sys/kernel/tracing")
				out := g.MustRun(t, "grep", "sys_getppid", "/sys/kernel/tracing/enabled_functions")
				if !regexp.MustCompile(`sys_getppid \(\d+\).* I\b.*klp_ftrace_handler`).MatchString(out) {
					t.Errorf("getppid is not redirected by the livepatch: %s", out)
				}
			})
		})
	}
}

// build compiles the program for the guest.
func build(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "exercise")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", file, "./exercise")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the program for the guest: %v\n%s", err, out)
	}
	return file
}

// livepatch compiles the livepatch module for a kernel.
func livepatch(t *testing.T, k *vmtest.Kernel) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("livepatch")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "make", "-C", k.KDir, "M="+dir, "modules").CombinedOutput(); err != nil {
		t.Fatalf("build the livepatch module: %v\n%s", err, out)
	}
	return filepath.Join(dir, "livepatch_getppid.ko")
}

// old checks one example's old effect.
func old(t *testing.T, g *vmtest.Guest, e *Example) {
	for _, m := range e.Modules {
		g.MustRun(t, "modprobe", m)
	}
	for _, s := range e.Setup {
		g.MustRun(t, append([]string{exercise}, s...)...)
	}
	if f := e.Flip; f != nil {
		g.MustRun(t, exercise, "do", "write", f.Path, f.On)
		g.MustRun(t, exercise, "do", "write", f.Path, f.Off)
	}
	for _, x := range e.Show {
		got := g.MustRun(t, append([]string{exercise, "do"}, x.Action...)...)
		if x.Seen(got) != "old" {
			t.Errorf("%q prints %q, want what matches %q and not %q", x.Action, got, x.Old, x.New)
		}
	}
	symbols := g.MustRun(t, "cat", "/proc/kallsyms")
	for _, f := range e.Functions {
		if !regexp.MustCompile(`(?m) [tT] ` + f + `(\t|$)`).MatchString(symbols) {
			t.Errorf("the kernel has no function %s", f)
		}
	}
}

// counts checks that a tracer counts calls of a function: no call in a while, and no fewer than those that were made.
func counts(t *testing.T, g *vmtest.Guest, action []string, args ...string) {
	t.Helper()
	p := g.MustStart(t, append([]string{exercise, "trace"}, args...)...)
	waitFor(t, p, `"attached":true`)
	const calls = 3
	for range calls {
		g.MustRun(t, append([]string{exercise, "do"}, action...)...)
	}
	var got struct{ Count int }
	parse(t, finish(t, p, syscall.SIGTERM), &got)
	if got.Count < calls || got.Count > 2*calls { // a file may be read in two steps
		t.Errorf("%q counts %d calls, want %d, or twice that", args, got.Count, calls)
	}
}

// waitFor waits until a process prints words.
func waitFor(t *testing.T, p *vmtest.Process, words string) {
	t.Helper()
	for end := time.Now().Add(lineLimit); !strings.Contains(p.Output(), words); time.Sleep(20 * time.Millisecond) {
		select {
		case <-p.Done():
			if strings.Contains(p.Output(), words) {
				return
			}
			t.Fatalf("it ended without printing %s:\n%s", words, p.Output())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("it did not print %s within %v:\n%s", words, lineLimit, p.Output())
		}
	}
}

// finish sends a signal, waits for a good end and returns the last line.
func finish(t *testing.T, p *vmtest.Process, sig syscall.Signal) string {
	t.Helper()
	if err := p.Signal(sig); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lineLimit)
	defer cancel()
	r, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if r.Exit != 0 {
		t.Fatalf("exit status %d:\n%s%s", r.Exit, r.Stdout, r.Stderr)
	}
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	return lines[len(lines)-1]
}

func parse(t *testing.T, line string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(line), v); err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
}
