package transform

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"google.golang.org/grpc"

	"github.com/ksplice/ksplice/sdk/internal/wire"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// Client is a Transform that lives behind a connection: what a host, and a test, has of a plugin. It checks every reply against its request: only items that were
// asked about are claimed, each with its reason, and no edit leaves the source directory.
type Client struct {
	wire.BaseClient
	client pb.TransformClient
}

var _ Transform = (*Client)(nil)

// NewClient returns the client of a transform plugin. The label names the plugin in errors, for example "transform
// plugin NAME (/usr/libexec/ksplice/plugins/transform-NAME)".
func NewClient(conn grpc.ClientConnInterface, label string) *Client {
	return &Client{BaseClient: wire.NewBaseClient(conn, label), client: pb.NewTransformClient(conn)}
}

// Plan implements Transform.
func (c *Client) Plan(ctx context.Context, req *PlanRequest) (*PlanResponse, error) {
	resp, err := c.client.Plan(ctx, &pb.PlanRequest{
		Round: int32(req.Round), Patch: req.Patch, SourceDir: req.SourceDir, Items: wire.Pack(req.Items, itemTo),
	})
	if err != nil {
		return nil, wire.FromStatus("Plan", err)
	}
	out := &PlanResponse{Claimed: resp.GetClaimed(), Rewrites: resp.GetRewrites(), Edits: resp.GetEdits(), Because: resp.GetBecause(), Declined: resp.GetDeclined()}
	for id, t := range resp.GetTransfers() {
		if out.Transfers == nil {
			out.Transfers = map[string]TransferPlan{}
		}
		out.Transfers[id] = TransferPlan{Types: t.GetTypes(), Globals: t.GetGlobals(), Data: t.GetData()}
	}
	if err := checkPlan(req, out); err != nil {
		return nil, wire.Nonsense(c.Label, "Plan", err)
	}
	return out, nil
}

func checkPlan(req *PlanRequest, resp *PlanResponse) error {
	for _, id := range resp.Claimed {
		if !slices.ContainsFunc(req.Items, func(i Item) bool { return i.ID == id }) {
			return fmt.Errorf("it claims %q, which is not in the report", id)
		}
		if resp.Because[id] == "" {
			return fmt.Errorf("it claims %q without saying how it is carried", id)
		}
	}
	for _, id := range resp.Rewrites {
		if !slices.ContainsFunc(req.Items, func(i Item) bool { return i.ID == id && i.Kind == ItemInitialiser }) || !slices.Contains(resp.Claimed, id) {
			return fmt.Errorf("it has %q rewritten, which is no initialiser that it claims", id)
		}
	}
	for id := range resp.Transfers {
		if !slices.Contains(resp.Claimed, id) || slices.Contains(resp.Rewrites, id) {
			return fmt.Errorf("it transfers the state of %q, which it does not claim or has rewritten", id)
		}
	}
	for id := range resp.Because {
		if !slices.Contains(resp.Claimed, id) {
			return fmt.Errorf("it gives a reason for %q, which it does not claim", id)
		}
	}
	for id := range resp.Declined {
		if !slices.ContainsFunc(req.Items, func(i Item) bool { return i.ID == id }) || slices.Contains(resp.Claimed, id) {
			return fmt.Errorf("it declines %q, which is not in the report or which it claims", id)
		}
	}
	for path := range resp.Edits {
		if !filepath.IsLocal(path) {
			return fmt.Errorf("it edits %q, which is outside the source directory", path)
		}
		if len(resp.Claimed) == 0 {
			return fmt.Errorf("it edits %q and claims nothing", path)
		}
	}
	return nil
}
