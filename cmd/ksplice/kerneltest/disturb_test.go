package kerneltest

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// tracer is a running "exercise trace".
type tracer struct {
	p     *vmtest.Process
	kind  string
	lines int
}

func (l *lab) trace(t testing.TB, kind, function string) *tracer {
	t.Helper()
	tr := &tracer{p: l.MustStart(t, guestUser, "trace", kind, function), kind: kind}
	poll(t, kind+" to be attached", func() bool {
		select {
		case <-tr.p.Done():
			t.Fatalf("trace %s has ended: %s", kind, tr.p.Output())
		default:
		}
		return strings.Contains(tr.p.Output(), `"attached":true`)
	})
	tr.lines = 1
	return tr
}

// count asks for the number of calls so far.
func (tr *tracer) count(t testing.TB) uint64 {
	t.Helper()
	if err := tr.p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	var last string
	poll(t, "a count of "+tr.kind, func() bool {
		lines := strings.Split(strings.TrimSpace(tr.p.Output()), "\n")
		last = lines[len(lines)-1]
		return len(lines) > tr.lines
	})
	tr.lines++
	var n struct{ Count uint64 }
	if err := json.Unmarshal([]byte(last), &n); err != nil {
		t.Fatalf("trace %s: %v: %s", tr.kind, err, last)
	}
	return n.Count
}

// tracers wants every way to trace a function to go on while it is patched: calls are counted before, between and after.
func (l *lab) tracers(t *testing.T, file string) {
	e, err := examples.Get("uptime-words")
	if err != nil {
		t.Fatal(err)
	}
	id, x := l.id(t, file), &e.Show[0]
	for _, kind := range []string{"function", "graph", "kprobe", "fentry"} {
		t.Run(kind, func(t *testing.T) {
			same := l.saveText(t)
			early := l.trace(t, kind, e.Functions[0])
			var late *tracer
			counts := func(when string) {
				t.Helper()
				for _, tr := range []*tracer{early, late} {
					if tr == nil {
						continue
					}
					before := tr.count(t)
					l.do(t, x)
					if after := tr.count(t); after != before+1 {
						t.Errorf("%s %s: one call was counted %d times", kind, when, after-before)
					}
				}
			}
			counts("before")
			l.apply(t, file)
			l.sees(t, x, "new")
			counts("while it is applied")
			if kind != "graph" { // one at a time on a machine
				late = l.trace(t, kind, e.Functions[0])
				counts("attached late")
			}
			l.undo(t, id)
			l.sees(t, x, "old")
			counts("after")
			for _, tr := range []*tracer{early, late} {
				if tr == nil {
					continue
				}
				if err := tr.p.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if r, err := tr.p.Wait(t.Context()); err != nil || r.Exit != 0 {
					t.Fatalf("trace %s: %v %+v", kind, err, r)
				}
			}
			same()
		})
	}
	l.clean(t)
}

// asleep wants a thread that sleeps in a function to make apply fail by name and change nothing, and the same command to
// succeed once it has left.
func (l *lab) asleep(t *testing.T, file string) {
	e, err := examples.Get("eventfd-short-read")
	if err != nil {
		t.Fatal(err)
	}
	id, x := l.id(t, file), &e.Show[0]
	same := l.saveText(t)
	p := l.MustStart(t, guestUser, "sleep")
	var sleeper struct{ TID int }
	poll(t, "a thread to sleep", func() bool {
		out := p.Output()
		return strings.Contains(out, `"asleep":true`) && json.Unmarshal([]byte(strings.Split(out, "\n")[0]), &sleeper) == nil
	})
	for range 2 {
		out := l.must(t, exitConflict, e.Functions[0], "apply", "--attempts", "3", file)
		for _, want := range []string{strconv.Itoa(sleeper.TID), "exercise"} {
			if !strings.Contains(out, want) {
				t.Errorf("the refusal does not name %s: %s", want, out)
			}
		}
		l.sees(t, x, "old")
		same()
		l.clean(t)
	}
	var refused struct {
		Conflicts []struct {
			PID               int
			Command, Function string
		}
	}
	r := l.ksplice(t, "apply", "--json", "-v", "--attempts", "1", file)
	if err := json.Unmarshal([]byte(r.Stdout), &refused); err != nil || r.Exit != exitConflict {
		t.Fatalf("apply --json: exit code %d, %v\n%s", r.Exit, err, r.Stdout)
	}
	if c := refused.Conflicts; len(c) != 1 || c[0].PID != sleeper.TID || c[0].Command != "exercise" || c[0].Function != e.Functions[0] {
		t.Errorf("apply --json: conflicts %+v, want thread %d (exercise) in %s alone", c, sleeper.TID, e.Functions[0])
	}
	if want := fmt.Sprintf("thread %d (exercise) is in %s, at 0x", sleeper.TID, e.Functions[0]); !strings.Contains(r.Stderr, want) {
		t.Errorf("apply -v: no %q in\n%s", want, r.Stderr)
	}
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if r, err := p.Wait(t.Context()); err != nil || r.Exit != 0 {
		t.Fatalf("the sleeper: %v %+v", err, r)
	}
	l.apply(t, file)
	l.sees(t, x, "new")
	l.undo(t, id)
	same()
	l.clean(t)
}

// killed kills apply and undo at every stage: the kernel must be wholly old or wholly new, and the next command must work.
func (l *lab) killed(t *testing.T, file string) {
	e, err := examples.Get("uptime-words")
	if err != nil {
		t.Fatal(err)
	}
	id, x := l.id(t, file), &e.Show[0]
	same := l.saveText(t)
	// state says whether the update is applied, as the kernel module and as a program see it.
	state := func() bool {
		t.Helper()
		var states []struct{ ID, Stage string }
		if err := json.Unmarshal([]byte(l.must(t, exitOK, "", "status", "--json")), &states); err != nil {
			t.Fatal(err)
		}
		applied := len(states) == 1 && states[0].ID == id && states[0].Stage == "applied"
		if seen := x.Seen(l.do(t, x)); seen != map[bool]string{false: "old", true: "new"}[applied] {
			t.Fatalf("status says %v, a program sees %q", states, seen)
		}
		return applied
	}
	// kill runs a command and kills it as a stage begins; a stage that takes no time may be over by then.
	killed := map[string]int{}
	kill := func(stage string, argv ...string) {
		t.Helper()
		out := strings.TrimSpace(l.MustRun(t, append([]string{guestTool, "killat", "stage: name=" + stage + " ", guestCLI}, argv...)...))
		if strings.HasPrefix(out, "killed") {
			killed[argv[0]]++
		}
		t.Logf("%s at %s: %s, applied: %v", argv[0], stage, out, state())
	}
	for _, stage := range []string{"clear", "begin", "pin", "read", "describe", "match", "bind", "load", "commit", "verify"} {
		if state() {
			l.undo(t, id)
		}
		kill(stage, "apply", "-vv", file)
	}
	for _, stage := range []string{"clear", "begin", "commit", "unload", "done"} {
		if !state() {
			l.apply(t, file)
		}
		kill(stage, "undo", "-vv", id)
	}
	if killed["apply"] < 7 || killed["undo"] < 3 {
		t.Errorf("of 10 and 5 commands only %d and %d were killed", killed["apply"], killed["undo"])
	}
	if !state() {
		l.apply(t, file)
	}
	l.undo(t, id)
	same()
	l.clean(t)
}

// roundsVariable sets how often rounds applies and undoes: 4 where it is not set.
const roundsVariable = "KSPLICE_TEST_ROUNDS"

// rounds applies and undoes again and again while processes are in the patched code and the function tracer comes and goes.
// Memory and modules must not grow.
func (l *lab) rounds(t *testing.T, file string) {
	n := 4
	if s := os.Getenv(roundsVariable); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s: %v", roundsVariable, err)
		}
	}
	e, err := examples.Get("uptime-words")
	if err != nil {
		t.Fatal(err)
	}
	id := l.id(t, file)
	same := l.saveText(t)
	modules := l.MustRun(t, "sh", "-c", "cut -d' ' -f1 /proc/modules | sort")
	busy := l.loop(t, &e, "4", "10ms")
	var memory []int64
	const tracing = "/sys/kernel/tracing/"
	l.MustRun(t, "sh", "-c", fmt.Sprintf("echo %s > %sset_ftrace_filter", e.Functions[0], tracing))
	for i := range n {
		if i%2 == 0 {
			l.MustRun(t, "sh", "-c", "echo function > "+tracing+"current_tracer")
		}
		l.apply(t, file)
		l.MustRun(t, "sh", "-c", "echo nop > "+tracing+"current_tracer")
		if i%4 == 1 {
			l.MustRun(t, "sh", "-c", "echo function > "+tracing+"current_tracer")
		}
		l.undo(t, id)
		l.MustRun(t, "sh", "-c", "echo nop > "+tracing+"current_tracer")
		memory = append(memory, l.unreclaimable(t))
		if (i+1)%20 == 0 {
			t.Logf("%d rounds: the kernel holds %d KiB that it cannot reclaim", i+1, memory[i])
		}
	}
	l.MustRun(t, "sh", "-c", fmt.Sprintf("echo > %sset_ftrace_filter", tracing))
	busy.end(t)
	same()
	l.clean(t)
	if now := l.MustRun(t, "sh", "-c", "cut -d' ' -f1 /proc/modules | sort"); now != modules {
		t.Errorf("the modules were\n%s\nand are\n%s", modules, now)
	}
	t.Logf("%d rounds; memory that the kernel cannot reclaim, in KiB: %v", n, memory)
	// The first half fills caches. In the second, the means of its two halves are quarter rounds apart.
	quarter := n / 4
	if quarter == 0 {
		return
	}
	growth := (sum(memory[n-quarter:]) - sum(memory[n-2*quarter:n-quarter])) / int64(quarter)
	if quarter < 25 { // too few to tell a page a round from noise: a part that stays would be found
		if growth > int64(quarter)*32+2048 {
			t.Errorf("the kernel's memory grew by %d KiB in %d rounds: %v", growth, quarter, memory)
		}
		return
	}
	if growth >= int64(quarter)*4 {
		t.Errorf("the kernel's memory grew by %d KiB in %d rounds, a page a round or more: %v", growth, quarter, memory)
	}
}

func sum(values []int64) int64 {
	var s int64
	for _, v := range values {
		s += v
	}
	return s
}

// unreclaimable is what the kernel holds for itself, in KiB.
func (l *lab) unreclaimable(t testing.TB) int64 {
	t.Helper()
	var sum int64
	for _, line := range strings.Split(l.MustRun(t, "cat", "/proc/meminfo"), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "SUnreclaim:", "VmallocUsed:", "Percpu:":
			v, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}
