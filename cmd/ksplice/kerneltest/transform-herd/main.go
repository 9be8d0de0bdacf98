// Command transform-herd is the transform plugin of BenchmarkTransfer: every object of testdata/herd gets twice its number.
package main

import (
	"context"

	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

func main() { transform.Serve(herd{}) }

type herd struct{ transform.Unimplemented }

// Info implements plugin.Base.
func (herd) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Name: "herd", Version: "1", Description: "Fills in what a benchmark's objects gain."}, nil
}

// Health implements plugin.Base.
func (herd) Health(context.Context) error { return nil }

// Plan implements transform.Transform.
func (herd) Plan(_ context.Context, req *transform.PlanRequest) (*transform.PlanResponse, error) {
	resp := &transform.PlanResponse{Because: map[string]string{}, Transfers: map[string]transform.TransferPlan{}}
	for _, i := range req.Items {
		if i.Kind == transform.ItemLayout && i.Name == "sheep" {
			resp.Claimed = append(resp.Claimed, i.ID)
			resp.Because[i.ID] = "every one gets twice its number"
			resp.Transfers[i.ID] = transform.TransferPlan{Globals: []string{"herd"}}
		}
	}
	return resp, nil
}

// Transfer implements transform.Transform.
func (herd) Transfer(ctx context.Context, req *transform.TransferRequest, s transform.State) (*transform.TransferResponse, error) {
	all, err := s.Walk(ctx, &transform.Walk{Global: "herd", Steps: []transform.Step{transform.List("", "struct sheep", "herd")}, Read: []string{"number"}})
	if err != nil {
		return nil, err
	}
	resp := &transform.TransferResponse{Sets: make([]transform.Set, len(all))}
	for i, o := range all {
		resp.Sets[i] = transform.Set{Object: o, Path: "twice", Number: 2 * o.Values[0].Number}
		if req.Undo {
			resp.Sets[i].Number = 0
		}
	}
	return resp, nil
}
