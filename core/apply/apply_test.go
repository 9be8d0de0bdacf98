package apply

import (
	"errors"
	"testing"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/sdk/arch"
)

// TestSameModules: a module that was unloaded and loaded again between reading and holding it is another one, wherever it lies.
func TestSameModules(t *testing.T) {
	at := func(base uint64, symbol uint64) *kernel.Kernel {
		return kernel.New(kernel.Identity{}, []kernel.Symbol{{Name: "f", Module: "m", Address: symbol, Type: 't'}, {Name: "g", Module: "other", Address: base + symbol, Type: 't'}},
			map[string]kernel.Module{"m": {Name: "m", Base: base, Size: 0x1000}}, nil, true)
	}
	for _, x := range []struct {
		is   *kernel.Kernel
		same bool
	}{{at(0x1000, 0x1010), true}, {at(0x9000, 0x1010), false}, {at(0x1000, 0x1020), false}} {
		err := sameModules(at(0x1000, 0x1010), x.is, []string{"m"})
		var refused *CommitError
		if x.same != (err == nil) || err != nil && (!errors.As(err, &refused) || refused.Cause != engine.CauseChanged) {
			t.Errorf("sameModules = %v, want the same: %t", err, x.same)
		}
	}
	if err := sameModules(at(0x1000, 0x1010), at(0x9000, 0x1010), nil); err != nil {
		t.Errorf("no module is held: %v", err)
	}
}

func TestProbeIn(t *testing.T) {
	for at, want := range map[uint64]bool{0x104: false, 0x105: true, 0x109: true, 0x10a: false, 0: false, ^uint64(0): false} {
		if _, got := probeIn([]uint64{at}, 0x105, 5); got != want {
			t.Errorf("a probe at %#x in 5 bytes at 0x105: %t, want %t", at, got, want)
		}
	}
}

// TestJump: a redirect's field must lie in its template, whatever the update says.
func TestJump(t *testing.T) {
	r := &arch.Redirect{Template: []byte{0xe9, 0, 0, 0, 0}, Field: 1, Addend: -4}
	b, err := jump(r, 0x1000, 0x2000)
	if err != nil || string(b) != "\xe9\xfb\x0f\x00\x00" {
		t.Errorf("jump = % x, %v", b, err)
	}
	for _, field := range []uint64{2, 5, ^uint64(0), ^uint64(3)} {
		r.Field = field
		if _, err := jump(r, 0x1000, 0x2000); err == nil {
			t.Errorf("a field at %#x of 5 bytes: no error", field)
		}
	}
	if _, err := jump(&arch.Redirect{Template: []byte{1}}, 0, 0); err == nil {
		t.Error("a template of one byte: no error")
	}
}

// TestConflictError names a thread of the kernel's before others: nobody can freeze it.
func TestConflictError(t *testing.T) {
	e := &ConflictError{[]engine.Conflict{{PID: 7, Command: "sh", Function: "do_wait"}, {PID: 9, Command: "krfcommd", Function: "rfcomm_run", Kernel: true}}, 3}
	if got, want := e.Error(), "kernel thread 9 (krfcommd) is in rfcomm_run, and 1 more; nothing was changed in 3 attempts; where that is the thread's main loop, which it never leaves, the function cannot be replaced"; got != want {
		t.Errorf("Error = %q, want %q", got, want)
	}
}
