package machine

import (
	"bufio"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/persist"
	"github.com/ksplice/ksplice/core/update"
)

// sample is a machine with everything: an update on whose part a module does without, one that is whole, and things left over.
func sampleMachine() *Machine {
	applied := func(id, what string, seq int64) apply.State {
		return apply.State{Applied: engine.Applied{ID: id, Stage: "applied", Description: what, Since: time.Unix(1700000000, 0), Sequence: seq, Pause: 310 * time.Microsecond,
			Parts: []string{"ksplice_" + engine.UpdateID(id) + "_vmlinux"}, Functions: []engine.Change{{Name: "f"}, {Name: "g", Kind: "fragment"}}}}
	}
	first := applied("11111111", "net: a \"quoted\" \\ thing\nand more", 1)
	first.DeadProbes = []string{"f+4", "f+8"}
	late := applied("11111111:vlan", "net: a", 2)
	late.Exposed = 1500 * time.Millisecond
	return &Machine{
		Release: "6.1.0-57-amd64", Version: "#1 SMP", Loaded: true, Module: "0.1.0",
		Updates: []apply.State{
			first, late, applied("22222222", "fs: b", 3),
			{Applied: engine.Applied{ID: "33333333", Stage: "dropped", AbortCause: "vetoed: no", Parts: []string{"ksplice_33333333_vmlinux"}}},
			{Applied: engine.Applied{ID: "22222222:acme", Stage: "armed"}, Armed: &engine.Armed{ID: "22222222", Module: "acme", Live: true, State: "no match"}},
			{Applied: engine.Applied{ID: "11111111:null_blk", Stage: "armed"}, Armed: &engine.Armed{ID: "11111111", Module: "null_blk", State: "waits for the module"}},
		},
		Orphans: []string{"ksplice_33333333_vmlinux", "ksplice_44444444_vmlinux"},
		Manifests: map[string]*update.Manifest{"11111111": {ID: "11111111", Effective: "6.1.193-1"},
			"22222222": {ID: "22222222", Effective: "6.1.194-1"}},
	}
}

func TestProblems(t *testing.T) {
	m := sampleMachine()
	var got []string
	for _, p := range m.Problems() {
		if p.What == "" || p.Do == "" {
			t.Errorf("%+v does not say what is wrong and what to do", p)
		}
		got = append(got, p.Name())
	}
	// The part of the transaction that was left half-way is not told a second time.
	if d := cmp.Diff([]string{"33333333", "22222222:acme", "ksplice_44444444_vmlinux"}, got); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
	m.Busy = true
	if p := m.Problems(); len(p) != 0 || p == nil {
		t.Errorf("while a ksplice is at work: %v, want an empty list", p)
	}
	m = sampleMachine()
	m.Updates, m.Orphans = append(m.Updates[:3], m.Updates[5]), nil
	if p := m.Problems(); len(p) != 0 {
		t.Errorf("applied and armed as it should be: %v", p)
	}
}

// TestMissing: a persistent update that is not in force is a problem, but not while the boot is at it, nor where an administrator wants none.
func TestMissing(t *testing.T) {
	m := sampleMachine()
	m.Updates, m.Orphans = append(m.Updates[:3], m.Updates[5]), nil
	m.Persistent = []string{"22222222", "55555555", "11111111"}
	names := func(want ...string) {
		t.Helper()
		var got []string
		for _, p := range m.Problems() {
			if p.What == "" || p.Do == "" {
				t.Errorf("%+v does not say what is wrong and what to do", p)
			}
			got = append(got, p.Name())
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("problems (-want +got):\n%s", d)
		}
	}
	names("55555555")
	m.Booting = true
	names()
	m.Booting, m.Disabled = false, "a file is there"
	names()
	m.Died = &persist.Attempt{Boot: "b", Begun: time.Unix(1700000000, 0)}
	names("boot")
	m.PersistentErr = errors.New("damaged")
	names("boot")
	var b strings.Builder
	if err := m.WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"ksplice_persistent 3\n", "ksplice_persistent_unapplied 1\n", "ksplice_persistent_suspended 1\n"} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("no %q in:\n%s", line, b.String())
		}
	}
}

func TestEffective(t *testing.T) {
	m := sampleMachine()
	e := m.Effective()
	// What the second says does not count, as a module runs without its part.
	if got, want := e.String(), "6.1.0-57-amd64 (6.1.193-1) +11111111 +22222222?"; got != want || e.By != "11111111" {
		t.Errorf("%s by %s, want %s", got, e.By, want)
	}
	m.Updates = append(m.Updates[:3], m.Updates[5])
	e = m.Effective()
	if got, want := e.String(), "6.1.0-57-amd64 (6.1.194-1) +11111111 +22222222"; got != want || e.By != "22222222" {
		t.Errorf("%s by %s, want %s", got, e.By, want)
	}
	m.Manifests["22222222"].Effective = ""
	e = m.Effective()
	if got, want := e.String(), "6.1.0-57-amd64 (6.1.193-1) +11111111 +22222222"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	// An update that waits for all of its modules is not in force.
	m.Updates = m.Updates[3:]
	e = m.Effective()
	if got, want := e.String(), "6.1.0-57-amd64"; got != want || e.Updates == nil {
		t.Errorf("%s, want %s", got, want)
	}
}

// exposition is what a line of the text format may be, by the format's own description.
var exposition = regexp.MustCompile(`^([a-z_]+)(\{[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*\})? (-?[0-9.]+)$`)

func TestMetrics(t *testing.T) {
	var b strings.Builder
	if err := sampleMachine().WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	helped, typed, seen, family := map[string]bool{}, map[string]bool{}, map[string]bool{}, ""
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		f := strings.SplitN(s.Text(), " ", 4)
		switch {
		case strings.HasPrefix(s.Text(), "# HELP "):
			if family = f[2]; helped[family] || len(f) < 4 {
				t.Errorf("a second HELP, or an empty one: %s", s.Text())
			}
			helped[family] = true
		case strings.HasPrefix(s.Text(), "# TYPE "):
			if f[2] != family || typed[family] || f[3] != "gauge" {
				t.Errorf("a TYPE out of place: %s", s.Text())
			}
			typed[family] = true
		default:
			x := exposition.FindStringSubmatch(s.Text())
			if x == nil || x[1] != family || !typed[family] {
				t.Errorf("no sample of %s: %s", family, s.Text())
				continue
			}
			if seen[x[1]+x[2]] {
				t.Errorf("twice: %s", x[1]+x[2])
			}
			seen[x[1]+x[2]] = true
		}
	}
	if !strings.HasSuffix(text, "\n") {
		t.Error("the last line has no end")
	}
	for _, want := range []string{
		`ksplice_module_loaded 1`, `ksplice_busy 0`, `ksplice_kernel_info{release="6.1.0-57-amd64",effective="6.1.193-1"} 1`,
		`ksplice_updates{stage="applied"} 3`, `ksplice_updates{stage="armed"} 2`, `ksplice_updates{stage="preparing"} 0`, `ksplice_updates{stage="dropped"} 1`,
		`ksplice_update_info{id="11111111",description="net: a \"quoted\" \\ thing\nand more",stage="applied"} 1`,
		`ksplice_update_applied_timestamp_seconds{id="22222222"} 1700000000`, `ksplice_update_pause_seconds{id="11111111"} 0.00031`,
		`ksplice_update_functions{id="11111111"} 1`, `ksplice_update_exposed_seconds{id="11111111:vlan"} 1.5`,
		`ksplice_armed 2`, `ksplice_armed_unapplied 1`, `ksplice_dead_probes 2`, `ksplice_orphan_parts 2`, `ksplice_problems 3`,
	} {
		if !strings.Contains("\n"+text, "\n"+want+"\n") {
			t.Errorf("there is no %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
