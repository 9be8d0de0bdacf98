package kbuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Store keeps a backend's trees in its cache directory. A tree is made aside, under a lock of its own, and renamed into
// place when it is complete: whoever is killed on the way leaves rubbish that the next one removes, never half a tree.
type Store struct {
	dir string
}

// NewStore returns the store in a cache directory.
func NewStore(cacheDir string) *Store { return &Store{filepath.Join(cacheDir, "trees")} }

// List opens every complete tree.
func (s *Store) List() ([]*Tree, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list trees: %w", err)
	}
	var list []*Tree
	for _, e := range entries {
		if !e.IsDir() || strings.Contains(e.Name(), ".") {
			continue
		}
		t, err := open(filepath.Join(s.dir, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open tree %s: %w; remove that directory to have it made again", e.Name(), err)
		}
		list = append(list, t)
	}
	return list, nil
}

// Make opens the tree with a key, or has it made; reused says that it was there. The key names everything the tree is made of, whatever
// its form: with another key it is another tree. fill puts into an empty directory what Make then needs: the sources, .config,
// Module.symvers, and what `make modules_prepare` makes (include/config/auto.conf, generated headers, fixdep, modpost, objtool); what it
// returns becomes the tree's description. Its error is Make's, and nothing of what it wrote stays. A kernel that cannot be built unit by
// unit is a *plugin.Diagnostic. While somebody else makes the same tree, Make waits, until ctx ends.
func (s *Store) Make(ctx context.Context, key string, progress plugin.ProgressFunc, fill func(root string) (*Info, error)) (t *Tree, reused bool, err error) {
	name := digest(Layout, key)[:32]
	dir := filepath.Join(s.dir, name)
	if t, err := open(dir); err == nil {
		Used(t)
		return t, true, nil
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, false, fmt.Errorf("prepare tree: %w", err)
	}
	unlock, err := lock(ctx, dir+lockSuffix, progress)
	if err != nil {
		return nil, false, fmt.Errorf("prepare tree: %w", err)
	}
	defer unlock()
	if t, err := open(dir); err == nil {
		return t, true, nil // somebody else made it while this one waited
	}
	tmp := dir + newSuffix
	for _, rubbish := range []string{tmp, dir} {
		if err := os.RemoveAll(rubbish); err != nil {
			return nil, false, fmt.Errorf("prepare tree: remove what a killed run left: %w", err)
		}
	}
	root := filepath.Join(tmp, rootName)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, false, fmt.Errorf("prepare tree: %w", err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(tmp)
		}
	}()
	info, err := fill(root)
	if err != nil {
		return nil, false, err
	}
	info.Key = key
	if err = finish(ctx, tmp, *info, progress); err != nil {
		return nil, false, err
	}
	if err = os.Rename(tmp, dir); err != nil {
		return nil, false, fmt.Errorf("prepare tree: %w", err)
	}
	if t, err = open(dir); err != nil {
		return nil, false, err
	}
	s.sweep(name)
	return t, false, nil
}

const (
	// keptTrees is how many trees stay when another is made: those that were used last. A tree takes some 1.5 GB.
	keptTrees = 6
	// youngTree is the age since its last use below which a tree stays anyway: somebody may work with it.
	youngTree = 24 * time.Hour
)

// Used notes that a tree which List found is used now. A store keeps the trees that were used last, and each for a day.
func Used(t *Tree) {
	now := time.Now()
	// It decides only which tree is removed first.
	_ = os.Chtimes(filepath.Join(t.Dir, treeName), now, now)
}

// sweep removes the trees that were used least lately, and what killed runs left of others. It may fail: the next one sweeps
// again.
func (s *Store) sweep(current string) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	type candidate struct {
		name string
		used time.Time
	}
	var list []candidate
	for _, e := range entries {
		name, unfinished := strings.CutSuffix(e.Name(), newSuffix)
		if !e.IsDir() || name == current {
			continue
		}
		c := candidate{name: name}
		if st, err := os.Stat(filepath.Join(s.dir, name, treeName)); err == nil && !unfinished {
			c.used = st.ModTime()
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b candidate) int { return b.used.Compare(a.used) })
	for i, c := range list {
		if !c.used.IsZero() && (i+1 < keptTrees || time.Since(c.used) < youngTree) {
			continue
		}
		if unlock := tryLock(filepath.Join(s.dir, c.name) + lockSuffix); unlock != nil {
			s.remove(c.name, c.used)
			unlock()
		}
	}
}

// remove removes a tree, or what there is of it, by the caller's lock. tree.json goes first: without it there is no tree.
func (s *Store) remove(name string, used time.Time) {
	dir := filepath.Join(s.dir, name)
	if st, err := os.Stat(filepath.Join(dir, treeName)); err == nil {
		if !st.ModTime().Equal(used) {
			return // it was made or used in the meantime
		}
		if os.Remove(filepath.Join(dir, treeName)) != nil {
			return
		}
	}
	_ = os.RemoveAll(dir)
	_ = os.RemoveAll(dir + newSuffix)
}

const (
	lockSuffix = ".lock"
	newSuffix  = ".new"
)

// tryLock takes a lock unless somebody has it.
func tryLock(path string) (unlock func()) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		f.Close()
		return nil
	}
	return func() { f.Close() }
}

// lockPoll is how often a waiting process looks whether the lock is free.
const lockPoll = 200 * time.Millisecond

// lock takes a lock that ends with the process.
func lock(ctx context.Context, path string, progress plugin.ProgressFunc) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for said := false; ; said = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !said {
			progress(plugin.Progress{Stage: "wait", Message: "another run prepares the same kernel"})
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}
