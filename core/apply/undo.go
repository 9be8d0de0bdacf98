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
	"github.com/ksplice/ksplice/core/kernel"
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
	ID          string           `json:"id"`
	Pause       time.Duration    `json:"pause_ns"`
	Attempts    int              `json:"attempts"`
	Frozen      []freeze.Process `json:"frozen,omitempty"`
	Functions   int              `json:"functions"`
	StaysMapped bool             `json:"stays_mapped"`
	Stages      []Stage          `json:"stages"`
}

// Find returns the applied update whose ID begins with prefix.
func Find(prefix string) (*engine.Applied, error) {
	updates, err := engine.Updates()
	if err != nil {
		return nil, err
	}
	var found *engine.Applied
	var have []string
	for i, a := range updates {
		if a.Stage != "applied" {
			continue
		}
		have = append(have, a.ID)
		if prefix != "" && strings.HasPrefix(a.ID, prefix) {
			if found != nil {
				return nil, fmt.Errorf("%s: several applied updates begin so: %s and %s", prefix, found.ID, a.ID)
			}
			found = &updates[i]
		}
	}
	if found == nil {
		list := "none is"
		if len(have) > 0 {
			list = "applied are " + strings.Join(have, ", ")
		}
		return nil, fmt.Errorf("%s: %w; %s", prefix, engine.ErrNotApplied, list)
	}
	return found, nil
}

// Undo reverses the update with the given ID (or the beginning of one) and removes its parts, unless addresses of its
// code escaped, in which case they stay mapped.
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
	a, err := Find(prefix)
	if err != nil {
		return nil, err
	}
	tracing, err := kernel.LiveTracing("")
	if err != nil {
		return nil, err
	}
	for _, c := range a.Functions {
		if p, ok := probeIn(tracing.Kprobes, c.Code+c.Window, jumpLength); ok && c.Kind == "jump" {
			return nil, &CommitError{Cause: engine.CauseProbed, Where: c.Name + ": " + probed(p-c.Code)}
		}
	}
	stage("begin")
	d, err := engine.Open()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := d.Begin(a.ID, engine.OpUndo, 0); err != nil {
		return nil, err
	}
	stage("commit")
	result, err := opts.commit(ctx, d, a.ID, engine.OpUndo)
	if err != nil {
		return nil, err
	}
	if err := d.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return nil, fmt.Errorf("close the transaction: %w", err)
	}
	report := &UndoReport{ID: a.ID, Pause: result.Pause, Attempts: result.Attempts, Frozen: result.Frozen, Functions: len(a.Functions), StaysMapped: a.StaysMapped}
	if a.StaysMapped {
		return report, nil
	}
	stage("unload")
	for _, name := range slices.Backward(a.Parts) {
		if err := engine.Unload(context.WithoutCancel(ctx), name); err != nil {
			return nil, err
		}
	}
	stage("done")
	return report, nil
}

// State is one update with what user space adds to what the kernel module knows.
type State struct {
	engine.Applied
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
	return out, nil
}
