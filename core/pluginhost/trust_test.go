package pluginhost

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWeakness(t *testing.T) {
	for _, tt := range []struct {
		name   string
		o      ownership
		sticky bool
		want   string
	}{
		{"root's own", ownership{mode: 0o755}, false, ""},
		{"another's", ownership{mode: 0o755, uid: 1000}, false, "belongs to user 1000"},
		{"everybody writes", ownership{mode: 0o757}, false, "is writable by everybody (mode 0757)"},
		{"a group writes", ownership{mode: 0o775, gid: 50}, false, "is writable by group 50 (mode 0775)"},
		{"root's group writes", ownership{mode: 0o775}, false, ""},
		{"an access control list's mask", ownership{mode: 0o775, acl: true}, false, "is writable by whom its access control list names (mode 0775)"},
		{"sticky", ownership{mode: 0o777 | os.ModeSticky}, true, ""},
		{"sticky counts for nothing", ownership{mode: 0o777 | os.ModeSticky}, false, "is writable by everybody (mode 0777)"},
		{"another's sticky", ownership{mode: 0o777 | os.ModeSticky, uid: 7}, true, "belongs to user 7"},
	} {
		if got := tt.o.weakness(tt.sticky); got != tt.want {
			t.Errorf("%s: weakness = %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestRootOnly changes one thing on the way from the root directory to a plugin.
func TestRootOnly(t *testing.T) {
	const path = "/opt/ksplice/plugins/arch-x86_64"
	shared := ownership{mode: 0o777 | os.ModeSticky | os.ModeDir}
	for at, tt := range map[string]struct {
		o    ownership
		want string
	}{
		"":                     {},
		path:                   {ownership{mode: 0o777}, path + " is writable by everybody"},
		"/opt/ksplice/plugins": {shared, "/opt/ksplice/plugins is writable by everybody"}, // others could put plugins there
		"/opt/ksplice":         {ownership{mode: 0o755, uid: 3}, "/opt/ksplice belongs to user 3"},
		"/opt":                 {shared, ""},
		"/":                    {ownership{mode: 0o770, gid: 9}, "/ is writable by group 9"},
	} {
		err := checkRootOnly(path, func(p string) (ownership, error) {
			if p == at {
				return tt.o, nil
			}
			return ownership{mode: 0o755}, nil
		})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", at, err, tt.want)
		}
	}
	gone := errors.New("gone")
	if err := checkRootOnly(path, func(string) (ownership, error) { return ownership{}, gone }); !errors.Is(err, gone) {
		t.Errorf("a plugin that is not there: %v", err)
	}
}

// copied installs a copy: other modes of a link would be those of every test's plugin.
func copied(t *testing.T, file string) (dir, path string) {
	t.Helper()
	dir = install(t)
	b, err := os.ReadFile(misbehave)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, file)
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, path
}

func hostOf(t *testing.T, c Config) *Host {
	t.Helper()
	h := New(c)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// TestUntrusted wants root to run no plugin that somebody else could change, also when that becomes so later.
func TestUntrusted(t *testing.T) {
	dir, path := copied(t, "arch-good")
	refused := func(h *Host, words string) {
		t.Helper()
		_, _, err := h.Arch(bounded(t), 62)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("Arch = %v, want %q", err, words)
		}
	}
	if os.Geteuid() != 0 { // the directory is not root's, which is one more reason
		h := hostOf(t, Config{Dirs: []string{dir}})
		h.asRoot = true
		refused(h, "belongs to user")
		return
	}
	for weak, modes := range map[string][2]os.FileMode{path: {0o757, 0o755}, dir: {0o777 | os.ModeSticky, 0o755}} {
		if err := os.Chmod(weak, modes[0]); err != nil {
			t.Fatal(err)
		}
		h := hostOf(t, Config{Dirs: []string{dir}})
		refused(h, weak+" is writable by everybody")
		if err := os.Chmod(weak, modes[1]); err != nil {
			t.Fatal(err)
		}
	}
	h := hostOf(t, Config{Dirs: []string{dir}})
	if _, _, err := h.Arch(bounded(t), 62); err != nil {
		t.Errorf("when only root can change it: %v", err)
	}
}

// TestPin pins a plugin's digest, the right one and another.
func TestPin(t *testing.T) {
	dir, path := copied(t, "arch-good")
	sum, err := digest(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, pin := range []string{sum, strings.ToUpper(sum)} {
		h := hostOf(t, Config{Dirs: []string{dir}, Pins: map[string]string{"arch-good": pin}})
		if _, _, err := h.Arch(bounded(t), 62); err != nil {
			t.Errorf("pinned to %s, its digest: %v", pin, err)
		}
	}
	other := strings.Repeat("0", len(sum))
	h := hostOf(t, Config{Dirs: []string{dir}, Pins: map[string]string{"arch-good": other}})
	_, _, err = h.Arch(bounded(t), 62)
	if err == nil || !strings.Contains(err.Error(), sum) || !strings.Contains(err.Error(), other) {
		t.Errorf("pinned to another digest: %v, want both digests", err)
	}
}
