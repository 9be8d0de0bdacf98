package persist

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/trust"
	"github.com/ksplice/ksplice/core/update"
)

// file writes a small update.
func file(t *testing.T, id string) string {
	t.Helper()
	b := []byte("content")
	u := update.Update{
		Manifest: update.Manifest{
			ID: id, Patch: update.Patch{File: "patch", SHA256: update.Digest(b)},
			Parts: []update.Part{{Target: "vmlinux", Name: "part", File: "part.ko", SHA256: update.Digest(b), Size: int64(len(b))}},
		},
		Files: map[string][]byte{"patch": b, "part.ko": b},
	}
	path := filepath.Join(t.TempDir(), "fix.ksplice")
	if err := u.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func entry(id string) Entry {
	return Entry{ID: id, Release: "6.1", Version: "#1", Added: time.Unix(1, 0).UTC(), Flags: []string{"--freeze"}}
}

func add(t *testing.T, s Store, id string, instead ...string) {
	t.Helper()
	if err := s.Add(entry(id), file(t, id), instead); err != nil {
		t.Fatal(err)
	}
}

func ids(t *testing.T, s Store) []string {
	t.Helper()
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, e := range list {
		out = append(out, e.ID)
		if _, err := update.ReadFile(s.File(e.ID)); err != nil {
			t.Error(err)
		}
	}
	files, _ := filepath.Glob(filepath.Join(s.root, "updates", "*"))
	if len(files) != len(out) {
		t.Errorf("files %v of updates %v", files, out)
	}
	return out
}

func TestStore(t *testing.T) {
	s := At(filepath.Join(t.TempDir(), "lib"))
	if got := ids(t, s); len(got) != 0 {
		t.Fatalf("a machine without a store has %v", got)
	}
	if was, err := s.Remove("00000001"); was || err != nil {
		t.Fatalf("Remove of what is not there = %v, %v", was, err)
	}
	for _, id := range []string{"00000001", "00000002", "00000003", "00000002"} {
		add(t, s, id)
	}
	if diff := cmp.Diff([]string{"00000001", "00000003", "00000002"}, ids(t, s)); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	list, _ := s.List()
	if diff := cmp.Diff(entry("00000001"), list[0]); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	add(t, s, "00000004", "00000001", "00000002")
	if diff := cmp.Diff([]string{"00000003", "00000004"}, ids(t, s)); diff != "" {
		t.Errorf("in the place of others (-want +got):\n%s", diff)
	}
	if was, err := s.Remove("00000003"); !was || err != nil {
		t.Fatalf("Remove = %v, %v", was, err)
	}
	if diff := cmp.Diff([]string{"00000004"}, ids(t, s)); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

func TestStoreRefuses(t *testing.T) {
	s := At(filepath.Join(t.TempDir(), "lib"))
	add(t, s, "00000001")
	t.Run("an exchanged file", func(t *testing.T) {
		if err := s.Add(entry("00000002"), file(t, "00000003"), nil); err == nil {
			t.Error("the file of another update was taken")
		}
	})
	t.Run("a damaged file", func(t *testing.T) {
		path := file(t, "00000002")
		if err := os.WriteFile(path, []byte("no update"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Add(entry("00000002"), path, nil); !errors.Is(err, update.ErrForeign) {
			t.Errorf("Add = %v", err)
		}
	})
	t.Run("an ID that is a path", func(t *testing.T) {
		for _, id := range []string{"", "..", "a/b"} {
			if err := s.Add(entry(id), file(t, "00000001"), nil); err == nil {
				t.Errorf("ID %q was taken", id)
			}
		}
	})
	if got := ids(t, s); !slices.Equal(got, []string{"00000001"}) {
		t.Errorf("refusals left %v", got)
	}
	t.Run("a store that others may write", func(t *testing.T) {
		if err := os.Chmod(s.root, 0o777); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(s.root, 0o700)
		var unsafe *UnsafeError
		if _, err := s.List(); !errors.As(err, &unsafe) {
			t.Errorf("List = %v", err)
		}
	})
	t.Run("a damaged list", func(t *testing.T) {
		if err := os.WriteFile(s.list(), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.List(); err == nil {
			t.Error("a damaged list was read")
		}
	})
}

func TestGuard(t *testing.T) {
	s := At(t.TempDir())
	begin := func(boot string) error { return s.Begin(boot) }
	var suspended *SuspendedError

	// A boot that lives, twice in the same boot, and the next one.
	for _, boot := range []string{"a", "b"} {
		for range 2 {
			if err := errors.Join(begin(boot), s.Applying(boot, "00000001")); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Settle(); err != nil {
			t.Fatal(err)
		}
	}
	// One that dies: neither the next nor the one behind it applies anything.
	if err := errors.Join(begin("c"), s.Applying("c", "00000002")); err != nil {
		t.Fatal(err)
	}
	for _, boot := range []string{"d", "e", "e"} {
		if err := begin(boot); !errors.As(err, &suspended) || suspended.Attempt.Applying != "00000002" || suspended.Attempt.Boot != "c" {
			t.Fatalf("boot %s behind one that died: %v", boot, err)
		}
	}
	// Until somebody says so.
	if err := errors.Join(s.Settle(), begin("f")); err != nil {
		t.Fatal(err)
	}
	// What a crash left of the file is no proof that the machine lived.
	if err := os.WriteFile(s.guard(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := begin("f"); !errors.As(err, &suspended) {
		t.Fatalf("a damaged guard: %v", err)
	}
}

func TestDisabled(t *testing.T) {
	none := filepath.Join(t.TempDir(), "disable")
	for cmdline, want := range map[string]bool{
		"":                              false,
		"quiet ro":                      false,
		"quiet ksplice.disable ro":      true,
		"ksplice.disable=1":             true,
		"ksplice.disable=y":             true,
		"ksplice.disable=on":            true,
		"ksplice.disable=0":             false,
		"ksplice.disable=n":             false,
		"ksplice.disable=off":           false,
		"xksplice.disable ksplice.able": false,
	} {
		if got := Disabled(cmdline, none) != ""; got != want {
			t.Errorf("Disabled(%q) = %v, want %v", cmdline, got, want)
		}
	}
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if Disabled("", none) == "" {
		t.Error("the file does not count")
	}
}

// TestSignatures: signatures beside an update's file go with it, and away with it.
func TestSignatures(t *testing.T) {
	const id = "00000001"
	s := At(t.TempDir())
	path := file(t, id)
	kept := s.File(id) + trust.DetachedSuffix
	signed := func(want string) {
		t.Helper()
		b, err := os.ReadFile(kept)
		if string(b) != want || (err != nil) != (want == "") {
			t.Errorf("signatures kept: %q, %v, want %q", b, err, want)
		}
	}
	sign := func() {
		t.Helper()
		if err := os.WriteFile(path+trust.DetachedSuffix, []byte("signed"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := s.Add(entry(id), path, nil); err != nil {
			t.Fatal(err)
		}
		signed("signed")
	}
	sign()
	if err := os.Remove(path + trust.DetachedSuffix); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(entry(id), path, nil); err != nil {
		t.Fatal(err)
	}
	signed("")
	sign()
	if there, err := s.Remove(id); err != nil || !there {
		t.Fatalf("Remove = %v, %v", there, err)
	}
	signed("")
}
