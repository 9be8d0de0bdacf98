package kerneltest

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// BenchmarkUpdate measures apply and undo, on every series, and prints a table. It measures once, however
// often the benchmark is asked to run; figures of the guest are those of an emulated machine.
func BenchmarkUpdate(b *testing.B) {
	vmtest.Need(b)
	for _, s := range wantedSeries() {
		b.Run(s, func(b *testing.B) {
			m := &measuring{lab: prepare(b, s)}
			fmt.Printf("\nkernel %s\n", m.kernel.Release)
			e, err := examples.Get("netif-rx-drop")
			if err != nil {
				b.Fatal(err)
			}
			m.file = m.example(b, e)
			m.boot(b, vmtest.Options{})
			m.applying(b)
		})
	}
}

// BenchmarkCall measures a call through a redirect, beside an unpatched one and one that livepatch has patched.
func BenchmarkCall(b *testing.B) {
	vmtest.Need(b)
	for _, s := range wantedSeries() {
		b.Run(s, func(b *testing.B) {
			m := &measuring{lab: prepare(b, s)}
			fmt.Printf("\nkernel %s\n", m.kernel.Release)
			m.boot(b, vmtest.Options{})
			m.calling(b)
		})
	}
}

// measuring is a lab with a table.
type measuring struct {
	*lab
	file string // the update of netif-rx-drop, whose unit is a large one
}

func (m *measuring) row(what, format string, args ...any) {
	fmt.Printf("  %-58s %s\n", what, fmt.Sprintf(format, args...))
}

// created is what is read of `ksplice create --json`.
type created struct {
	Size              int64
	Units, Unaffected int
	Stages            []struct {
		Name string
		Time time.Duration `json:"time_ns"`
	}
}

func (c *created) split() string {
	var out []string
	for _, s := range c.Stages {
		out = append(out, fmt.Sprintf("%s %.2f", s.Name, s.Time.Seconds()))
	}
	return strings.Join(out, ", ")
}

// stats is what is read of `match --json` and `apply --json`.
type stats struct {
	Functions   int
	Relocations int
	Bytes       int
	Time        time.Duration `json:"time_ns"`
	Plugin      time.Duration `json:"plugin_ns"`
}

func (s *stats) text() string {
	return fmt.Sprintf("%d functions, %d bytes in %.0f ms: %.0f functions/s, %.1f MB/s, %.0f%% of it in plugin calls", s.Functions, s.Bytes,
		float64(s.Time.Microseconds())/1000, float64(s.Functions)/s.Time.Seconds(), float64(s.Bytes)/s.Time.Seconds()/1e6,
		100*s.Plugin.Seconds()/s.Time.Seconds())
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// applying times apply and undo, and the pause beside that of a stop that does nothing.
func (m *measuring) applying(b *testing.B) {
	e, err := examples.Get("uptime-words")
	if err != nil {
		b.Fatal(err)
	}
	small := m.example(b, e)
	id := m.id(b, small)
	for _, f := range []struct{ name, file string }{{"small unit, fs/proc/uptime.c", small}, {"large unit, net/core/dev.c", m.file}} {
		var r struct {
			Matched stats
			Stages  []struct {
				Name string
				Time time.Duration `json:"time_ns"`
			}
		}
		start := time.Now()
		out := m.must(b, exitOK, "", "apply", "--json", "--attempts", "100", f.file)
		wall := time.Since(start)
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			b.Fatal(err)
		}
		m.row("apply in the guest, from command to done: "+f.name, "%.2f s: %s", wall.Seconds(), (&created{Stages: r.Stages}).split())
		m.row("  match there", "%s", r.Matched.text())
		if f.file == m.file {
			m.row("  update in kernel memory", "%s bytes", strings.TrimSpace(m.MustRun(b, "sh", "-c", "awk '/^ksplice_/ {print $2}' /proc/modules")))
		}
		m.undo(b, m.id(b, f.file))
	}
	ko, err := vmtest.BuildModule(b.Context(), m.kernel, "examples/emptystop", "emptystop")
	if err != nil {
		b.Fatal(err)
	}
	content, err := os.ReadFile(ko)
	if err != nil {
		b.Fatal(err)
	}
	if err := m.WriteFile("/tmp/emptystop.ko", content, 0o644); err != nil {
		b.Fatal(err)
	}
	empty := func() time.Duration {
		m.MustRun(b, "insmod", "/tmp/emptystop.ko")
		n, err := strconv.ParseInt(strings.TrimSpace(m.MustRun(b, "cat", "/sys/module/emptystop/parameters/median_ns")), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		m.MustRun(b, "rmmod", "emptystop")
		return time.Duration(n)
	}
	pauses := func(rounds int) time.Duration {
		var all []time.Duration
		for range rounds {
			var a struct {
				Commit struct {
					Pause time.Duration `json:"pause_ns"`
				}
			}
			if err := json.Unmarshal([]byte(m.must(b, exitOK, "", "apply", "--json", "--attempts", "100", small)), &a); err != nil {
				b.Fatal(err)
			}
			all = append(all, a.Commit.Pause)
			m.undo(b, id)
		}
		return median(all)
	}
	base := pauses(50)
	m.row("pause of apply, median of 50", "%.3f ms; a stop that does nothing: %.3f ms", base.Seconds()*1000, empty().Seconds()*1000)
	const threads = 400
	sleepers := m.MustStart(b, "sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do sleep 100000 & i=$((i+1)); done; echo ready; wait", threads))
	poll(b, "the threads", func() bool { return strings.Contains(sleepers.Output(), "ready") })
	more := pauses(20)
	m.row(fmt.Sprintf("  with %d more threads, median of 20", threads), "%.3f ms: %.3f ms for each 100 threads", more.Seconds()*1000,
		(more-base).Seconds()*1000/(threads/100))
	_ = sleepers.Kill()
}

// calling times a system call that is not patched, that ksplice has patched, and that livepatch has. Old and new code are equal but for a
// nop, so that the difference is the redirect.
func (m *measuring) calling(b *testing.B) {
	patch, err := os.ReadFile("../../../examples/livepatch/getppid-nop.patch")
	if err != nil {
		b.Fatal(err)
	}
	file := m.create(b, "getppid-nop", patch)
	ko, err := vmtest.BuildModule(b.Context(), m.kernel, "examples/livepatch", "livepatch_getppid")
	if err != nil {
		b.Fatal(err)
	}
	content, err := os.ReadFile(ko)
	if err != nil {
		b.Fatal(err)
	}
	if err := m.WriteFile("/tmp/livepatch.ko", content, 0o644); err != nil {
		b.Fatal(err)
	}
	// The fastest round of all passes: what else runs on the machine only ever adds.
	best := map[string]float64{}
	call := func(state string) {
		for _, line := range strings.Split(strings.TrimSpace(m.MustRun(b, guestUser, "bench", "-rounds", "15", "-calls", "50000")), "\n") {
			var t struct {
				Call string
				Min  float64 `json:"min_ns"`
			}
			if err := json.Unmarshal([]byte(line), &t); err != nil {
				b.Fatal(err)
			}
			key := state + " " + t.Call
			if have, ok := best[key]; !ok || t.Min < have {
				best[key] = t.Min
			}
		}
	}
	for range 3 {
		call("plain")
		m.apply(b, file)
		call("ksplice")
		m.undo(b, m.id(b, file))
		m.livepatch(b, "/tmp/livepatch.ko")
		call("livepatch")
		m.unlivepatch(b)
	}
	added := func(state string) float64 { return best[state+" getppid"] - best["plain getppid"] }
	for _, state := range []string{"plain", "ksplice", "livepatch"} {
		m.row("getppid(), fastest of 45 rounds: "+state, "%.0f ns (getuid, never patched: %.0f ns)", best[state+" getppid"], best[state+" getuid"])
	}
	m.row("  what the redirect adds", "ksplice %.1f ns, livepatch %.1f ns: %.2f times as much", added("ksplice"), added("livepatch"), added("ksplice")/added("livepatch"))
}
