package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// keptWorkTrees is how many work trees of a tree stay for later runs: a run has one for each side of its patch. More are there only while
// runs overlap.
const keptWorkTrees = 2

// workTree is a tree of links that one run has for itself. A file beside it says that somebody works in it; who is killed
// leaves that file, and the next run then takes a new directory: programs of the killed run may still be writing in the old.
type workTree struct {
	dir   string
	lock  *os.File
	index int
}

// workTree takes a free work tree of the tree, or makes one, and brings it in order.
func (b *Builder) workTree(ctx context.Context, tree *backend.Tree) (*workTree, error) {
	root, err := b.root()
	if err != nil {
		return nil, err
	}
	base := filepath.Join(root, "work", digest(tree.Root, tree.ID)[:16])
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, fmt.Errorf("make work tree: %w", err)
	}
	for i := 0; ; i++ {
		dir := filepath.Join(base, strconv.Itoa(i))
		lock, err := tryLock(dir + ".lock")
		if err != nil {
			return nil, fmt.Errorf("make work tree: %w", err)
		}
		if lock == nil {
			continue
		}
		now := time.Now() // used last: sweep looks at it
		_ = os.Chtimes(lock.Name(), now, now)
		w := &workTree{dir: dir, lock: lock, index: i}
		if err := w.begin(ctx, tree); err != nil {
			lock.Close()
			return nil, err
		}
		return w, nil
	}
}

// busySuffix is that of the file that says that somebody works in a work tree.
const busySuffix = ".busy"

func (w *workTree) busy() string { return w.dir + busySuffix }

func (w *workTree) begin(ctx context.Context, tree *backend.Tree) error {
	if _, err := os.Lstat(w.busy()); err == nil {
		if err := discard(w.dir); err != nil {
			return fmt.Errorf("make work tree: remove what a killed run left: %w", err)
		}
	}
	if err := os.WriteFile(w.busy(), nil, 0o644); err != nil {
		return fmt.Errorf("make work tree: %w", err)
	}
	return mirror(ctx, tree.Root, w.dir)
}

// end gives the work tree back. clean says that nothing runs in it anymore.
func (w *workTree) end(clean bool) {
	defer w.lock.Close()
	if !clean {
		return
	}
	if w.index >= keptWorkTrees {
		if discard(w.dir) != nil {
			return
		}
	}
	// Left over, it costs the next run a new work tree.
	_ = os.Remove(w.busy())
}

// discard takes a directory away at once, and what is in it as far as possible: programs that still run in it may keep a rest,
// which sweep removes.
func discard(dir string) error {
	trash, err := os.MkdirTemp(filepath.Dir(dir), trashPrefix+"*")
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(trash, "tree")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_ = os.RemoveAll(trash)
	return nil
}

// trashPrefix is how names of directories begin that are being removed.
const trashPrefix = ".trash-"

// put brings the changed files in: path relative to the source directory, content nil where the file is gone.
func (w *workTree) put(tree *backend.Tree, files map[string][]byte) error {
	source, err := filepath.Rel(tree.Root, tree.Source)
	if err != nil {
		return fmt.Errorf("change work tree: %w", err)
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if !filepath.IsLocal(name) || filepath.Clean(name) != name {
			return plugin.Errorf(plugin.FaultPatch, name, "the file lies outside the source")
		}
		if err := w.putFile(filepath.Join(w.dir, source), name, files[name]); err != nil {
			return fmt.Errorf("change work tree: %w", err)
		}
	}
	return nil
}

// putFile replaces one file; never by writing into it, because it is a link to that of the tree.
func (w *workTree) putFile(source, name string, content []byte) error {
	path := filepath.Join(source, name)
	// A symbolic link on the way would lead the file to where the tree does not expect it, or out of the work tree.
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		if st, err := os.Lstat(filepath.Join(source, dir)); err == nil && st.Mode()&os.ModeSymlink != 0 {
			return plugin.Errorf(plugin.FaultPatch, name, "%s is a symbolic link", dir)
		}
	}
	if st, err := os.Lstat(path); err == nil {
		if !st.Mode().IsRegular() {
			return plugin.Errorf(plugin.FaultPatch, name, "it is not a regular file in the kernel's source")
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if content == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// tryLock takes a lock that ends with the process; nil when somebody else has it.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case err == nil:
		// Whoever removed the lock's file had it locked: a lock on a file without a name is none.
		named, serr := os.Stat(path)
		mine, ferr := f.Stat()
		if serr == nil && ferr == nil && os.SameFile(named, mine) {
			return f, nil
		}
		f.Close()
		return nil, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		f.Close()
		return nil, nil
	}
	f.Close()
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// isTrash says whether a name is that of a directory that is being removed.
func isTrash(name string) bool { return strings.HasPrefix(name, trashPrefix) }
