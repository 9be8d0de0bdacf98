package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/journal"
	"github.com/ksplice/ksplice/core/update"
)

// eventKind is one kind of entry in the journal. IDs are random, and never change: filters of others have them.
type eventKind struct {
	name, id, what string
	priority       journal.Priority
}

// The events; the manual lists them.
var (
	eventApplied = eventKind{"applied", "6ab17cd8b57948fc922798d7aeacce2a", "an update was applied, or its part to a module that came later", journal.Notice}
	eventArmed   = eventKind{"armed", "bc3f2489eacd418586b4e9b3cf2a89c2", "nothing of an update is applied yet: it waits for modules", journal.Notice}
	eventUndone  = eventKind{"undone", "4681767f7ff449bcbebf9db66f850ed1", "an update was undone", journal.Notice}
	eventFailed  = eventKind{"failed", "7e5bfd68fc9e4a669bd5adb8aacbef9a", "an update was not applied, or not undone", journal.Warning}
	eventKinds   = []eventKind{eventApplied, eventArmed, eventUndone, eventFailed}
)

// The fields of entries; the manual lists them.
const (
	fieldEvent       = "KSPLICE_EVENT"
	fieldOperation   = "KSPLICE_OPERATION"
	fieldID          = "KSPLICE_ID"
	fieldDescription = "KSPLICE_DESCRIPTION"
	fieldFile        = "KSPLICE_FILE"
	fieldModule      = "KSPLICE_MODULE"
	fieldFunctions   = "KSPLICE_FUNCTIONS"
	fieldPause       = "KSPLICE_PAUSE_NS"
	fieldReplaced    = "KSPLICE_REPLACED"
	fieldArmed       = "KSPLICE_ARMED"
	fieldFrozen      = "KSPLICE_FROZEN"
	fieldConflicts   = "KSPLICE_CONFLICTS"
	fieldError       = "KSPLICE_ERROR"
	fieldExit        = "KSPLICE_EXIT_CODE"
)

var eventFields = []struct{ name, what string }{
	{fieldEvent, "which of the events above it is"},
	{fieldOperation, "what was to be done: apply, undo, arrive, for a part whose module came, or boot, for all that are persistent"},
	{fieldID, "the update's ID; of one whose file could not be read there is none"},
	{fieldDescription, "what the update is"},
	{fieldFile, "the update's file, as apply was given it"},
	{fieldModule, "the module that came"},
	{fieldFunctions, "the functions that were replaced, or put back, with blanks between"},
	{fieldPause, "how long the machine stood still, in nanoseconds"},
	{fieldReplaced, "the IDs of updates that went in the same stop"},
	{fieldArmed, "modules that are not loaded, whose parts wait for them"},
	{fieldFrozen, "processes that were frozen until it was decided, by number"},
	{fieldConflicts, "threads that stood in the way, a line each: number, command and function"},
	{fieldError, "why nothing came of it"},
	{fieldExit, "the command's exit code: 3 refused, 4 conflict"},
}

// event is what a command that changes the machine tells the journal when it ends.
type event struct {
	operation string
	kind      eventKind // how it went, where it went well
	text      string    // what was done, for people
	fields    []journal.Field
}

func (v *event) add(name, value string) {
	if value != "" {
		v.fields = append(v.fields, journal.Field{Name: name, Value: value})
	}
}

// of says which update it is about.
func (v *event) of(m *update.Manifest) {
	v.add(fieldID, m.ID)
	v.add(fieldDescription, m.Description)
}

// applied says how apply, or arrive, went.
func (v *event) applied(r *apply.Report) {
	v.kind, v.text = eventApplied, fmt.Sprintf("update %s applied: %s, machine stopped for %s", r.ID, changed(len(r.Functions), len(r.Sets)), milliseconds(r.Result.Pause))
	switch {
	case r.Changes() || r.Transfer != nil:
	case len(r.Armed) == 0: // the part was there already
		v.kind = eventKind{}
	default:
		v.kind, v.text = eventArmed, fmt.Sprintf("update %s armed: it waits for %s", r.ID, strings.Join(r.Armed, ", "))
	}
	v.add(fieldFunctions, strings.Join(r.Functions, " "))
	v.add(fieldPause, strconv.FormatInt(r.Result.Pause.Nanoseconds(), 10))
	v.add(fieldReplaced, strings.Join(r.Replaced, " "))
	v.add(fieldArmed, strings.Join(r.Armed, " "))
	v.frozen(r.Result)
}

func (v *event) frozen(c apply.Commit) {
	var pids []string
	for _, p := range c.Frozen {
		pids = append(pids, strconv.Itoa(p.PID))
	}
	v.add(fieldFrozen, strings.Join(pids, " "))
}

// undone says how undo went.
func (v *event) undone(r *apply.UndoReport) {
	v.kind, v.text = eventUndone, fmt.Sprintf("update %s undone: %s, machine stopped for %s", r.ID, changed(r.Functions, r.Sets), milliseconds(r.Pause))
	v.add(fieldID, r.ID)
	v.add(fieldFunctions, strings.Join(r.Names, " "))
	v.add(fieldPause, strconv.FormatInt(r.Pause.Nanoseconds(), 10))
	v.frozen(apply.Commit{Frozen: r.Frozen})
}

// entry is what the journal is told; nil where there is nothing: a command line that was wrong changes no machine.
func (v *event) entry(err error) *journal.Entry {
	code := exitCode(err)
	kind, text := v.kind, v.text
	fields := append([]journal.Field{}, v.fields...)
	if err != nil {
		if code == exitUsage && kind.id == "" {
			return nil
		}
		if kind.id == "" { // else it was done, and what failed came behind it
			kind, text = eventFailed, fmt.Sprintf("%s failed: %v", v.operation, err)
		}
		var conflict *apply.ConflictError
		if errors.As(err, &conflict) && len(conflict.Conflicts) > 0 {
			var lines []string
			for _, x := range conflict.Conflicts {
				lines = append(lines, fmt.Sprintf("%d %s %s", x.PID, x.Command, x.Function))
			}
			fields = append(fields, journal.Field{Name: fieldConflicts, Value: strings.Join(lines, "\n")})
		}
		fields = append(fields, journal.Field{Name: fieldError, Value: err.Error()}, journal.Field{Name: fieldExit, Value: strconv.Itoa(code)})
	}
	if kind.id == "" {
		return nil
	}
	priority := kind.priority
	if err != nil && code == exitInternal {
		priority = journal.Error
	}
	return &journal.Entry{Message: text, ID: kind.id, Priority: priority,
		Fields: append([]journal.Field{{Name: fieldEvent, Value: kind.name}, {Name: fieldOperation, Value: v.operation}}, fields...)}
}

// tell tells the journal how a command ended, by one that could have changed the machine. That it cannot be told changes nothing of what was done.
func (e *env) tell(err error) {
	if e.event == nil || os.Geteuid() != 0 {
		return
	}
	x := e.event.entry(err)
	if x == nil {
		return
	}
	if err := journal.Default().Send(x); err != nil {
		e.log.Warn("the journal does not know of this", "error", err)
	}
}
