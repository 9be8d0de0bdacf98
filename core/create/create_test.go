package create

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// TestCompilerFlags: the objects of a kernel that was built without a description of its types have one, and the same code.
func TestCompilerFlags(t *testing.T) {
	gcc := need.Program(t, "gcc")
	dir := t.TempDir()
	source := filepath.Join(dir, "a.c")
	if err := os.WriteFile(source, []byte("struct s { int a; long b; };\nlong f(struct s *s) { return s->a + s->b; }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	compile := func(name string, config map[string]string) (code []byte, described bool) {
		t.Helper()
		object := filepath.Join(dir, name+".o")
		argv := append([]string{"-O2", "-c", source, "-o", object}, compilerFlags(config)...)
		if out, err := exec.CommandContext(t.Context(), gcc, argv...).CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
		f, err := elf.Open(object)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		text := f.Section(".text.f")
		if text == nil {
			t.Fatalf("%s: the function has no section of its own", name)
		}
		if code, err = text.Data(); err != nil {
			t.Fatal(err)
		}
		return code, f.Section(".debug_info") != nil
	}
	plain, described := compile("plain", nil)
	if !described {
		t.Error("a kernel without CONFIG_DEBUG_INFO: the types are not described")
	}
	// What the kernel's own Makefile does for CONFIG_DEBUG_INFO is not done a second time.
	undescribed, described := compile("debug", map[string]string{"CONFIG_DEBUG_INFO": "y"})
	if described {
		t.Error("a kernel with CONFIG_DEBUG_INFO: its own flags say how types are described")
	}
	if !bytes.Equal(plain, undescribed) {
		t.Errorf("the description changes code: % x and % x", plain, undescribed)
	}
}
