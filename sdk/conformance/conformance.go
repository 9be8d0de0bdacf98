// Package conformance holds what a host relies on in a plugin of each kind, as a list of checks that run over the wire: sdktest runs them as
// tests of a plugin's source, `ksplice plugin check` against a finished binary. Authors of plugins call sdktest; this package is for programs that
// run the checks otherwise: they make a client of what Launch returns, have Arch, Backend or Transform make the list, and run it in order, since
// later checks use what earlier ones have made.
package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Check is one requirement.
type Check struct {
	// Name says in a word or two what is asked.
	Name string
	// Timeout bounds it.
	Timeout time.Duration
	// Needs says what the fixtures lack for it, "objects" or "a kernel"; empty: nothing. Such a check must not be run.
	Needs string
	run   func(ctx context.Context) error
}

// Run returns nil where the plugin meets the requirement, else what is wrong. It ends after Timeout, or with ctx.
func (c *Check) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	return c.run(ctx)
}

// How long a check may take: one that builds nothing, and one that prepares or compiles.
const (
	checkTimeout = 5 * time.Minute
	buildTimeout = time.Hour
)

// check is a requirement that is not bounded yet.
type check struct {
	name string
	run  func(ctx context.Context) error
}

// bounded are checks with a bound each.
func bounded(list []check, timeout time.Duration) []Check {
	out := make([]Check, len(list))
	for i, c := range list {
		out[i] = Check{Name: c.name, Timeout: timeout, run: c.run}
	}
	return out
}

// lacking are checks that cannot be run for want of something.
func lacking(list []Check, what string) []Check {
	for i := range list {
		list[i].Needs = what
	}
	return list
}

// largeMessage is the size of a message in bytes that every plugin must take; a host may send up to plugin.MaxMessage.
const largeMessage = 8 << 20

// baseChecks are what every kind of plugin must do.
func baseChecks(kind plugin.Kind, p plugin.Base, config map[string]string) []check {
	return []check{
		{"info", func(ctx context.Context) error {
			first, err := p.Info(ctx)
			if err != nil {
				return fmt.Errorf("the call Info must never fail: %w", err)
			}
			second, err := p.Info(ctx)
			if err != nil {
				return fmt.Errorf("the call Info must never fail: %w", err)
			}
			return errors.Join(checkInfo(first, kind), same("Info", first, second))
		}},
		{"configure", func(ctx context.Context) error {
			const key = "sdktest_no_such_key"
			with := map[string]string{key: "1"}
			maps.Copy(with, config)
			err := p.Configure(ctx, with)
			if err == nil {
				return fmt.Errorf("the unknown configuration key %s is accepted: a user's misspelt key would be ignored", key)
			}
			if err := diagnostic("Configure with an unknown key", err, plugin.FaultUser); err != nil {
				return err
			}
			if !strings.Contains(err.Error(), key) {
				return fmt.Errorf("the error about the configuration key %s does not name it: %w", key, err)
			}
			if err := p.Configure(ctx, config); err != nil {
				return fmt.Errorf("the fixtures' configuration is refused: %w", err)
			}
			return nil
		}},
		{"large message", func(ctx context.Context) error {
			// Many gRPC libraries stop at four megabytes by themselves; a patch or the objects of a walk may have more.
			err := p.Configure(ctx, map[string]string{"sdktest_large": strings.Repeat("x", largeMessage)})
			return diagnostic(fmt.Sprintf("Configure with an unknown key that has %d bytes", largeMessage), err, plugin.FaultUser)
		}},
		{"drain", func(ctx context.Context) error {
			if err := drain(ctx, p, "sdktest no such call"); err != nil {
				return fmt.Errorf("wait for a call that does not run: %w", err)
			}
			return nil
		}},
		{"health", func(ctx context.Context) error {
			if err := p.Health(ctx); err != nil {
				return fmt.Errorf("the plugin cannot work on this machine, or its Health is wrong: %w", err)
			}
			return nil
		}},
	}
}

func checkInfo(info *plugin.Info, kind plugin.Kind) error {
	var errs []error
	if info.Kind != kind {
		errs = append(errs, fmt.Errorf("the plugin says that it is of kind %q, want %q", info.Kind, kind))
	}
	if info.Name == "" || strings.ContainsAny(info.Name, "/ \t\n") {
		errs = append(errs, fmt.Errorf("the name %q is empty or no part of a file name", info.Name))
	}
	if info.Version == "" || info.Description == "" {
		errs = append(errs, fmt.Errorf("version %q or description %q is empty", info.Version, info.Description))
	}
	for _, v := range plugin.Protocols() {
		for _, theirs := range info.Protocols {
			if theirs == v {
				return errors.Join(errs...)
			}
		}
	}
	return errors.Join(append(errs, fmt.Errorf("it speaks protocol versions %v, none of %v", info.Protocols, plugin.Protocols()))...)
}

// same returns an error unless both answers to the same question are equal.
func same(what string, first, second any) error {
	a, err := json.Marshal(first)
	if err != nil {
		return err
	}
	b, err := json.Marshal(second)
	if err != nil {
		return err
	}
	if string(a) == string(b) {
		return nil
	}
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return fmt.Errorf("%s: two answers to one question differ:\n  ...%s\n  ...%s", what, around(a, n), around(b, n))
}

func around(b []byte, n int) string { return string(b[max(n-80, 0):min(n+80, len(b))]) }

// diagnostic returns an error unless err is a Diagnostic that helps: not a panic, with a summary and one of the faults (any
// where none is given).
func diagnostic(what string, err error, faults ...plugin.Fault) error {
	if err == nil {
		return fmt.Errorf("%s: no error", what)
	}
	var d *plugin.Diagnostic
	switch {
	case !errors.As(err, &d):
		return fmt.Errorf("%s: the error is no diagnostic: %w", what, err)
	case strings.HasPrefix(d.Summary, "the plugin panicked"):
		return fmt.Errorf("%s: %w", what, err)
	case strings.Contains(d.Summary, "makes no sense: "):
		return fmt.Errorf("%s: %w", what, err)
	case d.Summary == "" || strings.HasSuffix(d.Summary, "."):
		return fmt.Errorf("%s: the summary %q is empty or ends with a full stop", what, d.Summary)
	}
	for _, f := range faults {
		if d.Fault == f {
			return nil
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("%s: the fault is %q, want one of %q: %w", what, d.Fault, faults, err)
	}
	return nil
}

// noPanic lets every error pass but those that are bugs: a panic, or a reply that breaks the contract.
func noPanic(what string, err error) error {
	if err == nil {
		return nil
	}
	return diagnostic(what, err)
}

// drainGrace is how long a plugin may clean up after a call that was given up. A host waits a few seconds, then kills the plugin; machines on
// which plugins are tested may be slow.
var drainGrace = time.Minute

// drain waits until the plugin does nothing more for the call with that number.
func drain(ctx context.Context, p plugin.Base, call string) error {
	client, ok := p.(interface {
		Drain(ctx context.Context, call string) error
	})
	if !ok {
		return fmt.Errorf("%T is no client of a plugin: what is checked goes over the wire", p)
	}
	ctx, cancel := context.WithTimeout(ctx, drainGrace)
	defer cancel()
	if err := client.Drain(ctx, call); err != nil {
		return fmt.Errorf("the call Drain must return, without an error, once the call that it names has ended: %w", err)
	}
	return nil
}

// calls numbers the calls that are given up.
var calls atomic.Uint64

// givenUp runs a call of p and gives it up after 4^i microseconds, with i 0 before it begins. It is an error when the call fails by
// anything but that, or when the plugin still runs it after drainGrace.
func givenUp(ctx context.Context, p plugin.Base, i int, call func(context.Context) error) error {
	number := fmt.Sprintf("sdktest-%d", calls.Add(1))
	of, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, plugin.CallKey, number))
	defer cancel()
	if i == 0 {
		cancel()
	} else {
		defer time.AfterFunc(time.Microsecond<<(2*min(i, 12)), cancel).Stop()
	}
	err := call(of)
	if of.Err() != nil {
		if err := drain(ctx, p, number); err != nil {
			return fmt.Errorf("a call that was given up still runs after %s, or cannot be waited for: %w", drainGrace, err)
		}
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("a call that was given up: %w", err)
	}
	return nil
}
