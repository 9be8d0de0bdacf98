package debian

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/plugins/internal/apt"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// writers is how many files are written at once; bufferedFiles how many wait, each whole in memory.
const (
	writers       = 2
	bufferedFiles = 64
)

// entry is a file to be written.
type entry struct {
	path    string
	mode    fs.FileMode
	content []byte
}

// write writes the file unless there is one: what the headers package has of the build stays.
func (e *entry) write() error {
	f, err := os.OpenFile(e.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, e.mode)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.Write(e.content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// unpackSource unpacks the kernel's sources from a linux-source package into root. It returns the text of the patch for the
// real-time kernels, when the package has one.
func unpackSource(ctx context.Context, deb, root string, progress plugin.ProgressFunc) (rt []byte, err error) {
	found := false
	err = apt.EachFile(ctx, deb, func(h *tar.Header, name string, r io.Reader) error {
		base := path.Base(name)
		switch {
		case path.Dir(name) == "usr/src" && strings.HasPrefix(base, "linux-source-") && strings.HasSuffix(base, ".tar.xz"):
			found = true
			return unpackTar(ctx, r, root, h.Size, progress)
		case path.Dir(name) == "usr/src" && strings.HasPrefix(base, "linux-patch-") && strings.HasSuffix(base, "-rt.patch.xz"):
			out, wait, err := apt.Pipe(ctx, r, "xz", "-dc")
			if err != nil {
				return err
			}
			if rt, err = io.ReadAll(out); err != nil {
				return err
			}
			return wait()
		}
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("unpack %s: there is no linux-source-*.tar.xz in it", filepath.Base(deb))
	}
	return rt, err
}

// counted reports how much of a reader was read.
type counted struct {
	io.Reader
	done, said, total int64
	progress          plugin.ProgressFunc
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.done += int64(n)
	if c.done-c.said > c.total/100 {
		c.said = c.done
		c.progress(plugin.Progress{Stage: "unpack", Message: "sources", Done: c.done, Total: c.total})
	}
	return n, err
}

// unpackTar unpacks an xz'd tar of size bytes, without its first path element, into root.
func unpackTar(ctx context.Context, r io.Reader, root string, size int64, progress plugin.ProgressFunc) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	out, wait, err := apt.Pipe(ctx, &counted{Reader: r, total: size, progress: progress}, "xz", "-dc", "-T0")
	if err != nil {
		return err
	}
	queue := make(chan entry, bufferedFiles)
	for range writers {
		g.Go(func() error {
			for e := range queue {
				if err := e.write(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(queue)
		err := apt.EachEntry(out, func(h *tar.Header, name string, r io.Reader) error {
			_, rest, ok := strings.Cut(name, "/")
			if !ok {
				return nil
			}
			target := filepath.Join(root, rest)
			switch h.Typeflag {
			case tar.TypeDir:
				return os.MkdirAll(target, 0o755)
			case tar.TypeSymlink:
				return os.Symlink(h.Linkname, target)
			case tar.TypeReg:
				b := make([]byte, h.Size)
				if _, err := io.ReadFull(r, b); err != nil {
					return err
				}
				select {
				case queue <- entry{target, apt.FileMode(h.Mode), b}:
					return nil
				case <-gctx.Done():
					return gctx.Err()
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, out)
		return err
	})
	if err = g.Wait(); err != nil {
		cancel()
	}
	if werr := wait(); err == nil {
		err = werr
	}
	return err
}

// unpackHeaders puts what a build made of the kernel into the tree: configuration, symbol versions, generated headers, the
// module linker script. It leaves out the empty files that stand for configuration symbols, which only a rebuild needs.
func unpackHeaders(ctx context.Context, deb, release, root string) (variables string, err error) {
	prefix := "usr/src/linux-headers-" + release + "/"
	err = apt.EachFile(ctx, deb, func(h *tar.Header, name string, r io.Reader) error {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok || h.Typeflag != tar.TypeReg {
			return nil
		}
		switch {
		case rest == ".kernelvariables":
			b, err := io.ReadAll(r)
			variables = string(b)
			return err
		case rest == ".config", rest == "Module.symvers", rest == "include/config/auto.conf",
			strings.HasPrefix(rest, "include/generated/"), strings.HasPrefix(rest, "arch/"), rest == "scripts/module.lds":
			return apt.Put(root, rest, h.Mode, r)
		}
		return nil
	})
	if err == nil && variables == "" {
		err = fmt.Errorf("unpack %s: there is no %s.kernelvariables in it", filepath.Base(deb), prefix)
	}
	return variables, err
}

// buildTools are the programs of linux-kbuild that compiling units and making modules takes. Where the package has one
// for several kinds of machine behind a wrapper, ours is the second name.
var buildTools = map[string]string{
	"scripts/basic/fixdep":                    "",
	"scripts/genksyms/genksyms":               "",
	"scripts/recordmcount":                    "",
	"scripts/mod/modpost":                     "scripts/mod/modpost.real-lsb-64",
	"tools/objtool/objtool":                   "tools/objtool/objtool.real-x86",
	"tools/bpf/resolve_btfids/resolve_btfids": "",
}

// unpackTools puts the build tools into the tree.
func unpackTools(ctx context.Context, deb, root string) error {
	real := map[string]bool{}
	err := apt.EachFile(ctx, deb, func(h *tar.Header, name string, r io.Reader) error {
		parts := strings.SplitN(name, "/", 4)
		if len(parts) != 4 || parts[1] != "lib" || !strings.HasPrefix(parts[2], "linux-kbuild-") || h.Typeflag != tar.TypeReg {
			return nil
		}
		for tool, second := range buildTools {
			if parts[3] != tool && parts[3] != second || parts[3] == tool && real[tool] {
				continue
			}
			if parts[3] == second {
				real[tool] = true
			}
			return apt.Put(root, tool, h.Mode, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, tool := range []string{"scripts/basic/fixdep", "scripts/mod/modpost", "tools/objtool/objtool"} {
		if _, err := os.Stat(filepath.Join(root, tool)); err != nil {
			return fmt.Errorf("unpack %s: there is no %s in it", filepath.Base(deb), tool)
		}
	}
	return nil
}
