package apt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ksplice/ksplice/sdk/kbuild"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// progressEvery is the time between two reports of a download.
const progressEvery = 500 * time.Millisecond

// Fetch gets packages into dir and returns their paths, in order. Every package is checked against the digest that the package lists,
// which apt has verified, have of it.
func (c *Client) Fetch(ctx context.Context, dir string, list []Package, progress plugin.ProgressFunc) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("fetch packages: %w", err)
	}
	paths := make([]string, len(list))
	var wanted []Package
	var total int64
	for i, p := range list {
		paths[i] = filepath.Join(dir, p.SHA256+".deb")
		if _, err := os.Stat(paths[i]); err == nil {
			continue // its digest was checked before it got this name
		}
		if c.debs != "" {
			found, err := take(c.debs, paths[i], p)
			if err != nil {
				return nil, err
			}
			if found {
				continue
			}
		}
		wanted = append(wanted, p)
		total += p.Size
	}
	if len(wanted) == 0 {
		return paths, nil
	}
	tmp, err := os.MkdirTemp(dir, ".download-*")
	if err != nil {
		return nil, fmt.Errorf("fetch packages: %w", err)
	}
	defer os.RemoveAll(tmp)
	stop := watch(tmp, total, progress)
	// As root apt would fetch as the user _apt, who may not write here.
	argv := c.command("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "--")
	for _, p := range wanted {
		argv = append(argv, p.Name+"="+p.Version)
	}
	err = kbuild.Run(ctx, tmp, argv)
	stop()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, &plugin.Diagnostic{Fault: plugin.FaultMachine, Where: "apt-get download", Summary: "the packages cannot be fetched", Detail: err.Error()}
	}
	for _, p := range wanted {
		target := filepath.Join(dir, p.SHA256+".deb")
		found, err := take(tmp, target, p)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, &plugin.Diagnostic{Fault: plugin.FaultMachine, Where: p.Name, Summary: "apt fetched another file than the package lists name",
				Detail: "expected version " + p.Version + " with SHA256 " + p.SHA256 + "; run `apt-get update` and try again"}
		}
	}
	return paths, nil
}

const (
	// keptPackages bounds the packages that stay for the next flavour of a kernel, or for when the tree was removed.
	keptPackages = 600 << 20
	// youngPackage is the age below which a package stays: somebody may be reading it.
	youngPackage = time.Hour
)

// Sweep removes the oldest packages until the rest is small enough, and downloads that were never finished.
func Sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // there is nothing to remove
	}
	var files []os.FileInfo
	var total int64
	for _, e := range entries {
		st, err := e.Info()
		switch {
		case err != nil:
		case e.IsDir() && time.Since(st.ModTime()) > 24*time.Hour:
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		case st.Mode().IsRegular():
			files = append(files, st)
			total += st.Size()
		}
	}
	slices.SortFunc(files, func(a, b os.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, st := range files {
		if total <= keptPackages || time.Since(st.ModTime()) < youngPackage {
			return
		}
		if os.Remove(filepath.Join(dir, st.Name())) == nil {
			total -= st.Size()
		}
	}
}

// take looks in dir for a package by its size and digest and gives it the name target, by link or copy.
func take(dir, target string, p Package) (bool, error) {
	matches, err := filepath.Glob(filepath.Join(dir, p.Name+"_*.deb"))
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", p.Name, err)
	}
	for _, m := range matches {
		st, err := os.Stat(m)
		if err != nil || st.Size() != p.Size {
			continue
		}
		sum, err := digestFile(m)
		if err != nil {
			return false, err
		}
		if sum != p.SHA256 {
			continue
		}
		err = os.Link(m, target)
		if err != nil && !errors.Is(err, os.ErrExist) {
			err = copyFile(m, target)
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return false, fmt.Errorf("take package %s: %w", m, err)
		}
		return true, nil
	}
	return false, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), ".copy-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(out.Name(), to)
}

func digestFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("digest package: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("digest package %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// watch reports how much of a download has come until the returned function is called.
func watch(dir string, total int64, progress plugin.ProgressFunc) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			var have int64
			_ = filepath.Walk(dir, func(_ string, st os.FileInfo, err error) error {
				if err == nil && st.Mode().IsRegular() {
					have += st.Size()
				}
				return nil // a file that goes away while it is looked at is apt's business
			})
			progress(plugin.Progress{Stage: "download", Message: "packages of the kernel", Done: min(have, total), Total: total})
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}
