package pluginhost

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

const (
	// ownPrefix begins the full names of the protocol's methods; go-plugin has others, which are left alone.
	ownPrefix = "/ksplice.plugin.v1."
	// exitGrace is how long a broken connection waits for the process to be seen to have ended.
	exitGrace = 2 * time.Second
	// deadlineSkew is how much earlier than the host a plugin may see the deadline of a call.
	deadlineSkew = 200 * time.Millisecond
)

// call is one call that is under way.
type call struct {
	inst   *instance
	method string          // last word of the name
	number string          // for Drain
	parent context.Context // the caller's
	ctx    context.Context // with the host's deadline
	cancel context.CancelFunc
	limit  time.Duration
	begun  time.Time
	once   sync.Once
	over   error // the end of ctx, when the call failed by it
}

// begin makes the context of a call: the host's deadline and the call's number.
func (i *instance) begin(ctx context.Context, fullMethod string, long bool) *call {
	c := &call{inst: i, method: fullMethod[strings.LastIndexByte(fullMethod, '/')+1:], parent: ctx, begun: time.Now()}
	c.number = strconv.FormatUint(i.calls.Add(1), 10)
	t := i.host.config.Timeouts
	switch {
	case long && !strings.HasPrefix(fullMethod, ownPrefix+"Transform/"):
		c.limit = t.Build
	case strings.HasPrefix(fullMethod, ownPrefix+"Base/"):
		c.limit = t.Start
	default:
		c.limit = t.Call
	}
	c.ctx, c.cancel = context.WithTimeout(metadata.AppendToOutgoingContext(ctx, plugin.CallKey, c.number), c.limit)
	return c
}

// end accounts for the call, makes sure that a call which was given up has really ended, and returns the error that the
// caller gets.
func (c *call) end(err error) error {
	c.once.Do(func() {
		c.inst.host.account(c.inst.file, time.Since(c.begun))
		c.awaitDeadline(err)
		if err != nil && c.ctx.Err() != nil {
			c.over = c.ctx.Err()
			c.inst.drain(c.number)
		}
		c.cancel()
	})
	if err == nil {
		return nil
	}
	return c.explain(err)
}

// awaitDeadline waits for a deadline that the plugin's side saw first: gRPC tells it the deadline, and its timer may be
// ahead of ours.
func (c *call) awaitDeadline(err error) {
	code := status.Code(err)
	if code != codes.Canceled && code != codes.DeadlineExceeded {
		return
	}
	if at, ok := c.ctx.Deadline(); ok && time.Until(at) < deadlineSkew {
		<-c.ctx.Done()
	}
}

// explain turns the error of a call into one that says what became of the plugin. A plugin's own diagnostic, and the end
// of the caller's context, stay what they are.
func (c *call) explain(err error) error {
	st := status.Convert(err)
	for _, d := range st.Details() {
		if _, ok := d.(*pb.Diagnostic); ok {
			return err
		}
	}
	i := c.inst
	switch {
	case c.parent.Err() != nil:
		return status.FromContextError(c.parent.Err()).Err()
	case c.method == "FactExpressions" && st.Code() == codes.Unimplemented:
		return err
	case c.over != nil:
		return newError(ErrTimeout, i.label, "see whether the machine is overloaded, or report it to the plugin's author; "+i.proc.output.String(),
			"it did not answer %s within %s", c.method, c.limit)
	}
	grace := exitGrace / 20
	if st.Code() == codes.Unavailable {
		grace = exitGrace
	}
	if i.proc.ended(grace) {
		return newError(ErrExited, i.label, i.proc.output.String(), "it %s during %s", i.proc.outcome, c.method)
	}
	switch st.Code() {
	case codes.Unimplemented:
		return newError(ErrProtocol, i.label, "install a version of the plugin that was made for this Ksplice", "it does not have the call %s", c.method)
	case codes.ResourceExhausted, codes.Internal:
		return newError(ErrNonsense, i.label, "report it to the plugin's author; large things cross by path",
			"a message of %s cannot be used: %s", c.method, st.Message())
	case codes.Unavailable:
		i.proc.kill()
		return newError(ErrExited, i.label, i.proc.output.String(), "the connection to it broke during %s: %s", c.method, st.Message())
	}
	return newError(ErrNonsense, i.label, "report it to the plugin's author", "%s failed without a diagnostic: %s", c.method, st.Message())
}

// drain waits until the plugin does nothing more for a call that was given up, so that its directories are free. A
// plugin that does not obey within the grace is killed.
func (i *instance) drain(number string) {
	ctx, cancel := context.WithTimeout(context.Background(), i.host.config.Timeouts.Cancel)
	defer cancel()
	if _, err := i.base.Drain(ctx, &pb.DrainRequest{Call: number}); err == nil || i.proc.ended(0) {
		return
	}
	i.log.Warn("the plugin does not obey cancellation and is killed", "pid", i.proc.cmd.Process.Pid)
	i.proc.kill()
	i.proc.ended(exitGrace)
}

// unary guards a call with one reply.
func (i *instance) unary(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if !strings.HasPrefix(method, ownPrefix) || method == pb.Base_Drain_FullMethodName {
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	c := i.begin(ctx, method, false)
	return c.end(invoke(c.ctx, method, req, reply, conn, opts...))
}

// stream guards a call that reports progress.
func (i *instance) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if !strings.HasPrefix(method, ownPrefix) {
		return open(ctx, desc, conn, method, opts...)
	}
	c := i.begin(ctx, method, true)
	s, err := open(c.ctx, desc, conn, method, opts...)
	if err != nil {
		return nil, c.end(err)
	}
	// A caller that leaves before the end cancels its context.
	context.AfterFunc(ctx, func() { c.end(ctx.Err()) })
	return &guardedStream{ClientStream: s, call: c}, nil
}

// guardedStream explains the errors of a stream.
type guardedStream struct {
	grpc.ClientStream
	call *call
}

func (s *guardedStream) SendMsg(m any) error {
	err := s.ClientStream.SendMsg(m)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return s.call.end(err)
}

func (s *guardedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		s.call.end(nil)
		return err
	}
	return s.call.end(err)
}
