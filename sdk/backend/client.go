package backend

import (
	"context"

	"google.golang.org/grpc"

	"github.com/ksplice/ksplice/sdk/internal/wire"
	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// Client is a Backend that lives behind a connection: what a host, and a test, has of a plugin. It checks every reply against its request, so that a caller can
// rely on counts, names and absolute paths.
type Client struct {
	wire.BaseClient
	client pb.BackendClient
}

var _ Backend = (*Client)(nil)

// NewClient returns the client of a backend plugin. The label names the plugin in errors, for example "backend plugin
// debian (/usr/libexec/ksplice/plugins/backend-debian)".
func NewClient(conn grpc.ClientConnInterface, label string) *Client {
	return &Client{BaseClient: wire.NewBaseClient(conn, label), client: pb.NewBackendClient(conn)}
}

// Probe implements Backend.
func (c *Client) Probe(ctx context.Context, req *ProbeRequest) (*ProbeResponse, error) {
	resp, err := c.client.Probe(ctx, &pb.ProbeRequest{Release: req.Release, Version: req.Version, CacheDir: req.CacheDir})
	if err != nil {
		return nil, wire.FromStatus("Probe", err)
	}
	out := &ProbeResponse{Supported: resp.GetSupported(), Banner: resp.GetBanner(), Reason: resp.GetReason()}
	if err := checkProbe(out); err != nil {
		return nil, wire.Nonsense(c.Label, "Probe", err)
	}
	return out, nil
}

// Prepare implements Backend.
func (c *Client) Prepare(ctx context.Context, req *PrepareRequest, progress plugin.ProgressFunc) (*Tree, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.client.Prepare(ctx, &pb.PrepareRequest{
		Release: req.Release, Version: req.Version, CacheDir: req.CacheDir, Jobs: int32(req.Jobs),
	})
	if err != nil {
		return nil, wire.FromStatus("Prepare", err)
	}
	result, err := wire.Receive[pb.Tree](c.Label, "Prepare", stream.Recv, progress)
	if err != nil {
		return nil, err
	}
	tree, err := treeFrom(result)
	if err == nil {
		err = checkTree(req, tree)
	}
	if err != nil {
		return nil, wire.Nonsense(c.Label, "Prepare", err)
	}
	return tree, nil
}

// Units implements Backend.
func (c *Client) Units(ctx context.Context, req *UnitsRequest) (*UnitsResponse, error) {
	resp, err := c.client.Units(ctx, &pb.UnitsRequest{
		Tree: treeTo(req.Tree), WorkDir: req.WorkDir, Sources: req.Sources, All: req.All,
	})
	if err != nil {
		return nil, wire.FromStatus("Units", err)
	}
	out := &UnitsResponse{Units: wire.Unpack(resp.GetUnits(), unitFrom)}
	if err := checkUnits(out); err != nil {
		return nil, wire.Nonsense(c.Label, "Units", err)
	}
	return out, nil
}

// Compile implements Backend.
func (c *Client) Compile(ctx context.Context, req *CompileRequest, progress plugin.ProgressFunc) (*CompileResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.client.Compile(ctx, &pb.CompileRequest{
		Tree: treeTo(req.Tree), WorkDir: req.WorkDir, Units: wire.Pack(req.Units, unitTo),
		ExtraFlags: req.ExtraFlags, Jobs: int32(req.Jobs), Preprocess: req.Preprocess,
	})
	if err != nil {
		return nil, wire.FromStatus("Compile", err)
	}
	result, err := wire.Receive[pb.CompileResponse](c.Label, "Compile", stream.Recv, progress)
	if err != nil {
		return nil, err
	}
	out := &CompileResponse{Results: wire.Unpack(result.GetResults(), resultFrom)}
	if err := checkCompile(req, out); err != nil {
		return nil, wire.Nonsense(c.Label, "Compile", err)
	}
	return out, nil
}

// Link implements Backend.
func (c *Client) Link(ctx context.Context, req *LinkRequest, progress plugin.ProgressFunc) (*LinkResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.client.Link(ctx, &pb.LinkRequest{
		Tree: treeTo(req.Tree), WorkDir: req.WorkDir, Name: req.Name, Glue: req.Glue, Objects: req.Objects,
		Script: req.Script, Provided: req.Provided,
	})
	if err != nil {
		return nil, wire.FromStatus("Link", err)
	}
	result, err := wire.Receive[pb.LinkResponse](c.Label, "Link", stream.Recv, progress)
	if err != nil {
		return nil, err
	}
	out := &LinkResponse{Module: result.GetModule(), Diagnostics: wire.Unpack(result.GetDiagnostics(), wire.DiagnosticFrom)}
	if err := checkLink(out); err != nil {
		return nil, wire.Nonsense(c.Label, "Link", err)
	}
	return out, nil
}

// Facts implements Backend.
func (c *Client) Facts(ctx context.Context, req *FactsRequest) (*FactsResponse, error) {
	resp, err := c.client.Facts(ctx, &pb.FactsRequest{
		Tree: treeTo(req.Tree), Expressions: wire.Pack(req.Expressions, factTo), WorkDir: req.WorkDir,
	})
	if err != nil {
		return nil, wire.FromStatus("Facts", err)
	}
	out := &FactsResponse{Facts: resp.GetFacts()}
	if err := checkFacts(req, out); err != nil {
		return nil, wire.Nonsense(c.Label, "Facts", err)
	}
	return out, nil
}
