package kept

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/transfer"
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

// TestTransfers: what undo needs of state transfers is kept by transaction, and goes with the update.
func TestTransfers(t *testing.T) {
	s := At(t.TempDir())
	list := []transfer.Bound{{Transfer: update.Transfer{Item: "transfer:p:x", Plugin: "p", Data: []byte{0, 1}, Globals: []update.Global{{Name: "g", Type: "int"}},
		Before: update.Layouts{"int": {Kind: update.LayoutNumber, Size: 4, Signed: true}}}, Addresses: []uint64{0xffffffff81000000}, CPUs: []kernel.CPU{{Number: 1, Offset: 8}}}}
	for _, id := range []string{"0123abcd", "0123abcd:mod", "0123abce"} {
		if err := s.SaveTransfers(id, list); err != nil {
			t.Fatal(err)
		}
		got, err := s.ReadTransfers(id)
		if d := cmp.Diff(list, got); err != nil || d != "" {
			t.Errorf("%s: %v (-want +got):\n%s", id, err, d)
		}
	}
	if err := s.Forget("0123abcd"); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]int{"0123abcd": 0, "0123abcd:mod": 0, "0123abce": 1} {
		if got, err := s.ReadTransfers(id); err != nil || len(got) != want {
			t.Errorf("%s: %d are kept, want %d: %v", id, len(got), want, err)
		}
	}
	if err := s.SaveTransfers("0123abce", nil); err != nil {
		t.Fatal(err)
	}
	if got, err := s.ReadTransfers("0123abce"); err != nil || got != nil {
		t.Errorf("none: %v, %v", got, err)
	}
	if err := os.WriteFile(s.transfers("0123abcf"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadTransfers("0123abcf"); err == nil || !strings.Contains(err.Error(), "0123abcf") {
		t.Errorf("a broken file: %v", err)
	}
}
