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
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

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

// startTimeout bounds the start of a binary, and its description.
const startTimeout = time.Minute

// Launch starts the plugin binary at a path as a host would, once what it says of itself fits its name, and returns a connection to it, for the
// NewClient of its kind. It is an error when the file is not called KIND-NAME. close ends the process.
func Launch(ctx context.Context, kind plugin.Kind, path string) (conn *grpc.ClientConn, close func(), err error) {
	if err := describeBinary(ctx, kind, path); err != nil {
		return nil, nil, err
	}
	versions := make(map[int]goplugin.PluginSet)
	for _, v := range plugin.Protocols() {
		versions[v] = goplugin.PluginSet{}
	}
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{MagicCookieKey: plugin.CookieKey, MagicCookieValue: plugin.CookieValue},
		VersionedPlugins: versions,
		Cmd:              exec.Command(path),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		StartTimeout:     startTimeout,
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(plugin.MaxMessage), grpc.MaxCallSendMsgSize(plugin.MaxMessage)),
		},
	})
	protocol, err := client.Client()
	if err != nil {
		client.Kill()
		return nil, nil, fmt.Errorf("start %s: %w", path, err)
	}
	return protocol.(*goplugin.GRPCClient).Conn, client.Kill, nil
}

// Describe asks a plugin binary who it is (`BINARY describe`); nothing of the answer is checked.
func Describe(ctx context.Context, path string) (*plugin.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "describe").Output()
	if err != nil {
		return nil, fmt.Errorf("%s describe: %w", path, err)
	}
	var info plugin.Info
	if err := json.Unmarshal(out, &info); err != nil {
		return nil, fmt.Errorf("%s describe does not print a description in JSON: %w", path, err)
	}
	return &info, nil
}

// describeBinary checks what `BINARY describe` prints.
func describeBinary(ctx context.Context, kind plugin.Kind, path string) error {
	info, err := Describe(ctx, path)
	if err != nil {
		return err
	}
	if want := string(kind) + "-" + info.Name; filepath.Base(path) != want {
		return fmt.Errorf("the file is called %s, but it says that it is the %s plugin %q: a host looks for it as %s",
			filepath.Base(path), info.Kind, info.Name, want)
	}
	return checkInfo(info, kind)
}

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
