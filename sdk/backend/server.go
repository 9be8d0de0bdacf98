package backend

import (
	"context"

	"google.golang.org/grpc"

	"github.com/ksplice/ksplice/sdk/internal/wire"
	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// Serve is the main function of a backend plugin. It answers `BINARY describe`, else serves the host that started the
// process and returns when the host is done. The plugin must write nothing to stdout before it calls Serve; what it
// prints in a call, and what it logs through hclog's default logger, arrives in the host's log. Commands that the
// plugin starts stay in its process group, or end with the context of the call: both die with the host.
func Serve(impl Backend) {
	wire.Serve(plugin.KindBackend, impl, func(s *grpc.Server) { Register(s, impl) })
}

// Register puts the backend service on s. Serve does it for plugins; tests call it.
func Register(s grpc.ServiceRegistrar, impl Backend) {
	pb.RegisterBackendServer(s, &server{impl: impl})
}

// Unimplemented has every method of Backend but Info. Embed it: a method that is added to the interface later then
// does not break the plugin.
type Unimplemented struct{ plugin.Unconfigured }

// Probe implements Backend.
func (Unimplemented) Probe(context.Context, *ProbeRequest) (*ProbeResponse, error) {
	return nil, plugin.NotImplemented("Probe")
}

// Prepare implements Backend.
func (Unimplemented) Prepare(context.Context, *PrepareRequest, plugin.ProgressFunc) (*Tree, error) {
	return nil, plugin.NotImplemented("Prepare")
}

// Units implements Backend.
func (Unimplemented) Units(context.Context, *UnitsRequest) (*UnitsResponse, error) {
	return nil, plugin.NotImplemented("Units")
}

// Compile implements Backend.
func (Unimplemented) Compile(context.Context, *CompileRequest, plugin.ProgressFunc) (*CompileResponse, error) {
	return nil, plugin.NotImplemented("Compile")
}

// Link implements Backend.
func (Unimplemented) Link(context.Context, *LinkRequest, plugin.ProgressFunc) (*LinkResponse, error) {
	return nil, plugin.NotImplemented("Link")
}

// Facts implements Backend.
func (Unimplemented) Facts(context.Context, *FactsRequest) (*FactsResponse, error) {
	return nil, plugin.NotImplemented("Facts")
}

// server serves a Backend over gRPC.
type server struct {
	pb.UnimplementedBackendServer
	impl Backend
}

func (s *server) Probe(ctx context.Context, req *pb.ProbeRequest) (*pb.ProbeResponse, error) {
	resp, err := wire.Answer(s.impl.Probe(ctx, &ProbeRequest{Release: req.GetRelease(), Version: req.GetVersion(), CacheDir: req.GetCacheDir()}))
	if err != nil {
		return nil, err
	}
	return &pb.ProbeResponse{Supported: resp.Supported, Banner: wire.Text(resp.Banner), Reason: wire.Text(resp.Reason)}, nil
}

func (s *server) Prepare(req *pb.PrepareRequest, stream grpc.ServerStreamingServer[pb.PrepareEvent]) error {
	report, end := wire.Progress(func(p *pb.Progress) error {
		return stream.Send(&pb.PrepareEvent{Event: &pb.PrepareEvent_Progress{Progress: p}})
	})
	defer end()
	tree, err := wire.Answer(s.impl.Prepare(stream.Context(), &PrepareRequest{
		Release: req.GetRelease(), Version: req.GetVersion(), CacheDir: req.GetCacheDir(), Jobs: int(req.GetJobs()),
	}, report))
	end()
	if err != nil {
		return err
	}
	return stream.Send(&pb.PrepareEvent{Event: &pb.PrepareEvent_Result{Result: treeTo(tree)}})
}

func (s *server) Units(ctx context.Context, req *pb.UnitsRequest) (*pb.UnitsResponse, error) {
	tree, err := treeFrom(req.GetTree())
	if err != nil {
		return nil, err
	}
	resp, err := wire.Answer(s.impl.Units(ctx, &UnitsRequest{
		Tree: tree, WorkDir: req.GetWorkDir(), Sources: req.GetSources(), All: req.GetAll(),
	}))
	if err != nil {
		return nil, err
	}
	return &pb.UnitsResponse{Units: wire.Pack(resp.Units, unitTo)}, nil
}

func (s *server) Compile(req *pb.CompileRequest, stream grpc.ServerStreamingServer[pb.CompileEvent]) error {
	tree, err := treeFrom(req.GetTree())
	if err != nil {
		return err
	}
	report, end := wire.Progress(func(p *pb.Progress) error {
		return stream.Send(&pb.CompileEvent{Event: &pb.CompileEvent_Progress{Progress: p}})
	})
	defer end()
	resp, err := wire.Answer(s.impl.Compile(stream.Context(), &CompileRequest{
		Tree: tree, WorkDir: req.GetWorkDir(), Units: wire.Unpack(req.GetUnits(), unitFrom),
		ExtraFlags: req.GetExtraFlags(), Jobs: int(req.GetJobs()), Preprocess: req.GetPreprocess(),
	}, report))
	end()
	if err != nil {
		return err
	}
	result := &pb.CompileResponse{Results: wire.Pack(resp.Results, resultTo)}
	return stream.Send(&pb.CompileEvent{Event: &pb.CompileEvent_Result{Result: result}})
}

func (s *server) Link(req *pb.LinkRequest, stream grpc.ServerStreamingServer[pb.LinkEvent]) error {
	tree, err := treeFrom(req.GetTree())
	if err != nil {
		return err
	}
	report, end := wire.Progress(func(p *pb.Progress) error {
		return stream.Send(&pb.LinkEvent{Event: &pb.LinkEvent_Progress{Progress: p}})
	})
	defer end()
	resp, err := wire.Answer(s.impl.Link(stream.Context(), &LinkRequest{
		Tree: tree, WorkDir: req.GetWorkDir(), Name: req.GetName(), Glue: req.GetGlue(), Objects: req.GetObjects(),
		Script: req.GetScript(), Provided: req.GetProvided(),
	}, report))
	end()
	if err != nil {
		return err
	}
	result := &pb.LinkResponse{Module: resp.Module, Diagnostics: wire.Pack(resp.Diagnostics, wire.DiagnosticTo)}
	return stream.Send(&pb.LinkEvent{Event: &pb.LinkEvent_Result{Result: result}})
}

func (s *server) Facts(ctx context.Context, req *pb.FactsRequest) (*pb.FactsResponse, error) {
	tree, err := treeFrom(req.GetTree())
	if err != nil {
		return nil, err
	}
	resp, err := wire.Answer(s.impl.Facts(ctx, &FactsRequest{
		Tree: tree, Expressions: wire.Unpack(req.GetExpressions(), factFrom), WorkDir: req.GetWorkDir(),
	}))
	if err != nil {
		return nil, err
	}
	return &pb.FactsResponse{Facts: resp.Facts}, nil
}
