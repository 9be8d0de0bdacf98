package kerneltest

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
)

// Patches in testdata/constructs.
const (
	// textPatch has code with every construct in the function that replaces eventfd_write, chosen by what is written; and changes
	// functions that are not C's ordinary ones: in lib/, without a tracer's call, out of instrumentation's reach, in assembly, in modules.
	textPatch = "text"
	// ownPatch stands on it: a static key and a static call of the update's own.
	ownPatch = "own"
	// trampolinePatch changes a function that sleeps and that ftrace redirects.
	trampolinePatch = "trampoline"
)

// constructModules loads what textPatch changes.
func (l *lab) constructModules(t testing.TB) {
	t.Helper()
	for _, m := range []string{"binfmt_misc", "algif_hash", "poly1305-x86_64"} {
		l.MustRun(t, "modprobe", m)
	}
}

// answer has the patched code show a construct.
func (l *lab) answer(t testing.TB, number int) string {
	t.Helper()
	return strings.TrimSpace(l.MustRun(t, guestUser, "do", "construct", strconv.Itoa(number)))
}

// shows wants a construct's answer.
func (l *lab) shows(t testing.TB, number int, want string) {
	t.Helper()
	if got := l.answer(t, number); got != want {
		t.Errorf("construct %d gives %s, want %s", number, got, want)
	}
}

// notPatched is what writing any word to an eventfd gives.
const notPatched = "8"

// stand wants the constructs to work that stand for themselves.
func (l *lab) stand(t testing.TB) {
	t.Helper()
	l.shows(t, 1, "799")    // alternatives and paravirtual calls: 1, 2, 4, 8, 16 and 32 times the 24 bits of 0xff00ffff
	l.shows(t, 2, "3")      // runtime constants: this is user memory, that is not
	l.shows(t, 3, "EFAULT") // exception tables
	l.shows(t, 4, "4")
	l.shows(t, 5, "EIO")
	l.shows(t, 12, "12") // sibling calls, direct and indirect
	l.shows(t, 13, "13")
	l.shows(t, 14, "14") // an indirect call
	l.shows(t, 15, "15") // a static call of vmlinux
	l.shows(t, 16, "16") // lock prefixes
	l.shows(t, 17, "99") // assembly
	l.tag(t)
}

// constructs is a guest with the update of textPatch.
type constructs struct {
	*lab
	file, id string
}

// TestConstructsText shows what compilers, the kernel's macros and assembly put into text at work in replaced functions.
func TestConstructsText(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		file := l.construct(t, textPatch)
		own := l.construct(t, ownPatch, "--on", filepath.Join(l.share, textPatch+".ksplice"))
		trampoline := l.construct(t, trampolinePatch)
		l.boot(t, vmtest.Options{Debug: true})
		l.constructModules(t)
		l.MustRun(t, "mount", "-t", "binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc")
		c := &constructs{l, file, l.id(t, file)}
		same := l.saveText(t, "9pnet", "binfmt_misc", "poly1305_x86_64")
		l.shows(t, 3, notPatched)
		t.Run("keys before", func(t *testing.T) { c.flips(t, false) })
		t.Log(l.apply(t, file))
		l.stand(t)
		t.Run("functions", c.functions)
		t.Run("probes", c.probes)
		t.Run("sealed", c.sealed)
		t.Run("keys", func(t *testing.T) { c.flips(t, true) })
		t.Run("tracepoints", c.tracepoints)
		t.Run("messages", c.messages)
		t.Run("warnings", c.warnings)
		t.Run("stacks", c.stacks)
		l.undo(t, c.id)
		l.shows(t, 3, notPatched)
		t.Run("keys after", func(t *testing.T) { c.flips(t, false) })
		same()
		t.Run("trampoline", func(t *testing.T) { l.trampoline(t, trampoline) })
		t.Run("bug", c.bug)
		t.Run("own", func(t *testing.T) { c.own(t, own) })
		l.shows(t, 3, notPatched)
		t.Run("keys of code that stays", func(t *testing.T) { c.flips(t, false) })
		same()
		l.clean(t)
	})
}

// bug wants a BUG in a replacement to be told by its file and line, and the update to be undone afterwards.
func (c *constructs) bug(t *testing.T) {
	c.apply(t, c.file)
	c.Expect(logged(`kernel BUG at fs/eventfd\.c:%d!`, c.line(t, "\t\tBUG();")))
	if c.series() != "6.1" {
		c.Expect(logged(`Oops: invalid opcode: .*`)) // before, the line has no such word
	}
	c.Expect(logged(`Call Trace:`))
	p := c.MustStart(t, guestUser, "do", "construct", "11")
	poll(t, "the kernel to say so", func() bool { return strings.Contains(c.Console(), "kernel BUG at") })
	if err := p.Kill(); err != nil { // the thread is dead, its process waits for it
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.put(t, "1", tracefs+"/tracing_on") // kernel/panic.c:oops_enter stops tracing
	c.stand(t)
}
