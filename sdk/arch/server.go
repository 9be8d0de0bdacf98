package arch

import (
	"context"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ksplice/ksplice/sdk/internal/wire"
	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// Serve is the main function of an architecture plugin. It answers `BINARY describe`, else serves the host that started
// the process and returns when the host is done. The plugin must write nothing to stdout before it calls Serve; what
// it prints in a call, and what it logs through hclog's default logger, arrives in the host's log.
func Serve(impl Arch) {
	wire.Serve(plugin.KindArch, impl, func(s *grpc.Server) { Register(s, impl) })
}

// Register puts the architecture service on s. Serve does it for plugins; tests call it.
func Register(s grpc.ServiceRegistrar, impl Arch) { pb.RegisterArchServer(s, &server{impl: impl}) }

// Unimplemented has every method of Arch but Info. Embed it: a method that is added to the interface later then does
// not break the plugin.
type Unimplemented struct{ plugin.Unconfigured }

// Describe implements Arch.
func (Unimplemented) Describe(context.Context, *DescribeRequest) (*DescribeResponse, error) {
	return nil, plugin.NotImplemented("Describe")
}

// Match implements Arch.
func (Unimplemented) Match(context.Context, *MatchRequest) (*MatchResponse, error) {
	return nil, plugin.NotImplemented("Match")
}

// Fixup implements Arch.
func (Unimplemented) Fixup(context.Context, *FixupRequest) (*FixupResponse, error) {
	return nil, plugin.NotImplemented("Fixup")
}

// Redirect implements Arch.
func (Unimplemented) Redirect(context.Context, *RedirectRequest) (*RedirectResponse, error) {
	return nil, plugin.NotImplemented("Redirect")
}

// server serves an Arch over gRPC.
type server struct {
	pb.UnimplementedArchServer
	impl Arch
}

func (s *server) Describe(ctx context.Context, req *pb.DescribeRequest) (*pb.DescribeResponse, error) {
	var n wire.Narrow
	in := &DescribeRequest{Target: targetFrom(req.GetTarget(), &n), Objects: wire.Unpack(req.GetObjects(), wire.FileFrom)}
	if err := n.Err(); err != nil {
		return nil, err
	}
	resp, err := wire.Answer(s.impl.Describe(ctx, in))
	if err != nil {
		return nil, err
	}
	for i := range resp.Objects {
		for j := range resp.Objects[i].Functions {
			if err := checkName(in.Objects, i, resp.Objects[i].Functions[j].Name); err != nil {
				return nil, err
			}
		}
	}
	return &pb.DescribeResponse{Objects: wire.Pack(resp.Objects, descriptionTo)}, nil
}

func (s *server) Match(ctx context.Context, req *pb.MatchRequest) (*pb.MatchResponse, error) {
	var n wire.Narrow
	in := &MatchRequest{
		Target: targetFrom(req.GetTarget(), &n), Object: fileFrom(req.GetObject()), Run: fileFrom(req.GetRun()),
		Candidates: wire.Unpack(req.GetCandidates(), candidateFrom), NoSelfModification: req.GetNoSelfModification(),
	}
	if err := n.Err(); err != nil {
		return nil, err
	}
	resp, err := wire.Answer(s.impl.Match(ctx, in))
	if err != nil {
		return nil, err
	}
	for i := range resp.Results {
		for _, o := range resp.Results[i].Obligations {
			for _, name := range o.Names {
				if err := checkName([]plugin.File{in.Object}, 0, name); err != nil {
					return nil, err
				}
			}
		}
	}
	return &pb.MatchResponse{Results: wire.Pack(resp.Results, matchResultTo)}, nil
}

func (s *server) Fixup(ctx context.Context, req *pb.FixupRequest) (*pb.FixupResponse, error) {
	var n wire.Narrow
	in := &FixupRequest{Target: targetFrom(req.GetTarget(), &n), Object: fileFrom(req.GetObject()), Sections: req.GetSections()}
	if err := n.Err(); err != nil {
		return nil, err
	}
	resp, err := wire.Answer(s.impl.Fixup(ctx, in))
	if err != nil {
		return nil, err
	}
	for _, e := range resp.Edits {
		if e.Reloc == nil {
			continue
		}
		if err := checkName([]plugin.File{in.Object}, 0, e.Reloc.Symbol); err != nil {
			return nil, err
		}
	}
	return fixupTo(resp), nil
}

func (s *server) Redirect(ctx context.Context, req *pb.RedirectRequest) (*pb.RedirectResponse, error) {
	var n wire.Narrow
	in := &RedirectRequest{Target: targetFrom(req.GetTarget(), &n), Object: fileFrom(req.GetObject()), Functions: req.GetFunctions()}
	if err := n.Err(); err != nil {
		return nil, err
	}
	resp, err := wire.Answer(s.impl.Redirect(ctx, in))
	if err != nil {
		return nil, err
	}
	return &pb.RedirectResponse{Redirects: wire.Pack(resp.Redirects, redirectTo)}, nil
}

// checkName refuses a symbol's name that cannot cross: protobuf's strings are UTF-8. Only damaged objects have one.
func checkName(objects []plugin.File, i int, name string) error {
	if utf8.ValidString(name) {
		return nil
	}
	where := ""
	if i < len(objects) {
		where = objects[i].Path
	}
	return plugin.Errorf(plugin.FaultToolchain, where, "the object is damaged: the symbol name %q is not UTF-8", name)
}

func (s *server) FactExpressions(ctx context.Context, _ *pb.FactExpressionsRequest) (*pb.FactExpressionsResponse, error) {
	facts, needsFacts := s.impl.(FactSource)
	config, readsSome := s.impl.(ConfigSource)
	if !needsFacts && !readsSome {
		return nil, status.Error(codes.Unimplemented, "the plugin needs no facts")
	}
	resp := &pb.FactExpressionsResponse{}
	if needsFacts {
		list, err := facts.FactExpressions(ctx)
		if err != nil {
			return nil, err
		}
		resp.Expressions = wire.Pack(list, factTo)
	}
	if readsSome {
		resp.ConfigSymbols, resp.ConfigTold = config.ConfigSymbols(), true
	}
	return resp, nil
}

func factTo(f *FactExpression, to *pb.FactExpression) {
	to.Name, to.Includes, to.Expression, to.If = f.Name, f.Includes, f.Expression, f.If
}
