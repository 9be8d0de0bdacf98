package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ksplice/ksplice/plugins/transform-shadow/internal/shadow"
	"github.com/ksplice/ksplice/sdk/sdktest"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
	"github.com/ksplice/ksplice/sdk/transform"
)

func TestConformance(t *testing.T) {
	_, err := shadow.Program()
	need.OK(t, err)
	dir := t.TempDir()
	source := "#include <linux/slab.h>\n\nstruct thing {\n\tint a;\n\tspinlock_t lock;\n\tint b;\n};\n\nvoid drop(struct thing *t)\n{\n\tspin_lock(&t->lock);\n\tkfree(t);\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "thing.c"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	items := []transform.Item{
		{ID: "layout:thing.c:thing", Kind: transform.ItemLayout, Unit: "thing.o", Name: "thing", Source: "thing.c", Detail: "size 8 becomes 12",
			Members: []transform.Member{{Name: "lock", Type: "spinlock_t", Size: 4}}},
		{ID: "layout:thing.c:linked", Kind: transform.ItemLayout, Unit: "thing.o", Name: "linked", Source: "thing.c", Detail: "size 8 becomes 24",
			Members: []transform.Member{{Name: "list", Type: "struct list_head", Size: 16}}},
		{ID: "layout:struct qfq_class", Kind: transform.ItemLayout, Unit: "net/sched/sch_qfq.o", Name: "qfq_class", Detail: "size 16 becomes 8"},
	}
	sdktest.Transform(t, &shadow.Plugin{}, sdktest.TransformFixtures{Requests: []*transform.PlanRequest{{SourceDir: dir, Items: items}}})
}
