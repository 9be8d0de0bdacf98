// Package vmtest boots a distribution's kernel in QEMU and runs programs in it. The tests that need a kernel, the
// benchmarks and the demo use it.
//
// Fetch takes a kernel as the distribution's archive has it; Boot starts it with an init of our own; the Guest runs
// programs, keeps the console, and Err says whether the kernel complained. In a test, Test does all of that.
package vmtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// CacheDir returns the directory that fetched and built things are kept in. It may be deleted at any time when nothing
// runs.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w; set HOME or XDG_CACHE_HOME", err)
	}
	return filepath.Join(base, "ksplice", "vmtest"), nil
}

// cached returns the directory of a key in the cache, made once: make fills an empty directory, which is then renamed
// into place, so that others see all of it or nothing. Processes that want the same key wait for each other. Where the
// contents hold their own path, they must use final.
func cached(key string, make func(dir, final string) error) (string, error) {
	base, err := CacheDir()
	if err != nil {
		return "", err
	}
	final := filepath.Join(base, key)
	if exists(final) {
		return final, nil
	}
	unlock, err := lock(key)
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(final) {
		return final, nil
	}
	dir, err := os.MkdirTemp(base, ".making-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	if err := make(dir, final); err != nil {
		return "", err
	}
	if err := os.Rename(dir, final); err != nil {
		return "", err
	}
	return final, nil
}

// lock takes the cache's lock of the name, between processes and within this one.
func lock(name string) (unlock func(), err error) {
	base, err := CacheDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(base, "."+name+".lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// moduleRoot returns the directory of this Go module: that of the working directory or one above it.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		b, err := os.ReadFile(filepath.Join(at, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module github.com/ksplice/ksplice\n") {
			return at, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("find Ksplice's source: no go.mod of it in %s or above: run this inside the source tree", dir)
		}
	}
}

// Tree lists the regular files below dir as Options.Files wants them, to stand below guestDir.
func Tree(dir, guestDir string) (map[string]string, error) {
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		files[filepath.Join(guestDir, rel)] = path
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	return files, nil
}
