package wire

import (
	"context"
	"strings"

	"google.golang.org/grpc"

	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

// servicePrefix begins the full method names of the protocol's own services, drainMethod is the one call that guards
// itself: it waits for the others.
const (
	servicePrefix = "/ksplice.plugin.v1."
	drainMethod   = servicePrefix + "Base/Drain"
)

// ours says that a call goes to a method of the plugin's author.
func ours(fullMethod string) bool {
	return strings.HasPrefix(fullMethod, servicePrefix) && fullMethod != drainMethod
}

// short returns the last word of a full method name.
func short(fullMethod string) string { return fullMethod[strings.LastIndexByte(fullMethod, '/')+1:] }

// baseServer serves plugin.Base.
type baseServer struct {
	pb.UnimplementedBaseServer
	kind  plugin.Kind
	impl  plugin.Base
	calls *calls
}

func (s *baseServer) GetInfo(ctx context.Context, _ *pb.GetInfoRequest) (*pb.GetInfoResponse, error) {
	info, err := completeInfo(ctx, s.kind, s.impl)
	if err != nil {
		return nil, err
	}
	return &pb.GetInfoResponse{Info: infoTo(info)}, nil
}

func (s *baseServer) Configure(ctx context.Context, req *pb.ConfigureRequest) (*pb.ConfigureResponse, error) {
	config := req.GetConfig()
	if config == nil {
		config = map[string]string{}
	}
	return &pb.ConfigureResponse{}, s.impl.Configure(ctx, config)
}

func (s *baseServer) CheckHealth(ctx context.Context, _ *pb.CheckHealthRequest) (*pb.CheckHealthResponse, error) {
	return &pb.CheckHealthResponse{}, s.impl.Health(ctx)
}

func (s *baseServer) Drain(ctx context.Context, req *pb.DrainRequest) (*pb.DrainResponse, error) {
	return &pb.DrainResponse{}, s.calls.wait(ctx, drained(req.GetCall()))
}

// completeInfo returns the plugin's Info with what the SDK knows better than its author: the kind and the protocols.
func completeInfo(ctx context.Context, kind plugin.Kind, impl plugin.Base) (*plugin.Info, error) {
	info, err := impl.Info(ctx)
	if err != nil {
		return nil, err
	}
	if info == nil {
		return nil, plugin.Errorf(plugin.FaultInternal, "", "the plugin's Info returned nothing")
	}
	out := *info
	out.Kind = kind
	if len(out.Protocols) == 0 {
		out.Protocols = plugin.Protocols()
	}
	return &out, nil
}

// BaseClient implements plugin.Base over gRPC.
type BaseClient struct {
	Label  string // names the plugin in errors
	client pb.BaseClient
}

// NewBaseClient returns the client of the base service on conn.
func NewBaseClient(conn grpc.ClientConnInterface, label string) BaseClient {
	return BaseClient{Label: label, client: pb.NewBaseClient(conn)}
}

// Info implements plugin.Base.
func (c BaseClient) Info(ctx context.Context) (*plugin.Info, error) {
	resp, err := c.client.GetInfo(ctx, &pb.GetInfoRequest{})
	if err != nil {
		return nil, FromStatus("Info", err)
	}
	info, err := infoFrom(resp.GetInfo())
	if err != nil {
		return nil, Nonsense(c.Label, "Info", err)
	}
	return info, nil
}

// Configure implements plugin.Base.
func (c BaseClient) Configure(ctx context.Context, config map[string]string) error {
	_, err := c.client.Configure(ctx, &pb.ConfigureRequest{Config: config})
	return FromStatus("Configure", err)
}

// Health implements plugin.Base.
func (c BaseClient) Health(ctx context.Context) error {
	_, err := c.client.CheckHealth(ctx, &pb.CheckHealthRequest{})
	return FromStatus("Health", err)
}

// Drain waits until no call with that number runs any more. Calls have the number of their context's outgoing metadata (plugin.CallKey).
func (c BaseClient) Drain(ctx context.Context, call string) error {
	_, err := c.client.Drain(ctx, &pb.DrainRequest{Call: call})
	return FromStatus("Drain", err)
}
