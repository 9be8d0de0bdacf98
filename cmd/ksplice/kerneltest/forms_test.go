package kerneltest

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// forms are the machines and options on which the kernel rewrites its own code in different ways.
var forms = []struct {
	name   string
	series string // whose turn it is
	o      vmtest.Options
}{
	{"default", "6.1", vmtest.Options{}},
	{"call-depth", "6.12", vmtest.Options{CPU: "Skylake-Client-v4", Append: "retbleed=stuff"}}, // 6.1 has no call depth tracking
	{"safe-ret", "6.1", vmtest.Options{CPU: "EPYC-Milan", Append: "spec_rstack_overflow=safe-ret"}},
	{"mitigations-off", "6.12", vmtest.Options{CPU: "max", Append: "mitigations=off"}},
	{"lfence", "6.1", vmtest.Options{Append: "spectre_v2=retpoline,lfence"}},
	{"one-cpu", "6.12", vmtest.Options{CPUs: 1}},
	{cpuLater, "6.1", vmtest.Options{CPUs: 2, Append: "maxcpus=1"}},
}

// cpuLater is the form in which a second CPU comes while updates are applied: the kernel puts the lock prefixes back that one CPU does
// without (arch/x86/kernel/alternative.c: alternatives_enable_smp).
const cpuLater = "cpu-later"

// TestForms applies updates in every form of the kernel. One is of a large unit, net/core/dev.c, all of whose functions are matched; the
// other has every construct that the kernel rewrites.
func TestForms(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		e, err := examples.Get("netif-rx-drop")
		if err != nil {
			t.Fatal(err)
		}
		file := l.example(t, e)
		text := l.construct(t, textPatch)
		for _, f := range forms {
			if !l.turn(f.series) {
				continue
			}
			t.Run(f.name, func(t *testing.T) {
				l.boot(t, f.o)
				l.setUp(t, &e)
				l.constructModules(t)
				same := l.saveText(t)
				l.flip(t, e.Flip)
				l.sees(t, &e.Show[0], "old")
				t.Log(l.apply(t, file))
				t.Log(l.apply(t, text))
				l.sees(t, &e.Show[0], "new")
				l.stand(t)
				if f.name == cpuLater {
					l.cpuComes(t, text)
					l.sees(t, &e.Show[0], "new")
					l.stand(t)
				}
				l.flip(t, e.Flip)
				l.sees(t, &e.Show[0], "new")
				l.undo(t, l.id(t, text))
				l.undo(t, l.id(t, file))
				l.sees(t, &e.Show[0], "old")
				l.shows(t, 16, notPatched)
				l.flip(t, e.Flip)
				if f.name == cpuLater { // all lock prefixes are others than they were at first
					same = l.saveText(t)
					l.apply(t, text)
					l.stand(t)
					l.undo(t, l.id(t, text))
				}
				same()
				l.clean(t)
			})
		}
	})
}

// cpuComes brings a CPU up, and wants the replacement to have its lock prefixes from then on, and to be the same else.
func (l *lab) cpuComes(t *testing.T, file string) {
	t.Helper()
	part := engine.PartName(l.id(t, file), "vmlinux")
	code := func() []byte {
		out := strings.Fields(l.MustRun(t, guestTool, "peek", "eventfd_write.ksplice", part))
		b, err := hex.DecodeString(out[len(out)-1])
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const lock, none = 0xf0, 0x3e // none: a prefix that does nothing
	before := code()
	l.MustRun(t, "sh", "-c", "echo 1 > /sys/devices/system/cpu/cpu1/online")
	after := code()
	locks := 0
	for i := range before {
		if before[i] == after[i] {
			continue
		}
		if before[i] != none || after[i] != lock {
			t.Errorf("byte %#x of the replacement was %#x and is %#x", i, before[i], after[i])
		}
		locks++
	}
	if locks == 0 {
		t.Error("no lock prefix came into the replacement")
	}
}
