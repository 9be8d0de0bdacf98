package pluginhost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"

	"github.com/ksplice/ksplice/sdk/plugin"
)

const (
	// handshakeMax bounds the first line of stdout in bytes; the certificate in it has under two thousand.
	handshakeMax = 16 << 10
	// certificateMin is the number of characters above which go-plugin takes the sixth field for a certificate.
	certificateMin = 50
)

// errShort is what a plugin that ends before its handshake leaves behind.
var errShort = errors.New("stdout ended before the handshake")

// checkHandshake returns what is wrong with the line by which a plugin says how it can be reached:
// CORE|PROTOCOL|NETWORK|ADDRESS|grpc|CERTIFICATE (go-plugin, docs/guide-plugin-write-non-go.md).
func checkHandshake(label, line string) error {
	parts := strings.Split(strings.TrimSpace(line), "|")
	if len(parts) < 5 || parts[0] != strconv.Itoa(goplugin.CoreProtocolVersion) || parts[2] != "unix" && parts[2] != "tcp" {
		return newError(ErrNonsense, label,
			"a plugin writes nothing to stdout before it calls Serve; if it is no Ksplice plugin at all, remove it from the directory",
			"its first line on stdout is no handshake: %s", quoted(line))
	}
	version, err := strconv.Atoi(parts[1])
	if err != nil || !slices.Contains(plugin.Protocols(), version) {
		return protocolError(label, parts[1])
	}
	if parts[4] != string(goplugin.ProtocolGRPC) {
		return newError(ErrProtocol, label, "install a version of the plugin that was built with the Ksplice SDK",
			"it wants to be spoken to by %q, only gRPC is allowed", parts[4])
	}
	if len(parts) < 6 || len(parts[5]) <= certificateMin {
		return newError(ErrProtocol, label, "install a version of the plugin that was built with the Ksplice SDK",
			"it sends no certificate, so that the connection cannot be authenticated")
	}
	return nil
}

// protocolError says that the protocol versions of a plugin, given as text, and those of this host do not meet.
func protocolError(label, theirs string) error {
	return newError(ErrProtocol, label, "install a version of the plugin that was made for this Ksplice, or the Ksplice that it was made for",
		"it speaks protocol version %s, this Ksplice speaks %s", theirs, versions(plugin.Protocols()))
}

// versions writes protocol versions for people.
func versions(v []int) string {
	if len(v) == 0 {
		return "none"
	}
	text := make([]string, len(v))
	for i := range v {
		text[i] = strconv.Itoa(v[i])
	}
	return strings.Join(text, ", ")
}

// processRunner lets go-plugin negotiate with a process of ours. go-plugin sees one line of its stdout and nothing of
// its stderr, whose parser trusts what it reads.
type processRunner struct {
	path  string
	env   []string
	label string
	log   hclog.Logger

	started chan *process // gets the process once it runs; never blocks
	refused chan error    // gets what is wrong with the handshake; never blocks
	proc    *process
	line    *io.PipeReader
	feed    *io.PipeWriter
}

var _ runner.Runner = (*processRunner)(nil)

func newProcessRunner(c *candidate, log hclog.Logger) *processRunner {
	r := &processRunner{path: c.path, label: c.label, log: log, started: make(chan *process, 1), refused: make(chan error, 1)}
	r.line, r.feed = io.Pipe()
	return r
}

// use takes what go-plugin put into the environment.
func (r *processRunner) use(cmd *exec.Cmd) { r.env = cmd.Env }

// Start implements runner.Runner.
func (r *processRunner) Start(context.Context) error {
	p, err := startProcess(r.path, nil, r.env, r.log, r.stdout)
	if err != nil {
		return err
	}
	r.proc = p
	r.started <- p
	return nil
}

// stdout passes the handshake on, if it is one, and reads the rest so that the plugin never waits for a reader.
func (r *processRunner) stdout(from io.Reader) {
	b := bufio.NewReader(io.LimitReader(from, handshakeMax))
	line, err := b.ReadString('\n')
	switch {
	case err != nil && len(line) >= handshakeMax:
		err = checkHandshake(r.label, line[:handshakeMax/2])
	case err != nil:
		err = errShort
	default:
		err = checkHandshake(r.label, line)
	}
	if err != nil {
		r.refused <- err
		r.feed.CloseWithError(err)
	} else {
		fmt.Fprint(r.feed, line)
		r.feed.Close()
	}
	readLines(from, func(line string) { r.log.Debug("stdout", "line", line) })
}

// Wait implements runner.Runner.
func (r *processRunner) Wait(context.Context) error {
	<-r.proc.exited
	return nil
}

// Kill implements runner.Runner.
func (r *processRunner) Kill(context.Context) error {
	if r.proc != nil {
		r.proc.kill()
	}
	return nil
}

// ID implements runner.Runner.
func (r *processRunner) ID() string {
	if r.proc == nil {
		return ""
	}
	return strconv.Itoa(r.proc.cmd.Process.Pid)
}

// Stdout implements runner.Runner.
func (r *processRunner) Stdout() io.ReadCloser { return r.line }

// Stderr implements runner.Runner.
func (r *processRunner) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name implements runner.Runner.
func (r *processRunner) Name() string { return r.path }

// Diagnose implements runner.Runner.
func (r *processRunner) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner.
func (r *processRunner) PluginToHost(network, address string) (string, string, error) {
	return network, address, nil
}

// HostToPlugin implements runner.Runner.
func (r *processRunner) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}
