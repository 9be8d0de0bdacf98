package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// CompileInput says what to compile.
type CompileInput struct {
	// Files are those that differ from the tree: content by path relative to the source directory, nil where the file is gone.
	Files map[string][]byte
	// Units are compiled with the kernel's own flags and Flags.
	Units []backend.Unit
	Flags []string
	// Jobs bounds parallel compilers; 0: one a processor.
	Jobs int
}

// Object is a compiled unit, with its debug information.
type Object struct {
	Unit backend.Unit
	// Path is in the cache: whoever changes the object copies it first.
	Path   string
	SHA256 string
	// Cached says that nothing had to be compiled.
	Cached bool
	// Nanoseconds is the time that the compiler and objtool took, now or when the object came into the cache.
	Nanoseconds int64
}

// Compile compiles units and returns an object each, in order. A unit that does not compile is a *plugin.Diagnostic that
// names file and line, with the toolchain's fault; the objects of the others are in the cache then.
func (b *Builder) Compile(ctx context.Context, tree *backend.Tree, in CompileInput, progress plugin.ProgressFunc) ([]Object, error) {
	root, err := b.root()
	if err != nil {
		return nil, err
	}
	changes, err := changesOf(tree, in.Files)
	if err != nil {
		return nil, err
	}
	objects := make([]Object, len(in.Units))
	keys := make([]unitKey, len(in.Units))
	var missing []int
	for i, u := range in.Units {
		keys[i] = newUnitKey(root, tree, u, in.Flags, changes)
		o, ok := keys[i].find(changes)
		if !ok {
			missing = append(missing, i)
			continue
		}
		objects[i] = *o
	}
	b.log.Debug("objects", "units", len(in.Units), "cached", len(in.Units)-len(missing), "changed files", len(changes.files))
	if len(missing) == 0 {
		return objects, nil
	}
	results, err := b.compile(ctx, tree, in, changes, missing, progress, func(n int, r *backend.CompileResult) error {
		o, err := keys[missing[n]].keep(tree, changes, r)
		if err == nil {
			objects[missing[n]] = *o
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return objects, b.failed(results)
}

// compile has the backend compile the missing units in a work tree; keep takes each object out of it.
func (b *Builder) compile(ctx context.Context, tree *backend.Tree, in CompileInput, c *changes, missing []int, progress plugin.ProgressFunc,
	keep func(int, *backend.CompileResult) error) (results []backend.CompileResult, err error) {
	w, err := b.workTree(ctx, tree)
	if err != nil {
		return nil, err
	}
	clean := false
	defer func() { w.end(clean) }()
	if err := w.put(tree, c.files); err != nil {
		clean = true
		return nil, err
	}
	req := &backend.CompileRequest{Tree: tree, WorkDir: w.dir, ExtraFlags: in.Flags, Jobs: in.Jobs}
	for _, i := range missing {
		req.Units = append(req.Units, in.Units[i])
	}
	resp, err := b.backend.Compile(ctx, req, orSilent(progress))
	if err != nil {
		return nil, err
	}
	clean = true
	if len(resp.Results) != len(missing) {
		return nil, plugin.Errorf(plugin.FaultInternal, "", "the backend gave %d results for %d units", len(resp.Results), len(missing))
	}
	for n := range resp.Results {
		r := &resp.Results[n]
		if r.Object == "" {
			continue
		}
		if err := checkResult(w.dir, c, r); err != nil {
			return nil, err
		}
		if err := keep(n, r); err != nil {
			return nil, fmt.Errorf("keep object of %s: %w", r.Unit.Source, err)
		}
		for i := range r.Diagnostics {
			b.log.Warn("compile", "unit", r.Unit.Source, "message", r.Diagnostics[i].Error())
		}
	}
	return resp.Results, nil
}

// checkResult refuses results that cannot be of this work tree, or not of the changed source.
func checkResult(work string, c *changes, r *backend.CompileResult) error {
	where := r.Unit.Source
	rel, err := filepath.Rel(work, r.Object)
	if err != nil || !filepath.IsLocal(rel) {
		return plugin.Errorf(plugin.FaultInternal, where, "the backend names the object %s outside the work tree %s", r.Object, work)
	}
	st, err := os.Lstat(r.Object)
	if err != nil || !st.Mode().IsRegular() || st.Size() == 0 {
		return plugin.Errorf(plugin.FaultInternal, where, "the backend says that it made %s, which is no object", rel)
	}
	if len(r.Includes) > 0 && !slices.Contains(r.Includes, where) {
		return plugin.Errorf(plugin.FaultInternal, where, "the compiler did not read the file it was to compile")
	}
	for _, name := range r.Includes {
		if content, ok := c.files[name]; ok && content == nil {
			return plugin.Errorf(plugin.FaultInternal, where, "the compiler read %s, which the patch removes", name)
		}
	}
	return nil
}

// failed makes one error of the units that did not compile: the first error, and how many there are more.
func (b *Builder) failed(results []backend.CompileResult) error {
	var first *plugin.Diagnostic
	units, more := 0, 0
	for i := range results {
		r := &results[i]
		if r.Object != "" {
			continue
		}
		units++
		found := false
		for _, d := range r.Diagnostics {
			b.log.Debug("compile", "unit", r.Unit.Source, "message", d.Error())
			if strings.HasPrefix(d.Summary, "warning:") {
				continue
			}
			found = true
			if first == nil {
				first = &plugin.Diagnostic{Where: d.Where, Summary: "build failed: " + d.Summary, Detail: d.Detail}
			} else {
				more++
			}
		}
		if !found && first == nil {
			first = &plugin.Diagnostic{Summary: "build failed", Detail: "the backend does not say why"}
		}
		if first.Where == "" {
			first.Where = r.Unit.Source
		}
	}
	if first == nil {
		return nil
	}
	first.Fault = plugin.FaultToolchain
	if more > 0 {
		first.Summary += fmt.Sprintf(" (and %d more in %d of %d units)", more, units, len(results))
	}
	return first
}

// changes are the files that really differ from the tree.
type changes struct {
	files   map[string][]byte
	digests map[string]string
	// appear lists the files that are new or gone: they can change what a name in an include means.
	appear []string
	// others is a digest of the files that are no C and no assembly: no dependency output names them.
	others string
	// all is a digest of everything.
	all string
}

func changesOf(tree *backend.Tree, files map[string][]byte) (*changes, error) {
	c := &changes{files: map[string][]byte{}, digests: map[string]string{}}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	var all, others []string
	for _, name := range names {
		if !filepath.IsLocal(name) || filepath.Clean(name) != name {
			return nil, plugin.Errorf(plugin.FaultPatch, name, "the file lies outside the source")
		}
		after := files[name]
		before, err := os.ReadFile(filepath.Join(tree.Source, name))
		there := err == nil
		switch {
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return nil, fmt.Errorf("read source: %w", err)
		case there && after != nil && bytes.Equal(before, after), !there && after == nil:
			continue
		}
		d := "gone"
		if after != nil {
			d = sum(after)
		}
		if there != (after != nil) {
			c.appear = append(c.appear, name)
		}
		c.files[name], c.digests[name] = after, d
		all = append(all, name, d)
		switch filepath.Ext(name) {
		case ".c", ".h", ".S":
		default:
			others = append(others, name, d)
		}
	}
	c.all, c.others = digest(all...), digest(others...)
	return c, nil
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
