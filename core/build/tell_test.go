package build

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// TestTell: what the compiler writes besides the object is read, and nothing of it kept.
func TestTell(t *testing.T) {
	tree := newTree(t)
	before := contents(t, tree.Root)
	writes := true
	f := &fake{}
	f.during = func(work string) {
		if !writes {
			return
		}
		for _, name := range []string{".one", ".two"} {
			if err := os.WriteFile(filepath.Join(work, name), []byte("told"+name), 0o644); err != nil {
				t.Error(err)
			}
		}
	}
	cache := t.TempDir()
	b := New(f, cache, nil)
	in := CompileInput{Files: files("a.c", "include h/a.h\nA"), Units: []backend.Unit{unitOf("a.c")}, Flags: []string{"-tell", ":"}}
	for range 2 {
		object, told, err := b.Tell(t.Context(), tree, in, []string{".two", ".one"})
		if err != nil {
			t.Fatal(err)
		}
		if string(object) != "-tell :ha;A;" || len(told) != 2 || string(told[0]) != "told.two" || string(told[1]) != "told.one" {
			t.Errorf("Tell = %q, %q", object, told)
		}
	}
	if _, err := os.Stat(filepath.Join(cache, "objects")); !errors.Is(err, os.ErrNotExist) || len(f.compiled) != 2 {
		t.Errorf("objects are kept: %v, %d were compiled", err, len(f.compiled))
	}
	writes = false // what the last compiler wrote must not be taken for this one's
	if _, told, err := b.Tell(t.Context(), tree, in, []string{".one"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a compiler that tells nothing: %q, %v", told, err)
	}
	in.Files = files("a.c", "error")
	var d *plugin.Diagnostic
	if _, _, err := b.Tell(t.Context(), tree, in, nil); !errors.As(err, &d) || d.Where != "a.c:3:1" {
		t.Errorf("a unit that does not compile: %v", err)
	}
	in.Units = append(in.Units, unitOf("b.c"))
	if _, _, err := b.Tell(t.Context(), tree, in, nil); err == nil {
		t.Error("two units are told of as one")
	}
	if diff := cmp.Diff(before, contents(t, tree.Root)); diff != "" {
		t.Errorf("the tree changed: %s", diff)
	}
}
