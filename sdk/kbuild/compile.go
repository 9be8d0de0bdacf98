package kbuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Compile compiles units in a work tree; see backend.Backend. A unit whose command is known runs the compiler directly,
// the others ask kbuild first. A unit that fails has diagnostics in its result; the call itself fails only when it could
// not be tried.
func (Service) Compile(ctx context.Context, req *backend.CompileRequest, progress plugin.ProgressFunc) (*backend.CompileResponse, error) {
	t, err := openFor(req.Tree)
	if err != nil {
		return nil, err
	}
	if req.WorkDir == "" || req.WorkDir == t.Root() {
		return nil, errors.New("compile: the request names no work tree")
	}
	if err := t.checkConfigured(req.WorkDir); err != nil {
		return nil, err
	}
	c := &compilation{t: t, work: req.WorkDir, flags: req.ExtraFlags, preprocess: req.Preprocess, jobs: jobs(req.Jobs), total: int64(len(req.Units)), progress: progress,
		results: make([]backend.CompileResult, len(req.Units))}
	return c.do(ctx, req.Units)
}

func jobs(n int) int {
	if n > 0 {
		return n
	}
	return runtime.NumCPU()
}

// compilation is one call of Compile.
type compilation struct {
	t     *Tree
	work  string
	flags []string
	// preprocess: the preprocessor's text is wanted in place of objects.
	preprocess bool
	jobs       int
	done       atomic.Int64
	total      int64
	progress   plugin.ProgressFunc
	results    []backend.CompileResult
}

// job is one unit to compile.
type job struct {
	index   int
	unit    backend.Unit
	command string
	plain   bool // the makefiles above it are the tree's own
	known   bool // the command was remembered
}

func (c *compilation) do(ctx context.Context, units []backend.Unit) (*backend.CompileResponse, error) {
	c.progress(plugin.Progress{Stage: c.stage(), Total: c.total})
	var warm, cold []*job
	plain := map[string]bool{}
	for i, u := range units {
		if err := checkUnit(u); err != nil {
			return nil, err
		}
		j := &job{index: i, unit: u}
		var err error
		if j.plain, err = c.t.plainMakefiles(c.work, u.Object, plain); err != nil {
			return nil, err
		}
		if j.plain {
			j.command = c.t.knownCommand(u, c.flags)
		}
		if j.known = j.command != ""; j.known {
			warm = append(warm, j)
		} else {
			cold = append(cold, j)
		}
	}
	failed, err := c.compileAll(ctx, warm)
	if err != nil {
		return nil, err
	}
	// A remembered command that fails may want a file that only kbuild makes: once more, the long way.
	cold = append(cold, failed...)
	if len(cold) == 0 {
		return &backend.CompileResponse{Results: c.results}, nil
	}
	if cold, err = c.ask(ctx, cold); err != nil {
		return nil, err
	}
	if _, err := c.compileAll(ctx, cold); err != nil {
		return nil, err
	}
	return &backend.CompileResponse{Results: c.results}, nil
}

func checkUnit(u backend.Unit) error {
	if !filepath.IsLocal(u.Source) || !filepath.IsLocal(u.Object) || path.Ext(u.Object) != ".o" {
		return plugin.Errorf(plugin.FaultInternal, u.Source, "%q is not an object in the tree", u.Object)
	}
	return nil
}

// ask gets the commands from kbuild. It returns the jobs that have one; the others fail here.
func (c *compilation) ask(ctx context.Context, cold []*job) ([]*job, error) {
	c.progress(plugin.Progress{Stage: c.stage(), Message: "ask kbuild for the commands", Done: c.done.Load(), Total: c.total})
	units := make([]backend.Unit, len(cold))
	for i, j := range cold {
		units[i] = j.unit
	}
	commands, out, err := c.t.askCommands(ctx, c.work, units, c.flags, c.jobs)
	if err != nil {
		return nil, err
	}
	var ready []*job
	for _, j := range cold {
		j.known = false
		if j.command = commands[j.unit.Object]; j.command != "" {
			ready = append(ready, j)
			continue
		}
		d := plugin.Errorf(plugin.FaultPatch, j.unit.Source, "kbuild has no compiler command for %s", j.unit.Object)
		d.Detail = "it is not compiled in this kernel, or by a rule of its own: " + tail(out)
		c.results[j.index] = backend.CompileResult{Unit: j.unit, Diagnostics: append(parseLog(out.stderr), *d)}
		c.step(j)
	}
	return ready, nil
}

// compileAll compiles jobs in parallel and returns those with a remembered command that failed.
func (c *compilation) compileAll(ctx context.Context, list []*job) ([]*job, error) {
	failed := make([]bool, len(list))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.jobs)
	for i, j := range list {
		g.Go(func() error {
			result, err := c.compile(gctx, j)
			if err != nil {
				return err
			}
			if failed[i] = result.Object == "" && j.known; !failed[i] {
				c.results[j.index] = *result
				c.step(j)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	var again []*job
	for i, j := range list {
		if failed[i] {
			again = append(again, j)
		}
	}
	return again, nil
}

func (c *compilation) step(j *job) {
	c.progress(plugin.Progress{Stage: c.stage(), Message: j.unit.Source, Done: c.done.Add(1), Total: c.total})
}

func (c *compilation) stage() string {
	if c.preprocess {
		return "preprocess"
	}
	return "compile"
}

// compile runs the compiler and objtool for one unit.
func (c *compilation) compile(ctx context.Context, j *job) (*backend.CompileResult, error) {
	object := filepath.Join(c.work, j.unit.Object)
	depfile := filepath.Join(c.work, path.Dir(j.unit.Object), "."+path.Base(j.unit.Object)+".d")
	script := "set -e; " + withoutPlace(j.command, c.t.CC)
	if c.preprocess {
		script = preprocessOnly(j.command, c.t.CC)
	}
	out, err := run(ctx, command{dir: c.work, env: c.t.env.at(c.work, nil), argv: []string{"sh", "-c", script}})
	r := &backend.CompileResult{Unit: j.unit, Command: j.command, Diagnostics: parseLog(out.stderr), Nanoseconds: out.took.Nanoseconds()}
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		return nil, fmt.Errorf("compile %s: %w", j.unit.Source, err)
	case err != nil:
		if !slices.ContainsFunc(r.Diagnostics, isError) {
			d := plugin.Errorf(plugin.FaultToolchain, j.unit.Source, "the compiler or objtool failed")
			d.Detail = tail(out)
			r.Diagnostics = append(r.Diagnostics, *d)
		}
		return r, nil
	}
	b, err := os.ReadFile(depfile)
	if err != nil {
		return nil, fmt.Errorf("compile %s: read its dependencies: %w", j.unit.Source, err)
	}
	os.Remove(depfile)
	r.Includes = dependencies(b, c.work)
	r.Object = object
	if !j.known && j.plain && c.allInTree(r.Includes) {
		if err := c.t.rememberCommand(j.unit, c.flags, j.command); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// withoutPlace has the compiler name the work tree "." in debug information, so that objects are the same wherever they
// are compiled. $PWD is the shell's.
func withoutPlace(text, cc string) string {
	rest, ok := strings.CutPrefix(text, cc+" ")
	if !ok {
		return text
	}
	return cc + ` -fdebug-prefix-map="$PWD"=. ` + rest
}

// preprocessOnly has the compiler stop after the preprocessor, whose text then is where the object would be, and the shell with it: what
// comes after the compiler (objtool) wants an object.
func preprocessOnly(text, cc string) string {
	rest, ok := strings.CutPrefix(text, cc+" ")
	if !ok {
		return "echo 'the command is not one of the compiler' >&2; exit 1"
	}
	return "exec " + cc + " -E -P " + rest
}

// allInTree says whether everything a unit includes is there without kbuild having made it. New files of a patch count as
// made: asking once more is cheap.
func (c *compilation) allInTree(includes []string) bool {
	for _, name := range includes {
		if _, err := os.Lstat(filepath.Join(c.t.Root(), name)); err != nil {
			return false
		}
	}
	return true
}

// dependencies reads a compiler's dependency output (a make rule) and gives the files below work, relative to it, sorted.
func dependencies(b []byte, work string) []string {
	_, list, ok := strings.Cut(string(b), ":")
	if !ok {
		return nil
	}
	var names []string
	for _, f := range strings.Fields(strings.ReplaceAll(list, "\\\n", " ")) {
		if filepath.IsAbs(f) {
			rel, err := filepath.Rel(work, f)
			if err != nil || !filepath.IsLocal(rel) {
				continue // the compiler's own headers
			}
			f = rel
		}
		names = append(names, path.Clean(f))
	}
	slices.Sort(names)
	return slices.Compact(names)
}
