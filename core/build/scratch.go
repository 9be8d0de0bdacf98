package build

import (
	"fmt"
	"os"
	"path/filepath"
)

// scratch is the directory of one run for its single calls. The lock beside it says that the run is alive.
type scratch struct {
	dir  string
	lock *os.File
}

const lockSuffix = ".lock"

// Temporary makes an empty directory that lives as long as the run, or until done is called.
func (b *Builder) Temporary(name string) (dir string, done func(), err error) {
	root, err := b.root()
	if err != nil {
		return "", nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.scratch == nil {
		if b.scratch, err = newScratch(filepath.Join(root, "scratch")); err != nil {
			return "", nil, fmt.Errorf("make a directory to work in: %w", err)
		}
	}
	dir, err = os.MkdirTemp(b.scratch.dir, name+"-*")
	if err != nil {
		return "", nil, fmt.Errorf("make a directory to work in: %w", err)
	}
	return dir, func() {
		if err := os.RemoveAll(dir); err != nil {
			b.log.Debug("a directory is left for the next run to remove", "directory", dir, "error", err)
		}
	}, nil
}

func newScratch(base string) (*scratch, error) {
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, err
	}
	for {
		dir, err := os.MkdirTemp(base, "run-*")
		if err != nil {
			return nil, err
		}
		lock, err := tryLock(dir + lockSuffix)
		if err != nil {
			return nil, err
		}
		if lock == nil {
			continue // a sweep was between our two steps
		}
		if _, err := os.Stat(dir); err != nil {
			lock.Close()
			continue
		}
		return &scratch{dir, lock}, nil
	}
}

func (s *scratch) close() error {
	err := os.RemoveAll(s.dir)
	if rerr := os.Remove(s.lock.Name()); err == nil {
		err = rerr
	}
	s.lock.Close()
	if err != nil {
		return fmt.Errorf("remove working directories: %w", err)
	}
	return nil
}
