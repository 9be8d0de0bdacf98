package arch

import (
	"context"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Mock is an Arch for tests: it answers with what Real says, or without Real with empty answers that keep the contract, and
// fails where it is told to.
type Mock struct {
	// Real gives the answers; nil: empty ones.
	Real Arch
	// Machine is the ELF machine number that Info names without Real.
	Machine uint16
	// Failures says what goes wrong, by call ("Info", "Describe", ...).
	Failures map[string]plugin.Failure
	// Called, where set, is told the name of every call before it is answered, also from several goroutines at once.
	Called func(call string)
}

var (
	_ Arch       = (*Mock)(nil)
	_ FactSource = (*Mock)(nil)
)

// before does what every call does first.
func (m *Mock) before(ctx context.Context, call string) (plugin.Failure, error) {
	if m.Called != nil {
		m.Called(call)
	}
	f := m.Failures[call]
	return f, f.Fail(ctx, call)
}

// answer asks the real plugin or makes an empty answer, and breaks it where the mock was told to lie.
func answer[Req, Resp any](ctx context.Context, m *Mock, call string, req *Req,
	real func(Arch, context.Context, *Req) (*Resp, error), empty func() *Resp, lie func(*Resp),
) (*Resp, error) {
	f, err := m.before(ctx, call)
	if err != nil || f == plugin.FailNil {
		return nil, err
	}
	resp := empty()
	if m.Real != nil {
		if resp, err = real(m.Real, ctx, req); err != nil {
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
	f, err := m.before(ctx, "Info")
	if err != nil || f == plugin.FailNil {
		return nil, err
	}
	if m.Real != nil {
		return m.Real.Info(ctx)
	}
	info := &plugin.Info{Kind: plugin.KindArch, Name: "mock", Version: "0", Description: "A mock.", Machines: []uint16{m.Machine}}
	if f == plugin.FailLie {
		info.Name = ""
	}
	return info, nil
}

// Configure implements plugin.Base.
func (m *Mock) Configure(ctx context.Context, config map[string]string) error {
	f, err := m.before(ctx, "Configure")
	switch {
	case err != nil || f == plugin.FailLie:
		return err
	case m.Real != nil:
		return m.Real.Configure(ctx, config)
	}
	return plugin.CheckConfig(config, nil)
}

// Health implements plugin.Base.
func (m *Mock) Health(ctx context.Context) error {
	if _, err := m.before(ctx, "Health"); err != nil || m.Real == nil {
		return err
	}
	return m.Real.Health(ctx)
}

// FactExpressions implements FactSource. Its lie is a fact without an expression.
func (m *Mock) FactExpressions(ctx context.Context) ([]FactExpression, error) {
	f, err := m.before(ctx, "FactExpressions")
	if err != nil {
		return nil, err
	}
	if f == plugin.FailLie {
		return []FactExpression{{Name: "nothing"}}, nil
	}
	if source, ok := m.Real.(FactSource); ok {
		return source.FactExpressions(ctx)
	}
	return nil, nil
}

// Describe implements Arch. Its lie is one description too many.
func (m *Mock) Describe(ctx context.Context, req *DescribeRequest) (*DescribeResponse, error) {
	return answer(ctx, m, "Describe", req, Arch.Describe,
		func() *DescribeResponse {
			return &DescribeResponse{Objects: make([]ObjectDescription, len(req.Objects))}
		},
		func(r *DescribeResponse) { r.Objects = append(r.Objects, ObjectDescription{}) })
}

// Match implements Arch. Without Real nothing matches; its lie is to match and mismatch at once.
func (m *Mock) Match(ctx context.Context, req *MatchRequest) (*MatchResponse, error) {
	return answer(ctx, m, "Match", req, Arch.Match,
		func() *MatchResponse {
			r := &MatchResponse{Results: make([]MatchResult, len(req.Candidates))}
			for i := range r.Results {
				r.Results[i].Mismatch = &Mismatch{Reason: "the mock matches nothing"}
			}
			return r
		},
		func(r *MatchResponse) {
			for i := range r.Results {
				r.Results[i].Matched, r.Results[i].Mismatch = true, &Mismatch{Reason: "a lie"}
			}
		})
}

// Fixup implements Arch. Its lie is an edit where none was asked for.
func (m *Mock) Fixup(ctx context.Context, req *FixupRequest) (*FixupResponse, error) {
	return answer(ctx, m, "Fixup", req, Arch.Fixup,
		func() *FixupResponse { return &FixupResponse{} },
		func(r *FixupResponse) { r.Edits = append(r.Edits, Edit{Section: 1 << 30, Bytes: []byte{0}}) })
}

// Redirect implements Arch. Without Real nothing can be redirected; its lie is a kind that does not exist.
func (m *Mock) Redirect(ctx context.Context, req *RedirectRequest) (*RedirectResponse, error) {
	return answer(ctx, m, "Redirect", req, Arch.Redirect,
		func() *RedirectResponse {
			r := &RedirectResponse{Redirects: make([]Redirect, len(req.Functions))}
			for i := range r.Redirects {
				r.Redirects[i] = Redirect{Kind: RedirectNone, Reason: "the mock redirects nothing"}
			}
			return r
		},
		func(r *RedirectResponse) {
			for i := range r.Redirects {
				r.Redirects[i].Kind = "sideways"
			}
		})
}
