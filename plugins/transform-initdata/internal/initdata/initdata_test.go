package initdata

import (
	"slices"
	"testing"

	"github.com/ksplice/ksplice/sdk/transform"
)

func item(id string, fields ...transform.Field) transform.Item {
	return transform.Item{ID: id, Kind: transform.ItemInitialiser, Unit: "net/x.o", Name: id, Fields: fields}
}

func TestPlan(t *testing.T) {
	items := []transform.Item{
		item("number", transform.Field{Name: ".maxattr", Type: "unsigned int", Within: "struct genl_family", Size: 4}),
		item("address", transform.Field{Name: ".peek", Type: "function *", Within: "struct Qdisc_ops", Offset: 48, Size: 8, PreAddress: "a", PostAddress: "b"}),
		item("link", transform.Field{Name: ".list.next", Type: "struct list_head *", Within: "struct list_head", Size: 8}),
		item("lock", transform.Field{Name: ".val", Type: "int", Within: "struct x", Size: 4}, transform.Field{Name: ".lock", Type: "int", Within: "struct qspinlock", Size: 4}),
		item("unknown"),
		{ID: "layout", Kind: transform.ItemLayout, Fields: []transform.Field{{Name: ".a", Type: "int", Size: 4}}},
	}
	resp, err := Plugin{}.Plan(t.Context(), &transform.PlanRequest{Items: items})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"number", "address"}
	if !slices.Equal(resp.Claimed, want) || !slices.Equal(resp.Rewrites, want) {
		t.Errorf("it claims %q and rewrites %q, want %q", resp.Claimed, resp.Rewrites, want)
	}
	if got := resp.Because["number"]; got != "number.maxattr set where the running kernel still has the old value" {
		t.Errorf("because %q", got)
	}
}
