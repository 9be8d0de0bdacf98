// Package build turns a backend's tree and changed files into objects. It makes the work trees that a backend compiles in, so
// that the tree itself stays as it was prepared, and keeps objects and facts in a cache. The create pipeline calls it.
//
// Everything lies below one cache directory, may be deleted at any time and is made again:
//
//	backends/NAME/       what a backend keeps, trees included
//	work/TREE/N/         work trees: hard links to a tree, one run in each at a time
//	objects/             objects by what they were made of
//	facts/               facts by tree and expressions, build ids
//	scratch/             directories of single calls, removed with their run or by the next
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// layout is the version of what is kept in the cache: raise it with any change that makes old objects or facts wrong.
const layout = "2"

// Builder builds with one backend. It may be used by several goroutines.
type Builder struct {
	backend backend.Backend
	dir     string
	log     hclog.Logger

	mu      sync.Mutex
	scratch *scratch
	swept   bool
}

// New returns a builder that keeps what it makes in cacheDir, which need not exist.
func New(b backend.Backend, cacheDir string, log hclog.Logger) *Builder {
	if log == nil {
		log = hclog.NewNullLogger()
	}
	return &Builder{backend: b, dir: cacheDir, log: log}
}

// Close removes the directories of single calls, and with them the modules that Link made. A run that does not get here is
// cleaned up after by the next.
func (b *Builder) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.scratch == nil {
		return nil
	}
	s := b.scratch
	b.scratch = nil
	return s.close()
}

// Prepare has the backend make the tree of a kernel, or find it made. version is its `uname -v`, empty when not known.
func (b *Builder) Prepare(ctx context.Context, release, version string, progress plugin.ProgressFunc) (*backend.Tree, error) {
	info, err := b.backend.Info(ctx)
	if err != nil {
		return nil, err
	}
	if filepath.Base(info.Name) != info.Name || info.Name == "." || info.Name == ".." {
		return nil, plugin.Errorf(plugin.FaultInternal, info.Name, "a backend cannot have this name")
	}
	root, err := b.root()
	if err != nil {
		return nil, err
	}
	dir := BackendDir(root, info.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("prepare tree: %w", err)
	}
	tree, err := b.backend.Prepare(ctx, &backend.PrepareRequest{Release: release, Version: version, CacheDir: dir}, orSilent(progress))
	if err != nil {
		return nil, err
	}
	b.sweep(tree)
	return tree, nil
}

// BackendDir is where a backend keeps what it makes, in a cache directory.
func BackendDir(cacheDir, name string) string { return filepath.Join(cacheDir, "backends", name) }

// Affected lists the units that compile the files at paths, relative to the source directory, or include them.
func (b *Builder) Affected(ctx context.Context, tree *backend.Tree, paths []string) ([]backend.Unit, error) {
	resp, err := b.backend.Units(ctx, &backend.UnitsRequest{Tree: tree, Sources: paths})
	if err != nil {
		return nil, fmt.Errorf("find affected units: %w", err)
	}
	return resp.Units, nil
}

// AffectedIn is Affected in a tree with changed files, which may be makefiles: those then say what is built.
func (b *Builder) AffectedIn(ctx context.Context, tree *backend.Tree, files map[string][]byte, paths []string) (units []backend.Unit, err error) {
	c, err := changesOf(tree, files)
	if err != nil {
		return nil, err
	}
	if len(c.files) == 0 {
		return b.Affected(ctx, tree, paths)
	}
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
	resp, err := b.backend.Units(ctx, &backend.UnitsRequest{Tree: tree, WorkDir: w.dir, Sources: paths})
	if err != nil {
		return nil, fmt.Errorf("find affected units: %w", err)
	}
	clean = true
	return resp.Units, nil
}

// Target is what an architecture plugin is told of the tree's kernel: its machine, the CONFIG_ symbols that are set, and the
// facts that the plugin asks for.
func (b *Builder) Target(ctx context.Context, tree *backend.Tree, a arch.Arch) (arch.Target, error) {
	t := arch.Target{Machine: tree.Machine}
	var err error
	if t.Config, err = ReadConfig(tree.Config); err != nil {
		return t, err
	}
	s, ok := a.(arch.FactSource)
	if !ok {
		return t, nil
	}
	expressions, err := s.FactExpressions(ctx)
	if err != nil {
		return t, fmt.Errorf("ask the architecture plugin for the facts it needs: %w", err)
	}
	t.Facts, err = b.Facts(ctx, tree, expressions)
	return t, err
}

// ReadConfig reads the CONFIG_ symbols that are set in a kernel's configuration file, strings without their quotes.
func ReadConfig(path string) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the kernel's configuration: %w", err)
	}
	config := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(name, "CONFIG_") {
			config[name] = strings.Trim(value, `"`)
		}
	}
	return config, nil
}

// Facts evaluates the expressions in the tree; those whose If is not set there are left out.
func (b *Builder) Facts(ctx context.Context, tree *backend.Tree, expressions []arch.FactExpression) (map[string]int64, error) {
	root, err := b.root()
	if err != nil {
		return nil, err
	}
	asked, err := json.Marshal(expressions)
	if err != nil {
		return nil, fmt.Errorf("facts: %w", err)
	}
	key := digest(layout, tree.ID, string(asked))
	path := filepath.Join(root, "facts", key+recordSuffix)
	var facts map[string]int64
	if readSealed(path, key, &facts) && facts != nil {
		return facts, nil
	}
	dir, done, err := b.Temporary("facts")
	if err != nil {
		return nil, err
	}
	defer done()
	resp, err := b.backend.Facts(ctx, &backend.FactsRequest{Tree: tree, Expressions: expressions, WorkDir: dir})
	if err != nil {
		return nil, fmt.Errorf("facts: %w", err)
	}
	facts = resp.Facts
	if facts == nil {
		facts = map[string]int64{}
	}
	if err := writeSealed(path, key, facts); err != nil {
		b.log.Warn("facts are not kept", "error", err)
	}
	return facts, nil
}

// BuildID is the GNU build id of the tree's kernel, in hexadecimal; empty where the backend has no image of it. Unpacking an
// image takes seconds, so the answer is kept.
func (b *Builder) BuildID(tree *backend.Tree) (string, error) {
	if tree.Image == "" {
		return "", nil
	}
	root, err := b.root()
	if err != nil {
		return "", err
	}
	st, err := os.Stat(tree.Image)
	if err != nil {
		return "", fmt.Errorf("the kernel's image: %w", err)
	}
	key := digest(layout, tree.ID, "build id", tree.Image, fmt.Sprint(st.Size(), st.ModTime().UnixNano()))
	path := filepath.Join(root, "facts", key+recordSuffix)
	var id string
	if readSealed(path, key, &id) && id != "" {
		return id, nil
	}
	if id, err = kernel.BuildID(tree.Image); err != nil {
		return "", err
	}
	if err := writeSealed(path, key, id); err != nil {
		b.log.Warn("the build id is not kept", "error", err)
	}
	return id, nil
}

// root is the cache directory without symbolic links, made when missing.
func (b *Builder) root() (string, error) {
	if b.dir == "" {
		return "", errors.New("open cache: no directory is named")
	}
	abs, err := filepath.Abs(b.dir)
	if err == nil {
		err = os.MkdirAll(abs, 0o755)
	}
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return "", &plugin.Diagnostic{Fault: plugin.FaultMachine, Where: b.dir, Summary: "the cache directory cannot be used",
			Detail: err.Error() + "; name another one"}
	}
	return abs, nil
}

func orSilent(p plugin.ProgressFunc) plugin.ProgressFunc {
	if p == nil {
		return func(plugin.Progress) {}
	}
	return p
}

// digest is a digest of strings, no matter what they contain.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s,", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// writeFile writes a file, and the directory it is in, so that nobody ever sees half of it.
func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
