package apply

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/transfer"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
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

// ticking is memory that is another one at each read.
type ticking struct{ n byte }

func (m *ticking) ReadMemory(p []byte, _ uint64) error {
	m.n++
	p[0] = m.n
	return nil
}

// reader is a transform plugin that reads a number and fails.
type reader struct {
	transform.Unimplemented
	err error
}

func (reader) Info(context.Context) (*plugin.Info, error) { return &plugin.Info{}, nil }

func (r reader) Transfer(ctx context.Context, _ *transform.TransferRequest, s transform.State) (*transform.TransferResponse, error) {
	if _, err := s.Walk(ctx, &transform.Walk{Global: "g", Read: []string{""}}); err != nil {
		return nil, err
	}
	return nil, r.err
}

// TestStill: an error that may follow from memory that moved is no error of the plugin's; that it died is.
func TestStill(t *testing.T) {
	for _, c := range []struct {
		memory kernel.Memory
		err    error
		moved  bool
	}{
		{&ticking{}, errors.New("the count is wrong"), true},
		{constant{}, errors.New("the count is wrong"), false},
		{&ticking{}, &pluginhost.Error{Diagnostic: plugin.Diagnostic{Summary: "it ended"}}, false},
		{&ticking{}, context.Canceled, false},
		{&ticking{}, nil, false},
	} {
		s := transfer.New(c.memory)
		b := &transfer.Bound{Transfer: update.Transfer{Globals: []update.Global{{Name: "g", Type: "int"}}, Before: update.Layouts{"int": {Kind: update.LayoutNumber, Size: 4}}}, Addresses: []uint64{0xffffffff81000000}}
		r := reader{err: c.err}
		err := s.Run(t.Context(), b, r, false)
		if c.err == nil {
			err = nil
		}
		var moved *errMoved
		if got := still(s, err); errors.As(got, &moved) != c.moved || !c.moved && !errors.Is(got, c.err) {
			t.Errorf("%v becomes %v", c.err, got)
		}
	}
}

// constant is memory that stays.
type constant struct{}

func (constant) ReadMemory(p []byte, _ uint64) error { return nil }
