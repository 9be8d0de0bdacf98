package kbuild

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestIdentity: a tree is another one for the cache of objects when anything of the tools that compile it is another: the compiler's
// command, its cc1, the assembler, what the tree was made of, or the layout of what is kept. With nothing changed it is the same, also
// when the digests are remembered.
func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		// Another second, whatever the file system's clock says.
		later := time.Now().Add(time.Duration(len(text)) * time.Second)
		if err := os.Chtimes(filepath.Join(dir, name), later, later); err != nil {
			t.Fatal(err)
		}
	}
	cc := func(more string) {
		write("test-cc", fmt.Sprintf("case $1 in --version) echo 'test-cc 1';; -print-prog-name=*) echo %s/test-${1#-print-prog-name=};; esac\n%s", dir, more))
	}
	cc("")
	write("test-cc1", "one")
	write("test-as", "one")
	tree := &Tree{Info: Info{Key: "key", CC: "test-cc"}, Dir: t.TempDir()}
	if err := os.MkdirAll(tree.state(), 0o755); err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	id := func(what string) string {
		t.Helper()
		d, err := tree.Describe(t.Context(), true)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return d.ID
	}
	changed := func(what string) {
		t.Helper()
		got := id(what)
		if other, ok := seen[got]; ok {
			t.Errorf("%s: the tree is the same as with %s", what, other)
		}
		seen[got] = what
		if again := id(what); again != got {
			t.Errorf("%s: asked again, the tree is another one", what)
		}
	}
	changed("nothing changed")
	cc("# other defaults")
	changed("another compiler command")
	write("test-cc1", "two, longer")
	changed("another cc1")
	write("test-as", "two, longer")
	changed("another assembler")
	tree.Key = "other key"
	changed("another key")
}
