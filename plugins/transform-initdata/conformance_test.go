package main

import (
	"testing"

	"github.com/ksplice/ksplice/plugins/transform-initdata/internal/initdata"
	"github.com/ksplice/ksplice/sdk/sdktest"
	"github.com/ksplice/ksplice/sdk/transform"
)

func TestConformance(t *testing.T) {
	items := []transform.Item{
		{ID: "initialiser:net/sched/sch_plug.o:plug_qdisc_ops", Kind: transform.ItemInitialiser, Unit: "net/sched/sch_plug.o", Name: "plug_qdisc_ops",
			Detail: "reference at +0x30", Pre: make([]byte, 168), Post: make([]byte, 168),
			Fields: []transform.Field{{Name: ".peek", Type: "function *", Within: "struct Qdisc_ops", Offset: 0x30, Size: 8, PreAddress: "qdisc_peek_head", PostAddress: "qdisc_peek_dequeued"}}},
		{ID: "layout:struct qfq_class", Kind: transform.ItemLayout, Unit: "net/sched/sch_qfq.o", Name: "qfq_class", Detail: "size 8 becomes 16"},
	}
	sdktest.Transform(t, initdata.Plugin{}, sdktest.TransformFixtures{Requests: []*transform.PlanRequest{{Items: items}}})
}
