package apply

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/freeze"
	"github.com/ksplice/ksplice/core/kept"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/transfer"
	"github.com/ksplice/ksplice/sdk/arch"
)

// jumpLength is how many bytes the kernel module's jumps take (kmod/ksplice.h, KSPLICE_JUMP_LEN).
const jumpLength = 5

// jump fills in a redirect's template for a jump at address at.
func jump(r *arch.Redirect, at, to uint64) ([]byte, error) {
	b := slices.Clone(r.Template)
	if uint64(len(b)) < 4 || r.Field > uint64(len(b))-4 {
		return nil, fmt.Errorf("the redirect's field lies outside its template")
	}
	binary.LittleEndian.PutUint32(b[r.Field:], uint32(to+uint64(r.Addend)-(at+r.Field)))
	return b, nil
}

// UndoReport is what undo tells.
type UndoReport struct {
	ID        string           `json:"id"`
	Pause     time.Duration    `json:"pause_ns"`
	Attempts  int              `json:"attempts"`
	Frozen    []freeze.Process `json:"frozen,omitempty"`
	Functions int              `json:"functions"`
	// Names are the functions', without the fragments that go with them.
	Names []string `json:"names"`
	// Sets counts the fields of data that got their old value back.
	Sets int `json:"sets,omitempty"`
	// Transfer is what was done to take back state transfers; nil where there were none.
	Transfer    *transfer.Stats `json:"transfer,omitempty"`
	StaysMapped bool            `json:"stays_mapped"`
	// Disarmed are modules for which the update waited no longer.
	Disarmed []string `json:"disarmed,omitempty"`
	Stages   []Stage  `json:"stages"`
}

// Find returns the ID of the update that begins with prefix, and is applied or armed.
func Find(prefix string) (string, error) {
	updates, err := engine.Updates()
	if err != nil {
		return "", err
	}
	waiting, err := engine.ReadArmed()
	if err != nil {
		return "", err
	}
	var have []string
	note := func(id string) {
		if !slices.Contains(have, id) {
			have = append(have, id)
		}
	}
	for _, a := range updates {
		if a.Stage == "applied" {
			note(engine.UpdateID(a.ID))
		}
	}
	for _, a := range waiting {
		note(a.ID)
	}
	return pick(engine.UpdateID(prefix), have)
}

// pick chooses the one of the IDs that begins with prefix.
func pick(prefix string, have []string) (string, error) {
	var found []string
	for _, id := range have {
		if prefix != "" && strings.HasPrefix(id, prefix) {
			found = append(found, id)
		}
	}
	switch {
	case len(found) > 1:
		return "", fmt.Errorf("%s: several applied updates begin so: %s", prefix, strings.Join(found, " and "))
	case len(found) == 1:
		return found[0], nil
	}
	list := "none is"
	if len(have) > 0 {
		list = "applied are " + strings.Join(have, ", ")
	}
	return "", fmt.Errorf("%s: %w; %s", prefix, engine.ErrNotApplied, list)
}

// Undo reverses the update with the given ID (or the beginning of one), with the parts that came after it, in one stop, and removes its
// parts, unless addresses of its code escaped, in which case they stay mapped. It waits for modules no longer.
func Undo(ctx context.Context, prefix string, opts Options) (*UndoReport, error) {
	unlock, err := engine.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	stage := func(name string) { opts.stage(name, prefix) }
	stage("clear")
	if err := clearUp(ctx, opts.Log, ""); err != nil {
		return nil, err
	}
	id, err := Find(prefix)
	if err != nil {
		return nil, err
	}
	stage("begin")
	d, err := engine.Open()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	report := &UndoReport{ID: id, Names: []string{}}
	waiting, err := engine.ReadArmed()
	if err != nil {
		return nil, err
	}
	waiting = slices.DeleteFunc(waiting, func(a engine.Armed) bool { return a.ID != id })
	for _, a := range waiting {
		report.Disarmed = append(report.Disarmed, a.Module)
	}
	// First, so that no module comes in between.
	if len(waiting) > 0 {
		if err := d.Disarm(id); err != nil {
			return nil, err
		}
	}
	going, err := members([]string{id})
	if err == nil && len(going) > 0 {
		err = undo(ctx, d, going, report, opts)
	}
	if err != nil {
		return nil, errors.Join(err, rearm(d, waiting, opts.Helper))
	}
	// It is undone: whatever comes now, the caller must know that.
	if err := kept.Default().Forget(id); err != nil {
		return report, err
	}
	stage("unload")
	for _, a := range going {
		report.StaysMapped = report.StaysMapped || a.StaysMapped
		if a.StaysMapped {
			continue
		}
		for _, name := range slices.Backward(a.Parts) {
			if err := engine.Unload(context.WithoutCancel(ctx), name); err != nil {
				return report, err
			}
		}
	}
	stage("done")
	return report, nil
}

// rearm takes back a disarming. A module that came in between goes without its part until it comes again.
func rearm(d *engine.Device, list []engine.Armed, helper string) error {
	var errs []error
	for i := range list {
		errs = append(errs, d.Arm(&list[i], helper))
	}
	return errors.Join(errs...)
}

// undo undoes transactions in one stop.
func undo(ctx context.Context, d *engine.Device, going []engine.Applied, report *UndoReport, opts Options) error {
	tracing, err := kernel.LiveTracing("")
	if err != nil {
		return err
	}
	for _, a := range going {
		report.Functions += len(a.Functions)
		report.Sets += len(a.Data)
		for _, c := range a.Functions {
			if c.Kind != "fragment" {
				report.Names = append(report.Names, c.Name)
			}
			if p, ok := probeIn(tracing.Kprobes, c.Code+c.Window, jumpLength); ok && c.Kind == "jump" {
				return &CommitError{Cause: engine.CauseProbed, Where: c.Name + ": " + probed(p-c.Code)}
			}
		}
	}
	t, err := engine.Open()
	if err != nil {
		return err
	}
	defer t.Close()
	if err := t.Begin(going[0].ID, engine.OpUndo, 0); err != nil {
		return err
	}
	for _, a := range going[1:] {
		if err := t.Also(a.ID); err != nil {
			return err
		}
	}
	var transfers []transfer.Bound
	for _, a := range going {
		list, err := kept.Default().ReadTransfers(a.ID)
		if err != nil {
			return err
		}
		transfers = append(transfers, list...)
	}
	opts.stage("commit", report.ID)
	result, transferred, err := opts.commitAll(ctx, t, going[0].ID, engine.OpUndo, transfers)
	if err != nil {
		return err
	}
	report.Transfer = transferred
	if err := t.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close the transaction: %w", err)
	}
	report.Pause, report.Attempts, report.Frozen = result.Pause, result.Attempts, result.Frozen
	return nil
}

// State is one update with what user space adds to what the kernel module knows. A part that waits for its module, stage "armed",
// and one that came after it are states of their own: ID:MODULE.
type State struct {
	engine.Applied
	// Armed is what a part waits for, or what came of it.
	Armed *engine.Armed `json:"armed,omitempty"`
	// DeadProbes are probes inside replaced functions: they are not reached any more.
	DeadProbes []string `json:"dead_probes,omitempty"`
}

// Status lists the updates of this machine, oldest first.
func Status() ([]State, error) {
	updates, err := engine.Updates()
	if err != nil {
		return nil, err
	}
	tracing, err := kernel.LiveTracing("")
	if err != nil {
		return nil, err
	}
	out := make([]State, 0, len(updates))
	for _, a := range updates {
		s := State{Applied: a}
		for _, c := range a.Functions {
			if a.Stage == "applied" && c.Kind != "fragment" {
				s.DeadProbes = append(s.DeadProbes, deadProbes(tracing.Kprobes, c.Name, c.Code, c.Window, c.Size)...)
			}
		}
		out = append(out, s)
	}
	waiting, err := engine.ReadArmed()
	if err != nil {
		return nil, err
	}
	for i, a := range waiting {
		late := engine.LateID(a.ID, a.Module)
		if slices.ContainsFunc(updates, func(u engine.Applied) bool { return u.ID == late && u.Stage == "applied" }) {
			continue
		}
		out = append(out, State{Applied: engine.Applied{ID: late, Stage: "armed"}, Armed: &waiting[i]})
	}
	return out, nil
}
