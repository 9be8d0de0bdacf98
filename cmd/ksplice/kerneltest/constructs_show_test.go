package kerneltest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ksplice/ksplice/core/patch"
	"github.com/ksplice/ksplice/core/vmtest"
)

const (
	tracefs     = "/sys/kernel/tracing"
	debugfs     = "/sys/kernel/debug"
	printkTime  = "/sys/module/printk/parameters/time"
	binfmt      = "/proc/sys/fs/binfmt_misc"
	dyndbg      = "/proc/dynamic_debug/control"
	replacement = "eventfd_write.ksplice"
)

// logged makes an expression for a line of the console.
func logged(format string, args ...any) *regexp.Regexp {
	return regexp.MustCompile(`\] ` + fmt.Sprintf(format, args...) + `\s*$`)
}

// put writes a line to a file of the guest.
func (l *lab) put(t testing.TB, line, path string) {
	t.Helper()
	l.MustRun(t, guestUser, "do", "write", path, line)
}

// refuses wants a line not to be taken.
func (l *lab) refuses(t testing.TB, line, path string) {
	t.Helper()
	if r, err := l.Run(t.Context(), guestUser, "do", "write", path, line); err != nil || r.Exit == 0 {
		t.Errorf("%s takes %q (%v)", path, line, err)
	}
}

// line is the number that the kernel knows a line by which textPatch adds to fs/eventfd.c: numbers are those of the source before the
// patch, and count on through what is added there.
func (c *constructs) line(t testing.TB, text string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "constructs", textPatch+".patch"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := patch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(p.Files, func(f *patch.File) bool { return f.Path() == "fs/eventfd.c" })
	var pre, post []byte
	n := 1
	for _, h := range p.Files[i].Hunks {
		for ; n < h.OldStart; n++ { // what stands between the hunks
			pre, post = fmt.Appendf(pre, "/* %d */\n", n), fmt.Appendf(post, "/* %d */\n", n)
		}
		for _, l := range h.Lines {
			if l.Op != patch.Add {
				pre = append(pre, l.Text...)
				n++
			}
			if l.Op != patch.Remove {
				post = append(post, l.Text...)
			}
		}
	}
	if post, err = patch.StabilizeLines(pre, post, "fs/eventfd.c"); err != nil {
		t.Fatal(err)
	}
	at := 1
	for l := range strings.Lines(string(post)) {
		if l == text+"\n" {
			return at
		}
		at++
		if _, err := fmt.Sscanf(l, "#line %d", &at); err != nil && strings.HasPrefix(l, "#line") {
			t.Fatal(err)
		}
	}
	t.Fatalf("%s.patch adds no line %q", textPatch, text)
	return 0
}

// functions wants functions of uncommon kinds to be replaced.
func (c *constructs) functions(t *testing.T) {
	// lib/ is compiled without calls of the tracer: kstrtobool takes a letter more.
	c.put(t, "n", printkTime)
	c.put(t, "j", printkTime)
	if got := c.MustRun(t, "cat", printkTime); got != "Y\n" {
		t.Errorf("the letter j means %q, want Y", got)
	}
	// noinstr: the handler of a trap.
	if got := strings.TrimSpace(c.MustRun(t, guestUser, "do", "overflow")); got != "SIGBUS" {
		t.Errorf("a process that traps dies of %s, want SIGBUS", got)
	}
	// notrace: a clock of traces, which goes in steps of a thousand.
	c.put(t, "counter", tracefs+"/trace_clock")
	c.MustRun(t, "sh", "-c", "for i in 1 2; do echo construct $i > "+tracefs+"/trace_marker; done")
	times := regexp.MustCompile(` (\d+): tracing_mark_write: construct`).FindAllStringSubmatch(c.MustRun(t, "cat", tracefs+"/trace"), -1)
	c.put(t, "local", tracefs+"/trace_clock")
	if len(times) != 2 {
		t.Errorf("the marks' times are %q", times)
	} else if a, _ := strconv.Atoi(times[0][1]); strconv.Itoa(a+1000) != times[1][1] {
		t.Errorf("the clock went from %s to %s, want a step of 1000", times[0][1], times[1][1])
	}
	// Runtime constants, on kernels that have them: where directory entries are hashed, and how far a hash is shifted.
	c.MustRun(t, "sh", "-c", "touch /root/construct && mv /root/construct /root/c2 && mv /root/c2 /root/construct && rm /root/construct")
	if log := c.MustRun(t, "dmesg"); !strings.Contains(log, "construct: looked up") {
		t.Error("d_lookup does not run the code that replaces __d_lookup")
	}
}

// tag wants poly1305 to give the tag of RFC 7539, 2.5.2.
func (l *lab) tag(t testing.TB) {
	t.Helper()
	if got := strings.TrimSpace(l.MustRun(t, guestUser, "do", "poly1305")); got != "a8061dc1305136c6c22b8baf0c0127a9" {
		t.Errorf("poly1305 gives %s", got)
	}
}

// sealed wants code to run that asks static keys which are read-only since boot, or since their module was loaded.
func (c *constructs) sealed(t *testing.T) {
	c.tag(t)
	log := c.MustRun(t, "dmesg")
	for _, words := range []string{"usercopy: construct: checked", "construct: poly1305"} {
		if !strings.Contains(log, words) {
			t.Errorf("the kernel's log lacks %q", words)
		}
	}
}

// probes wants replacements of functions that must not be probed or traced not to be either, and others to be.
func (c *constructs) probes(t *testing.T) {
	traced := c.MustRun(t, "cat", tracefs+"/available_filter_functions")
	for _, f := range []struct {
		name   string
		traced bool
	}{{"exc_overflow", false}, {"trace_clock_counter", false}, {"kstrtobool", false}, {"__sw_hweight64", false}, {"eventfd_write", true}} {
		name := f.name + ".ksplice"
		if got := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` \[ksplice_`).MatchString(traced); got != f.traced {
			t.Errorf("can %s be traced: %v, want %v", name, got, f.traced)
		}
		if f.traced {
			c.put(t, "p:construct/"+f.name+" "+name, tracefs+"/kprobe_events")
			c.put(t, "", tracefs+"/kprobe_events")
		} else {
			c.refuses(t, "p:construct/"+f.name+" "+name, tracefs+"/kprobe_events")
		}
	}
	// What the kernel lists as out of bounds.
	black := c.MustRun(t, "cat", debugfs+"/kprobes/blacklist")
	for _, name := range []string{"exc_overflow", "exc_overflow.ksplice"} {
		if !regexp.MustCompile(`(?m)\s` + regexp.QuoteMeta(name) + `( \[|$)`).MatchString(black) {
			t.Errorf("%s may be probed", name)
		}
	}
}

// flips rewrites code on and off by keys of vmlinux and of modules, with the update in or not.
func (c *constructs) flips(t *testing.T, applied bool) {
	const rps, preempt = "/sys/class/net/lo/queues/rx-0/rps_cpus", debugfs + "/sched/preempt"
	modes := c.MustRun(t, "cat", preempt)
	for _, on := range []bool{true, false, true, false} {
		c.put(t, map[bool]string{true: "1", false: "0"}[on], rps)
		if want := map[bool]string{true: "1", false: "2"}[on]; applied {
			c.shows(t, 6, want)
		}
		c.put(t, map[bool]string{true: "full", false: "voluntary"}[on], preempt)
		c.shows(t, 15, map[bool]string{true: "15", false: notPatched}[applied])
		c.clientRequests(t, on, applied)
		c.registered(t, on)
	}
	if now := c.MustRun(t, "cat", preempt); now != modes {
		t.Errorf("preemption was %q and is %q", modes, now)
	}
}

// clientRequests flips a tracepoint of a module: its key and its static call lie in 9pnet.
func (c *constructs) clientRequests(t *testing.T, on, applied bool) {
	const event = tracefs + "/events/9p/9p_client_req"
	if on {
		c.put(t, "stacktrace", event+"/trigger")
		defer c.put(t, "!stacktrace", event+"/trigger")
	}
	c.put(t, map[bool]string{true: "1", false: "0"}[on], event+"/enable")
	c.put(t, "", tracefs+"/trace")
	c.MustRun(t, "stat", "/share")
	trace := c.MustRun(t, "cat", tracefs+"/trace")
	if got := strings.Contains(trace, " 9p_client_req: "); got != on {
		t.Errorf("the tracepoint was flipped to %v, and events come: %v", on, got)
	}
	if got := strings.Contains(trace, "=> p9_client_prepare_req.ksplice"); got != (on && applied) {
		t.Errorf("the update is in: %v, the event is on: %v, and the replacement is in its stack: %v", applied, on, got)
	}
	c.put(t, "0", event+"/enable")
}

// registered flips debug messages of a module.
func (c *constructs) registered(t *testing.T, on bool) {
	c.put(t, "module binfmt_misc "+map[bool]string{true: "+p", false: "-p"}[on], dyndbg)
	c.MustRun(t, "dmesg", "-c")
	c.put(t, ":construct:E::construct::/bin/true:", binfmt+"/register")
	c.put(t, "-1", binfmt+"/construct")
	if got := strings.Contains(c.MustRun(t, "dmesg"), "register: delim: 0x3a"); got != on {
		t.Errorf("messages were flipped to %v, and come: %v", on, got)
	}
	c.put(t, "module binfmt_misc -p", dyndbg)
}

// tracepoints wants a tracepoint of vmlinux that only the replacement has to give its event, and perf's callchain and ftrace's stack to
// pass the replacement.
func (c *constructs) tracepoints(t *testing.T) {
	const event = tracefs + "/events/power/cpu_frequency"
	event7 := fmt.Sprintf("cpu_frequency: state=%d cpu_id=3", 0x6b73706c)
	for _, on := range []bool{true, false, true, false} {
		c.put(t, map[bool]string{true: "1", false: "0"}[on], event+"/enable")
		c.put(t, "", tracefs+"/trace")
		c.shows(t, 7, "7")
		if got := strings.Contains(c.MustRun(t, "cat", tracefs+"/trace"), event7); got != on {
			t.Errorf("the event was switched to %v, and comes: %v", on, got)
		}
	}
	chain := strings.Fields(c.MustRun(t, guestUser, "do", "callchain", "power/cpu_frequency", "7"))
	at := slices.Index(chain, replacement)
	if at < 0 || !slices.Contains(chain[at:], "vfs_write") || !slices.Contains(chain[at:], "ksys_write") || !slices.Contains(chain[at:], "do_syscall_64") {
		t.Errorf("perf's callchain is %q", chain)
	}
}

// messages switches debug messages of the update's own.
func (c *constructs) messages(t *testing.T) {
	for _, on := range []bool{true, false, true, false} {
		flag := map[bool]string{true: "+p", false: "-p"}[on]
		c.put(t, "file fs/eventfd.c "+flag, dyndbg)
		c.put(t, `format "bytes in all" `+flag, dyndbg)
		c.MustRun(t, "dmesg", "-c")
		c.shows(t, 8, "8")
		c.put(t, ":construct:E::construct::/bin/true:", binfmt+"/register")
		c.put(t, "-1", binfmt+"/construct")
		log := c.MustRun(t, "dmesg")
		for _, message := range []string{"construct 8", "bytes in all"} {
			if got := strings.Contains(log, message); got != on {
				t.Errorf("%q was switched to %v, and comes: %v", message, on, got)
			}
		}
	}
}

// warnings wants warnings in the replacement to be told by file, line and function.
func (c *constructs) warnings(t *testing.T) {
	const where = `WARNING: CPU: \d+ PID: \d+ at fs/eventfd\.c:%d eventfd_write\.ksplice\+0x[0-9a-f]+/0x[0-9a-f]+ \[ksplice_[0-9a-f]+_vmlinux\]`
	for range 2 {
		c.Expect(logged(where, c.line(t, "\t\tWARN(1, \"construct %u\\n\", command);")))
		c.Expect(logged(`Call Trace:`))
		c.shows(t, 9, "9")
	}
	c.Expect(logged(where, c.line(t, "\t\treturn WARN_ON_ONCE(command) ? 10 : 0;")))
	c.Expect(logged(`Call Trace:`))
	for range 3 {
		c.shows(t, 10, "10")
	}
}

// stacks wants a stack with a replacement in it to be reliable: a livepatch's transition passes a thread that sleeps there.
func (c *constructs) stacks(t *testing.T) {
	ko, err := vmtest.BuildModule(t.Context(), c.kernel, "examples/livepatch", "livepatch_getppid")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(ko)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WriteFile("/tmp/livepatch.ko", b, 0o644); err != nil {
		t.Fatal(err)
	}
	p := c.MustStart(t, guestUser, "sleep")
	var s struct{ PID, TID int }
	poll(t, "a thread to sleep", func() bool {
		out := p.Output()
		return strings.Contains(out, `"asleep":true`) && json.Unmarshal([]byte(strings.Split(out, "\n")[0]), &s) == nil
	})
	task := fmt.Sprintf("/proc/%d/task/%d/", s.PID, s.TID)
	switches := func() string { return c.MustRun(t, "grep", "ctxt_switches", task+"status") }
	before := switches()
	if stack := c.MustRun(t, "cat", task+"stack"); !strings.Contains(stack, "eventfd_read.ksplice+") {
		t.Errorf("the thread's stack:\n%s", stack)
	}
	c.put(t, "file kernel/livepatch/transition.c +p", dyndbg)
	c.MustRun(t, "dmesg", "-c")
	c.livepatch(t, "/tmp/livepatch.ko")
	c.unlivepatch(t)
	if log := c.MustRun(t, "dmesg"); !strings.Contains(log, "starting patching transition") || strings.Contains(log, fmt.Sprintf(":%d has an unreliable stack", s.TID)) {
		t.Errorf("livepatch says of its transition:\n%s", log)
	}
	c.put(t, "file kernel/livepatch/transition.c -p", dyndbg)
	if after := switches(); after != before {
		t.Errorf("the transition woke the thread:\n%s%s", before, after)
	}
	c.must(t, exitConflict, "eventfd_read.ksplice", "undo", "--attempts", "3", c.id)
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if r, err := p.Wait(t.Context()); err != nil || r.Exit != 0 {
		t.Fatalf("%v %+v", err, r)
	}
}

// own wants a static key and a static call that an update defines to be flipped by it.
func (c *constructs) own(t *testing.T, file string) {
	id := c.lab.id(t, file)
	c.apply(t, file)
	for range 2 {
		c.shows(t, 20, "2")
		c.shows(t, 21, "21")
		c.shows(t, 20, "1")
		c.shows(t, 22, "22")
		c.shows(t, 23, "24")
		c.shows(t, 24, "25")
		c.shows(t, 25, "25")
		c.shows(t, 23, "46")
		c.shows(t, 24, "48")
		c.shows(t, 26, "26")
	}
	c.stand(t)
	c.undo(t, id)
	c.shows(t, 20, "ENOSYS")
	// It holds addresses of what it stands on, too: that stays with it.
	c.must(t, exitOK, "stays mapped", "status")
	c.undo(t, c.id)
	c.must(t, exitRefused, "", "apply", c.file)
}

// trampoline holds a thread where it could be preempted: in ftrace's trampoline, when the handler has decided that it goes to the
// replacement. As long as it is there, the update must not be undone.
func (l *lab) trampoline(t *testing.T, file string) {
	id := l.id(t, file)
	symbols := []byte(l.MustRun(t, "cat", "/proc/kallsyms"))
	l.apply(t, file)
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- l.Divert(symbolIn(symbols, "handler\t[ksplice]"), symbolIn(symbols, "msleep_interruptible"), 3_600_000, func() { close(ready) })
	}()
	<-ready
	p := l.MustStart(t, "sh", "-c", "echo construct > /dev/tty0")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	l.must(t, exitConflict, "console_lock", "undo", "--attempts", "3", id)
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.undo(t, id)
	l.clean(t)
}

// symbolIn finds a symbol in /proc/kallsyms; 0 where it is not.
func symbolIn(kallsyms []byte, name string) uint64 {
	for line := range bytes.Lines(kallsyms) {
		a, rest, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		if _, n, _ := strings.Cut(rest, " "); n == name {
			v, _ := strconv.ParseUint(a, 16, 64)
			return v
		}
	}
	return 0
}
