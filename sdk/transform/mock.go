package transform

import (
	"context"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Mock is a Transform for tests: it answers with what Real says, or without Real claims nothing, and fails where it is told to.
type Mock struct {
	// Real gives the answers; nil: empty ones.
	Real Transform
	// Failures says what goes wrong, by call ("Info", "Plan", ...).
	Failures map[string]plugin.Failure
}

var _ Transform = (*Mock)(nil)

// Info implements plugin.Base.
func (m *Mock) Info(ctx context.Context) (*plugin.Info, error) {
	f := m.Failures["Info"]
	if err := f.Fail(ctx, "Info"); err != nil || f == plugin.FailNil {
		return nil, err
	}
	if m.Real != nil {
		return m.Real.Info(ctx)
	}
	info := &plugin.Info{Kind: plugin.KindTransform, Name: "mock", Version: "0", Description: "A mock."}
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

// Plan implements Transform. Its lie is to claim what nobody asked about.
func (m *Mock) Plan(ctx context.Context, req *PlanRequest) (*PlanResponse, error) {
	f := m.Failures["Plan"]
	if err := f.Fail(ctx, "Plan"); err != nil || f == plugin.FailNil {
		return nil, err
	}
	resp := &PlanResponse{}
	if m.Real != nil {
		var err error
		if resp, err = m.Real.Plan(ctx, req); err != nil {
			return nil, err
		}
	}
	if f == plugin.FailLie {
		resp.Claimed = append(resp.Claimed, "layout:struct nobody")
	}
	return resp, nil
}

// Transfer implements Transform. Its lie is to set what no walk has found.
func (m *Mock) Transfer(ctx context.Context, req *TransferRequest, s State) (*TransferResponse, error) {
	f := m.Failures["Transfer"]
	if err := f.Fail(ctx, "Transfer"); err != nil || f == plugin.FailNil {
		return nil, err
	}
	resp := &TransferResponse{}
	if m.Real != nil {
		var err error
		if resp, err = m.Real.Transfer(ctx, req, s); err != nil {
			return nil, err
		}
	}
	if f == plugin.FailLie {
		resp.Sets = append(resp.Sets, Set{Object: Object{Address: 0xffffffff80000000, Type: "struct nobody"}, Path: "x"})
	}
	return resp, nil
}
