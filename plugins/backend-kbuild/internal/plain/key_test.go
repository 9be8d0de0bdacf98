package plain

import (
	"os"
	"path/filepath"
	"testing"
)

// TestKey: a tree is made anew when a file of the source, the configuration, the symbols' versions or a header that the build made is
// another one.
func TestKey(t *testing.T) {
	source, build := t.TempDir(), t.TempDir()
	write := func(dir, name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"Makefile", "tools/objtool/check.c", "include/linux/a.h"} {
		write(source, name, "one")
	}
	write(build, ".config", "CONFIG_A=y")
	write(build, "Module.symvers", "1")
	b := &Backend{source: source, build: build, config: filepath.Join(build, ".config"), symvers: filepath.Join(build, "Module.symvers")}
	k := &kernel{release: "6.1.1", version: "#1"}
	seen := map[string]string{}
	changed := func(what string) {
		t.Helper()
		for again := range 2 {
			files, err := listSource(t.Context(), source)
			if err != nil {
				t.Fatal(err)
			}
			key, err := b.key(k, files)
			if err != nil {
				t.Fatal(err)
			}
			if other, ok := seen[key]; ok != (again == 1) {
				t.Errorf("%s: asked %d times before, the key is that of %q", what, again, other)
			}
			seen[key] = what
		}
	}
	changed("nothing changed")
	write(source, "Makefile", "two, longer")
	changed("a makefile")
	write(source, "tools/objtool/check.c", "two, longer")
	changed("objtool")
	write(source, "include/linux/b.h", "new")
	changed("a header more")
	write(build, ".config", "CONFIG_A=m")
	changed("the configuration")
	write(build, "Module.symvers", "2")
	changed("the symbols' versions")
	write(build, "include/generated/compile.h", "#define LINUX_COMPILE_HOST \"a\"")
	changed("a generated header")
	write(build, "include/generated/compile.h", "#define LINUX_COMPILE_HOST \"b\"")
	changed("the same header")
	k.version = "#2"
	changed("the version")
}
