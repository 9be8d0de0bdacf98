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

// sealed is a small update.
func sealed(t *testing.T, id string) *update.Sealed {
	t.Helper()
	b := []byte("content")
	u := update.Update{
		Manifest: update.Manifest{
			ID: id, Patch: update.Patch{File: "patch", SHA256: update.Digest(b)},
			Parts: []update.Part{{Target: "vmlinux", Name: "part", File: "part.ko", SHA256: update.Digest(b), Size: int64(len(b))}},
		},
		Files: map[string][]byte{"patch": b, "part.ko": b},
	}
	s, err := u.Seal()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func entry(id string) Entry {
	return Entry{ID: id, Release: "6.1", Version: "#1", Added: time.Unix(1, 0).UTC(), Flags: []string{"--freeze"}}
}

func add(t *testing.T, s Store, id string, instead ...string) {
	t.Helper()
	if err := s.Add(entry(id), sealed(t, id), nil, instead); err != nil {
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
	if diff := cmp.Diff([]string{"00000001", "00000002", "00000003"}, ids(t, s)); diff != "" {
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
	t.Run("one whose base is not persistent, or comes behind it", func(t *testing.T) {
		var base *BaseError
		for _, on := range []string{"00000009", "00000002"} {
			e := entry("00000002")
			e.Base = []string{on}
			if err := s.Add(e, sealed(t, e.ID), nil, nil); !errors.As(err, &base) || base.Base != on {
				t.Errorf("Add on %s = %v", on, err)
			}
		}
		e := entry("00000002")
		e.Base = []string{"00000001"}
		if err := s.Add(e, sealed(t, e.ID), nil, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Remove("00000001"); !errors.As(err, &base) || base.ID != "00000002" {
			t.Errorf("Remove of what another one stands on = %v", err)
		}
		if was, err := s.Remove("00000002"); !was || err != nil {
			t.Errorf("Remove = %v, %v", was, err)
		}
	})
	t.Run("an ID that is a path, or none", func(t *testing.T) {
		for _, id := range []string{"", "..", "a/b", "0000000g", "000000001"} {
			if err := s.Add(entry(id), sealed(t, "00000001"), nil, nil); err == nil {
				t.Errorf("ID %q was taken", id)
			}
		}
	})
	if got := ids(t, s); !slices.Equal(got, []string{"00000001"}) {
		t.Errorf("refusals left %v", got)
	}
	t.Run("a store that others may write", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("SKIPPED: only root's store is asked whose it is")
		}
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
		var damaged *DamagedError
		if _, err := s.List(); !errors.As(err, &damaged) || damaged.Path != s.list() {
			t.Errorf("List = %v", err)
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
	if a, err := s.Died("b"); a != nil || err != nil {
		t.Fatalf("Died of a boot that lives = %v, %v", a, err)
	}
	// Somebody else settles what he has seen, and nothing later.
	if err := s.Applying("b", "00000001"); err != nil {
		t.Fatal(err)
	}
	seen, err := s.Guarded()
	if err != nil {
		t.Fatal(err)
	}
	later := s.Applying("b", "00000002")
	if err := errors.Join(later, s.SettleIf(seen)); err != nil {
		t.Fatal(err)
	}
	if a, err := s.Guarded(); err != nil || a == nil || a.Applying != "00000002" {
		t.Fatalf("a later attempt was settled with an earlier one: %v, %v", a, err)
	} else if err := s.SettleIf(a); err != nil {
		t.Fatal(err)
	}
	if a, err := s.Guarded(); a != nil || err != nil {
		t.Fatalf("it was not settled: %v, %v", a, err)
	}
	// One that dies: a boot that applies nothing sees it as well, neither the next nor the one behind it applies anything.
	if err := errors.Join(begin("c"), s.Applying("c", "00000002")); err != nil {
		t.Fatal(err)
	}
	if a, err := s.Died("d"); a == nil || err != nil {
		t.Fatalf("Died behind a boot that died = %v, %v", a, err)
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
		"ksplice.disable=OFF":           false,
		"ksplice.disable=false":         false,
		"ksplice.disable=what":          true,
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

func TestOf(t *testing.T) {
	other := entry("00000002")
	other.Version = "#2"
	list := []Entry{entry("00000001"), other, entry("00000003")}
	if diff := cmp.Diff([]Entry{list[0], list[2]}, Of(list, "6.1", "#1")); diff != "" || list[1].ID != "00000002" {
		t.Errorf("of a kernel (-want +got):\n%s", diff)
	}
}

// TestSignatures: signatures beside an update's file go with it, and away with it.
func TestSignatures(t *testing.T) {
	const id = "00000001"
	s := At(t.TempDir())
	u := sealed(t, id)
	secret, _, err := trust.Generate("")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "acme.key")
	if err := os.WriteFile(file, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := trust.ReadSecret(file, func() (string, error) { return "", nil })
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign(u.Bytes(), "a comment")
	if err != nil {
		t.Fatal(err)
	}
	signed := func(want string) {
		t.Helper()
		b, err := os.ReadFile(s.File(id) + trust.DetachedSuffix)
		if string(b) != want || (err != nil) != (want == "") {
			t.Errorf("signatures kept: %q, %v, want %q", b, err, want)
		}
	}
	add := func(beside ...trust.Signature) {
		t.Helper()
		if err := s.Add(entry(id), u, beside, nil); err != nil {
			t.Fatal(err)
		}
	}
	text := string(trust.Join([]trust.Signature{signature}))
	add(signature)
	signed(text)
	add()
	signed("")
	add(signature)
	signed(text)
	if there, err := s.Remove(id); err != nil || !there {
		t.Fatalf("Remove = %v, %v", there, err)
	}
	signed("")
}
