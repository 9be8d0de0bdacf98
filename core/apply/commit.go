package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/ksplice/ksplice/core/bind"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/freeze"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Commit is how the commit went.
type Commit struct {
	Pause    time.Duration `json:"pause_ns"`
	Attempts int           `json:"attempts"`
	// Frozen are the processes that were frozen meanwhile.
	Frozen []freeze.Process `json:"frozen,omitempty"`
}

// ConflictError says that threads stand in the way.
type ConflictError struct {
	Conflicts []engine.Conflict
	Attempts  int
}

// Error implements error.
func (e *ConflictError) Error() string {
	if len(e.Conflicts) == 0 {
		return fmt.Sprintf("threads were in the affected functions at each of %d attempts; try again later", e.Attempts)
	}
	c := e.Conflicts[0]
	// What cannot be frozen is the worse news.
	if i := slices.IndexFunc(e.Conflicts, func(c engine.Conflict) bool { return c.Kernel }); i >= 0 {
		c = e.Conflicts[i]
	}
	what := "thread"
	if c.Kernel {
		what = "kernel thread"
	}
	s := fmt.Sprintf("%s %d (%s) is in %s", what, c.PID, c.Command, c.Function)
	if n := len(e.Conflicts) - 1; n > 0 {
		s += fmt.Sprintf(", and %d more", n)
	}
	if c.Kernel {
		return s + fmt.Sprintf("; nothing was changed in %d attempts; where that is the thread's main loop, which it never leaves, the function cannot be replaced", e.Attempts)
	}
	return s + fmt.Sprintf("; nothing was changed in %d attempts; try again when it has left, or with --freeze where somebody is always there", e.Attempts)
}

// CommitError says that the kernel module refused.
type CommitError struct {
	Cause engine.Cause
	Where string
	Err   error
	// Address is where, for CauseMoved. Then there may have been conflicts at earlier ones of the attempts.
	Address   uint64
	Attempts  int
	Conflicts []engine.Conflict
}

// Error implements error.
func (e *CommitError) Error() string {
	s := fmt.Sprintf("the kernel module refused: %s", e.Cause)
	if e.Where != "" {
		s += ": " + e.Where
	}
	if e.Err != nil {
		s += fmt.Sprintf(" (%v)", e.Err)
	}
	return s
}

// pinOwners holds every module that a value lies in, beyond the targets, which are held already, and names them.
func pinOwners(d *engine.Device, m *update.Manifest, bindings []*bind.Binding) ([]string, error) {
	held := map[string]bool{}
	for _, p := range m.Parts {
		held[p.Target] = true
	}
	var names []string
	for _, b := range bindings {
		for _, n := range b.Modules {
			// The kernel module itself: private key copies lie there, and the parts depend on it.
			if !held[n] && n != "ksplice" {
				held[n] = true
				names = append(names, n)
			}
		}
	}
	sort.Strings(names)
	for _, n := range names {
		if err := d.Pin(n); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// sameModules wants modules, which are held now, to be those that were read before: another one of the name may have come meanwhile.
func sameModules(was, is *kernel.Kernel, names []string) error {
	symbols := func(k *kernel.Kernel, module string) []kernel.Symbol {
		var out []kernel.Symbol
		for _, y := range k.Symbols.All() {
			if y.Module == module {
				out = append(out, y)
			}
		}
		return out
	}
	for _, n := range names {
		a, b := was.Modules[n], is.Modules[n]
		if a.Base != b.Base || a.Size != b.Size || !slices.Equal(a.Ranges, b.Ranges) || !slices.Equal(symbols(was, n), symbols(is, n)) {
			return &CommitError{Cause: engine.CauseChanged, Where: "module " + n + " was loaded anew"}
		}
	}
	return nil
}

// commit runs the transaction's commit, and freezes who is in its way if that is wanted.
func (o *Options) commit(ctx context.Context, d *engine.Device, id string, op engine.Op) (c Commit, err error) {
	watched := func() {} // waits for who uses the device besides
	if o.Freeze {
		if !d.Info().Freeze {
			return c, errors.New("the loaded ksplice module cannot freeze processes: reload the one that came with this ksplice, or go without --freeze")
		}
		f, err := freeze.New(d.Freeze, o.Log)
		if err != nil {
			return c, err
		}
		watch, end := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			f.Watch(watch, id)
			close(done)
		}()
		watched = func() {
			end()
			<-done
		}
		defer func() {
			watched()
			c.Frozen = f.Processes
			// It is decided already: that somebody could not be put back is no reason to call it a failure.
			if err := f.Release(); err != nil {
				o.Log.Error("processes that were frozen run, but in a cgroup of ours; the next run tries again to put them back", "error", err)
			}
		}()
	}
	r, err := d.Commit(ctx, o.Attempts, o.Interval)
	if err != nil {
		if ctx.Err() == nil {
			return c, err
		}
		// Interrupted: the kernel module gives up, unless it has stopped the machine already. Close waits for it.
		watched()
		d.Close()
		u, done, lerr := decided(id, op)
		if lerr != nil || !done {
			return c, errors.Join(err, lerr)
		}
		o.Log.Info("the interruption came too late: it is done", "id", id)
		c.Pause = u.Pause
		return c, nil
	}
	c.Pause, c.Attempts = r.Pause, r.Attempts
	return c, outcome(r)
}

// decided says whether an update has been applied, or undone.
func decided(id string, op engine.Op) (u engine.Applied, done bool, err error) {
	updates, err := engine.Updates()
	if err != nil {
		return u, false, err
	}
	for _, a := range updates {
		if a.ID == id {
			u = a
		}
	}
	return u, (u.Stage == "applied") == (op == engine.OpApply), nil
}

func outcome(r *engine.Result) error {
	switch r.Cause {
	case engine.CauseOK:
		if r.Errno != 0 {
			return &CommitError{Cause: r.Cause, Where: r.Where, Err: r.Errno}
		}
		return nil
	case engine.CauseConflict:
		for i := range r.Conflicts {
			c := &r.Conflicts[i]
			c.Kernel, _ = freeze.KernelThread(c.PID) // one that has gone was none that stays
		}
		return &ConflictError{r.Conflicts, r.Attempts}
	}
	e := &CommitError{Cause: r.Cause, Where: r.Where, Address: r.Address, Attempts: r.Attempts, Conflicts: r.Conflicts}
	if r.Errno != 0 {
		e.Err = r.Errno
	}
	return e
}

// verify reads back what the commit wrote: each jump must lead to its replacement.
func verify(m *update.Manifest, id string) error {
	d, err := engine.Open()
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	defer d.Close()
	updates, err := engine.Updates()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(updates, func(a engine.Applied) bool { return a.ID == id && a.Stage == "applied" })
	if i < 0 {
		return fmt.Errorf("verify: the kernel module does not list %s as applied", id)
	}
	tracing, err := kernel.LiveTracing("")
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	changes := slices.Clone(updates[i].Functions)
	for _, p := range m.Parts {
		for _, f := range p.Functions {
			if f.Fragment || f.Redirect.Kind != arch.RedirectJump {
				continue
			}
			// Functions of one name are told apart by their order, which is the part's own.
			k := slices.IndexFunc(changes, func(c engine.Change) bool {
				return c.Part == p.Name && c.Name == f.Name && c.Size == f.Size && c.Kind == "jump"
			})
			if k < 0 && p.Init { // its module is live already, and init is gone
				continue
			}
			if k < 0 {
				return fmt.Errorf("verify: the kernel module does not list %s of part %s", f.Name, p.Name)
			}
			c := changes[k]
			changes = slices.Delete(changes, k, k+1)
			if p, ok := probeIn(tracing.Kprobes, c.Code+c.Window, f.Redirect.Window.Length); ok {
				return fmt.Errorf("verify %s: %s; nobody may enable it before, and then undo the update and apply it again", f.Name, probed(p-c.Code))
			}
			at := c.Code + f.Redirect.Window.Offset
			want, err := jump(&f.Redirect, at, c.Replacement)
			if err != nil {
				return fmt.Errorf("verify %s: %w", f.Name, err)
			}
			got := make([]byte, len(want))
			err = d.ReadMemory(got, at)
			if (err != nil || !bytes.Equal(got, want)) && p.Init && !listed(id, &c) {
				continue // the same, this very moment
			}
			if err != nil {
				return fmt.Errorf("verify %s: %w", f.Name, err)
			}
			if !bytes.Equal(got, want) {
				return fmt.Errorf("verify %s: at %#x the kernel has % x, expected % x: undo the update and report this", f.Name, at, got, want)
			}
		}
	}
	return nil
}

// listed says that an update still has a function.
func listed(id string, c *engine.Change) bool {
	updates, err := engine.Updates()
	return err != nil || slices.ContainsFunc(updates, func(a engine.Applied) bool {
		return a.ID == id && slices.ContainsFunc(a.Functions, func(x engine.Change) bool { return x.Code == c.Code })
	})
}
