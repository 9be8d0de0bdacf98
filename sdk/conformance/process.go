package conformance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/ksplice/ksplice/sdk/internal/wire"
	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// startTimeout bounds the start of a binary, and its description.
const startTimeout = time.Minute

// endTimeout bounds how long a process may take to end when it is told to. A host waits two seconds; machines on which plugins are tested may be slow.
var endTimeout = 15 * time.Second

// running is a plugin's process.
type running struct {
	cmd    *exec.Cmd
	client *goplugin.Client
	conn   *grpc.ClientConn
}

// start starts the plugin binary at a path as a host would.
func start(path string) (*running, error) {
	versions := make(map[int]goplugin.PluginSet)
	for _, v := range plugin.Protocols() {
		versions[v] = goplugin.PluginSet{}
	}
	r := &running{cmd: exec.Command(path)}
	r.client = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{MagicCookieKey: plugin.CookieKey, MagicCookieValue: plugin.CookieValue},
		VersionedPlugins: versions,
		Cmd:              r.cmd,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		StartTimeout:     startTimeout,
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(plugin.MaxMessage), grpc.MaxCallSendMsgSize(plugin.MaxMessage)),
		},
	})
	protocol, err := r.client.Client()
	if err != nil {
		r.client.Kill()
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	client, ok := protocol.(*goplugin.GRPCClient)
	if !ok {
		r.client.Kill()
		return nil, fmt.Errorf("start %s: it does not speak gRPC", path)
	}
	r.conn = client.Conn
	return r, nil
}

// Launch starts the plugin binary at a path as a host would, once what it says of itself fits its name, and returns a connection to it. close
// ends it.
func Launch(ctx context.Context, kind plugin.Kind, path string) (conn *grpc.ClientConn, close func(), err error) {
	if err := describeBinary(ctx, kind, path); err != nil {
		return nil, nil, err
	}
	r, err := start(path)
	if err != nil {
		return nil, nil, err
	}
	return r.conn, r.client.Kill, nil
}

// Describe asks a plugin binary who it is.
func Describe(ctx context.Context, path string) (*plugin.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	out, err := command(ctx, path, "describe").Output()
	if err != nil {
		return nil, fmt.Errorf("%s describe: %w", path, err)
	}
	var info plugin.Info
	if err := json.Unmarshal(out, &info); err != nil {
		return nil, fmt.Errorf("%s describe does not print a description in JSON: %w", path, err)
	}
	return &info, nil
}

// command is a program that is ended with all that it has started, and not waited for by whom of those still holds its output.
func command(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
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

// Process are the checks of the process that a binary makes, whatever its kind: what it says and serves besides the calls of its kind, and how
// it ends. Each starts one of its own.
func Process(kind plugin.Kind, path string) []Check {
	return bounded([]check{
		{"process", func(ctx context.Context) error { return process(ctx, kind, path) }},
		{"by hand", func(ctx context.Context) error { return byHand(ctx, path) }},
		{"strangers", func(ctx context.Context) error {
			r, err := start(path)
			if err != nil {
				return err
			}
			defer r.client.Kill()
			return strangers(ctx, r.client.ReattachConfig().Addr)
		}},
		{"shutdown", func(ctx context.Context) error { return shutdown(ctx, path) }},
		{"terminate", func(ctx context.Context) error { return terminate(ctx, path) }},
	}, 2*startTimeout)
}

// process checks what a plugin says of itself both ways, and what it must serve beside the services of the protocol.
func process(ctx context.Context, kind plugin.Kind, path string) error {
	described, err := Describe(ctx, path)
	if err != nil {
		return err
	}
	r, err := start(path)
	if err != nil {
		return err
	}
	defer r.client.Kill()
	info, err := wire.NewBaseClient(r.conn, string(kind)+" plugin "+path).Info(ctx)
	if err != nil {
		return err
	}
	if err := same("`"+path+" describe` and the call GetInfo", described, info); err != nil {
		return err
	}
	return services(ctx, r.conn)
}

// services checks what a plugin serves beside the protocol, and of calls that a later host may know.
func services(ctx context.Context, conn *grpc.ClientConn) error {
	health, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: goplugin.GRPCServiceName})
	if err != nil {
		return fmt.Errorf("grpc.health.v1.Health, of the service %q: %w", goplugin.GRPCServiceName, err)
	}
	if health.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("grpc.health.v1.Health must say SERVING of the service %q: it says %s", goplugin.GRPCServiceName, health.GetStatus())
	}
	const unknown = "/ksplice.plugin.v1.Base/SdktestNoSuchCall"
	err = conn.Invoke(ctx, unknown, &pb.DrainRequest{}, &pb.DrainResponse{})
	if code := status.Code(err); code != codes.Unimplemented {
		return fmt.Errorf("%s, a call that no plugin has, must fail with UNIMPLEMENTED, by which later hosts know who has which call: it has the status %s", unknown, code)
	}
	return nil
}

// byHand starts a plugin as a person would: it must say what it is, and end.
func byHand(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	cmd := command(ctx, path)
	cmd.Env = append(os.Environ(), plugin.CookieKey+"=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	switch code := cmd.ProcessState.ExitCode(); {
	case cmd.ProcessState == nil:
		return fmt.Errorf("start %s: %w", path, err)
	case ctx.Err() != nil || code <= 0:
		return fmt.Errorf("without the variable %s of a host the process must end with an exit code other than 0: %s", plugin.CookieKey, cmd.ProcessState)
	case len(stdout) > 0 || stderr.Len() == 0:
		return fmt.Errorf("without the variable %s of a host the process must say on stderr, not on stdout, what it is: it wrote %d bytes there, and %d here",
			plugin.CookieKey, stderr.Len(), len(stdout))
	}
	return nil
}

// strangers connects to a plugin as those who are not its host: without a certificate, and with one of their own. It must not talk to them.
func strangers(ctx context.Context, addr net.Addr) error {
	own, err := certificate()
	if err != nil {
		return err
	}
	for what, certificates := range map[string][]tls.Certificate{"without a certificate": nil, "with a certificate of its own": {own}} {
		dialer := &tls.Dialer{Config: &tls.Config{Certificates: certificates, NextProtos: []string{"h2"}, InsecureSkipVerify: true}}
		conn, err := dialer.DialContext(ctx, addr.Network(), addr.String())
		if err != nil {
			continue
		}
		// With TLS 1.3 the client has done its part before the server has seen the certificate.
		conn.SetDeadline(time.Now().Add(endTimeout))
		_, err = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")) // RFC 9113, 3.4, with empty SETTINGS
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		conn.Close()
		if err == nil {
			return fmt.Errorf("it talks to a client %s: it must demand that of PLUGIN_CLIENT_CERT", what)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("it does not hang up on a client %s within %s", what, endTimeout)
		}
	}
	return nil
}

// certificate makes one that signed itself, for clients and servers.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// shutdown asks a process to end as a host does in the end.
func shutdown(ctx context.Context, path string) error {
	r, err := start(path)
	if err != nil {
		return err
	}
	defer r.client.Kill()
	const call = "/plugin.GRPCController/Shutdown"
	// A server that is gone before its reply has done what it was told.
	if err := r.conn.Invoke(ctx, call, &emptypb.Empty{}, &emptypb.Empty{}); err != nil && status.Code(err) != codes.Unavailable {
		return fmt.Errorf("%s, by which a host says that it is done, must not fail: %w", call, err)
	}
	return r.ends(ctx, "when it is told to end by "+call+" (a host kills it after two seconds)")
}

// terminate ends a process as the kernel does when the host dies.
func terminate(ctx context.Context, path string) error {
	r, err := start(path)
	if err != nil {
		return err
	}
	defer r.client.Kill()
	pid, err := strconv.Atoi(r.client.ID())
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		return fmt.Errorf("send SIGTERM: %w", err)
	}
	return r.ends(ctx, "on SIGTERM, which says that the host has died,")
}

// ends waits for the end of the process.
func (r *running) ends(ctx context.Context, when string) error {
	for end := time.Now().Add(endTimeout); !r.client.Exited(); time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(end) {
			return fmt.Errorf("%s the process must end by itself: it is still there after %s", when, endTimeout)
		}
	}
	return nil
}
