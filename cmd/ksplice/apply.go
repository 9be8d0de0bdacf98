package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/freeze"
	"github.com/ksplice/ksplice/core/kept"
	"github.com/ksplice/ksplice/core/persist"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/transfer"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/transform"
)

// readUpdate reads and verifies an update that the command line names.
func readUpdate(ctx context.Context, path string) (*update.Update, error) {
	s, err := readSealed(ctx, path)
	if err != nil {
		return nil, err
	}
	u, err := s.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return u, nil
}

// readSealed reads the file of an update that the command line names, and does not look into it. It may be a pipe, which is not waited for any
// more when ctx ends.
func readSealed(ctx context.Context, path string) (*update.Sealed, error) {
	var s *update.Sealed
	done := make(chan error, 1)
	go func() {
		var err error
		s, err = update.ReadSealedFile(path)
		done <- err
	}()
	select {
	case err := <-done:
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EISDIR) {
			return nil, usagef("%v", err)
		}
		return s, err
	case <-ctx.Done():
		return nil, fmt.Errorf("read update: %s: %w", path, ctx.Err())
	}
}

// open reads an update, of which nothing is looked at before it is known to be of somebody whom this machine trusts, and launches what its
// pipelines need.
func (e *env) open(ctx context.Context, path string, t *trusted) (*update.Update, apply.Options, error) {
	s, err := readSealed(ctx, path)
	if err != nil {
		return nil, apply.Options{}, err
	}
	if err := t.verify(e, path, s); err != nil {
		return nil, apply.Options{}, fmt.Errorf("%s: %w", path, err)
	}
	u, err := s.Open()
	if err != nil {
		return nil, apply.Options{}, fmt.Errorf("%s: %w", path, err)
	}
	a, _, err := e.host.Arch(ctx, u.Manifest.Kernel.Machine)
	if err != nil {
		return nil, apply.Options{}, err
	}
	return u, apply.Options{Arch: a, Transform: transforms(e.host), Log: e.log}, nil
}

// transforms gives transform plugins by name.
func transforms(h *pluginhost.Host) func(context.Context, string) (transform.Transform, error) {
	return func(ctx context.Context, name string) (transform.Transform, error) {
		t, _, err := h.Transform(ctx, name)
		return t, err
	}
}

// transferred says what state transfers did, or would do.
func transferred(w io.Writer, s *transfer.Stats, did string) {
	if s == nil {
		return
	}
	fmt.Fprintf(w, "state\t%s read, %s %s, %s attached\n", counted(s.Objects, "object"), counted(s.Sets, "member"), did, counted(s.Attaches, "shadow field"))
	for _, n := range s.Notes {
		fmt.Fprintf(w, "state\t%s\n", n)
	}
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

// replace is the flag that names updates which go in the same stop.
type replace struct{ ids []string }

func (r *replace) flags(fs *pflag.FlagSet) {
	fs.StringSliceVar(&r.ids, "replace", nil, "undo the update `ID` in the same stop: the new one was made for the kernel without it (may be repeated)")
}

func (r *replace) set(o *apply.Options) error {
	for _, prefix := range r.ids {
		id, err := apply.Find(prefix)
		if err != nil {
			return err
		}
		if !slices.Contains(o.Replace, id) {
			o.Replace = append(o.Replace, id)
		}
	}
	return nil
}

func checkCommand() *command {
	var r replace
	var by trusted
	return &command{
		name: "check", args: "FILE", summary: "prove that an update fits the running kernel; change nothing",
		help: `Reads the update, matches every function of the units it was made from against the memory of the running
kernel, solves all symbols and says whether apply would get as far as the commit. Nothing is loaded or
written. Run as root: kernel memory is read through the ksplice module if it is loaded, else /proc/kcore. Like apply it
looks into no update that nobody whom this machine trusts has signed (ksplice verify).`,
		example: "ksplice check fix.ksplice",
		flags: func(fs *pflag.FlagSet) {
			r.flags(fs)
			by.flags(fs)
		},
		run: func(ctx context.Context, e *env, args []string) error {
			path, err := one(args, "update file")
			if err != nil {
				return err
			}
			u, opts, err := e.open(ctx, path, &by)
			if err != nil {
				return err
			}
			if err := r.set(&opts); err != nil {
				return err
			}
			p := newProgress(e.err, e.json, patience)
			opts.Stage = p.begin
			r, err := apply.Check(ctx, u, opts)
			p.close()
			if err != nil {
				return err
			}
			return e.result(by.report(r), func(w io.Writer) {
				by.print(w)
				if r.Changes() {
					printMatch(w, r)
					printNotes(w, r)
					transferred(w, r.Transfer, "to set")
					fmt.Fprintf(w, "fits\tupdate %s would change %s\n", r.ID, changed(len(r.Functions), len(r.Sets)))
				}
				for _, m := range r.Armed {
					fmt.Fprintf(w, "not loaded\t%s: its part is matched when it is loaded\n", m)
				}
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

// late are the flags for parts whose modules are not loaded.
type late struct {
	beforeInit string
	wait       time.Duration
}

// What a module does whose init has waited for an update in vain.
const (
	waitedAllow  = "allow"
	waitedRefuse = "refuse"
)

func (l *late) flags(fs *pflag.FlagSet) {
	fs.StringVar(&l.beforeInit, "before-init", "", "a module that is not loaded yet gets its part before its init runs, not as soon as it is live; where that fails, `allow` the module without it, or refuse it")
	fs.Lookup("before-init").NoOptDefVal = waitedAllow
	fs.DurationVar(&l.wait, "before-init-wait", 10*time.Second, "how long such a module's init waits at most")
}

func (l *late) set(o *apply.Options) error {
	switch l.beforeInit {
	case "":
		o.When = engine.WhenLive
	case waitedAllow:
		o.When = engine.WhenInit
	case waitedRefuse:
		o.When = engine.WhenInitOrRefuse
	default:
		return usagef("--before-init is %s or %s, not %q", waitedAllow, waitedRefuse, l.beforeInit)
	}
	if l.wait < time.Millisecond || l.wait > 10*time.Minute {
		return usagef("--before-init-wait wants at most ten minutes")
	}
	o.Wait = l.wait
	return nil
}

// helper has the kernel module call this program when a module comes, set up as it is now.
func (e *env) helper(o *apply.Options) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	o.Helper = exe
	h := e.config.host(e.log)
	o.Settings = kept.Settings{Dirs: h.Dirs, Pins: h.Pins, PluginConfig: h.PluginConfig, Attempts: max(o.Attempts, manyTries), Interval: o.Interval, Freeze: o.Freeze}
	return nil
}

func applyCommand() *command {
	var t tries
	var l late
	var replaced replace
	var persistent keep
	var by trusted
	return &command{
		name: "apply", args: "FILE", summary: "apply an update to the running kernel",
		help: `Does what check does, then loads the update's parts and redirects the replaced functions in one short stop of
the machine, or changes nothing and says why. A function that a thread is executing or sleeping in makes it fail
with the process's number, name and the function: run it again when the process has left. Where some process always
sleeps in the function, --freeze freezes just those that are in the way (cgroup v2) and lets them go when it is decided:
they see what a stop and SIGCONT would show them, an EINTR from epoll_wait for example (signal(7)).
A part whose module is not loaded is armed: it goes in as soon as the module is live, or before its init runs (--before-init).
A cumulative update takes the place of earlier ones in the same stop (--replace). With --persist it is applied again at each boot of this kernel. It needs root and the ksplice kernel module (modprobe ksplice).
Somebody whom this machine trusts must have signed the update (ksplice verify says who did), or --allow-unsigned takes it all the same.`,
		example: "ksplice apply fix.ksplice\nksplice apply --replace 3f9c2ab1 all-fixes.ksplice",
		flags: func(fs *pflag.FlagSet) {
			t.flags(fs)
			replaced.flags(fs)
			l.flags(fs)
			persistent.flags(fs)
			by.flags(fs)
		},
		run: func(ctx context.Context, e *env, args []string) error {
			path, err := one(args, "update file")
			if err != nil {
				return err
			}
			e.event = &event{operation: "apply"}
			e.event.add(fieldFile, path)
			u, opts, err := e.open(ctx, path, &by)
			if err != nil {
				return err
			}
			e.event.of(&u.Manifest)
			if err := t.set(&opts); err != nil {
				return err
			}
			p := newProgress(e.err, e.json, patience)
			opts.Stage = p.begin
			if err := errors.Join(l.set(&opts), replaced.set(&opts), e.helper(&opts)); err != nil {
				return err
			}
			r, err := apply.Apply(ctx, u, opts)
			p.close()
			if persistent.already(err) {
				if len(opts.Replace) > 0 {
					return fmt.Errorf("%w, so that it takes nobody's place now: leave --replace away, or undo it first", err)
				}
				r, err = &apply.Report{ID: u.Manifest.ID, Notes: []string{"it was applied before"}}, nil
			}
			if err != nil {
				return err
			}
			e.event.applied(r)
			if persistent.on {
				notes, err := persistent.set(u, &by, opts.Replace)
				if err != nil {
					return err
				}
				r.Notes = append(r.Notes, notes...)
			}
			return e.result(by.report(r), func(w io.Writer) {
				by.print(w)
				if r.Changes() {
					printMatch(w, r)
					transferred(w, r.Transfer, "set")
					fmt.Fprintf(w, "applied\t%s, machine stopped for %s\n", changed(len(r.Functions), len(r.Sets)), milliseconds(r.Result.Pause))
				}
				if len(r.Replaced) > 0 {
					fmt.Fprintf(w, "replaced\t%s, in the same stop\n", strings.Join(r.Replaced, ", "))
				}
				frozen(w, r.Result.Frozen)
				for _, m := range r.Armed {
					when := "once it is live"
					if opts.When != engine.WhenLive {
						when = fmt.Sprintf("before its init runs, which waits %v at most", opts.Wait)
					}
					fmt.Fprintf(w, "armed\tmodule %s is not loaded: its part goes in %s\n", m, when)
				}
				if persistent.on {
					fmt.Fprintf(w, "persistent\t%s is applied again at each boot of this kernel\n", r.ID)
				}
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
status show; its beginning is enough. An update on which another one stands cannot be undone before that one. One that was
persistent is not applied at boot any more.`,
		example: "ksplice undo 3f9c2ab1",
		flags:   t.flags,
		run: func(ctx context.Context, e *env, args []string) error {
			id, err := one(args, "update ID")
			if err != nil {
				return err
			}
			e.event = &event{operation: "undo"}
			opts := apply.Options{Transform: transforms(e.host), Log: e.log}
			if err := errors.Join(t.set(&opts), e.helper(&opts)); err != nil {
				return err
			}
			p := newProgress(e.err, e.json, patience)
			opts.Stage = p.begin
			r, err := apply.Undo(ctx, id, opts)
			p.close()
			if r == nil {
				e.event.add(fieldID, id)
				return err
			}
			e.event.undone(r)
			forgotten, keptErr := persist.Default().Remove(r.ID)
			if keptErr != nil {
				err = errors.Join(err, fmt.Errorf("update %s is undone, but may be applied again at the next boot: %w", r.ID, keptErr))
			}
			if err != nil {
				return err
			}
			return e.result(r, func(w io.Writer) {
				if r.Pause > 0 { // the functions of a module's init have gone before
					transferred(w, r.Transfer, "set back")
					fmt.Fprintf(w, "undone\t%s: %s, machine stopped for %s\n", r.ID, changed(r.Functions, r.Sets), milliseconds(r.Pause))
				}
				for _, m := range r.Disarmed {
					fmt.Fprintf(w, "disarmed\t%s: module %s\n", r.ID, m)
				}
				frozen(w, r.Frozen)
				if forgotten {
					fmt.Fprintf(w, "forgotten\t%s: it is not applied at boot any more\n", r.ID)
				}
				if r.StaysMapped {
					fmt.Fprintf(w, "note\tits code stays in memory, unused: addresses of it may still be held somewhere\n")
				}
			})
		},
	}
}

func statusCommand() *command {
	var m monitoring
	return &command{
		name: "status", summary: "list the updates of this machine",
		help: `One row an update: its ID, state, replaced functions, how long the machine stood still, since when, and what it is.
Fields of data that it sets, and probes that a replacement cut off, are named below it. A part that waits for its module, and one that came after its module, has
a row of its own, ID:MODULE, with what it waits for or how long the module had been live without it.

For monitoring, --check says what is not as it should be, a line each, with exit code 3, or nothing but "good": a transaction that was left half-way, a
part that was left behind, a module that runs without its part. While another ksplice is at work it complains of nothing. --prometheus prints metrics as node_exporter's
textfile collector takes them; write them beside the file and move them there, so that it never reads half of one.`,
		example: "ksplice status --json\nksplice status --check\ncd /var/lib/prometheus/node-exporter && ksplice status --prometheus > ksplice.new && mv ksplice.new ksplice.prom",
		flags:   m.flags,
		run: func(_ context.Context, e *env, args []string) error {
			if len(args) > 0 {
				return usagef("status takes no arguments")
			}
			if m.check || m.prometheus {
				return m.run(e)
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
					if s.Armed != nil {
						fmt.Fprintf(w, "%s\t%s\t\t\t\t%s\n", s.ID, s.Stage, s.Armed.State)
						continue
					}
					state := s.Stage
					if s.StaysMapped {
						state += " (stays mapped)"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.ID, state, functionNames(s.Functions), milliseconds(s.Pause),
						s.Since.Format(time.DateTime), s.Description)
					if s.Exposed > 0 {
						fmt.Fprintf(w, "\texposed\tthe module had been live for %s\t\t\t\n", milliseconds(s.Exposed))
					}
					for _, c := range s.Data {
						fmt.Fprintf(w, "\tsets\t%s\t\t\t\n", c.Name)
					}
					for _, p := range s.DeadProbes {
						fmt.Fprintf(w, "\tdead probe\t%s\t\t\t\n", p)
					}
				}
			})
		},
	}
}
