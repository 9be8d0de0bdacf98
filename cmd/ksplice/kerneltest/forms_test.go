package kerneltest

import (
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// forms are the machines and options on which the kernel rewrites its own code in different ways.
var forms = []struct {
	name string
	o    vmtest.Options
}{
	{"default", vmtest.Options{}},
	{"call-depth", vmtest.Options{CPU: "Skylake-Client-v4", Append: "retbleed=stuff"}},
	{"safe-ret", vmtest.Options{CPU: "EPYC-Milan", Append: "spec_rstack_overflow=safe-ret"}},
	{"mitigations-off", vmtest.Options{CPU: "max", Append: "mitigations=off"}},
	{"lfence", vmtest.Options{Append: "spectre_v2=retpoline,lfence"}},
	{"one-cpu", vmtest.Options{CPUs: 1}},
}

// TestForms applies an update in every form of the kernel. The update's unit is a large one, net/core/dev.c: all of its
// functions are matched.
func TestForms(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		e, err := examples.Get("netif-rx-drop")
		if err != nil {
			t.Fatal(err)
		}
		file := l.example(t, e)
		for _, f := range forms {
			t.Run(f.name, func(t *testing.T) {
				l.boot(t, f.o)
				l.setUp(t, &e)
				same := l.saveText(t)
				l.flip(t, e.Flip)
				l.sees(t, &e.Show[0], "old")
				t.Log(l.apply(t, file))
				l.sees(t, &e.Show[0], "new")
				l.flip(t, e.Flip)
				l.sees(t, &e.Show[0], "new")
				l.undo(t, l.id(t, file))
				l.sees(t, &e.Show[0], "old")
				l.flip(t, e.Flip)
				same()
				l.clean(t)
			})
		}
	})
}
