package kerneltest

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// journalFile is where the guest's journal lies.
const journalFile = "/tmp/journal"

// keepJournal has the guest take entries from now on.
func (l *lab) keepJournal(t testing.TB) {
	t.Helper()
	l.MustStart(t, guestTool, "journal", journalFile)
	poll(t, "the journal", func() bool {
		r, err := l.Run(t.Context(), "test", "-e", journalFile)
		return err == nil && r.Exit == 0
	})
}

// told wants an entry in the journal that has all of these fields, NAME=VALUE.
func (l *lab) told(t testing.TB, fields ...string) {
	t.Helper()
	var text string
	poll(t, "an entry in the journal with "+strings.Join(fields, ", "), func() bool {
		text = l.MustRun(t, "cat", journalFile)
		for entry := range strings.SplitSeq(text, "\n\n") {
			has := true
			for _, f := range fields {
				has = has && strings.Contains("\n"+entry+"\n", "\n"+f+"\n")
			}
			if has {
				return true
			}
		}
		return false
	})
}

// logged wants lines in the kernel's log.
func (l *lab) logged(t testing.TB, lines ...string) {
	t.Helper()
	log := l.MustRun(t, "dmesg")
	for _, line := range lines {
		if !regexp.MustCompile(`(?m)\] ksplice: ` + line + `$`).MatchString(log) {
			t.Errorf("the kernel's log has no line %s:\n%s", line, log)
		}
	}
}

// watched wants an update that is applied, and has a replacement for function, to be seen by whoever watches the machine, on which all are applied
// and the last makes effective of the kernel.
func (l *lab) watched(t *testing.T, id, function string, all []string, effective string) {
	t.Helper()
	l.must(t, exitOK, "good", "status", "--check")
	// Its configuration and headers are not in the guest, which are warnings; nor is what create needs.
	doctor := l.must(t, exitOK, "", "doctor")
	for _, want := range []string{`(?m)^apply +ksplice module +good +loaded, version \S+, and speaks with this ksplice$`, `(?m)^apply +architecture plugin +good `, `(?m)^apply +leftovers +good +none$`} {
		if !regexp.MustCompile(want).MatchString(doctor) {
			t.Errorf("doctor has no row %s:\n%s", want, doctor)
		}
	}
	metrics := l.must(t, exitOK, "ksplice_module_loaded 1\n", "status", "--prometheus")
	for _, want := range []string{`(?m)^ksplice_update_info\{id="` + id + `",description="[^"\n]+",stage="applied"\} 1$`,
		`(?m)^ksplice_update_applied_timestamp_seconds\{id="` + id + `"\} [1-9][0-9]+$`, `(?m)^ksplice_update_pause_seconds\{id="` + id + `"\} 0\.0*[1-9][0-9]*$`,
		`(?m)^ksplice_update_functions\{id="` + id + `"\} [1-9][0-9]*$`, `(?m)^ksplice_problems 0$`} {
		if !regexp.MustCompile(want).MatchString(metrics) {
			t.Errorf("no metric %s:\n%s", want, metrics)
		}
	}
	line := strings.TrimSpace(l.must(t, exitOK, "", "uname"))
	if want := l.kernel.Release + " (" + effective + ") +" + strings.Join(all, " +"); line != want {
		t.Errorf("uname says %q, want %q", line, want)
	}
	l.must(t, exitOK, effective+"\n", "uname", "-r")
	var version struct {
		Release string
		Version string
		Updates []struct{ ID string }
	}
	if err := json.Unmarshal([]byte(l.must(t, exitOK, "", "uname", "--json")), &version); err != nil || version.Release != l.kernel.Release || version.Version == "" || len(version.Updates) != len(all) {
		t.Errorf("uname --json: %v %+v", err, version)
	}
	// An oops names code as kallsyms does, and lists the modules: both have the id. Of two symbols at one address the first counts
	// (kernel/module/kallsyms.c: find_kallsyms_symbol), which is the function's own name with a suffix.
	part := "ksplice_" + id + "_vmlinux"
	if out := l.MustRun(t, "cat", "/proc/modules"); !strings.Contains(out, part+" ") {
		t.Errorf("no module is called %s:\n%s", part, out)
	}
	var names []string
	for line := range strings.Lines(l.MustRun(t, "grep", part, "/proc/kallsyms")) {
		if f := strings.Fields(line); len(f) == 4 && f[3] == "["+part+"]" {
			names = append(names, f[2])
		}
	}
	if !slices.Contains(names, function+".ksplice") {
		t.Errorf("kallsyms has no %s.ksplice in the part, but %q", function, names)
	}
}
