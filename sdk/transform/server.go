package transform

import (
	"context"

	"google.golang.org/grpc"

	"github.com/ksplice/ksplice/sdk/internal/wire"
	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// Serve is the main function of a transform plugin. It answers `BINARY describe`, else serves the host that started the
// process and returns when the host is done. The plugin must write nothing to stdout before it calls Serve; what it
// prints in a call, and what it logs through hclog's default logger, arrives in the host's log.
func Serve(impl Transform) {
	wire.Serve(plugin.KindTransform, impl, func(s *grpc.Server) { Register(s, impl) })
}

// Register puts the transform service on s. Serve does it for plugins; tests call it.
func Register(s grpc.ServiceRegistrar, impl Transform) {
	pb.RegisterTransformServer(s, &server{impl: impl})
}

// Unimplemented has every method of Transform but Info. Embed it: a method that is added to the interface later then
// does not break the plugin.
type Unimplemented struct{ plugin.Unconfigured }

// Plan implements Transform.
func (Unimplemented) Plan(context.Context, *PlanRequest) (*PlanResponse, error) {
	return nil, plugin.NotImplemented("Plan")
}

// Transfer implements Transform.
func (Unimplemented) Transfer(context.Context, *TransferRequest, State) (*TransferResponse, error) {
	return nil, plugin.NotImplemented("Transfer")
}

// server serves a Transform over gRPC.
type server struct {
	pb.UnimplementedTransformServer
	impl Transform
}

func (s *server) Plan(ctx context.Context, req *pb.PlanRequest) (*pb.PlanResponse, error) {
	resp, err := wire.Answer(s.impl.Plan(ctx, &PlanRequest{
		Round: int(req.GetRound()), Patch: req.GetPatch(), SourceDir: req.GetSourceDir(),
		Items: wire.Unpack(req.GetItems(), itemFrom),
	}))
	if err != nil {
		return nil, err
	}
	out := &pb.PlanResponse{Claimed: resp.Claimed, Rewrites: resp.Rewrites, Edits: resp.Edits, Because: resp.Because, Declined: resp.Declined}
	for id, t := range resp.Transfers {
		if out.Transfers == nil {
			out.Transfers = map[string]*pb.TransferPlan{}
		}
		out.Transfers[id] = &pb.TransferPlan{Types: t.Types, Globals: t.Globals, Data: t.Data}
	}
	return out, nil
}

func itemTo(i *Item, to *pb.Item) {
	to.Id, to.Kind, to.Unit, to.Name, to.Detail = i.ID, string(i.Kind), i.Unit, i.Name, wire.Text(i.Detail)
	to.Pre, to.Post = i.Pre, i.Post
	to.Fields = wire.Pack(i.Fields, fieldTo)
	to.Source, to.Members = wire.Text(i.Source), wire.Pack(i.Members, memberTo)
}

func itemFrom(i *pb.Item, to *Item) {
	*to = Item{
		ID: i.GetId(), Kind: ItemKind(i.GetKind()), Unit: i.GetUnit(), Name: i.GetName(), Detail: i.GetDetail(),
		Pre: i.GetPre(), Post: i.GetPost(), Fields: wire.Unpack(i.GetFields(), fieldFrom),
		Source: i.GetSource(), Members: wire.Unpack(i.GetMembers(), memberFrom),
	}
}

func memberTo(m *Member, to *pb.Member) {
	to.Name, to.Type, to.Size, to.Bits, to.Kind = wire.Text(m.Name), wire.Text(m.Type), m.Size, m.Bits, wire.Text(m.Kind)
}

func memberFrom(m *pb.Member, to *Member) {
	*to = Member{Name: m.GetName(), Type: m.GetType(), Size: m.GetSize(), Bits: m.GetBits(), Kind: m.GetKind()}
}

func fieldTo(f *Field, to *pb.Field) {
	to.Name, to.Type, to.Within, to.Offset, to.Size = wire.Text(f.Name), wire.Text(f.Type), wire.Text(f.Within), f.Offset, f.Size
	to.PreAddress, to.PostAddress = wire.Text(f.PreAddress), wire.Text(f.PostAddress)
}

func fieldFrom(f *pb.Field, to *Field) {
	*to = Field{
		Name: f.GetName(), Type: f.GetType(), Within: f.GetWithin(), Offset: f.GetOffset(), Size: f.GetSize(),
		PreAddress: f.GetPreAddress(), PostAddress: f.GetPostAddress(),
	}
}
