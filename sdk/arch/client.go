package arch

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ksplice/ksplice/sdk/internal/wire"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// Client is an Arch that lives behind a connection: what a host, and a test, has of a plugin. It checks every reply against its request, so that a caller can
// rely on counts, kinds and numbers; what only the object can tell (do sections and symbols exist?) it leaves to them.
type Client struct {
	wire.BaseClient
	client pb.ArchClient

	mu      sync.Mutex
	asked   bool
	symbols []string // what the plugin reads of a configuration; nil: it does not say
}

var (
	_ Arch       = (*Client)(nil)
	_ FactSource = (*Client)(nil)
)

// NewClient returns the client of an architecture plugin. The label names the plugin in errors, for example "arch
// plugin x86_64 (/usr/libexec/ksplice/plugins/arch-x86_64)".
func NewClient(conn grpc.ClientConnInterface, label string) *Client {
	return &Client{BaseClient: wire.NewBaseClient(conn, label), client: pb.NewArchClient(conn)}
}

// target is what the plugin is told of a target: of the configuration just what it reads.
func (c *Client) target(ctx context.Context, t *Target) *pb.Target {
	c.mu.Lock()
	if !c.asked {
		if resp, err := c.client.FactExpressions(ctx, &pb.FactExpressionsRequest{}); err == nil && resp.GetConfigTold() {
			c.symbols = append([]string{}, resp.GetConfigSymbols()...)
		}
		// A plugin that cannot answer is told everything, and the call that this is for says what is wrong with it.
		c.asked = ctx.Err() == nil
	}
	symbols := c.symbols
	c.mu.Unlock()
	if symbols == nil {
		return targetTo(t)
	}
	some := *t
	some.Config = make(map[string]string, len(symbols))
	for _, name := range symbols {
		if v, ok := t.Config[name]; ok {
			some.Config[name] = v
		}
	}
	return targetTo(&some)
}

// Describe implements Arch.
func (c *Client) Describe(ctx context.Context, req *DescribeRequest) (*DescribeResponse, error) {
	resp, err := c.client.Describe(ctx, &pb.DescribeRequest{
		Target: c.target(ctx, &req.Target), Objects: wire.Pack(req.Objects, wire.FileTo),
	})
	if err != nil {
		return nil, wire.FromStatus("Describe", err)
	}
	var n wire.Narrow
	out := &DescribeResponse{Objects: wire.Unpack(resp.GetObjects(), func(d *pb.ObjectDescription, to *ObjectDescription) {
		descriptionFrom(d, to, &n)
	})}
	if err := firstError(n.Err(), checkDescribe(req, out)); err != nil {
		return nil, wire.Nonsense(c.Label, "Describe", err)
	}
	return out, nil
}

// Match implements Arch.
func (c *Client) Match(ctx context.Context, req *MatchRequest) (*MatchResponse, error) {
	resp, err := c.client.Match(ctx, &pb.MatchRequest{
		Target: c.target(ctx, &req.Target), Object: fileTo(req.Object), Run: fileTo(req.Run),
		Candidates: wire.Pack(req.Candidates, candidateTo), NoSelfModification: req.NoSelfModification,
	})
	if err != nil {
		return nil, wire.FromStatus("Match", err)
	}
	out := &MatchResponse{Results: wire.Unpack(resp.GetResults(), matchResultFrom)}
	if err := checkMatch(req, out); err != nil {
		return nil, wire.Nonsense(c.Label, "Match", err)
	}
	return out, nil
}

// Fixup implements Arch.
func (c *Client) Fixup(ctx context.Context, req *FixupRequest) (*FixupResponse, error) {
	resp, err := c.client.Fixup(ctx, &pb.FixupRequest{
		Target: c.target(ctx, &req.Target), Object: fileTo(req.Object), Sections: req.Sections,
	})
	if err != nil {
		return nil, wire.FromStatus("Fixup", err)
	}
	out := fixupFrom(resp)
	if err := checkFixup(req, out); err != nil {
		return nil, wire.Nonsense(c.Label, "Fixup", err)
	}
	return out, nil
}

// Redirect implements Arch.
func (c *Client) Redirect(ctx context.Context, req *RedirectRequest) (*RedirectResponse, error) {
	resp, err := c.client.Redirect(ctx, &pb.RedirectRequest{
		Target: c.target(ctx, &req.Target), Object: fileTo(req.Object), Functions: req.Functions,
	})
	if err != nil {
		return nil, wire.FromStatus("Redirect", err)
	}
	out := &RedirectResponse{Redirects: wire.Unpack(resp.GetRedirects(), redirectFrom)}
	if err := checkRedirect(req, out); err != nil {
		return nil, wire.Nonsense(c.Label, "Redirect", err)
	}
	return out, nil
}

// FactExpressions implements FactSource; a plugin that is none has no expressions.
func (c *Client) FactExpressions(ctx context.Context) ([]FactExpression, error) {
	resp, err := c.client.FactExpressions(ctx, &pb.FactExpressionsRequest{})
	if status.Code(err) == codes.Unimplemented {
		return nil, nil
	}
	if err != nil {
		return nil, wire.FromStatus("FactExpressions", err)
	}
	out := wire.Unpack(resp.GetExpressions(), func(f *pb.FactExpression, to *FactExpression) {
		*to = FactExpression{Name: f.GetName(), Includes: f.GetIncludes(), Expression: f.GetExpression(), If: f.GetIf()}
	})
	if err := checkFacts(out); err != nil {
		return nil, wire.Nonsense(c.Label, "FactExpressions", err)
	}
	return out, nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
