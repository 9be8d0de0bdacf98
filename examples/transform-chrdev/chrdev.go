package main

import (
	"context"
	"fmt"

	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

// item is what `ksplice create --report` calls the change.
const item = "layout:fs/char_dev.c:char_device_struct"

// Plugin sets last_minor in every region that was registered before the update.
type Plugin struct{ transform.Unimplemented }

// Info implements plugin.Base.
func (Plugin) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Name: "chrdev", Version: "1.0.0", Description: "Fills in char_device_struct.last_minor."}, nil
}

// Health implements plugin.Base.
func (Plugin) Health(context.Context) error { return nil }

// Plan is asked when the update is made. The new member lies where the structure had a gap, so that regions that exist have room for it.
func (Plugin) Plan(_ context.Context, req *transform.PlanRequest) (*transform.PlanResponse, error) {
	resp := &transform.PlanResponse{}
	for _, i := range req.Items {
		if i.ID != item {
			continue
		}
		if len(i.Members) != 1 || i.Members[0].Name != "last_minor" {
			resp.Declined = map[string]string{i.ID: "only last_minor can be filled in"}
			continue
		}
		resp.Claimed = append(resp.Claimed, i.ID)
		resp.Because = map[string]string{i.ID: "every region that exists gets its last minor number"}
		resp.Transfers = map[string]transform.TransferPlan{i.ID: {Globals: []string{"chrdevs"}, Types: []string{"struct char_device_struct"}}}
	}
	return resp, nil
}

// Transfer is asked when the update is applied, and when it is undone: for each region reachable from chrdevs, set last_minor.
func (Plugin) Transfer(ctx context.Context, req *transform.TransferRequest, kernel transform.State) (*transform.TransferResponse, error) {
	regions, err := kernel.Walk(ctx, &transform.Walk{
		Global: "chrdevs", // a hash table: an array of pointers to chains
		Steps:  []transform.Step{transform.Each("", ""), transform.Chain("", "", "next")},
		Read:   []string{"baseminor", "minorct"},
	})
	if err != nil {
		return nil, err
	}
	resp := &transform.TransferResponse{Note: fmt.Sprintf("%d regions", len(regions))}
	for _, r := range regions {
		last := r.Values[0].Number + r.Values[1].Number - 1
		if req.Undo {
			last = 0 // the gap, as it was
		}
		resp.Sets = append(resp.Sets, transform.Set{Object: r, Path: "last_minor", Number: last})
	}
	return resp, nil
}
