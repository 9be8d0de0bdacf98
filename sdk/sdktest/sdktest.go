// Package sdktest holds the conformance suites of the plugin kinds: the author of a plugin calls Arch, Backend or Transform in a
// test and learns whether a host can rely on the plugin. What is called goes over the wire, as a host's calls do, whether
// the plugin is a value in the test (served in memory) or a binary (Launch).
//
//	func TestConformance(t *testing.T) {
//		sdktest.Arch(t, &Plugin{}, sdktest.ArchFixtures{Target: target, Objects: []string{"testdata/a.o", "testdata/b.o"}})
//	}
package sdktest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/internal/wire"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

// ServeArch serves impl in memory and returns its client. It ends with the test.
func ServeArch(t testing.TB, impl arch.Arch) *arch.Client {
	t.Helper()
	return arch.NewClient(serve(t, plugin.KindArch, impl, func(s *grpc.Server) { arch.Register(s, impl) }), "arch plugin under test")
}

// ServeBackend is ServeArch for a backend.
func ServeBackend(t testing.TB, impl backend.Backend) *backend.Client {
	t.Helper()
	return backend.NewClient(serve(t, plugin.KindBackend, impl, func(s *grpc.Server) { backend.Register(s, impl) }), "backend plugin under test")
}

// ServeTransform is ServeArch for a transform plugin.
func ServeTransform(t testing.TB, impl transform.Transform) *transform.Client {
	t.Helper()
	return transform.NewClient(serve(t, plugin.KindTransform, impl, func(s *grpc.Server) { transform.Register(s, impl) }), "transform plugin under test")
}

func serve(t testing.TB, kind plugin.Kind, impl plugin.Base, register wire.Register) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := wire.NewServer(kind, impl, register)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///memory",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(plugin.MaxMessage), grpc.MaxCallSendMsgSize(plugin.MaxMessage)))
	if err != nil {
		t.Fatalf("connect to the plugin: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// LaunchArch starts the plugin binary at path as a host would and returns its client. The process ends with the test.
func LaunchArch(t testing.TB, path string) *arch.Client {
	t.Helper()
	return arch.NewClient(launch(t, plugin.KindArch, path), "arch plugin "+path)
}

// LaunchBackend is LaunchArch for a backend.
func LaunchBackend(t testing.TB, path string) *backend.Client {
	t.Helper()
	return backend.NewClient(launch(t, plugin.KindBackend, path), "backend plugin "+path)
}

// LaunchTransform is LaunchArch for a transform plugin.
func LaunchTransform(t testing.TB, path string) *transform.Client {
	t.Helper()
	return transform.NewClient(launch(t, plugin.KindTransform, path), "transform plugin "+path)
}

// startTimeout bounds the start of a binary, and its description.
const startTimeout = time.Minute

func launch(t testing.TB, kind plugin.Kind, path string) *grpc.ClientConn {
	t.Helper()
	if err := describeBinary(t.Context(), kind, path); err != nil {
		t.Fatal(err)
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
	t.Cleanup(client.Kill)
	protocol, err := client.Client()
	if err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return protocol.(*goplugin.GRPCClient).Conn
}

// describeBinary checks what `BINARY describe` prints.
func describeBinary(ctx context.Context, kind plugin.Kind, path string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "describe").Output()
	if err != nil {
		return fmt.Errorf("%s describe: %w", path, err)
	}
	var info plugin.Info
	if err := json.Unmarshal(out, &info); err != nil {
		return fmt.Errorf("%s describe does not print a description in JSON: %w", path, err)
	}
	if want := string(kind) + "-" + info.Name; filepath.Base(path) != want {
		return fmt.Errorf("the file is called %s, but it says that it is the %s plugin %q: a host looks for it as %s",
			filepath.Base(path), info.Kind, info.Name, want)
	}
	return checkInfo(&info, kind)
}

// check is one requirement of a suite.
type check struct {
	name string
	run  func(ctx context.Context) error
}

// checkTimeout bounds a check that builds nothing.
const checkTimeout = 5 * time.Minute

func runChecks(t *testing.T, checks []check, timeout time.Duration) {
	t.Helper()
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			if err := c.run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
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
