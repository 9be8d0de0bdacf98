package kbuild

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// TestCheckCompiler gives kernels that another compiler built than the one that is here.
func TestCheckCompiler(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	script := "#!/bin/sh\necho 'gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0'\necho 'Copyright'\n"
	for _, name := range []string{"gcc-12", "x86_64-linux-gnu-gcc-12"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]struct {
		cc    string
		fault plugin.Fault
		words []string
	}{
		"gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0":                  {cc: "gcc-12"},
		"x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0": {cc: "x86_64-linux-gnu-gcc-12"},
		"gcc-12 (Debian 12.2.0-15) 12.2.0": {fault: plugin.FaultToolchain,
			words: []string{"not the one that built the kernel", "(Debian 12.2.0-15) 12.2.0", "(Debian 12.2.0-14+deb12u1) 12.2.0", "package gcc-12"}},
		"x86_64-linux-gnu-gcc-99 (Debian 99) 99.1": {fault: plugin.FaultToolchain, words: []string{"not installed", "install the package gcc-99"}},
		"":      {fault: plugin.FaultUser, words: []string{"names no compiler"}},
		"clang": {fault: plugin.FaultUser, words: []string{`"clang"`}},
	} {
		cc, err := CheckCompiler(t.Context(), Config{"CONFIG_CC_VERSION_TEXT": text})
		if len(want.words) == 0 {
			if err != nil || cc != want.cc {
				t.Errorf("%q: %q, %v; want %q", text, cc, err, want.cc)
			}
			continue
		}
		var d *plugin.Diagnostic
		if !errors.As(err, &d) || d.Fault != want.fault {
			t.Errorf("%q: %v, want fault %v", text, err, want.fault)
			continue
		}
		for _, w := range want.words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %v, want %q in it", text, err, w)
			}
		}
	}
}
