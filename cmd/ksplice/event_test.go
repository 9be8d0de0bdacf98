package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/freeze"
	"github.com/ksplice/ksplice/core/journal"
	"github.com/ksplice/ksplice/core/update"
)

// TestEvents: what the journal is told of each end that a command can have.
func TestEvents(t *testing.T) {
	manifest := &update.Manifest{ID: "3f9c2ab1", Description: "net: fix it"}
	conflict := &apply.ConflictError{Conflicts: []engine.Conflict{{PID: 12, Command: "my shell", Function: "ep_poll"}, {PID: 13, Command: "cat", Function: "ep_poll"}}, Attempts: 5}
	for _, x := range []struct {
		name  string
		event func(*event)
		err   error
		kind  eventKind
		want  string // the message
		has   []string
	}{
		{"applied", func(v *event) {
			v.applied(&apply.Report{ID: "3f9c2ab1", Functions: []string{"f", "g"}, Armed: []string{"8021q"}, Replaced: []string{"0badcafe"},
				Result: apply.Commit{Pause: 310 * time.Microsecond, Frozen: []freeze.Process{{PID: 7}}}})
		}, nil, eventApplied, "update 3f9c2ab1 applied: 2 functions, machine stopped for 0.31 ms",
			[]string{"KSPLICE_FUNCTIONS=f g", "KSPLICE_PAUSE_NS=310000", "KSPLICE_ARMED=8021q", "KSPLICE_REPLACED=0badcafe", "KSPLICE_FROZEN=7"}},
		{"armed", func(v *event) { v.applied(&apply.Report{ID: "3f9c2ab1", Armed: []string{"8021q", "vlan"}}) }, nil, eventArmed,
			"update 3f9c2ab1 armed: it waits for 8021q, vlan", []string{"KSPLICE_ARMED=8021q vlan"}},
		{"undone", func(v *event) {
			v.undone(&apply.UndoReport{ID: "3f9c2ab1", Functions: 3, Names: []string{"f", "g"}, Pause: time.Millisecond})
		}, nil, eventUndone, "update 3f9c2ab1 undone: 3 functions, machine stopped for 1.00 ms", []string{"KSPLICE_FUNCTIONS=f g", "KSPLICE_PAUSE_NS=1000000"}},
		{"conflict", func(*event) {}, fmt.Errorf("commit: %w", conflict), eventFailed, "apply failed: commit: ",
			[]string{"KSPLICE_CONFLICTS=12 my shell ep_poll\n13 cat ep_poll", "KSPLICE_EXIT_CODE=4", "KSPLICE_ERROR=commit: " + conflict.Error()}},
		{"refused", func(*event) {}, fmt.Errorf("x.ksplice: %w", update.ErrAltered), eventFailed, "apply failed: x.ksplice: ", []string{"KSPLICE_EXIT_CODE=3"}},
		{"internal", func(*event) {}, fmt.Errorf("no idea"), eventFailed, "apply failed: no idea", []string{"KSPLICE_EXIT_CODE=1"}},
		{"done, and something behind it failed", func(v *event) {
			v.undone(&apply.UndoReport{ID: "3f9c2ab1", Functions: 1, Pause: time.Millisecond})
		}, fmt.Errorf("unload: no"), eventUndone, "update 3f9c2ab1 undone: 1 function, machine stopped for 1.00 ms", []string{"KSPLICE_ERROR=unload: no", "KSPLICE_EXIT_CODE=1"}},
		{"usage", func(*event) {}, usagef("wrong"), eventKind{}, "", nil},
		{"there already", func(v *event) { v.applied(&apply.Report{ID: "3f9c2ab1"}) }, nil, eventKind{}, "", nil},
		{"help", func(*event) {}, nil, eventKind{}, "", nil},
	} {
		v := &event{operation: "apply"}
		v.of(manifest)
		x.event(v)
		got := v.entry(x.err)
		if x.kind.id == "" {
			if got != nil {
				t.Errorf("%s: the journal is told %+v", x.name, got)
			}
			continue
		}
		if got == nil {
			t.Errorf("%s: the journal is told nothing", x.name)
			continue
		}
		priority := x.kind.priority
		if exitCode(x.err) == exitInternal && x.err != nil {
			priority = journal.Error
		}
		if got.ID != x.kind.id || got.Priority != priority || !strings.HasPrefix(got.Message, x.want) {
			t.Errorf("%s: %+v, want %q with %s", x.name, got, x.want, x.kind.id)
		}
		var fields []string
		for _, f := range got.Fields {
			fields = append(fields, f.Name+"="+f.Value)
		}
		for _, want := range append(x.has, "KSPLICE_EVENT="+x.kind.name, "KSPLICE_OPERATION=apply", "KSPLICE_ID=3f9c2ab1", "KSPLICE_DESCRIPTION=net: fix it") {
			if !strings.Contains("\n"+strings.Join(fields, "\n")+"\n", "\n"+want+"\n") {
				t.Errorf("%s: there is no %s in %q", x.name, want, fields)
			}
		}
	}
}

// TestEventTables: IDs are such, each is there once, and every field that is sent is listed.
func TestEventTables(t *testing.T) {
	ids := map[string]bool{}
	for _, k := range eventKinds {
		// Of random UUIDs, version 4: sd_journal_get_catalog(3) has them without dashes.
		if !regexp.MustCompile(`^[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}$`).MatchString(k.id) || ids[k.id] {
			t.Errorf("%s: %s is no ID of its own", k.name, k.id)
		}
		ids[k.id] = true
	}
	v := &event{operation: "apply"}
	v.of(&update.Manifest{ID: "1", Description: "2"})
	v.add(fieldFile, "3")
	v.add(fieldModule, "4")
	v.applied(&apply.Report{Functions: []string{"f"}, Armed: []string{"m"}, Replaced: []string{"r"}, Result: apply.Commit{Frozen: []freeze.Process{{PID: 1}}}})
	entry := v.entry(&apply.ConflictError{Conflicts: []engine.Conflict{{PID: 1}}})
	var sent, listed []string
	for _, f := range entry.Fields {
		sent = append(sent, f.Name)
	}
	for _, f := range eventFields {
		listed = append(listed, f.name)
	}
	if d := cmp.Diff(listed, sent); d != "" {
		t.Errorf("what is listed and what is sent (-listed +sent):\n%s", d)
	}
}
