package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ksplice/ksplice/cmd/ksplice/kerneltest/internal/mutation"
	"github.com/ksplice/ksplice/core/engine"
)

// Threads that are in the functions by chance are waited out.
const (
	commitAttempts = 100
	commitInterval = 20 * time.Millisecond
)

// mutate takes an update to the kernel module again and again, each time with something changed, and prints a line of JSON of each.
func mutate(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var plan mutation.Plan
	if err := json.Unmarshal(b, &plan); err != nil {
		return err
	}
	module, err := os.ReadFile(plan.File)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	for i := range plan.Attempts {
		r, err := attempt(&plan, module, &plan.Attempts[i])
		if err != nil {
			return fmt.Errorf("attempt %d: %w", i, err)
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// attempt is one transaction. The error is for what is no refusal: then nothing can be said of what follows.
func attempt(plan *mutation.Plan, module []byte, a *mutation.Attempt) (*mutation.Outcome, error) {
	d, err := engine.Open()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := d.Begin(plan.ID, engine.OpApply, 1); err != nil {
		return nil, err
	}
	values, windows := slices.Clone(plan.Values), make([]engine.Window, len(plan.Windows))
	for i, w := range plan.Windows {
		windows[i] = engine.Window{Address: w.Address, Bytes: slices.Clone(w.Bytes)}
	}
	for _, k := range plan.Keys {
		if values[k], err = d.KeyCopy(values[k]); err != nil {
			return nil, err
		}
	}
	switch a.What {
	case mutation.Slot:
		values[a.Index] = a.Value
	case mutation.Window:
		windows[a.Index].Bytes[a.At] ^= a.Bytes[0]
	case mutation.WindowAddress:
		windows[a.Index].Address = a.Value
	case mutation.Part:
		module = slices.Clone(module)
		copy(module[a.At:], a.Bytes)
	}
	if err := d.SetSlots(values); err != nil {
		return &mutation.Outcome{Refused: "slots", Why: err.Error()}, nil
	}
	if err := engine.Load(plan.Part, module); err != nil {
		return &mutation.Outcome{Refused: "load", Why: err.Error()}, nil
	}
	outcome, err := commit(plan, d, windows)
	d.Close() // lets the part go
	if err == nil && outcome.Refused == "" {
		err = undo(plan.ID)
	}
	if uerr := engine.Unload(context.Background(), plan.Part); err == nil {
		err = uerr
	}
	return outcome, err
}

func commit(plan *mutation.Plan, d *engine.Device, windows []engine.Window) (*mutation.Outcome, error) {
	if err := d.Expect(windows); err != nil {
		return &mutation.Outcome{Refused: "expect", Why: err.Error()}, nil
	}
	r, err := d.Commit(context.Background(), commitAttempts, commitInterval)
	if err != nil {
		return nil, err
	}
	if r.Cause != engine.CauseOK {
		if r.Cause == engine.CauseConflict || r.Cause == engine.CauseNoMemory {
			return nil, fmt.Errorf("commit: %s: %s", r.Cause, r.Where)
		}
		return &mutation.Outcome{Refused: r.Cause.String(), Why: r.Where}, nil
	}
	state, err := state(plan, d)
	return &mutation.Outcome{State: state}, err
}

// state is what is in force, in a form that does not depend on where the part was loaded: of each function how it is redirected, and
// where the bytes that were written lead.
func state(plan *mutation.Plan, d *engine.Device) ([]string, error) {
	b, err := os.ReadFile("/sys/module/" + plan.Part + "/sections/.text")
	if err != nil {
		return nil, err
	}
	text, err := strconv.ParseUint(strings.TrimSpace(string(b)), 0, 64)
	if err != nil {
		return nil, err
	}
	updates, err := engine.Updates()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, u := range updates {
		if engine.UpdateID(u.ID) != plan.ID {
			continue
		}
		out = append(out, fmt.Sprintf("stays mapped %t, %d parts", u.StaysMapped, len(u.Parts)))
		for _, f := range u.Functions {
			out = append(out, fmt.Sprintf("%s %s %#x part+%#x", f.Name, f.Kind, f.Address, f.Replacement-text))
		}
	}
	for _, w := range plan.Windows {
		jump := make([]byte, len(w.Bytes))
		if err := d.ReadMemory(jump, w.Address); err != nil {
			return nil, err
		}
		distance := int64(int32(uint32(jump[1]) | uint32(jump[2])<<8 | uint32(jump[3])<<16 | uint32(jump[4])<<24))
		out = append(out, fmt.Sprintf("%#x: %02x to part+%#x", w.Address, jump[0], w.Address+uint64(len(jump))+uint64(distance)-text))
	}
	return out, nil
}

func undo(id string) error {
	d, err := engine.Open()
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Begin(id, engine.OpUndo, 0); err != nil {
		return err
	}
	r, err := d.Commit(context.Background(), commitAttempts, commitInterval)
	if err == nil && r.Cause != engine.CauseOK {
		err = fmt.Errorf("undo: %s: %s", r.Cause, r.Where)
	}
	return err
}
