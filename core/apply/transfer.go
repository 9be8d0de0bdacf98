package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/transfer"
)

// How often state is read until it holds still, and the longest time between two attempts.
const (
	transferTries = 20
	transferPause = 100 * time.Millisecond
)

// BusyError says that state which is to be transferred does not hold still.
type BusyError struct {
	Tries int
	// Moved says what moved at the last of them.
	Moved string
}

// Error implements error.
func (e *BusyError) Error() string {
	return fmt.Sprintf("state transfer: what it reads does not hold still: at each of %d attempts something had moved before it could be changed, at the last %s; nothing was changed: "+
		"try again when less is going on, or carry it by code in the patch (<ksplice.h>: a hook, or a shadow field that objects get when they are first used)", e.Tries, e.Moved)
}

// read runs all transfers once. Where it fails, the session says whether what it read holds still.
func (o *Options) read(ctx context.Context, m kernel.Memory, list []transfer.Bound, undo bool) (*engine.Transfer, *transfer.Session, error) {
	s := transfer.New(m)
	for i := range list {
		p, err := o.Transform(ctx, list[i].Plugin)
		if err != nil {
			return nil, s, fmt.Errorf("state transfer %s: %w", list[i].Item, err)
		}
		if err := s.Run(ctx, &list[i], p, undo); err != nil {
			return nil, s, err
		}
	}
	x, err := s.Changes()
	return x, s, err
}

// errMoved says that what was read does not hold still: it may be read again.
type errMoved struct {
	what      string
	attempts  int // that ended with threads in the way
	conflicts []engine.Conflict
}

// Error implements error.
func (e *errMoved) Error() string { return e.what }

// still turns an error of a read into errMoved where the memory has changed meanwhile. A plugin that died, or that is not there, would not
// do better with other memory.
func still(s *transfer.Session, err error) error {
	var host *pluginhost.Error
	if err == nil || errors.As(err, &host) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if at, moved := s.Moved(); moved {
		return &errMoved{what: fmt.Sprintf("%s (%v)", s.Describe(at), err)}
	}
	return err
}

// patiently does something until what it reads holds still, or nobody is in the way.
func (o *Options) patiently(ctx context.Context, do func() error) error {
	conflicts := 0
	for try := 1; ; {
		err := do()
		var moved *errMoved
		if !errors.As(err, &moved) {
			return err
		}
		o.Log.Debug("state moved between read and commit", "try", try, "what", moved.what)
		pause := transferPause * time.Duration(try-1) / transferTries
		if conflicts += moved.attempts; moved.attempts > 0 {
			pause = o.Interval
		} else {
			try++
		}
		switch {
		case try > transferTries:
			return &BusyError{transferTries, moved.what}
		case moved.attempts > 0 && conflicts >= o.Attempts:
			return &ConflictError{moved.conflicts, conflicts}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// look runs all transfers without a commit.
func (o *Options) look(ctx context.Context, m kernel.Memory, list []transfer.Bound) (s *transfer.Session, err error) {
	err = o.patiently(ctx, func() error {
		var err error
		_, s, err = o.read(ctx, m, list, false)
		return still(s, err)
	})
	return s, err
}

// commitAll runs the transaction's commit with the state transfers that belong to it, as often as it takes until what they read holds still.
func (o *Options) commitAll(ctx context.Context, d *engine.Device, id string, op engine.Op, list []transfer.Bound) (c Commit, stats *transfer.Stats, err error) {
	if len(list) == 0 {
		c, err = o.commit(ctx, d, id, op)
		return c, nil, err
	}
	err = o.patiently(ctx, func() error {
		x, s, err := o.read(ctx, d, list, op == engine.OpUndo)
		if err != nil {
			return still(s, err)
		}
		if err := d.Transfer(x); err != nil {
			return err
		}
		stats = &s.Stats
		c, err = o.commit(ctx, d, id, op)
		var refused *CommitError
		if errors.As(err, &refused) && refused.Cause == engine.CauseMoved {
			return &errMoved{s.Describe(refused.Address), refused.Attempts - 1, refused.Conflicts}
		}
		return err
	})
	return c, stats, err
}
