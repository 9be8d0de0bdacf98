package pluginhost

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
