package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/freeze"
	"github.com/ksplice/ksplice/core/update"
)

// readUpdate reads and verifies an update that the command line names.
func readUpdate(path string) (*update.Update, error) {
	u, err := update.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EISDIR) {
		return nil, usagef("%v", err)
	}
	return u, err
}

// open reads an update and launches what its pipelines need.
func (e *env) open(ctx context.Context, path string) (*update.Update, apply.Options, error) {
	u, err := readUpdate(path)
	if err != nil {
		return nil, apply.Options{}, err
	}
	a, _, err := e.host.Arch(ctx, u.Manifest.Kernel.Machine)
	if err != nil {
		return nil, apply.Options{}, err
	}
	return u, apply.Options{Arch: a, Log: e.log}, nil
}

func printMatch(w io.Writer, r *apply.Report) {
	fmt.Fprintf(w, "matched\t%s, %s in %s\n", counted(r.Match.Functions, "function"), counted(r.Match.Relocations, "relocation"), milliseconds(r.Match.Time))
}

func printNotes(w io.Writer, r *apply.Report) {
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note\t%s\n", n)
	}
	for _, p := range r.DeadProbes {
		fmt.Fprintf(w, "dead probe\t%s: the probe is inside a replaced function and is not reached any more\n", p)
	}
}

func checkCommand() *command {
	return &command{
		name: "check", args: "FILE", summary: "prove that an update fits the running kernel; change nothing",
		help: `Reads the update, matches every function of the units it was made from against the memory of the running
kernel, solves all symbols and says whether apply would get as far as the commit. Nothing is loaded or
written. Run as root: kernel memory is read through the ksplice module if it is loaded, else /proc/kcore.`,
		example: "ksplice check fix.ksplice",
		run: func(ctx context.Context, e *env, args []string) error {
			path, err := one(args, "update file")
			if err != nil {
				return err
			}
			u, opts, err := e.open(ctx, path)
			if err != nil {
				return err
			}
			p := newProgress(e.err, e.json, patience)
			opts.Stage = p.begin
			r, err := apply.Check(ctx, u, opts)
			p.close()
			if err != nil {
				return err
			}
			return e.result(r, func(w io.Writer) {
				printMatch(w, r)
				printNotes(w, r)
				fmt.Fprintf(w, "fits\tupdate %s would replace %s\n", r.ID, counted(len(r.Functions), "function"))
			})
		},
	}
}

// tries are the flags for waiting out threads in the way.
type tries struct {
	attempts int
	interval time.Duration
	freeze   bool
	fs       *pflag.FlagSet
}

// The default number of tries. Each of them finds 64 threads at the most, so that freezing takes some.
const (
	fewTries  = 5
	manyTries = 50
)

func (t *tries) flags(fs *pflag.FlagSet) {
	t.fs = fs
	fs.IntVar(&t.attempts, "attempts", fewTries, fmt.Sprintf("how often to try while threads stand in the way (with --freeze: %d)", manyTries))
	fs.DurationVar(&t.interval, "interval", 200*time.Millisecond, "time between two tries")
	fs.BoolVar(&t.freeze, "freeze", false, "freeze user processes that stand in the way until it is decided")
}

// frozen tells who was frozen.
func frozen(w io.Writer, list []freeze.Process) {
	if len(list) == 0 {
		return
	}
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = fmt.Sprintf("%s (%d)", p.Command, p.PID)
	}
	fmt.Fprintf(w, "frozen\t%s, until it was decided\n", strings.Join(names, ", "))
}

func (t *tries) set(o *apply.Options) error {
	if t.attempts < 1 || t.interval < 0 || t.interval > time.Minute {
		return usagef("--attempts wants at least 1 and --interval at most a minute")
	}
	if t.freeze && !t.fs.Changed("attempts") {
		t.attempts = manyTries
	}
	o.Attempts, o.Interval, o.Freeze = t.attempts, t.interval, t.freeze
	return nil
}

func applyCommand() *command {
	var t tries
	return &command{
		name: "apply", args: "FILE", summary: "apply an update to the running kernel",
		help: `Does what check does, then loads the update's parts and redirects the replaced functions in one short stop of
the machine, or changes nothing and says why. A function that a thread is executing or sleeping in makes it fail
with the process's number, name and the function: run it again when the process has left. Where some process always
sleeps in the function, --freeze freezes just those that are in the way (cgroup v2) and lets them go when it is decided:
they see what a stop and SIGCONT would show them, an EINTR from epoll_wait for example (signal(7)).
It needs root and the ksplice kernel module (modprobe ksplice).`,
		example: "ksplice apply fix.ksplice",
		flags:   t.flags,
		run: func(ctx context.Context, e *env, args []string) error {
			path, err := one(args, "update file")
			if err != nil {
				return err
			}
			u, opts, err := e.open(ctx, path)
			if err != nil {
				return err
			}
			if err := t.set(&opts); err != nil {
				return err
			}
			p := newProgress(e.err, e.json, patience)
			opts.Stage = p.begin
			r, err := apply.Apply(ctx, u, opts)
			p.close()
			if err != nil {
				return err
			}
			return e.result(r, func(w io.Writer) {
				printMatch(w, r)
				fmt.Fprintf(w, "applied\t%s, machine stopped for %s\n", counted(len(r.Functions), "function"), milliseconds(r.Result.Pause))
				frozen(w, r.Result.Frozen)
				printNotes(w, r)
			})
		},
	}
}

func undoCommand() *command {
	var t tries
	return &command{
		name: "undo", args: "ID", summary: "reverse an applied update",
		help: `Puts the old functions back in one short stop of the machine and removes the update's code. ID is what apply and
status show; its beginning is enough. An update on which another one stands cannot be undone before that one.`,
		example: "ksplice undo 3f9c2ab1",
		flags:   t.flags,
		run: func(ctx context.Context, e *env, args []string) error {
			id, err := one(args, "update ID")
			if err != nil {
				return err
			}
			opts := apply.Options{Log: e.log}
			if err := t.set(&opts); err != nil {
				return err
			}
			p := newProgress(e.err, e.json, patience)
			opts.Stage = p.begin
			r, err := apply.Undo(ctx, id, opts)
			p.close()
			if err != nil {
				return err
			}
			return e.result(r, func(w io.Writer) {
				fmt.Fprintf(w, "undone\t%s: %s, machine stopped for %s\n", r.ID, counted(r.Functions, "function"), milliseconds(r.Pause))
				frozen(w, r.Frozen)
				if r.StaysMapped {
					fmt.Fprintf(w, "note\tits code stays in memory, unused: addresses of it may still be held somewhere\n")
				}
			})
		},
	}
}

func statusCommand() *command {
	return &command{
		name: "status", summary: "list the updates of this machine",
		help: `One row an update: its ID, state, replaced functions, how long the machine stood still, since when, and what it is.
Probes that a replacement cut off are named below it.`,
		example: "ksplice status --json",
		run: func(_ context.Context, e *env, args []string) error {
			if len(args) > 0 {
				return usagef("status takes no arguments")
			}
			states, err := apply.Status()
			if err != nil {
				return err
			}
			return e.result(states, func(w io.Writer) {
				if len(states) == 0 {
					fmt.Fprintln(w, "no updates")
					return
				}
				fmt.Fprintln(w, "ID\tSTATE\tFUNCTIONS\tPAUSE\tSINCE\tDESCRIPTION")
				for _, s := range states {
					state := s.Stage
					if s.StaysMapped {
						state += " (stays mapped)"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.ID, state, functionNames(s.Functions), milliseconds(s.Pause),
						s.Since.Format(time.DateTime), s.Description)
					for _, p := range s.DeadProbes {
						fmt.Fprintf(w, "\tdead probe\t%s\t\t\t\n", p)
					}
				}
			})
		},
	}
}
