package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/trust"
)

// TestConfigOwn: root believes no configuration that somebody else could change.
func TestConfigOwn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("[trust]\nallow_unsigned = true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, os.DevNull} {
		if c, err := readConfig(path); err != nil || c.Trust.AllowUnsigned != (path == file) {
			t.Errorf("%s: %+v, %v", path, c, err)
		}
	}
	if err := os.Chmod(file, 0o646); err != nil {
		t.Fatal(err)
	}
	_, err := readConfig(file)
	if os.Geteuid() != 0 {
		if err != nil {
			t.Errorf("for somebody who is not root: %v", err)
		}
		return
	}
	var usage *usageError
	if !errors.As(err, &usage) || !strings.Contains(err.Error(), file+" is writable by everybody") {
		t.Errorf("what everybody can write: %v", err)
	}
}

// TestTrustNobody: that no directory is named is not that nothing is said.
func TestTrustNobody(t *testing.T) {
	for text, want := range map[string][]string{"": {trust.DefaultDir}, "[trust]\nallow_unsigned = true\n": {trust.DefaultDir}, "[trust]\nkeys = []\n": {}} {
		file := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := readConfig(file)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := (&env{config: c}).keys()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(keys.Dirs, want) {
			t.Errorf("%q: keys lie in %q, want %q", text, keys.Dirs, want)
		}
	}
}
