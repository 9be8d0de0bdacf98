package main

import (
	"fmt"
	"testing"

	"github.com/ksplice/ksplice/sdk/sdktest"
	"github.com/ksplice/ksplice/sdk/transform"
)

// TestConformance runs the suite that says whether a host can rely on the plugin.
func TestConformance(t *testing.T) {
	layout := func(members ...transform.Member) *transform.PlanRequest {
		return &transform.PlanRequest{Items: []transform.Item{{ID: item, Kind: transform.ItemLayout, Unit: "fs/char_dev.o",
			Name: "char_device_struct", Source: "fs/char_dev.c", Members: members}}}
	}
	lastMinor := transform.Member{Name: "last_minor", Type: "unsigned int", Size: 4, Kind: transform.MemberNumber}
	sdktest.Transform(t, Plugin{}, sdktest.TransformFixtures{
		Requests:  []*transform.PlanRequest{layout(lastMinor), layout(lastMinor, transform.Member{Name: "more"}), layout()},
		Transfers: []sdktest.TransferFixture{{Request: transform.TransferRequest{Item: item}, Walk: regions, Check: check}},
	})
}

// regions stands for a kernel that has "1 mem", with 256 minors, and "5 /dev/console", with minor 1 only.
func regions(w *transform.Walk) ([]transform.Object, error) {
	if w.Global != "chrdevs" {
		return nil, fmt.Errorf("there is no %q", w.Global)
	}
	region := func(address, base, count uint64) transform.Object {
		return transform.Object{Address: address, Type: "struct char_device_struct", Values: []transform.Value{{Number: base}, {Number: count}}}
	}
	return []transform.Object{region(0xffff888000001000, 0, 256), region(0xffff888000001060, 1, 1)}, nil
}

func check(undo bool, resp *transform.TransferResponse) error {
	want := []uint64{255, 1}
	if undo {
		want = []uint64{0, 0}
	}
	for i, s := range resp.Sets {
		if s.Path != "last_minor" || s.Number != want[i] {
			return fmt.Errorf("region %d gets %s = %d, want last_minor = %d", i, s.Path, s.Number, want[i])
		}
	}
	if len(resp.Sets) != len(want) {
		return fmt.Errorf("%d members are set, want %d", len(resp.Sets), len(want))
	}
	return nil
}
