package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"
)

// tracer counts calls of a function while it is attached.
type tracer interface {
	// count returns the calls since it was attached.
	count() (uint64, error)
	// close detaches it and leaves nothing behind.
	close() error
}

// target is a function of the kernel proper or of a module.
type target struct {
	function, module string
}

func (t target) String() string {
	if t.module == "" {
		return t.function
	}
	return t.function + " of " + t.module
}

// kinds are the ways to trace.
var kinds = map[string]func(target) (tracer, error){
	"fentry":   fentry,        // a BPF program, through a trampoline
	"kprobe":   kprobe,        // a probe at the entry
	"function": functionTrace, // the function tracer, in an instance of its own
	"graph":    graphTrace,    // the function-graph tracer: one at a time on a machine
}

// trace counts calls. It prints {"attached":true}, then at each SIGUSR1 and at the end {"kind":K,"function":F,"count":N}.
func trace(args []string) error {
	fs := flag.NewFlagSet("trace", flag.ContinueOnError)
	if err := fs.Parse(args); err != nil {
		return errUsage
	}
	a := fs.Args()
	if len(a) != 2 && len(a) != 3 {
		return errUsage
	}
	attach := kinds[a[0]]
	if attach == nil {
		names := make([]string, 0, len(kinds))
		for k := range kinds {
			names = append(names, k)
		}
		sort.Strings(names)
		return fmt.Errorf("unknown kind %q, want one of %s: %w", a[0], strings.Join(names, ", "), errUsage)
	}
	to := target{function: a[1]}
	if len(a) == 3 {
		to.module = a[2]
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ask := make(chan os.Signal, 16)
	signal.Notify(ask, syscall.SIGUSR1)

	t, err := attach(to)
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", a[0], to, err)
	}
	err = serve(ctx, t, a[0], to, ask)
	if closed := t.close(); err == nil && closed != nil {
		err = fmt.Errorf("detach %s from %s: %w", a[0], to, closed)
	}
	return err
}

func serve(ctx context.Context, t tracer, kind string, to target, ask <-chan os.Signal) error {
	if err := say(map[string]bool{"attached": true}); err != nil {
		return err
	}
	for last := false; !last; {
		select {
		case <-ask:
		case <-ctx.Done():
			last = true
		}
		n, err := t.count()
		if err != nil {
			return fmt.Errorf("count calls of %s by %s: %w", to, kind, err)
		}
		if err := say(map[string]any{"kind": kind, "function": to.function, "count": n}); err != nil {
			return err
		}
	}
	return nil
}
