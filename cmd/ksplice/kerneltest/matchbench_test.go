package kerneltest

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/examples"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// benchUnits are large units of the kernel proper that are matched besides that of the patch.
var benchUnits = []string{"fs/namei.c", "fs/namespace.c", "kernel/fork.c", "kernel/sched/core.c", "kernel/signal.c", "mm/memory.c", "net/core/sock.c", "net/ipv4/tcp.c"}

// BenchmarkMatch measures run-pre matching of some large units with the kernel's image, through the plugin's process as always, beside
// objdump -d of the same bytes. Times are of processors, of both processes, since the machine may have other things to do.
func BenchmarkMatch(b *testing.B) {
	withoutGuest(b, (*measuring).matchAll)
}

func (m *measuring) matchAll(b *testing.B) {
	e, err := examples.Get("netif-rx-drop")
	if err != nil {
		b.Fatal(err)
	}
	patch, err := e.Patch(m.series())
	if err != nil {
		b.Fatal(err)
	}
	var args []string
	for _, u := range benchUnits {
		args = append(args, "--unit", u)
	}
	m.create(b, "match", patch, args...)
	u, err := update.ReadFile(filepath.Join(m.share, "match.ksplice"))
	if err != nil {
		b.Fatal(err)
	}
	k, err := kernel.Image(m.kernel.Vmlinuz)
	if err != nil {
		b.Fatal(err)
	}
	host := pluginhost.New(pluginhost.Config{Dirs: []string{filepath.Join(m.tools, "libexec", "ksplice", "plugins")}})
	defer host.Close()
	a, _, err := host.Arch(b.Context(), uint16(elf.EM_X86_64))
	if err != nil {
		b.Fatal(err)
	}
	target := arch.Target{Machine: uint16(elf.EM_X86_64), Facts: u.Manifest.Facts, Config: u.Manifest.Config}
	var files []plugin.File
	var graphs []*objfile.File
	for i, x := range u.Manifest.Units {
		path := filepath.Join(m.share, fmt.Sprintf("%d.o", i))
		if err := os.WriteFile(path, u.Files[x.Pre], 0o644); err != nil {
			b.Fatal(err)
		}
		f, err := objfile.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		graphs = append(graphs, f)
		files = append(files, plugin.File{Path: path, SHA256: update.Digest(u.Files[x.Pre])})
	}
	units := func(target arch.Target) []*match.Unit {
		resp, err := a.Describe(b.Context(), &arch.DescribeRequest{Target: target, Objects: files})
		if err != nil {
			b.Fatal(err)
		}
		var out []*match.Unit
		for i, x := range u.Manifest.Units {
			out = append(out, &match.Unit{Name: x.Object, Object: files[i], File: graphs[i], Target: target, Desc: &resp.Objects[i]})
		}
		return out
	}
	known := units(target)
	run := func(list []*match.Unit) *match.Solution {
		sol, err := match.Run(b.Context(), k, a, list)
		if err == nil {
			err = sol.Err()
		}
		if err != nil {
			b.Fatal(err)
		}
		return sol
	}
	const rounds = 20
	sol := run(known)
	matched := m.cpu(b, rounds, func(int) { run(known) })
	described := m.cpu(b, rounds, func(i int) {
		// Each time another target: the plugin remembers what it has described.
		t := target
		t.Facts = map[string]int64{"bench.round": int64(i)}
		for name, value := range target.Facts {
			t.Facts[name] = value
		}
		run(units(t))
	})
	var code []byte
	for i := range sol.Functions {
		code = append(code, sol.Functions[i].Run...)
	}
	raw := filepath.Join(m.share, "code")
	if err := os.WriteFile(raw, code, 0o644); err != nil {
		b.Fatal(err)
	}
	dumped := m.cpu(b, 5, func(int) {
		if err := exec.CommandContext(b.Context(), "objdump", "-D", "-b", "binary", "-m", "i386:x86-64", raw).Run(); err != nil {
			b.Fatal(err)
		}
	})
	args = []string{"-d"}
	for _, f := range files {
		args = append(args, f.Path)
	}
	ofObjects := m.cpu(b, 3, func(int) {
		if err := exec.CommandContext(b.Context(), "objdump", args...).Run(); err != nil {
			b.Fatal(err)
		}
	})
	rate := func(d time.Duration) string {
		return fmt.Sprintf("%.0f ms, %.1f MB/s", float64(d.Microseconds())/1000, float64(len(code))/d.Seconds()/1e6)
	}
	m.row(fmt.Sprintf("match %d units, %d functions, %d bytes", len(files), sol.Stats.Functions, len(code)), "%s of processors", rate(matched))
	m.row("  with the description of their objects", "%s", rate(described))
	for _, o := range []struct {
		what string
		took time.Duration
	}{{"of the same bytes, with no symbols", dumped}, {"of the objects that they were compiled to", ofObjects}} {
		m.row("  objdump -d "+o.what, "%s: %.1f times the match, %.1f times both", rate(o.took),
			o.took.Seconds()/matched.Seconds(), o.took.Seconds()/described.Seconds())
	}
}

// cpu is the processor time, of this process and its children, that a function takes, on average over rounds.
func (m *measuring) cpu(b *testing.B, rounds int, f func(round int)) time.Duration {
	before := processors(b)
	for i := range rounds {
		f(i)
	}
	return (processors(b) - before) / time.Duration(rounds)
}

// processors is the processor time that this process has had, its children that have ended, and those that run.
func processors(b *testing.B) time.Duration {
	var sum time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var r unix.Rusage
		if err := unix.Getrusage(who, &r); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	for _, s := range stats {
		text, err := os.ReadFile(s)
		if err != nil {
			continue // it has ended
		}
		// proc(5): after the name in parentheses come the state, the parent, and, as 14th and 15th of all, utime and stime in ticks of a
		// hundredth of a second.
		_, rest, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(rest)
		if len(f) < 13 || f[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		for _, ticks := range f[11:13] {
			n, err := strconv.ParseInt(ticks, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
}
