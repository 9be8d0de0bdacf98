package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// fake is a backend whose compiler copies a source and all that it includes, by lines "include NAME", into one object. A name
// with ".gen" is made from its template during the build. "error" on a line is a compile error.
type fake struct {
	backend.Unimplemented
	mu       sync.Mutex
	compiled []string // sources, in order
	facts    int
	linked   int
	works    map[string]bool
	during   func(work string)
}

func (*fake) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Kind: plugin.KindBackend, Name: "fake"}, nil
}

func (f *fake) Prepare(_ context.Context, req *backend.PrepareRequest, _ plugin.ProgressFunc) (*backend.Tree, error) {
	if filepath.Base(req.CacheDir) != "fake" {
		return nil, fmt.Errorf("the cache directory is %s", req.CacheDir)
	}
	return nil, plugin.Errorf(plugin.FaultUser, req.Release, "no such kernel")
}

func (f *fake) Units(_ context.Context, req *backend.UnitsRequest) (*backend.UnitsResponse, error) {
	resp := &backend.UnitsResponse{}
	rules, err := os.ReadFile(filepath.Join(req.WorkDir, "Makefile"))
	for _, s := range req.Sources {
		if req.WorkDir == "" || err == nil && strings.Contains(string(rules), s) {
			resp.Units = append(resp.Units, unitOf(s))
		}
	}
	return resp, nil
}

func unitOf(source string) backend.Unit {
	return backend.Unit{Source: source, Object: strings.TrimSuffix(source, ".c") + ".o"}
}

func (f *fake) Facts(_ context.Context, req *backend.FactsRequest) (*backend.FactsResponse, error) {
	f.facts++
	return &backend.FactsResponse{Facts: map[string]int64{req.Expressions[0].Name: 7}}, nil
}

func (f *fake) Link(_ context.Context, req *backend.LinkRequest, _ plugin.ProgressFunc) (*backend.LinkResponse, error) {
	if entries, err := os.ReadDir(req.WorkDir); err != nil || len(entries) > 0 {
		return nil, fmt.Errorf("the work directory is not empty: %v, %v", entries, err)
	}
	f.linked++
	m := filepath.Join(req.WorkDir, req.Name+".ko")
	text := req.Name + req.Glue["glue.c"] + req.Script
	for _, o := range req.Objects {
		b, err := os.ReadFile(o)
		if err != nil {
			return nil, err
		}
		text += string(b)
	}
	return &backend.LinkResponse{Module: m}, os.WriteFile(m, []byte(text), 0o644)
}

func (f *fake) Compile(ctx context.Context, req *backend.CompileRequest, progress plugin.ProgressFunc) (*backend.CompileResponse, error) {
	f.mu.Lock()
	if f.works == nil {
		f.works = map[string]bool{}
	}
	f.works[req.WorkDir] = true
	f.mu.Unlock()
	if f.during != nil {
		f.during(req.WorkDir)
	}
	resp := &backend.CompileResponse{}
	for _, u := range req.Units {
		f.mu.Lock()
		f.compiled = append(f.compiled, u.Source)
		f.mu.Unlock()
		progress(plugin.Progress{Stage: "compile", Message: u.Source, Done: int64(len(resp.Results)), Total: int64(len(req.Units))})
		r := backend.CompileResult{Unit: u, Nanoseconds: 5}
		text, includes, err := read(req.WorkDir, u.Source)
		if err != nil {
			r.Diagnostics = []plugin.Diagnostic{{Summary: "warning: odd", Where: u.Source + ":1"}, {Fault: plugin.FaultPatch, Summary: err.Error(), Where: u.Source + ":3:1"}}
		} else {
			r.Object = filepath.Join(req.WorkDir, u.Object)
			r.Includes = includes
			if err := os.WriteFile(r.Object, []byte(strings.Join(req.ExtraFlags, " ")+text), 0o644); err != nil {
				return nil, err
			}
		}
		resp.Results = append(resp.Results, r)
	}
	return resp, ctx.Err()
}

func read(work, name string) (text string, includes []string, err error) {
	b, err := os.ReadFile(filepath.Join(work, name))
	if template, ok := strings.CutSuffix(name, ".gen"); ok && errors.Is(err, os.ErrNotExist) {
		if b, err = os.ReadFile(filepath.Join(work, template+".tmpl")); err == nil {
			err = os.WriteFile(filepath.Join(work, name), b, 0o644)
		}
	}
	if err != nil {
		return "", nil, fmt.Errorf("%s: No such file or directory", name)
	}
	includes = []string{name}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "error" {
			return "", nil, errors.New("expected an expression")
		}
		if inc, ok := strings.CutPrefix(line, "include "); ok {
			t, more, err := read(work, inc)
			if err != nil {
				return "", nil, err
			}
			text, includes = text+t, append(includes, more...)
			continue
		}
		text += line + ";"
	}
	return text, includes, nil
}

var treeFiles = map[string]string{
	"a.c":           "include h/a.h\na",
	"b.c":           "include h/b.h\nb",
	"sub/g.c":       "include sub/x.gen\ng",
	"sub/x.tmpl":    "template",
	"h/a.h":         "ha",
	"h/b.h":         "hb",
	"data/table.in": "1 2 3",
}

// newTree writes a tree; its ID is as new as its content.
func newTree(t *testing.T) *backend.Tree {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for name, text := range treeFiles {
		writeTest(t, filepath.Join(root, name), text)
	}
	if err := os.Symlink("a.c", filepath.Join(root, "link.c")); err != nil {
		t.Fatal(err)
	}
	return &backend.Tree{ID: "tree", Root: root, Source: root, Build: root}
}

func writeTest(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o444); err != nil {
		t.Fatal(err)
	}
}

// contents reads all files below a directory.
func contents(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.Type()&os.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			files[rel] = "-> " + target
			return err
		}
		b, err := os.ReadFile(path)
		files[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func files(pairs ...string) map[string][]byte {
	m := map[string][]byte{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = []byte(pairs[i+1])
		if pairs[i+1] == "gone" {
			m[pairs[i]] = nil
		}
	}
	return m
}

// objectsOf compiles and returns the objects' text.
func objectsOf(t *testing.T, b *Builder, tree *backend.Tree, changed map[string][]byte, sources ...string) (texts []string, cached []bool) {
	t.Helper()
	in := CompileInput{Files: changed, Flags: []string{"-f", ":"}}
	for _, s := range sources {
		in.Units = append(in.Units, unitOf(s))
	}
	objects, err := b.Compile(t.Context(), tree, in, nil)
	if err != nil {
		t.Fatalf("Compile(%v) = %v", sources, err)
	}
	for i, o := range objects {
		text, err := os.ReadFile(o.Path)
		if err != nil {
			t.Fatal(err)
		}
		if o.SHA256 != sum(text) || o.Unit != in.Units[i] || o.Nanoseconds != 5 {
			t.Errorf("object %d is %+v", i, o)
		}
		texts, cached = append(texts, string(text)), append(cached, o.Cached)
	}
	return texts, cached
}

func TestCompile(t *testing.T) {
	tree := newTree(t)
	before := contents(t, tree.Root)
	f := &fake{}
	b := New(f, t.TempDir(), nil)
	for _, tt := range []struct {
		name    string
		files   map[string][]byte
		sources []string
		want    []string
		cached  []bool
	}{
		{"as it is", nil, []string{"a.c", "b.c"}, []string{"-f :ha;a;", "-f :hb;b;"}, []bool{false, false}},
		{"again", nil, []string{"b.c", "a.c"}, []string{"-f :hb;b;", "-f :ha;a;"}, []bool{true, true}},
		{"a source", files("a.c", "include h/a.h\nA"), []string{"a.c", "b.c"}, []string{"-f :ha;A;", "-f :hb;b;"}, []bool{false, true}},
		{"the same", files("a.c", "include h/a.h\nA"), []string{"a.c", "b.c"}, []string{"-f :ha;A;", "-f :hb;b;"}, []bool{true, true}},
		{"and another file", files("a.c", "include h/a.h\nA", "b.c", "B"), []string{"a.c", "b.c"}, []string{"-f :ha;A;", "-f :B;"}, []bool{true, false}},
		{"a file as it is", files("a.c", treeFiles["a.c"]), []string{"a.c"}, []string{"-f :ha;a;"}, []bool{true}},
		{"a header", files("h/a.h", "HA"), []string{"a.c", "b.c"}, []string{"-f :HA;a;", "-f :hb;b;"}, []bool{false, true}},
		{"a new header that shadows nothing", files("h/new.h", "new"), []string{"a.c"}, []string{"-f :ha;a;"}, []bool{false}},
		{"a new header that is included", files("h/new.h", "new", "a.c", "include h/new.h"), []string{"a.c"}, []string{"-f :new;"}, []bool{false}},
		{"the new header changed", files("h/new.h", "NEW", "a.c", "include h/new.h"), []string{"a.c"}, []string{"-f :NEW;"}, []bool{false}},
		{"a removed file", files("h/b.h", "gone"), []string{"a.c"}, []string{"-f :ha;a;"}, []bool{false}},
		{"data", files("data/table.in", "4"), []string{"a.c"}, []string{"-f :ha;a;"}, []bool{false}},
		{"all as it was", nil, []string{"a.c", "b.c"}, []string{"-f :ha;a;", "-f :hb;b;"}, []bool{true, true}},
		{"generated", nil, []string{"sub/g.c"}, []string{"-f :template;g;"}, []bool{false}},
		{"generated again", nil, []string{"sub/g.c"}, []string{"-f :template;g;"}, []bool{true}},
		{"generated, and a patch elsewhere", files("b.c", "B"), []string{"sub/g.c"}, []string{"-f :template;g;"}, []bool{false}},
		{"generated from another template", files("sub/x.tmpl", "TEMPLATE"), []string{"sub/g.c"}, []string{"-f :TEMPLATE;g;"}, []bool{false}},
	} {
		got, cached := objectsOf(t, b, tree, tt.files, tt.sources...)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.name, diff)
		}
		if diff := cmp.Diff(tt.cached, cached); diff != "" {
			t.Errorf("%s: cached (-want +got)\n%s", tt.name, diff)
		}
	}
	if diff := cmp.Diff(before, contents(t, tree.Root)); diff != "" {
		t.Errorf("the tree changed: %s", diff)
	}
	if len(f.works) != 1 {
		t.Errorf("compiles one after another used the work trees %v", f.works)
	}
}

func TestCompileErrors(t *testing.T) {
	tree := newTree(t)
	b := New(&fake{}, t.TempDir(), nil)
	in := CompileInput{Files: files("a.c", "error", "b.c", "error"), Units: []backend.Unit{unitOf("a.c"), unitOf("b.c"), unitOf("sub/g.c")}}
	_, err := b.Compile(t.Context(), tree, in, nil)
	var d *plugin.Diagnostic
	if !errors.As(err, &d) {
		t.Fatalf("Compile = %v, want a diagnostic", err)
	}
	want := &plugin.Diagnostic{Fault: plugin.FaultToolchain, Where: "a.c:3:1", Summary: "build failed: expected an expression (and 1 more in 2 of 3 units)"}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("Compile: (-want +got)\n%s", diff)
	}
	in.Files = nil
	if objects, err := b.Compile(t.Context(), tree, in, nil); err != nil || objects[0].Cached {
		t.Errorf("after the error: %v, %v", objects, err)
	}
	for _, bad := range []map[string][]byte{files("../x.c", "x"), files("/x.c", "x"), files("h/../a.c", "x"), files("link.c", "x"), files("h", "x"), files("link.c/x.h", "x")} {
		if _, err := b.Compile(t.Context(), tree, CompileInput{Files: bad, Units: []backend.Unit{unitOf("a.c")}, Flags: []string{"-new"}}, nil); err == nil {
			t.Errorf("Compile with the files %v succeeds", bad)
		}
	}
}

// nonsense answers with results that cannot be.
type nonsense struct {
	fake
	change func(*backend.CompileResponse)
}

func (n *nonsense) Compile(ctx context.Context, req *backend.CompileRequest, p plugin.ProgressFunc) (*backend.CompileResponse, error) {
	resp, err := n.fake.Compile(ctx, req, p)
	if err == nil {
		n.change(resp)
	}
	return resp, err
}

func TestNonsense(t *testing.T) {
	for name, change := range map[string]func(*backend.CompileResponse){
		"too few":         func(r *backend.CompileResponse) { r.Results = nil },
		"outside":         func(r *backend.CompileResponse) { r.Results[0].Object = "/etc/passwd" },
		"missing":         func(r *backend.CompileResponse) { r.Results[0].Object += ".not" },
		"source not read": func(r *backend.CompileResponse) { r.Results[0].Includes = []string{"h/a.h"} },
		"removed read":    func(r *backend.CompileResponse) { r.Results[0].Includes = []string{"a.c", "h/b.h"} },
	} {
		b := New(&nonsense{change: change}, t.TempDir(), nil)
		in := CompileInput{Files: files("h/b.h", "gone"), Units: []backend.Unit{unitOf("a.c")}}
		if _, err := b.Compile(t.Context(), newTree(t), in, nil); err == nil {
			t.Errorf("%s: Compile succeeds", name)
		}
	}
}

func TestAlteredObject(t *testing.T) {
	tree := newTree(t)
	b := New(&fake{}, t.TempDir(), nil)
	in := CompileInput{Units: []backend.Unit{unitOf("a.c")}}
	objects, err := b.Compile(t.Context(), tree, in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(objects[0].Path, 0o644); err != nil {
		t.Fatal(err)
	}
	writeOver(t, objects[0].Path, "half an obj")
	again, err := b.Compile(t.Context(), tree, in, nil)
	if err != nil || again[0].Cached || again[0].SHA256 != objects[0].SHA256 {
		t.Errorf("after the object was altered: %+v, %v", again, err)
	}
	if err := os.RemoveAll(b.dir); err != nil { // the cache is safe to delete
		t.Fatal(err)
	}
	again, err = b.Compile(t.Context(), tree, in, nil)
	if err != nil || again[0].Cached || again[0].SHA256 != objects[0].SHA256 {
		t.Errorf("after the cache was removed: %+v, %v", again, err)
	}
}

func writeOver(t *testing.T, path, text string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o444); err != nil {
		t.Fatal(err)
	}
}

func TestTwoAtOnce(t *testing.T) {
	tree := newTree(t)
	before := contents(t, tree.Root)
	cache := t.TempDir()
	f := &fake{}
	var both sync.WaitGroup
	both.Add(2)
	var once sync.Map
	f.during = func(work string) { // neither goes on before the other has its work tree
		if _, loaded := once.LoadOrStore(work, true); !loaded {
			both.Done()
		}
		both.Wait()
	}
	var g sync.WaitGroup
	for _, text := range []string{"one", "two"} {
		b := New(f, cache, nil)
		g.Go(func() {
			objects, err := b.Compile(t.Context(), tree, CompileInput{Files: files("h/a.h", text), Units: []backend.Unit{unitOf("a.c")}}, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := os.ReadFile(objects[0].Path); err != nil || string(got) != text+";a;" {
				t.Errorf("the object of %s is %q, %v", text, got, err)
			}
		})
	}
	g.Wait()
	if len(f.works) != 2 {
		t.Errorf("the work trees are %v, want two", f.works)
	}
	if diff := cmp.Diff(before, contents(t, tree.Root)); diff != "" {
		t.Errorf("the tree changed: %s", diff)
	}
	kept, err := filepath.Glob(filepath.Join(cache, "work", "*", "[0-9]"))
	if err != nil || len(kept) != keptWorkTrees {
		t.Errorf("the work trees %v stay, want %d", kept, keptWorkTrees)
	}
}

func TestKilledRun(t *testing.T) {
	tree := newTree(t)
	b := New(&fake{}, t.TempDir(), nil)
	w, err := b.workTree(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.put(tree, files("a.c", "half", "h/new.h", "x", "h/b.h", "gone")); err != nil {
		t.Fatal(err)
	}
	rubbish := filepath.Join(w.dir, "h", "rubbish.o")
	writeTest(t, rubbish, "x")
	inTree, err := os.Open(w.dir) // somebody of the killed run still works here
	if err != nil {
		t.Fatal(err)
	}
	defer inTree.Close()
	w.lock.Close() // as the kernel does it for the dead
	again, err := b.workTree(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	defer again.end(true)
	if again.dir != w.dir {
		t.Errorf("the next run works in %s, not %s", again.dir, w.dir)
	}
	old, err1 := inTree.Stat()
	now, err2 := os.Stat(again.dir)
	if err1 != nil || err2 != nil || os.SameFile(old, now) {
		t.Errorf("the next run works in the directory of the killed one: %v %v", err1, err2)
	}
	if diff := cmp.Diff(contents(t, tree.Root), contents(t, again.dir)); diff != "" {
		t.Errorf("the work tree is not the tree: %s", diff)
	}
}

func TestMirror(t *testing.T) {
	tree := newTree(t)
	dst := filepath.Join(t.TempDir(), "mirror")
	check := func(what string) {
		t.Helper()
		if err := mirror(t.Context(), tree.Root, dst); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if diff := cmp.Diff(contents(t, tree.Root), contents(t, dst)); diff != "" {
			t.Errorf("%s: (-tree +mirror)\n%s", what, diff)
		}
		a, err1 := os.Stat(filepath.Join(tree.Root, "h/a.h"))
		b, err2 := os.Stat(filepath.Join(dst, "h/a.h"))
		if err1 != nil || err2 != nil || !os.SameFile(a, b) {
			t.Errorf("%s: the file is not a link", what)
		}
	}
	check("new")
	check("in order")
	for what, disturb := range map[string]func() error{
		"removed file":  func() error { return os.Remove(filepath.Join(dst, "h/a.h")) },
		"equal copy":    func() error { writeOver(t, filepath.Join(dst, "h/a.h"), treeFiles["h/a.h"]); return nil },
		"new directory": func() error { return os.MkdirAll(filepath.Join(dst, "x/y/z"), 0o755) },
		"file for directory": func() error {
			return errors.Join(os.RemoveAll(filepath.Join(dst, "h")), os.WriteFile(filepath.Join(dst, "h"), nil, 0o644))
		},
		"directory for file": func() error {
			return errors.Join(os.Remove(filepath.Join(dst, "a.c")), os.MkdirAll(filepath.Join(dst, "a.c/x"), 0o755))
		},
		"other link": func() error {
			return errors.Join(os.Remove(filepath.Join(dst, "link.c")), os.Symlink("b.c", filepath.Join(dst, "link.c")))
		},
		"link for directory": func() error {
			return errors.Join(os.RemoveAll(filepath.Join(dst, "h")), os.Symlink(filepath.Join(tree.Root, "h"), filepath.Join(dst, "h")))
		},
	} {
		if err := disturb(); err != nil {
			t.Fatal(err)
		}
		check(what)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := mirror(ctx, tree.Root, filepath.Join(t.TempDir(), "m")); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled mirror = %v", err)
	}
	if err := mirror(t.Context(), filepath.Join(tree.Root, "none"), filepath.Join(t.TempDir(), "m")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a mirror of nothing = %v", err)
	}
}
