package build

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ksplice/ksplice/sdk/backend"
)

const (
	// objectBytes bounds the cache of objects: those used last stay.
	objectBytes = 2 << 30
	// youngest is the age below which nothing is swept: somebody may be reading it.
	youngest = time.Hour
	// workTreeAge is how long the work trees of a tree stay when no run uses them. They hold the files of a tree that
	// its backend has removed.
	workTreeAge = 14 * 24 * time.Hour
	// factsAge is how long facts stay.
	factsAge = 90 * 24 * time.Hour
)

// sweep removes what killed runs left and what the cache has no room for, once a builder. Nothing of it may make a run fail.
func (b *Builder) sweep(tree *backend.Tree) {
	b.mu.Lock()
	swept := b.swept
	b.swept = true
	b.mu.Unlock()
	root, err := b.root()
	if swept || err != nil {
		return
	}
	start := time.Now()
	sweepScratch(filepath.Join(root, "scratch"))
	sweepWork(filepath.Join(root, "work"), digest(tree.Root, tree.ID)[:16])
	sweepObjects(filepath.Join(root, "objects"), objectBytes)
	sweepFacts(filepath.Join(root, "facts"))
	b.log.Trace("swept the cache", "time", time.Since(start))
}

// sweepScratch removes directories of runs that are no more.
func sweepScratch(base string) {
	entries, _ := os.ReadDir(base)
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), lockSuffix)
		dir := filepath.Join(base, name)
		lock, err := tryLock(dir + lockSuffix)
		if lock == nil || err != nil {
			continue
		}
		_ = os.RemoveAll(dir)
		_ = os.Remove(lock.Name())
		lock.Close()
	}
}

// sweepWork removes work trees that have not been used for long, and what could not be removed when it was discarded.
func sweepWork(base, current string) {
	trees, _ := os.ReadDir(base)
	for _, t := range trees {
		dir := filepath.Join(base, t.Name())
		entries, _ := os.ReadDir(dir)
		left := 0
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch {
			case isTrash(e.Name()):
				_ = os.RemoveAll(path)
			case strings.HasSuffix(e.Name(), lockSuffix) && t.Name() != current && old(path, workTreeAge):
				if !removeWorkTree(path) {
					left++
				}
			case strings.HasSuffix(e.Name(), lockSuffix):
				left++
			}
		}
		if left == 0 && t.Name() != current {
			_ = os.Remove(dir)
		}
	}
}

// removeWorkTree removes a work tree that nobody has, by the path of its lock.
func removeWorkTree(lockPath string) bool {
	lock, err := tryLock(lockPath)
	if lock == nil || err != nil {
		return false
	}
	defer lock.Close()
	dir := strings.TrimSuffix(lockPath, lockSuffix)
	if discard(dir) != nil {
		return false
	}
	_ = os.Remove(dir + busySuffix)
	return os.Remove(lockPath) == nil
}

func old(path string, age time.Duration) bool {
	st, err := os.Stat(path)
	return err == nil && time.Since(st.ModTime()) > age
}

// sweepObjects removes the objects that were used least lately, until the rest takes at most limit bytes.
func sweepObjects(base string, limit int64) {
	type file struct {
		path string
		size int64
		used time.Time
	}
	var files []file
	var total int64
	_ = filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // another run sweeps too
		}
		if st, err := d.Info(); err == nil {
			files = append(files, file{path, st.Size(), st.ModTime()})
			total += st.Size()
		}
		return nil
	})
	if total <= limit {
		return
	}
	slices.SortFunc(files, func(a, b file) int {
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.path, b.path))
	})
	for _, f := range files {
		if total <= limit || time.Since(f.used) < youngest {
			return
		}
		if os.Remove(f.path) == nil {
			total -= f.size
			_ = os.Remove(filepath.Dir(f.path)) // when it is empty now
		}
	}
}

func sweepFacts(base string) {
	entries, _ := os.ReadDir(base)
	for _, e := range entries {
		if path := filepath.Join(base, e.Name()); old(path, factsAge) {
			_ = os.Remove(path)
		}
	}
}
