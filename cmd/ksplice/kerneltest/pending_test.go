package kerneltest

import (
	"fmt"
	"os/exec"
	"path/filepath"
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

// pending replaces system calls, a weak function, and functions whose addresses the kernel holds while apply and undo go on: of timers, of
// delayed work, which compares its own, and of sleeps that a signal interrupted.
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
	calls("0 18 -14 -14")
	timer, asleep := l.timer(t), l.stopped(t)
	l.must(t, exitOK, "applied", "apply", "--freeze", "--attempts", "300", file)
	calls("-33 -33 -14 -33")
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

	asleep = l.stopped(t)
	says("sleep is woken", 1)
	l.must(t, exitOK, "undone", "undo", "--freeze", "--attempts", "300", l.id(t, file))
	calls("0 18 -14 -14")
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
