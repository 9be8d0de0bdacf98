package apply

import (
	"errors"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/update"
)

// TestCarry says what of a replaced update's own variables is taken over.
func TestCarry(t *testing.T) {
	plain := update.Datum{Unit: "a.c", Function: "f", Name: "count", Symbol: "count.1", Section: ".bss", Size: 4, Shape: "int4", Plain: true}
	with := func(f func(*update.Datum)) update.Datum {
		d := plain
		f(&d)
		return d
	}
	part := func(id, target string, data ...update.Datum) *update.Manifest {
		return &update.Manifest{ID: id, Parts: []update.Part{{Target: target, Name: "ksplice_" + id + "_" + target, Data: data}}}
	}
	for _, c := range []struct {
		name     string
		old, new []update.Datum
		target   string
		carried  int
		refused  string
	}{
		{"the same", []update.Datum{plain}, []update.Datum{with(func(d *update.Datum) { d.Symbol, d.Section, d.Offset = "count.7", ".data", 64 })}, "vmlinux", 1, ""},
		{"nothing goes on", []update.Datum{plain}, nil, "vmlinux", 0, ""},
		{"nothing was", nil, []update.Datum{plain}, "vmlinux", 0, ""},
		{"another function's", []update.Datum{plain}, []update.Datum{with(func(d *update.Datum) { d.Function = "g" })}, "vmlinux", 0, ""},
		{"another module's", []update.Datum{plain}, []update.Datum{plain}, "ext4", 0, ""},
		{"two of a name", []update.Datum{plain, plain}, []update.Datum{plain}, "vmlinux", 0, "there are 2 of that name"},
		{"two of a name in the new one", []update.Datum{plain}, []update.Datum{plain, plain}, "vmlinux", 0, "2 in the new one"},
		{"place unknown", []update.Datum{plain}, []update.Datum{with(func(d *update.Datum) { d.Section = "" })}, "vmlinux", 0, "where it lies"},
		{"per-cpu", []update.Datum{with(func(d *update.Datum) { d.PerCPU = true })}, []update.Datum{plain}, "vmlinux", 0, "each CPU"},
		{"another type", []update.Datum{plain}, []update.Datum{with(func(d *update.Datum) { d.Shape = "int2 int2" })}, "vmlinux", 0, "another type"},
		{"another size", []update.Datum{plain}, []update.Datum{with(func(d *update.Datum) { d.Size = 8 })}, "vmlinux", 0, "another type"},
		{"type unknown", []update.Datum{with(func(d *update.Datum) { d.Shape = "" })}, []update.Datum{with(func(d *update.Datum) { d.Shape = "" })}, "vmlinux", 0, "another type"},
		{"a pointer", []update.Datum{with(func(d *update.Datum) { d.Plain = false })}, []update.Datum{plain}, "vmlinux", 0, "more than numbers"},
		{"held elsewhere", []update.Datum{plain}, []update.Datum{with(func(d *update.Datum) { d.Escapes = true })}, "vmlinux", 0, "held elsewhere"},
		{"renewable, held elsewhere", []update.Datum{with(func(d *update.Datum) { d.Renewable, d.Escapes = true, true })}, []update.Datum{with(func(d *update.Datum) { d.Renewable, d.Escapes = true, true })}, "vmlinux", 1, ""},
		{"renewable, two", []update.Datum{with(func(d *update.Datum) { d.Renewable = true })}, []update.Datum{with(func(d *update.Datum) { d.Renewable = true }), with(func(d *update.Datum) { d.Renewable = true })}, "vmlinux", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := part("00000001", "vmlinux", c.old...)
			going := []engine.Applied{{ID: "00000001", Parts: []string{"ksplice_00000001_vmlinux"}}}
			got, err := carry(part("00000002", c.target, c.new...), going, func(string) (*update.Manifest, error) { return old, nil })
			if (err != nil) != (c.refused != "") || err != nil && !strings.Contains(err.Error(), c.refused) {
				t.Errorf("the error is %v, want %q", err, c.refused)
			}
			if len(got) != c.carried {
				t.Errorf("%d are taken over, want %d", len(got), c.carried)
			}
		})
	}
	_, err := carry(part("00000002", "vmlinux"), []engine.Applied{{ID: "00000001"}}, func(string) (*update.Manifest, error) { return nil, errors.New("gone") })
	if err == nil || !strings.Contains(err.Error(), "undo it first") {
		t.Errorf("without the old manifest: %v", err)
	}
}
