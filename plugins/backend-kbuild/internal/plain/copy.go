package plain

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// sourceFile is a file of the source.
type sourceFile struct {
	path     string // relative to the source
	mode     fs.FileMode
	size     int64
	modified int64  // nanoseconds
	inode    uint64 // not the time of its change, which somebody's hard link sets
	link     string // target of a symbolic link
}

// made are ends of names of what a build makes and what compiling single units does without.
var made = []string{".o", ".ko", ".a", recordSuffix, ".mod", ".mod.c", ".order", ".symvers", ".symtypes", ".d", ".i", ".lst", ".dwo", ".gcno"}

// madeAtTop are names at the top of a source that was built in place.
var madeAtTop = []string{"vmlinux", "System.map", ".config", ".config.old", "modules.builtin", "modules.builtin.modinfo", ".version", ".missing-syscalls.d"}

// listSource lists the files that make the source, sorted. What kbuild made there, when the kernel was built in place, is left
// out: kbuild leaves a record beside each such file.
func listSource(ctx context.Context, source string) ([]sourceFile, error) {
	var files []sourceFile
	records := map[string]bool{}
	err := filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, path)
		if err != nil || rel == "." {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name == ".git" || rel == "include/generated" || rel == "include/config" || strings.HasSuffix(rel, "/include/generated") {
				return filepath.SkipDir
			}
			return ctx.Err()
		}
		if strings.HasSuffix(rel, recordSuffix) {
			records[rel] = true
		}
		if isMade(rel) {
			return nil
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		f := sourceFile{path: rel, mode: st.Mode(), size: st.Size(), modified: st.ModTime().UnixNano()}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			f.inode = sys.Ino
		}
		switch {
		case st.Mode().IsRegular():
		case st.Mode()&fs.ModeSymlink != 0:
			if f.link, err = os.Readlink(path); err != nil {
				return err
			}
		default:
			return nil // a socket or device of somebody's
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, refuse(source, "the source cannot be read", err.Error())
	}
	files = slices.DeleteFunc(files, func(f sourceFile) bool {
		dir, name := filepath.Split(f.path)
		return records[dir+"."+name+recordSuffix]
	})
	slices.SortFunc(files, func(a, b sourceFile) int { return strings.Compare(a.path, b.path) })
	return files, nil
}

// recordSuffix is that of kbuild's record of how it made a file: .NAME.cmd (scripts/Kbuild.include: if_changed).
const recordSuffix = ".cmd"

func isMade(rel string) bool {
	if !strings.Contains(rel, "/") && (slices.Contains(madeAtTop, rel) || strings.HasPrefix(rel, "vmlinux.") || strings.HasPrefix(rel, ".tmp_")) {
		return true
	}
	return slices.ContainsFunc(made, func(end string) bool { return strings.HasSuffix(rel, end) })
}

// fingerprint is a digest of what the file system says of the files: it changes when any is written.
func fingerprint(files []sourceFile) string {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%s\x00%o %d %d %d\x00%s\n", f.path, f.mode, f.size, f.modified, f.inode, f.link)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// key names what a tree is made of.
func (b *Backend) key(k *kernel, files []sourceFile) (string, error) {
	parts := []string{b.source, k.release, k.version, fingerprint(files)}
	paths := []string{b.config, b.symvers}
	for _, name := range versionHeaders {
		paths = append(paths, filepath.Join(b.build, name))
	}
	for i, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) && i >= 2 {
			parts = append(parts, "none")
			continue
		}
		if err != nil {
			return "", fmt.Errorf("digest file: %w", err)
		}
		s := sha256.Sum256(text)
		parts = append(parts, hex.EncodeToString(s[:]))
	}
	return strings.Join(parts, "\n"), nil
}

// copySource copies the files.
func copySource(ctx context.Context, source, root string, files []sourceFile, progress plugin.ProgressFunc) error {
	dirs := map[string]bool{}
	for _, f := range files {
		if dir := filepath.Dir(filepath.Join(root, f.path)); !dirs[dir] {
			dirs[dir] = true
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("copy the source: %w", err)
			}
		}
	}
	const step = 1000
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	for i := 0; i < len(files) && gctx.Err() == nil; i += step {
		progress(plugin.Progress{Stage: "copy", Message: "the source", Done: int64(i), Total: int64(len(files))})
		chunk := files[i:min(i+step, len(files))]
		g.Go(func() error {
			for _, f := range chunk {
				if gctx.Err() != nil {
					return gctx.Err()
				}
				if err := f.copy(source, root); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("copy the source: %w", err)
	}
	return nil
}

func (f *sourceFile) copy(source, root string) error {
	to := filepath.Join(root, f.path)
	if f.link != "" {
		return os.Symlink(f.link, to)
	}
	return copyFile(filepath.Join(source, f.path), to, f.mode.Perm()|0o644)
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

func replaceFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return copyFile(from, to, 0o644)
}
