package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
	"github.com/ksplice/ksplice/sdk/transform"
)

// stopGrace is how long a plugin may take to end when it is asked to, and again when it is killed.
const stopGrace = 2 * time.Second

// instance is a running plugin.
type instance struct {
	host   *Host
	file   string
	label  string
	log    hclog.Logger
	client *goplugin.Client
	proc   *process
	base   pb.BaseClient
	impl   plugin.Base // the client of its kind
	info   plugin.Info
	dir    string // of the socket
	calls  atomic.Uint64
}

// alive says whether the plugin can be called.
func (i *instance) alive() bool { return !i.proc.ended(0) }

// launch starts the plugin, shakes hands and configures it.
func (h *Host) launch(ctx context.Context, c *candidate) (*instance, error) {
	described, err := h.describe(ctx, c)
	if err != nil {
		return nil, err
	}
	id, err := c.verify(h.asRoot, h.config.Pins[c.file])
	if err != nil {
		return nil, err
	}
	if id != c.identity() {
		return nil, newError(ErrUntrusted, c.label, "run the command again", "the file changed while ksplice was running")
	}
	i := &instance{host: h, file: c.file, label: c.label, log: c.log, info: *described}
	if err := i.connect(ctx, c); err != nil {
		i.stop()
		return nil, err
	}
	if err := i.introduce(ctx, c); err != nil {
		i.stop()
		return nil, err
	}
	return i, nil
}

// connect starts the process and connects to it.
func (i *instance) connect(ctx context.Context, c *candidate) error {
	run := newProcessRunner(c, i.log)
	// go-plugin tells a long story at Debug, and some of what is said better here at Error.
	inner := hclog.NewNullLogger()
	if i.log.IsTrace() {
		inner = i.log.Named("go-plugin")
	}
	versions := make(map[int]goplugin.PluginSet)
	for _, v := range plugin.Protocols() {
		versions[v] = goplugin.PluginSet{}
	}
	timeout := i.host.config.Timeouts.Start
	i.client = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{MagicCookieKey: plugin.CookieKey, MagicCookieValue: plugin.CookieValue},
		VersionedPlugins: versions,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		Logger:           inner,
		StartTimeout:     timeout + stopGrace, // the timer below comes first
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
			i.dir = dir
			run.use(cmd)
			return run, nil
		},
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(plugin.MaxMessage), grpc.MaxCallSendMsgSize(plugin.MaxMessage)),
			grpc.WithChainUnaryInterceptor(i.unary),
			grpc.WithChainStreamInterceptor(i.stream),
		},
	})

	type answer struct {
		protocol goplugin.ClientProtocol
		err      error
	}
	answered := make(chan answer, 1)
	go func() {
		protocol, err := i.client.Client()
		answered <- answer{protocol, err}
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var a answer
	var gaveUp error
	select {
	case a = <-answered:
	case <-ctx.Done():
		gaveUp = fmt.Errorf("start %s: %w", c.label, ctx.Err())
	case <-timer.C:
		gaveUp = newError(ErrTimeout, c.label, "see whether the machine is overloaded, or report it to the plugin's author",
			"it did not shake hands within %s", timeout)
	}
	select {
	case i.proc = <-run.started:
	default:
	}
	if gaveUp != nil {
		if i.proc != nil {
			i.proc.kill()
		}
		a = <-answered
		if a.err == nil {
			a.protocol.Close()
		}
		return gaveUp
	}
	if a.err != nil {
		return i.refused(run, a.err)
	}
	client, ok := a.protocol.(*goplugin.GRPCClient)
	if !ok {
		return newError(ErrProtocol, c.label, "install a version of the plugin that was built with the Ksplice SDK", "it does not speak gRPC")
	}
	i.base = pb.NewBaseClient(client.Conn)
	switch c.kind {
	case plugin.KindArch:
		i.impl = arch.NewClient(client.Conn, c.label)
	case plugin.KindBackend:
		i.impl = backend.NewClient(client.Conn, c.label)
	case plugin.KindTransform:
		i.impl = transform.NewClient(client.Conn, c.label)
	}
	return nil
}

// refused says why there is no connection to the plugin.
func (i *instance) refused(run *processRunner, err error) error {
	if i.proc == nil {
		return newError(ErrExited, i.label, "install a binary for this machine, or remove the file", "start the plugin: %v", err)
	}
	select {
	case why := <-run.refused:
		if !errors.Is(why, errShort) {
			i.proc.kill()
			return why
		}
	default:
	}
	// go-plugin kills a process that it cannot connect to.
	if i.proc.ended(exitGrace) && !i.proc.diedOfUs() {
		return newError(ErrExited, i.label, i.proc.output.String(), "it %s before the handshake", i.proc.outcome)
	}
	i.proc.kill()
	return newError(ErrNonsense, i.label, i.proc.output.String(), "it can be started but not spoken to: %v", err)
}

// introduce checks that the running plugin is the one that was described, and gives it its configuration.
func (i *instance) introduce(ctx context.Context, c *candidate) error {
	info, err := i.impl.Info(ctx)
	if err != nil {
		return err
	}
	if err := c.checkInfo(info); err != nil {
		return err
	}
	return i.impl.Configure(ctx, i.host.configOf(c.file))
}

// stop ends the plugin: it is asked to, then killed. It takes a few seconds at most.
func (i *instance) stop() error {
	if i.dir != "" {
		defer os.RemoveAll(i.dir)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		i.client.Kill()
	}()
	if i.proc != nil && !i.proc.ended(stopGrace) {
		i.log.Warn("the plugin does not end and is killed")
		i.proc.kill()
		if !i.proc.ended(stopGrace) {
			return newError(ErrTimeout, i.label, "look at what the process waits for in /proc/PID/stack",
				"process %d cannot be killed", i.proc.cmd.Process.Pid)
		}
	}
	select {
	case <-done:
	case <-time.After(stopGrace):
	}
	return nil
}
