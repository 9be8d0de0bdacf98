package kerneltest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
)

// guestConstructs is testdata/constructs/user.c in the guest.
const guestConstructs = "/share/constructs"

// compileUser compiles it.
func (l *lab) compileUser(t testing.TB) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "gcc", "-static", "-O2", "-Wall", "-Werror", "-o", filepath.Join(l.share, filepath.Base(guestConstructs)), "testdata/constructs/user.c")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

// pending replaces system calls, a weak function, the clones of which gcc has three kinds, and functions whose addresses the kernel holds while
// apply and undo go on: of timers, of work items, of delayed work, which compares its own, and of sleeps that a signal interrupted.
func (l *lab) pending(t *testing.T, file string) {
	same := l.saveText(t)
	calls := func(want string) {
		t.Helper()
		if got := strings.TrimSpace(l.MustRun(t, guestConstructs, "calls")); got != want {
			t.Errorf("calls show %q, want %q", got, want)
		}
	}
	says := func(words string, want int) {
		t.Helper()
		if got := strings.Count(l.MustRun(t, guestUser, "do", "log", words), words); got != want {
			t.Errorf("the log has %q %d times, want %d", words, got, want)
		}
	}
	names := l.replaced(t, file)
	for _, clone := range []string{".isra.0", ".constprop.0", ".part.0"} {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, clone) }) {
			t.Errorf("the update replaces %q, none of which is a clone %s", names, clone)
		}
	}
	const flushed = "statistics are flushed"
	calls("0 18 -14 -14 0 16")
	timer, asleep := l.timer(t), l.stopped(t)
	l.must(t, exitOK, "applied", "apply", "--freeze", "--attempts", "300", file)
	calls("-33 -33 -14 -33 7 17")
	l.comes(t, timer, 2)
	asleep.goes(t)
	says("sleep is woken", 0)
	says("sleep goes on sleeping", 1)
	l.MustRun(t, "modprobe", "crc7")
	for _, words := range []string{"sections are laid out", "delayed work is due", "delayed work is queued", "timers are set"} {
		if words == "timers are set" {
			timer = l.timer(t)
		}
		poll(t, words, func() bool { return l.MustRun(t, guestUser, "do", "log", words) == words+"\n" })
	}
	says("attributes are applied", 0)
	l.MustRun(t, "sh", "-c", "echo 1 > /sys/devices/virtual/workqueue/writeback/nice")
	says("attributes are applied", 1)
	// The item that was queued before, and the one that the replacement queued.
	poll(t, "work items", func() bool { return strings.Count(l.MustRun(t, guestUser, "do", "log", flushed), flushed) > 1 })

	asleep = l.stopped(t)
	says("sleep is woken", 1)
	l.must(t, exitOK, "undone", "undo", "--freeze", "--attempts", "300", l.id(t, file))
	calls("0 18 -14 -14 0 16")
	l.MustRun(t, "sh", "-c", "echo 0 > /sys/devices/virtual/workqueue/writeback/nice")
	says("attributes are applied", 1)
	count := strings.Count(l.MustRun(t, guestUser, "do", "log", flushed), flushed)
	l.MustRun(t, "sh", "-c", "echo 1 > "+tracefs+"/events/workqueue/workqueue_execute_start/enable")
	poll(t, "the work item of the replacement", func() bool {
		return strings.Contains(l.MustRun(t, "cat", tracefs+"/trace"), "function flush_memcg_stats_dwork")
	})
	l.MustRun(t, "sh", "-c", "echo 0 > "+tracefs+"/events/workqueue/workqueue_execute_start/enable; echo > "+tracefs+"/trace")
	says(flushed, count)
	l.comes(t, timer, 1)
	asleep.goes(t)
	says("sleep goes on sleeping", 1)
	if got := l.MustRun(t, guestUser, "do", "log", "WARNING:"); strings.Contains(got, "workqueue") {
		t.Errorf("the kernel warns: %s", got)
	}
	same()
	l.clean(t)
}

// timer starts a program that waits for a timer of the machine's clock.
func (l *lab) timer(t testing.TB) *vmtest.Process {
	t.Helper()
	p := l.MustStart(t, guestConstructs, "timer")
	poll(t, "the timer to be set", func() bool { return strings.Contains(p.Output(), "armed") })
	return p
}

// comes sets the clock forward and wants the timer to have come so often.
func (l *lab) comes(t testing.TB, p *vmtest.Process, times int) {
	t.Helper()
	l.MustRun(t, "sh", "-c", "date -s @$(($(date +%s) + 4000))")
	r, err := p.Wait(t.Context())
	if want := fmt.Sprintf("armed\ncame %d\n", times); err != nil || r.Stdout != want {
		t.Errorf("the timer: %v, %+v, want %q", err, r, want)
	}
}

// napper is a program that sleeps for some seconds and was stopped in the middle.
type napper struct {
	l   *lab
	p   *vmtest.Process
	pid string
}

// stopped starts one.
func (l *lab) stopped(t testing.TB) *napper {
	t.Helper()
	n := &napper{l: l, p: l.MustStart(t, "sh", "-c", "sleep 8 & echo $!; wait $!; echo slept $?")}
	poll(t, "a sleep", func() bool { n.pid, _, _ = strings.Cut(n.p.Output(), "\n"); return n.pid != "" })
	l.MustRun(t, "sh", "-c", "until grep -q nanosleep /proc/"+n.pid+"/wchan; do :; done; kill -STOP "+n.pid+"; until grep -q 'State:.T' /proc/"+n.pid+"/status; do :; done")
	return n
}

// goes lets it go on and wants it to end as if nothing had been.
func (n *napper) goes(t testing.TB) {
	t.Helper()
	n.l.MustRun(t, "kill", "-CONT", n.pid)
	r, err := n.p.Wait(t.Context())
	if err != nil || !strings.HasSuffix(r.Stdout, "\nslept 0\n") {
		t.Errorf("the sleep: %v, %+v", err, r)
	}
}
