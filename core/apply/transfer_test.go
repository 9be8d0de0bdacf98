package apply

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/core/engine"
)

// TestPatiently: what moves is tried again, for so long; what was in the way counts as that.
func TestPatiently(t *testing.T) {
	o := &Options{Log: hclog.NewNullLogger(), Attempts: 7, Interval: time.Millisecond}
	moved := &errMoved{what: "count of the struct x"}
	conflict := &errMoved{what: "count of the struct x", attempts: 2, conflicts: []engine.Conflict{{PID: 42}}}
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		say   func(n int) error
		calls int
		want  func(error) bool
	}{
		"still":   {func(int) error { return nil }, 1, func(err error) bool { return err == nil }},
		"at last": {func(n int) error { return map[bool]error{true: moved}[n < 5] }, 5, func(err error) bool { return err == nil }},
		"never":   {func(int) error { return moved }, transferTries, func(err error) bool { b := new(BusyError); return errors.As(err, &b) && b.Moved == moved.what }},
		"broken":  {func(n int) error { return map[bool]error{true: moved, false: broken}[n < 3] }, 3, func(err error) bool { return err == broken }},
		"in the way": {func(int) error { return conflict }, 4, func(err error) bool {
			c := new(ConflictError)
			return errors.As(err, &c) && c.Attempts == 8 && c.Conflicts[0].PID == 42
		}},
	} {
		n := 0
		err := o.patiently(t.Context(), func() error {
			n++
			if err := c.say(n); err != nil {
				return err
			}
			return nil
		})
		if n != c.calls || !c.want(err) {
			t.Errorf("%s: %d calls, want %d; %v", name, n, c.calls, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.patiently(ctx, func() error { return conflict }); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}
