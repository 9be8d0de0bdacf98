package kerneltest

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// get returns an example and its patch without the words before it, so that several make one.
func (l *lab) get(t testing.TB, name string) (examples.Example, []byte) {
	t.Helper()
	e, err := examples.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := e.Patch(l.series())
	if err != nil {
		t.Fatal(err)
	}
	return e, patch[bytes.Index(patch, []byte("diff --git")):]
}

// effective is what the third update says that it makes of the kernel.
const effective = "6.999.1-1"

// TestReplace applies a cumulative update in the place of three that are applied: one on another, one that ftrace redirects. A program that
// reads all the while never sees the kernel without any of them.
func TestReplace(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		words, _ := l.get(t, "uptime-words")
		seconds, _ := l.get(t, "uptime-words-seconds")
		drop, dropPatch := l.get(t, "netif-rx-drop")
		processes, processPatch := l.get(t, "uptime-processes")
		capitals, capitalPatch := l.get(t, "boot-id-capitals")
		upper := l.example(t, seconds)
		lower := "/share/" + words.Name + ".ksplice"
		third := l.create(t, "third", bytes.Join([][]byte{dropPatch, capitalPatch}, nil), "--effective", effective)
		all := l.create(t, "all", bytes.Join([][]byte{dropPatch, processPatch, capitalPatch}, nil), "--unit", processes.Units[0])
		l.boot(t, vmtest.Options{})
		ids := []string{l.id(t, lower), l.id(t, upper), l.id(t, third)}
		same := l.saveText(t)
		l.keepJournal(t)
		for _, f := range []string{lower, upper, third} {
			l.apply(t, f)
		}
		l.logged(t, "update "+ids[0]+` applied: 1 function\(s\), 0 field\(s\), the machine stood for \d+ us`)
		l.told(t, "KSPLICE_EVENT=applied", "KSPLICE_ID="+ids[0], "KSPLICE_FUNCTIONS=uptime_proc_show")
		l.watched(t, ids[0], "uptime_proc_show", ids, effective)
		l.sees(t, &capitals.Show[0], "new") // it counts, and says so once
		l.must(t, exitRefused, "apply it in its place (--replace)", "apply", all)
		l.told(t, "KSPLICE_EVENT=failed", "KSPLICE_OPERATION=apply", "KSPLICE_ID="+l.id(t, all), "KSPLICE_EXIT_CODE=3")
		l.must(t, exitRefused, "apply it in its place (--replace)", "apply", "--replace", ids[0], "--replace", ids[2], all)
		l.sees(t, &seconds.Show[0], "new")
		l.must(t, exitRefused, "not applied", "apply", "--replace", "ffffffff", all)

		const until, seen = "/tmp/enough", "/tmp/seen"
		reader := l.MustStart(t, "sh", "-c", "while ! [ -e "+until+" ]; do cat /proc/uptime; done > "+seen)
		replace := []string{"--replace", ids[0], "--replace", ids[1], "--replace", ids[2]}
		l.must(t, exitOK, "fits", append([]string{"check", all}, replace...)...)
		l.must(t, exitOK, "replaced", append([]string{"apply", "--attempts", "100", all}, replace...)...)
		l.sees(t, &processes.Show[0], "new")
		l.sees(t, &drop.Show[0], "new")
		l.MustRun(t, "touch", until)
		if r, err := reader.Wait(t.Context()); err != nil || r.Exit != 0 {
			t.Errorf("the reader: %v %+v", err, r)
		}
		before, after := regexp.MustCompile(seconds.Show[0].New), regexp.MustCompile(processes.Show[0].New)
		n := map[bool]int{}
		for line := range strings.Lines(l.MustRun(t, "cat", seen)) {
			line = strings.TrimSpace(line)
			n[after.MatchString(line)]++
			if !before.MatchString(line) && !after.MatchString(line) {
				t.Errorf("in between a program saw %q", line)
			}
		}
		t.Logf("%d readings before, %d after", n[false], n[true])
		if n[false] == 0 {
			t.Error("the reader saw nothing of the update that was replaced")
		}
		// What the replaced update had counted goes on counting: nothing is said a second time.
		l.sees(t, &capitals.Show[0], "new")
		if log := l.MustRun(t, "dmesg"); strings.Count(log, "UUIDs are shown in capitals") != 1 {
			t.Errorf("the static counter of the replaced update was lost: the log says it %d times", strings.Count(log, "UUIDs are shown in capitals"))
		}
		if out := l.must(t, exitOK, l.id(t, all), "status"); strings.Contains(out, ids[0]) || strings.Contains(out, ids[1]) || strings.Contains(out, ids[2]) {
			t.Errorf("a replaced update is still there:\n%s", out)
		}
		for _, m := range strings.Split(strings.TrimSpace(l.MustRun(t, "sh", "-c", "grep -o '^ksplice_[0-9a-f]*' /proc/modules")), "\n") {
			if m != "ksplice_"+l.id(t, all) {
				t.Errorf("the part %s is left", m)
			}
		}
		l.told(t, "KSPLICE_EVENT=applied", "KSPLICE_REPLACED="+strings.Join(ids, " "))
		l.undo(t, l.id(t, all))
		l.told(t, "KSPLICE_EVENT=undone", "KSPLICE_ID="+l.id(t, all))
		l.logged(t, "update "+ids[0]+" undone: .*", "update "+l.id(t, all)+` undone: \d function\(s\), 0 field\(s\), the machine stood for \d+ us`)
		l.sees(t, &words.Show[0], "old")
		l.sees(t, &drop.Show[0], "old")
		l.sees(t, &capitals.Show[0], "old")
		same()
		l.clean(t)
	})
}
