package build

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// TestMiss: an object serves only what it was compiled as: the tree (its ID stands for source, configuration, generated headers and tools),
// the flags, the unit and its module.
func TestMiss(t *testing.T) {
	tree := newTree(t)
	b := New(&fake{}, t.TempDir(), nil)
	other := *tree
	other.ID = "another compiler"
	module := unitOf("a.c")
	module.Module = "m"
	object := unitOf("a.c")
	object.Object = "b.o"
	for _, tt := range []struct {
		what  string
		tree  *backend.Tree
		unit  backend.Unit
		flags []string
	}{
		{"nothing", tree, unitOf("a.c"), nil},
		{"the tree", &other, unitOf("a.c"), nil},
		{"a flag", tree, unitOf("a.c"), []string{"-x"}},
		{"another flag", tree, unitOf("a.c"), []string{"-y"}},
		{"two flags", tree, unitOf("a.c"), []string{"-x", "-y"}},
		{"the order of flags", tree, unitOf("a.c"), []string{"-y", "-x"}},
		{"two flags as one", tree, unitOf("a.c"), []string{"-x-y"}},
		{"the module", tree, module, nil},
		{"the object", tree, object, nil},
	} {
		for again := range 2 {
			o, err := b.Compile(t.Context(), tt.tree, CompileInput{Units: []backend.Unit{tt.unit}, Flags: tt.flags}, nil)
			if err != nil || o[0].Cached != (again == 1) {
				t.Errorf("%s changed, asked %d times before: cached %t, %v", tt.what, again, err == nil && o[0].Cached, err)
			}
		}
	}
}

func TestFactsLinkAffected(t *testing.T) {
	tree := newTree(t)
	f := &fake{}
	b := New(f, t.TempDir(), hclog.NewNullLogger())
	for range 2 {
		got, err := b.Facts(t.Context(), tree, []arch.FactExpression{{Name: "size", Expression: "sizeof(int)"}})
		if err != nil || got["size"] != 7 {
			t.Errorf("Facts = %v, %v", got, err)
		}
	}
	if f.facts != 1 {
		t.Errorf("the backend was asked %d times for the same facts", f.facts)
	}
	resp, err := b.Link(t.Context(), &backend.LinkRequest{Tree: tree, Name: "m"}, nil)
	if err != nil {
		t.Fatalf("Link = %v", err)
	}
	if _, err := os.Stat(resp.Module); err != nil {
		t.Errorf("the module: %v", err)
	}
	// What a patch adds to the makefile counts in a tree that has it, and in no other.
	asked := []string{"a.c", "new.c"}
	for _, tt := range []struct {
		files map[string][]byte
		want  []backend.Unit
	}{
		{files("Makefile", "new.c", "new.c", "text"), []backend.Unit{unitOf("new.c")}},
		{files("Makefile", ""), nil},
		{files("a.c", treeFiles["a.c"]), []backend.Unit{unitOf("a.c"), unitOf("new.c")}}, // no change: the tree itself is asked
	} {
		units, err := b.AffectedIn(t.Context(), tree, tt.files, asked)
		if diff := cmp.Diff(tt.want, units); err != nil || diff != "" {
			t.Errorf("AffectedIn(%v): %v %s", tt.files, err, diff)
		}
	}
	if _, err := b.AffectedIn(t.Context(), tree, files("../out.c", "x"), asked); err == nil {
		t.Error("AffectedIn takes a file outside of the source")
	}
	units, err := b.Affected(t.Context(), tree, []string{"a.c"})
	if diff := cmp.Diff([]backend.Unit{unitOf("a.c")}, units); diff != "" || err != nil {
		t.Errorf("Affected: %v %s", err, diff)
	}
	var d *plugin.Diagnostic
	if _, err := b.Prepare(t.Context(), "6.1", "", nil); !errors.As(err, &d) || d.Fault != plugin.FaultUser {
		t.Errorf("Prepare = %v, want the backend's diagnostic", err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(b.dir, "scratch")); err != nil || len(left) > 0 {
		t.Errorf("after Close there is %v, %v", left, err)
	}
}

// TestLink: a module is made once of the same, and again when anything of it is another, or the cache was altered.
func TestLink(t *testing.T) {
	tree := newTree(t)
	f := &fake{}
	b := New(f, t.TempDir(), nil)
	object := filepath.Join(t.TempDir(), "x.o")
	writeTest(t, object, "object")
	link := func(change func(*backend.LinkRequest)) (string, bool) {
		t.Helper()
		req := &backend.LinkRequest{Tree: tree, Name: "m", Glue: map[string]string{"glue.c": "glue"}, Objects: []string{object}, Script: "script"}
		if change != nil {
			change(req)
		}
		before := f.linked
		resp, err := b.Link(t.Context(), req, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(resp.Module)
		if err != nil {
			t.Fatal(err)
		}
		return string(text), f.linked == before
	}
	other := *tree
	other.ID = "another"
	for _, tt := range []struct {
		what   string
		change func(*backend.LinkRequest)
		want   string
	}{
		{"nothing", nil, "mgluescriptobject"},
		{"the name", func(r *backend.LinkRequest) { r.Name = "n" }, "ngluescriptobject"},
		{"the glue", func(r *backend.LinkRequest) { r.Glue = map[string]string{"glue.c": "GLUE"} }, "mGLUEscriptobject"},
		{"the script", func(r *backend.LinkRequest) { r.Script = "SCRIPT" }, "mglueSCRIPTobject"},
		{"the objects", func(r *backend.LinkRequest) { r.Objects = append(r.Objects, object) }, "mgluescriptobjectobject"},
		{"who exports what", func(r *backend.LinkRequest) { r.Provided = map[string]string{"a": "b"} }, "mgluescriptobject"},
		{"the tree", func(r *backend.LinkRequest) { r.Tree = &other }, "mgluescriptobject"},
		{"an object's content", func(*backend.LinkRequest) { writeOver(t, object, "OBJECT") }, "mgluescriptOBJECT"},
	} {
		for again := range 2 {
			if got, kept := link(tt.change); got != tt.want || kept != (again == 1) {
				t.Errorf("%s changed, asked %d times before: %q, kept %t; want %q", tt.what, again, got, kept, tt.want)
			}
		}
	}
	for _, suffix := range []string{recordSuffix, moduleSuffix} {
		files, err := filepath.Glob(filepath.Join(b.dir, "objects/*/*"+suffix))
		if err != nil || len(files) != 8 {
			t.Fatalf("the cache has %v, %v", files, err)
		}
		for _, name := range files {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text[len(text)/2] ^= 1
			writeOver(t, name, string(text))
		}
		if got, kept := link(nil); got != "mgluescriptOBJECT" || kept {
			t.Errorf("with altered files %s: %q, kept %t", suffix, got, kept)
		}
	}
}
