package wire

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// calls knows the calls that run in this process. Its interceptors turn errors and panics of the plugin's methods
// into diagnostics.
type calls struct {
	log     hclog.Logger
	prepare func() // run before the first call

	mu      sync.Mutex // guards running and changed
	running map[string]int
	changed chan struct{} // closed and replaced whenever a call ends
}

func newCalls(log hclog.Logger, prepare func()) *calls {
	return &calls{log: log, prepare: sync.OnceFunc(prepare), running: make(map[string]int), changed: make(chan struct{})}
}

// begin notes a call and returns what must be called at its end.
func (c *calls) begin(ctx context.Context) func() {
	number := ""
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if v := md.Get(plugin.CallKey); len(v) == 1 {
			number = v[0]
		}
	}
	c.mu.Lock()
	c.running[number]++
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.running[number]--; c.running[number] == 0 {
			delete(c.running, number)
		}
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// wait returns when done says so of the running calls, or with the context's error.
func (c *calls) wait(ctx context.Context, done func(running map[string]int) bool) error {
	for {
		c.mu.Lock()
		ok, changed := done(c.running), c.changed
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// drained says that no call with that number runs.
func drained(number string) func(map[string]int) bool {
	return func(running map[string]int) bool { return running[number] == 0 }
}

// idle says that no call runs.
func idle(running map[string]int) bool { return len(running) == 0 }

// guard runs a method of the plugin.
func (c *calls) guard(ctx context.Context, method string, run func() error) (err error) {
	c.prepare()
	end := c.begin(ctx)
	defer end()
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("panic in a call", "call", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = toStatus(&plugin.Diagnostic{
				Fault:   plugin.FaultInternal,
				Summary: fmt.Sprintf("the plugin panicked in %s: %v", method, p),
				Detail:  "this is a bug of the plugin: report it to its author with this stack\n" + string(debug.Stack()),
			})
		}
	}()
	return toStatus(run())
}

func (c *calls) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	if !ours(info.FullMethod) {
		return handler(ctx, req)
	}
	err = c.guard(ctx, short(info.FullMethod), func() error {
		resp, err = handler(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (c *calls) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if !ours(info.FullMethod) {
		return handler(srv, ss)
	}
	return c.guard(ss.Context(), short(info.FullMethod), func() error { return handler(srv, ss) })
}
