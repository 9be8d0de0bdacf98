package kerneltest

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// allVariable set to "1" has TestRoad take every example; `make road` sets it.
const allVariable = "KSPLICE_TEST_ALL"

// few are the examples that a kernel of each series is tested with when not all are wanted: what the other tests of TestRoad
// need, and such as differ.
var few = map[string][]string{
	"6.1":  {"uptime-words", "uptime-words-seconds", "eventfd-short-read", "getppid-init", "usercopy-once"},
	"6.12": {"uptime-words", "uptime-words-seconds", "eventfd-short-read", "getppid-init", "pktgen-commands"},
}

// chosen are the examples for a series.
func chosen(series string) []examples.Example {
	names, ok := few[series]
	if !ok || os.Getenv(allVariable) == "1" {
		return examples.All
	}
	return slices.DeleteFunc(slices.Clone(examples.All), func(e examples.Example) bool { return !slices.Contains(names, e.Name) })
}

// TestRoad takes examples down the whole road, one boot a kernel: created, checked, applied, seen by programs that use
// the code all the while and never fail, undone, and the kernel's text is what it was.
func TestRoad(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		files := map[string]string{}
		for _, e := range chosen(series) {
			files[e.Name] = l.example(t, e)
		}
		l.boot(t, vmtest.Options{Debug: true})
		for _, e := range chosen(series) {
			if e.Base == "" {
				t.Run(e.Name, func(t *testing.T) {
					if len(e.Units) > 0 {
						l.found(t, e)
					}
					l.road(t, &e, files[e.Name])
				})
			}
		}
		for _, part := range []struct {
			name  string
			whose string // whose turn it is, each kernel's if empty
			run   func(*testing.T)
		}{
			{"updates on updates", "", func(t *testing.T) { l.stack(t, files["uptime-words"], files["uptime-words-seconds"]) }},
			{"any order", "6.1", func(t *testing.T) { l.anyOrder(t, files["uptime-words"], files["eventfd-short-read"]) }},
			{"tracers", "", func(t *testing.T) { l.tracers(t, files["uptime-words"]) }},
			{"asleep", "6.12", func(t *testing.T) { l.asleep(t, files["eventfd-short-read"]) }},
			{"another ABI", "6.1", func(t *testing.T) { l.otherABI(t, files["uptime-words"], files["eventfd-short-read"]) }},
			{"killed", "6.12", func(t *testing.T) { l.killed(t, files["uptime-words"]) }},
			{"refused", "", func(t *testing.T) { l.refusals(t, files) }},
			{"rounds", "", func(t *testing.T) { l.rounds(t, files["uptime-words"]) }},
		} {
			if part.whose == "" || l.turn(part.whose) {
				t.Run(part.name, part.run)
			}
		}
	})
}

// TestSoak runs rounds alone, as many as KSPLICE_TEST_ROUNDS says; `make soak` runs it.
func TestSoak(t *testing.T) {
	if os.Getenv(roundsVariable) == "" {
		t.Skipf("SKIPPED: it wants a number of rounds in $%s; `make soak` runs it, and TestRoad runs a few", roundsVariable)
	}
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		e, err := examples.Get("uptime-words")
		if err != nil {
			t.Fatal(err)
		}
		file := l.example(t, e)
		l.boot(t, vmtest.Options{})
		l.rounds(t, file)
	})
}

// setUp brings the guest into the state that an example wants.
func (l *lab) setUp(t testing.TB, e *examples.Example) {
	t.Helper()
	for _, m := range e.Modules {
		l.MustRun(t, "modprobe", m)
	}
	for _, args := range e.Setup {
		l.MustRun(t, append([]string{guestUser}, args...)...)
	}
}

// loopLimit ends loops that a test forgot.
const loopLimit = 3 * time.Hour

// loops are programs that use patched code again and again.
type loops struct {
	l  *lab
	of []examples.Effect
	p  []*vmtest.Process
}

// loop starts a program for every effect of an example, each with several processes, which pause between two uses.
func (l *lab) loop(t testing.TB, e *examples.Example, procs, pause string) *loops {
	t.Helper()
	s := &loops{l: l}
	for _, x := range e.Show {
		if x.Once {
			continue
		}
		argv := append([]string{guestUser, "loop", "-limit", loopLimit.String(), "-procs", procs, "-pause", pause, "-old", x.Old, "-new", x.New}, x.Action...)
		p := l.MustStart(t, argv...)
		poll(t, "a loop to be ready", func() bool {
			select {
			case <-p.Done():
				t.Fatalf("%s has ended: %s", strings.Join(argv, " "), p.Output())
			default:
			}
			return strings.Contains(p.Output(), `"ready":true`)
		})
		s.of, s.p = append(s.of, x), append(s.p, p)
	}
	return s
}

// end ends the programs and wants none to have failed, and each to have seen the old and the new effect.
func (s *loops) end(t testing.TB) {
	t.Helper()
	for i, p := range s.p {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		r, err := p.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out := strings.Split(strings.TrimSpace(r.Stdout), "\n")
		var seen struct{ Times, Old, New int64 }
		if err := json.Unmarshal([]byte(out[len(out)-1]), &seen); err != nil || r.Exit != 0 {
			t.Fatalf("the loop of %v failed (%v, exit status %d):\n%s%s", s.of[i].Action, err, r.Exit, r.Stdout, r.Stderr)
		}
		if seen.Old == 0 || seen.New == 0 {
			t.Errorf("the loop of %v saw the old effect %d times and the new one %d times", s.of[i].Action, seen.Old, seen.New)
		}
	}
}

// flip rewrites code of the function on and off.
func (l *lab) flip(t testing.TB, f *examples.Switch) {
	t.Helper()
	if f != nil {
		for _, v := range []string{f.On, f.Off, f.On, f.Off} {
			l.MustRun(t, guestUser, "do", "write", f.Path, v)
		}
	}
}

func (l *lab) road(t *testing.T, e *examples.Example, file string) {
	l.setUp(t, e)
	modules := slices.DeleteFunc(slices.Clone(e.Targets), func(s string) bool { return s == "vmlinux" })
	same := l.saveText(t, modules...)
	id := l.id(t, file)
	busy := l.loop(t, e, "2", "3ms")
	l.flip(t, e.Flip)
	for _, x := range e.Show {
		l.sees(t, &x, "old")
	}
	l.must(t, exitOK, "fits", "check", file)
	t.Log(l.apply(t, file))
	for _, x := range e.Show {
		l.sees(t, &x, "new")
	}
	l.flip(t, e.Flip)
	status := l.must(t, exitOK, id, "status")
	for _, f := range e.Functions {
		if !strings.Contains(status, f) {
			t.Errorf("status does not name %s:\n%s", f, status)
		}
	}
	l.must(t, exitRefused, "applied already", "apply", file)
	if e.Flip != nil { // undone with the code rewritten: the old code must be, too
		l.MustRun(t, guestUser, "do", "write", e.Flip.Path, e.Flip.On)
	}
	t.Log(l.undo(t, id))
	if e.Flip != nil {
		l.MustRun(t, guestUser, "do", "write", e.Flip.Path, e.Flip.Off)
	}
	for _, x := range e.Show {
		if !x.Once {
			l.sees(t, &x, "old")
		}
	}
	l.flip(t, e.Flip)
	busy.end(t)
	same()
	l.clean(t)
}

// found wants create to find the units itself that an update must match besides.
func (l *lab) found(t *testing.T, e examples.Example) {
	patch, err := e.Patch(l.series())
	if err != nil {
		t.Fatal(err)
	}
	out := l.must(t, exitOK, "", "inspect", "--json", l.create(t, e.Name+"-found", patch))
	var m struct {
		Units []struct {
			Source string `json:"source"`
		} `json:"units"`
	}
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		t.Fatal(err)
	}
	for _, u := range e.Units {
		if !slices.ContainsFunc(m.Units, func(x struct {
			Source string `json:"source"`
		}) bool {
			return x.Source == u
		}) {
			t.Errorf("%s is not among the units that are matched: %s", u, out)
		}
	}
}

// clean wants no update to be left, but for one that stays mapped.
func (l *lab) clean(t testing.TB) {
	t.Helper()
	var states []struct {
		Stage       string `json:"stage"`
		StaysMapped bool   `json:"stays_mapped"`
	}
	if err := json.Unmarshal([]byte(l.must(t, exitOK, "", "status", "--json")), &states); err != nil {
		t.Fatal(err)
	}
	mapped := 0
	for _, s := range states {
		if s.Stage != "undone" || !s.StaysMapped {
			t.Errorf("an update is left: %+v", s)
		}
		mapped++
	}
	if out := l.MustRun(t, "sh", "-c", "grep -c ^ksplice_ /proc/modules || true"); mapped == 0 && strings.TrimSpace(out) != "0" {
		t.Errorf("parts are left:\n%s", l.MustRun(t, "cat", "/proc/modules"))
	}
}

// anyOrder undoes updates that have nothing to do with one another, the first one first and the last one first.
func (l *lab) anyOrder(t *testing.T, files ...string) {
	same := l.saveText(t)
	names := []string{"uptime-words", "eventfd-short-read"}
	for _, order := range [][]int{{0, 1}, {1, 0}} {
		for _, f := range files {
			l.apply(t, f)
		}
		gone := map[int]bool{}
		for _, i := range order {
			l.undo(t, l.id(t, files[i]))
			gone[i] = true
			for k, n := range names {
				e, err := examples.Get(n)
				if err != nil {
					t.Fatal(err)
				}
				l.sees(t, &e.Show[0], map[bool]string{false: "new", true: "old"}[gone[k]])
			}
		}
	}
	same()
	l.clean(t)
}

// stack applies an update on an update.
func (l *lab) stack(t *testing.T, lower, upper string) {
	seconds, err := examples.Get("uptime-words-seconds")
	if err != nil {
		t.Fatal(err)
	}
	words, err := examples.Get("uptime-words")
	if err != nil {
		t.Fatal(err)
	}
	same := l.saveText(t)
	low, high := l.id(t, lower), l.id(t, upper)
	l.must(t, exitRefused, "uptime_proc_show", "apply", upper) // without the lower one
	l.apply(t, lower)
	l.sees(t, &seconds.Show[0], "old")
	l.must(t, exitOK, "fits", "check", upper)
	l.apply(t, upper)
	l.sees(t, &seconds.Show[0], "new")
	l.must(t, exitRefused, "depended on", "undo", low)
	l.sees(t, &seconds.Show[0], "new")
	l.undo(t, high)
	l.sees(t, &words.Show[0], "new")
	l.undo(t, low)
	l.sees(t, &words.Show[0], "old")
	same()
	l.clean(t)
}
