package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/persist"
	"github.com/ksplice/ksplice/core/trust"
	"github.com/ksplice/ksplice/core/update"
)

// TestPassing: at boot is tried again what may go, and nothing that somebody has decided.
func TestPassing(t *testing.T) {
	for _, x := range []struct {
		err  error
		want bool
	}{
		{engine.ErrBusy, true},
		{engine.ErrNoModule, true},
		{&apply.ConflictError{}, true},
		{&match.MismatchError{}, true},
		{errors.New("the plugin did not answer"), true},
		{&apply.WrongKernelError{}, false},
		{&trust.RefusedError{}, false},
		{&trust.KeyError{}, false},
		{&persist.UnsafeError{}, false},
		{&engine.SignatureError{}, false},
		{trust.ErrSignature, false},
		{update.ErrAltered, false},
		{usagef("no such flag"), false},
	} {
		if got := passing(fmt.Errorf("apply: %w", x.err)); got != x.want {
			t.Errorf("%T (%v) is worth another try: %v, want %v", x.err, x.err, got, x.want)
		}
	}
}

// TestBootErrors: what the store refuses is the caller's to mend, not a fault of ours.
func TestBootErrors(t *testing.T) {
	for _, err := range []error{&persist.BaseError{}, &persist.DamagedError{Err: errors.New("bad")}, &bootError{ids: []string{"11111111"}, causes: []error{usagef("no file")}}} {
		if got := exitCode(err); got != exitRefused {
			t.Errorf("%T: exit code %d, want %d", err, got, exitRefused)
		}
	}
}
