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
	// Name says in errors which of several inputs it is.
	Name string
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
	all, err := b.CompileAll(ctx, tree, []CompileInput{in}, progress)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// CompileAll compiles several inputs side by side, which share the processors, and returns the objects of each. Of several errors the
// first input's counts.
func (b *Builder) CompileAll(ctx context.Context, tree *backend.Tree, ins []CompileInput, progress plugin.ProgressFunc) ([][]Object, error) {
	root, err := b.root()
	if err != nil {
		return nil, err
	}
	sides := make([]*side, len(ins))
	var busy []*side
	for i := range ins {
		if sides[i], err = b.look(root, tree, &ins[i]); err != nil {
			return nil, err
		}
		if len(sides[i].missing) > 0 {
			busy = append(busy, sides[i])
		}
	}
	merged := mergeProgress(len(busy), orSilent(progress))
	_ = sideBySide(len(busy), ins[0].Jobs, func(i, jobs int) error {
		busy[i].err = b.compile(ctx, tree, busy[i], jobs, merged[i])
		return nil
	})
	objects := make([][]Object, len(ins))
	for i, s := range sides {
		if s.err != nil {
			if ins[i].Name != "" {
				s.err = fmt.Errorf("%s: %w", ins[i].Name, s.err)
			}
			return nil, s.err
		}
		objects[i] = s.objects
	}
	return objects, nil
}

// side is one input on its way.
type side struct {
	in      *CompileInput
	changes *changes
	keys    []unitKey
	objects []Object
	missing []int // indices of the units that are not in the cache
	err     error
}

// look looks for an input's objects in the cache.
func (b *Builder) look(root string, tree *backend.Tree, in *CompileInput) (*side, error) {
	c, err := changesOf(tree, in.Files)
	if err != nil {
		return nil, err
	}
	s := &side{in: in, changes: c, objects: make([]Object, len(in.Units)), keys: make([]unitKey, len(in.Units))}
	for i, u := range in.Units {
		s.keys[i] = newUnitKey(root, tree, u, in.Flags, c)
		if o, ok := s.keys[i].find(c); ok {
			s.objects[i] = *o
		} else {
			s.missing = append(s.missing, i)
		}
	}
	b.log.Debug("objects", "units", len(in.Units), "cached", len(in.Units)-len(s.missing), "changed files", len(c.files))
	return s, nil
}

// batch is how many units the backend is given at a time: a run that is killed finds what was compiled before in the cache.
const batch = 64

// compile has the backend compile the missing units in a work tree, and takes each object out of it.
func (b *Builder) compile(ctx context.Context, tree *backend.Tree, s *side, jobs int, progress plugin.ProgressFunc) (err error) {
	w, err := b.workTree(ctx, tree)
	if err != nil {
		return err
	}
	clean := false
	defer func() { w.end(clean) }()
	if err := w.put(tree, s.changes.files); err != nil {
		clean = true
		return err
	}
	var results []backend.CompileResult
	for missing := range slices.Chunk(s.missing, batch) {
		req := &backend.CompileRequest{Tree: tree, WorkDir: w.dir, ExtraFlags: s.in.Flags, Jobs: jobs}
		for _, i := range missing {
			req.Units = append(req.Units, s.in.Units[i])
		}
		clean = false
		got, err := b.results(ctx, req, s.changes, within(progress, len(results), len(s.missing)))
		clean = got != nil
		if err != nil {
			return err
		}
		for n := range got {
			if got[n].Object == "" {
				continue
			}
			o, err := s.keys[missing[n]].keep(tree, s.changes, &got[n])
			if err != nil {
				return fmt.Errorf("keep object of %s: %w", got[n].Unit.Source, err)
			}
			s.objects[missing[n]] = *o
		}
		results = append(results, got...)
	}
	return b.failed(results)
}

// results has the backend compile, and checks what it says. With results there is nothing that runs in the work tree anymore, whatever
// the error.
func (b *Builder) results(ctx context.Context, req *backend.CompileRequest, c *changes, progress plugin.ProgressFunc) ([]backend.CompileResult, error) {
	resp, err := b.backend.Compile(ctx, req, progress)
	if err != nil {
		return nil, err
	}
	if len(resp.Results) != len(req.Units) {
		return resp.Results, plugin.Errorf(plugin.FaultInternal, "", "the backend gave %d results for %d units", len(resp.Results), len(req.Units))
	}
	for n := range resp.Results {
		r := &resp.Results[n]
		if r.Object == "" {
			continue
		}
		if err := checkResult(req.WorkDir, c, r); err != nil {
			return resp.Results, err
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
