package kerneltest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// sleeping is a program that sleeps in a system call.
type sleeping struct {
	kind string
	p    *vmtest.Process
	pid  int
}

// mayBeInterrupted are the calls that signal(7) says are never restarted after a stop: they may give EINTR.
var mayBeInterrupted = []string{"epoll"}

// TestFreeze replaces functions in which somebody always sleeps: without --freeze apply fails and names who is in the way, with it
// the sleepers are frozen and go on sleeping, in their cgroup, in undo as in apply, and whatever becomes of ksplice.
func TestFreeze(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		patch, err := examples.Always.Patch(l.series())
		if err != nil {
			t.Fatal(err)
		}
		file := l.create(t, examples.Always.Name, patch)
		l.boot(t, vmtest.Options{})
		id := l.id(t, file)
		l.MustRun(t, "sh", "-c", "mkdir /sys/fs/cgroup/service")
		same := l.saveText(t)
		const until = "/tmp/wake"
		var all []*sleeping
		for _, kind := range []string{"epoll", "child", "futex", "tty", "pipe"} {
			// Every second one in a cgroup of its own, as services are.
			command := fmt.Sprintf("exec %s asleep -until %s %s", guestUser, until, kind)
			if len(all)%2 == 1 {
				command = "echo $$ > /sys/fs/cgroup/service/cgroup.procs; " + command
			}
			s := &sleeping{kind: kind, p: l.MustStart(t, "env", "GODEBUG=asyncpreemptoff=1", "sh", "-c", command)}
			poll(t, kind+" to sleep", func() bool {
				var x struct{ PID int }
				out := s.p.Output()
				if strings.Contains(out, `"asleep":true`) && json.Unmarshal([]byte(strings.Split(out, "\n")[0]), &x) == nil {
					s.pid = x.PID
				}
				return s.pid != 0
			})
			all = append(all, s)
		}
		places := l.places(t, all)
		t.Run("refused", func(t *testing.T) {
			out := l.must(t, exitConflict, "nothing was changed", "apply", "--attempts", "3", file)
			if !strings.Contains(out, "--freeze") {
				t.Errorf("the refusal does not say what helps: %s", out)
			}
		})
		t.Run("frozen", func(t *testing.T) {
			for range often(2) {
				l.frozen(t, all, "apply", file)
				l.frozen(t, all, "undo", id)
			}
			same()
		})
		if l.turn("6.12") {
			t.Run("killed", func(t *testing.T) { l.killedFrozen(t, all, file, id) })
		}
		if got := l.places(t, all); got != places {
			t.Errorf("cgroups were\n%s\nand are\n%s", places, got)
		}
		l.MustRun(t, "touch", until)
		for _, s := range all {
			r, err := s.p.Wait(t.Context())
			if err != nil || r.Exit != 0 {
				t.Errorf("%s: %v %+v", s.kind, err, r)
				continue
			}
			var x struct{ Interrupted int }
			lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &x); err != nil {
				t.Errorf("%s: %v\n%s", s.kind, err, r.Stdout)
			}
			t.Logf("%s: interrupted %d times", s.kind, x.Interrupted)
			if x.Interrupted > 0 && !slices.Contains(mayBeInterrupted, s.kind) {
				t.Errorf("%s: interrupted %d times, though the call is restarted after a stop", s.kind, x.Interrupted)
			}
		}
		same()
		l.clean(t)
	})
}

// places says in which cgroup each program is, and which cgroups there are.
func (l *lab) places(t *testing.T, all []*sleeping) string {
	t.Helper()
	var b strings.Builder
	for _, s := range all {
		fmt.Fprintf(&b, "%s %s", s.kind, l.MustRun(t, "cat", fmt.Sprintf("/proc/%d/cgroup", s.pid)))
	}
	return b.String() + l.MustRun(t, "find", "/sys/fs/cgroup", "-type", "d")
}

// frozen runs a command with --freeze and wants all programs among those that were frozen.
func (l *lab) frozen(t *testing.T, all []*sleeping, args ...string) {
	t.Helper()
	r := l.ksplice(t, append(args, "--freeze", "--json", "-v")...)
	var report struct {
		Commit struct {
			Frozen []struct{ PID int }
		}
		Frozen []struct{ PID int }
	}
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil || r.Exit != exitOK {
		t.Fatalf("ksplice %s --freeze: exit code %d, %v\n%s%s", strings.Join(args, " "), r.Exit, err, r.Stdout, r.Stderr)
	}
	for _, s := range all {
		is := func(f struct{ PID int }) bool { return f.PID == s.pid }
		if !slices.ContainsFunc(report.Commit.Frozen, is) && !slices.ContainsFunc(report.Frozen, is) {
			t.Errorf("ksplice %s: %s (%d) is not among the frozen: %s", args[0], s.kind, s.pid, r.Stdout)
		}
	}
}

// killedFrozen kills ksplice as soon as it has frozen somebody. Nobody stays frozen, and the next run puts everybody back.
func (l *lab) killedFrozen(t *testing.T, all []*sleeping, file, id string) {
	for range often(3) {
		p := l.MustStart(t, guestCLI, "apply", "--freeze", "--attempts", "100", "-v", file)
		poll(t, "somebody to be frozen", func() bool {
			select {
			case <-p.Done():
				return true
			default:
			}
			return strings.Contains(l.MustRun(t, "sh", "-c", "find /sys/fs/cgroup -name 'ksplice-frozen-*' | head -1"), "ksplice")
		})
		_ = p.Signal(syscall.SIGKILL) // it may have come to its end
		<-p.Done()
		for _, s := range all {
			poll(t, s.kind+" to be thawed", func() bool {
				return strings.TrimSpace(l.MustRun(t, "sh", "-c",
					fmt.Sprintf("cat /sys/fs/cgroup$(sed -n s/^0:://p /proc/%d/cgroup)/cgroup.freeze 2>/dev/null || echo 0", s.pid))) == "0"
			})
		}
		if regexp.MustCompile(`(?m)^` + id + ` +applied`).MatchString(l.MustRun(t, guestCLI, "status")) {
			l.frozen(t, all, "undo", id)
			continue
		}
		l.frozen(t, all, "apply", file)
		l.frozen(t, all, "undo", id)
	}
}
