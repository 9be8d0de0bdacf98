package backend

import (
	"context"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Mock is a Backend for tests: it answers with what Real says, or without Real supports no kernel, and fails where it is told to.
type Mock struct {
	// Real gives the answers; nil: no kernel is supported.
	Real Backend
	// Failures says what goes wrong, by call ("Info", "Probe", "Prepare", ...).
	Failures map[string]plugin.Failure
}

var _ Backend = (*Mock)(nil)

// ask asks the real plugin, and breaks its answer where the mock was told to lie.
func ask[Resp any](ctx context.Context, m *Mock, call string, real func(Backend) (*Resp, error), lie func(*Resp)) (*Resp, error) {
	f := m.Failures[call]
	if err := f.Fail(ctx, call); err != nil || f == plugin.FailNil {
		return nil, err
	}
	if m.Real == nil && f != plugin.FailLie {
		return nil, plugin.NotImplemented(call)
	}
	resp := new(Resp)
	if m.Real != nil {
		var err error
		if resp, err = real(m.Real); err != nil {
			return nil, err
		}
	}
	if f == plugin.FailLie {
		lie(resp)
	}
	return resp, nil
}

// Info implements plugin.Base.
func (m *Mock) Info(ctx context.Context) (*plugin.Info, error) {
	f := m.Failures["Info"]
	if err := f.Fail(ctx, "Info"); err != nil || f == plugin.FailNil {
		return nil, err
	}
	if m.Real != nil {
		return m.Real.Info(ctx)
	}
	info := &plugin.Info{Kind: plugin.KindBackend, Name: "mock", Version: "0", Description: "A mock."}
	if f == plugin.FailLie {
		info.Name = ""
	}
	return info, nil
}

// Configure implements plugin.Base.
func (m *Mock) Configure(ctx context.Context, config map[string]string) error {
	f := m.Failures["Configure"]
	if err := f.Fail(ctx, "Configure"); err != nil || f == plugin.FailLie {
		return err
	}
	if m.Real != nil {
		return m.Real.Configure(ctx, config)
	}
	return plugin.CheckConfig(config, nil)
}

// Health implements plugin.Base.
func (m *Mock) Health(ctx context.Context) error {
	if err := m.Failures["Health"].Fail(ctx, "Health"); err != nil || m.Real == nil {
		return err
	}
	return m.Real.Health(ctx)
}

// Probe implements Backend. Without Real no kernel is supported; its lie is to support any, without a name for it.
func (m *Mock) Probe(ctx context.Context, req *ProbeRequest) (*ProbeResponse, error) {
	if f := m.Failures["Probe"]; m.Real == nil && f == plugin.FailNone {
		return &ProbeResponse{Reason: "the mock builds no kernel"}, nil
	}
	return ask(ctx, m, "Probe", func(b Backend) (*ProbeResponse, error) { return b.Probe(ctx, req) },
		func(r *ProbeResponse) { *r = ProbeResponse{Supported: true} })
}

// Prepare implements Backend. Its lie is a tree of another kernel.
func (m *Mock) Prepare(ctx context.Context, req *PrepareRequest, progress plugin.ProgressFunc) (*Tree, error) {
	return ask(ctx, m, "Prepare", func(b Backend) (*Tree, error) { return b.Prepare(ctx, req, progress) },
		func(t *Tree) { t.Release = "another than " + req.Release })
}

// Units implements Backend. Its lie is a unit outside the tree.
func (m *Mock) Units(ctx context.Context, req *UnitsRequest) (*UnitsResponse, error) {
	return ask(ctx, m, "Units", func(b Backend) (*UnitsResponse, error) { return b.Units(ctx, req) },
		func(r *UnitsResponse) { r.Units = append(r.Units, Unit{Source: "../a.c", Object: "../a.o"}) })
}

// Compile implements Backend. Its lie is one result too many.
func (m *Mock) Compile(ctx context.Context, req *CompileRequest, progress plugin.ProgressFunc) (*CompileResponse, error) {
	return ask(ctx, m, "Compile", func(b Backend) (*CompileResponse, error) { return b.Compile(ctx, req, progress) },
		func(r *CompileResponse) { r.Results = append(r.Results, CompileResult{}) })
}

// Link implements Backend. Its lie is a module somewhere.
func (m *Mock) Link(ctx context.Context, req *LinkRequest, progress plugin.ProgressFunc) (*LinkResponse, error) {
	return ask(ctx, m, "Link", func(b Backend) (*LinkResponse, error) { return b.Link(ctx, req, progress) },
		func(r *LinkResponse) { r.Module = "somewhere.ko" })
}

// Facts implements Backend. Its lie is a fact that nobody asked for.
func (m *Mock) Facts(ctx context.Context, req *FactsRequest) (*FactsResponse, error) {
	return ask(ctx, m, "Facts", func(b Backend) (*FactsResponse, error) { return b.Facts(ctx, req) },
		func(r *FactsResponse) { r.Facts = map[string]int64{"nobody.asked": 1} })
}
