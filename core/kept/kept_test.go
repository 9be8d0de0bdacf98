package kept

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/update"
)

func TestManifest(t *testing.T) {
	s := At(t.TempDir())
	m := &update.Manifest{ID: "0123abcd", Description: "first", Parts: []update.Part{{Name: "ksplice_0123abcd_vmlinux", Data: []update.Datum{{Unit: "a.c", Name: "x", Size: 4}}}}}
	for _, d := range []string{"first", "second"} {
		m.Description = d
		if err := s.SaveManifest(m); err != nil {
			t.Fatal(err)
		}
		got, err := s.ReadManifest(m.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Error(diff)
		}
	}
	// One that was cut short, or is another's, is no manifest.
	for _, text := range []string{"", "{", `{"id":"ffffffff"}`} {
		if err := os.WriteFile(s.manifest(m.ID), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadManifest(m.ID); err == nil {
			t.Errorf("%q is taken for a manifest", text)
		}
	}
	for range 2 {
		if err := s.Forget(m.ID); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.ReadManifest(m.ID); err == nil {
		t.Error("a manifest that was forgotten can be read")
	}
	for _, id := range []string{"", ".", "..", "../x", "a/b"} {
		m := &update.Manifest{ID: id}
		if s.SaveManifest(m) == nil || s.Forget(id) == nil {
			t.Errorf("%q is taken for an ID", id)
		}
		if _, err := s.ReadManifest(id); err == nil {
			t.Errorf("%q is taken for an ID", id)
		}
	}
}
