package kbuild

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/plugin"
)

func TestDifferences(t *testing.T) {
	given := Config{"CONFIG_A": "y", "CONFIG_B": "m", "CONFIG_C": "4096", "CONFIG_CC_VERSION_TEXT": "gcc-12 12"}
	made := Config{"CONFIG_A": "y", "CONFIG_C": "8192", "CONFIG_D": "y", "CONFIG_CC_VERSION_TEXT": "x86_64-linux-gnu-gcc-12 12"}
	want := []string{`CONFIG_B=m becomes ""`, `CONFIG_C=4096 becomes "8192"`, "CONFIG_D=y is new"}
	if diff := cmp.Diff(want, differences(given, made)); diff != "" {
		t.Errorf("differences: (-want +got)\n%s", diff)
	}
	if got := differences(given, given); len(got) > 0 {
		t.Errorf("a configuration differs from itself: %q", got)
	}
}

// TestConfigureRefuses: what cannot be configured is told before make runs, and which file it is about.
func TestConfigureRefuses(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if err := os.WriteFile(filepath.Join(bin, "test-cc"), []byte("#!/bin/sh\necho 'test-cc 1'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ config, where, want string }{
		{"CONFIG_MODULES=y\n", ".config", "CONFIG_CC_VERSION_TEXT"},
		{"CONFIG_CC_VERSION_TEXT=\"test-cc 2\"\n", "test-cc", "not the one that built the kernel"},
		{"CONFIG_CC_VERSION_TEXT=\"test-cc 1\"\n", ".config", "Linux/ARCH VERSION Kernel Configuration"},
	} {
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, ".config"), []byte(tt.config), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Configure(t.Context(), root, "6.1.0-test", 1, func(plugin.Progress) { t.Errorf("%q: make runs", tt.config) })
		var d *plugin.Diagnostic
		if !errors.As(err, &d) || d.Where != tt.where || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Configure with %q = %v, want %q at %s", tt.config, err, tt.want, tt.where)
		}
	}
}
