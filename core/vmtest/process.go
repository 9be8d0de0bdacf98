package vmtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/ksplice/ksplice/core/vmtest/internal/wire"
)

// Result is how a program ended.
type Result struct {
	Stdout, Stderr string
	Exit           int // 128 and the signal's number when a signal ended it
}

// Process is a program that runs in the guest.
type Process struct {
	g    *Guest
	call *call
	id   uint64
	argv []string
}

// Run runs a program to its end: argv[0] is looked up in PATH; for a shell line use "sh", "-c". A program that ends with
// an exit status other than 0 is no error. When ctx ends, or after ten minutes, it is killed with all that it started,
// and the error holds what it printed.
func (g *Guest) Run(ctx context.Context, argv ...string) (*Result, error) {
	p, err := g.Start(ctx, argv...)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeoutCause(ctx, commandLimit, fmt.Errorf("it did not end within %v", commandLimit))
	defer cancel()
	r, err := p.Wait(limited)
	if err != nil && limited.Err() != nil {
		_ = p.Kill() // the first error says more
		select {
		case <-p.call.done:
		case <-time.After(10 * time.Second):
			err = fmt.Errorf("%w; and it cannot be killed", err)
		}
		return nil, fmt.Errorf("%w\nits output:\n%s\nthe console:\n%s", err, lastLines(p.Output(), 50), g.console.tail())
	}
	return r, err
}

// Start starts a program. It runs until it ends, or is killed, or the guest is closed; ctx bounds the start only.
func (g *Guest) Start(ctx context.Context, argv ...string) (*Process, error) {
	if len(argv) == 0 || argv[0] == "" {
		return nil, errors.New("run a program in the guest: its name is empty")
	}
	p := &Process{g: g, argv: argv}
	c, id, err := g.request(wire.Request{Op: wire.OpStart, Argv: argv})
	if err != nil {
		return nil, p.wrap("start", err)
	}
	p.call, p.id = c, id
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("no answer within %v", answerLimit))
	defer cancel()
	select {
	case <-c.started:
		return p, nil
	case <-c.done:
		select {
		case <-c.started: // it has ended already
			return p, nil
		default:
		}
		return nil, p.wrap("start", c.failure)
	case <-ctx.Done():
		_ = p.Kill()
		return nil, p.wrap("start", fmt.Errorf("%w\n%s", context.Cause(ctx), g.console.tail()))
	}
}

// PID returns the process's number in the guest.
func (p *Process) PID() int { return p.call.pid }

// Done is closed when the process has ended or the machine has.
func (p *Process) Done() <-chan struct{} { return p.call.done }

// Output returns what the process has printed so far to both its outputs, in the order it came.
func (p *Process) Output() string {
	p.call.mu.Lock()
	defer p.call.mu.Unlock()
	return p.call.all.String()
}

// Wait waits for the end of the process, or of ctx, which does not touch the process.
func (p *Process) Wait(ctx context.Context) (*Result, error) {
	select {
	case <-p.call.done:
	case <-ctx.Done():
		return nil, p.wrap("wait for", context.Cause(ctx))
	}
	if p.call.failure != nil {
		return nil, p.wrap("wait for", p.call.failure)
	}
	p.call.mu.Lock()
	defer p.call.mu.Unlock()
	return &Result{Stdout: p.call.out.String(), Stderr: p.call.err.String(), Exit: p.call.code}, nil
}

// Kill kills the process and all that it started, and does not wait for their end.
func (p *Process) Kill() error { return p.Signal(syscall.SIGKILL) }

// Signal sends a signal to the process and all that it started. One that has ended is left alone.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.g.send(wire.Request{ID: p.id, Op: wire.OpSignal, Signal: int(sig)}); err != nil {
		return p.wrap("send "+sig.String()+" to", err)
	}
	return nil
}

func (p *Process) wrap(verb string, err error) error {
	return fmt.Errorf("%s %s in the guest: %w", verb, strings.Join(p.argv, " "), err)
}
