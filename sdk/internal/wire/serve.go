package wire

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// endGrace is how long calls may clean up after the host has gone.
const endGrace = 3 * time.Second

// Register puts the service of a kind on a server.
type Register func(*grpc.Server)

// Serve is the life of a plugin's process: it prints who the plugin is for `BINARY describe`, else serves until the
// host ends it. It does not return when something is wrong.
func Serve(kind plugin.Kind, impl plugin.Base, register Register) {
	if len(os.Args) == 2 && os.Args[1] == "describe" {
		if err := describe(os.Stdout, kind, impl); err != nil {
			fmt.Fprintln(os.Stderr, "describe:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(plugin.CookieKey) != plugin.CookieValue {
		fmt.Fprintf(os.Stderr, "this is a Ksplice %s plugin; ksplice starts it where it needs it.\n"+
			"`%s describe` prints who it is, `ksplice plugin list` whether ksplice finds it.\n", kind, os.Args[0])
		os.Exit(2)
	}
	// The host filters by its own level.
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: os.Stderr, JSONFormat: true})
	hclog.SetDefault(log)
	stderr := os.Stderr
	calls := newCalls(log, func() {
		// go-plugin has put pipes here, what it reads from them is lost when the process exits. The real stderr goes to
		// the host's log.
		os.Stdout, os.Stderr = stderr, stderr
	})
	var server *grpc.Server
	var ending atomic.Bool
	versions := make(map[int]goplugin.PluginSet)
	for _, v := range plugin.Protocols() {
		versions[v] = goplugin.PluginSet{string(kind): &grpcPlugin{register: func(s *grpc.Server) {
			server = s
			registerAll(s, kind, impl, calls, register)
			go endWithHost(s, calls, &ending)
		}}}
	}
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{MagicCookieKey: plugin.CookieKey, MagicCookieValue: plugin.CookieValue},
		VersionedPlugins: versions,
		Logger:           log,
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, serverOptions(calls)...)...)
		},
	})
	if ending.Load() {
		select {} // endWithHost has stopped the server, and ends the process when it has cleaned up
	}
	if server != nil {
		server.Stop()
	}
}

func serverOptions(c *calls) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(plugin.MaxMessage),
		grpc.MaxSendMsgSize(plugin.MaxMessage),
		grpc.ChainUnaryInterceptor(c.unary),
		grpc.ChainStreamInterceptor(c.stream),
	}
}

func describe(w io.Writer, kind plugin.Kind, impl plugin.Base) error {
	info, err := completeInfo(context.Background(), kind, impl)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(info)
}

// endWithHost ends the process when it is told to terminate; the kernel tells it so when its host dies. Calls that
// run are cancelled and may clean up; then the whole process group goes, compilers included.
func endWithHost(s *grpc.Server, c *calls, ending *atomic.Bool) {
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, unix.SIGTERM, unix.SIGHUP)
	<-terminate
	ending.Store(true)
	go s.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), endGrace)
	defer cancel()
	if err := c.wait(ctx, idle); err != nil {
		c.log.Warn("calls still run after the host has gone", "waited", endGrace)
	}
	// A host that was killed cannot remove the directory of the socket, which it made for this process alone.
	if dir := os.Getenv(goplugin.EnvUnixSocketDir); dir != "" {
		os.RemoveAll(dir)
	}
	if unix.Getpgrp() == os.Getpid() {
		unix.Kill(0, unix.SIGKILL)
	}
	os.Exit(1)
}

// grpcPlugin is what go-plugin serves: the services of a kind.
type grpcPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
	register Register
}

func (p *grpcPlugin) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	p.register(s)
	return nil
}

func (p *grpcPlugin) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, fmt.Errorf("a plugin has no client")
}

// NewServer returns a server of the plugin without a process of its own, for tests.
func NewServer(kind plugin.Kind, impl plugin.Base, register Register) *grpc.Server {
	calls := newCalls(hclog.NewNullLogger(), func() {})
	s := grpc.NewServer(serverOptions(calls)...)
	registerAll(s, kind, impl, calls, register)
	return s
}

// registerAll puts the base service and that of the kind on s.
func registerAll(s *grpc.Server, kind plugin.Kind, impl plugin.Base, c *calls, register Register) {
	pb.RegisterBaseServer(s, &baseServer{kind: kind, impl: impl, calls: c})
	register(s)
}
