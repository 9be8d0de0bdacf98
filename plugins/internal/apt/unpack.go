package apt

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// FileMode is the mode of the tree's files: nobody writes them, work trees share them by hard links.
func FileMode(m int64) fs.FileMode { return 0o444 | fs.FileMode(m)&0o111 }

// Pipe starts a program whose output is read, and which is killed, with all that it started, when ctx ends.
func Pipe(ctx context.Context, stdin io.Reader, argv ...string) (io.Reader, func() error, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = stdin
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", argv[0], err)
	}
	return out, func() error {
		if err := cmd.Wait(); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(stderr.String()))
		}
		return nil
	}, nil
}

// EachFile calls visit with every entry of a package. Names are relative to /, clean, without a leading dot.
func EachFile(ctx context.Context, deb string, visit func(h *tar.Header, name string, r io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, wait, err := Pipe(ctx, nil, "dpkg-deb", "--fsys-tarfile", deb)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
	}
	err = EachEntry(out, visit)
	if err != nil {
		cancel()
	} else {
		_, err = io.Copy(io.Discard, out)
	}
	if werr := wait(); err == nil {
		err = werr
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
	}
	return nil
}

// EachEntry calls visit with every entry of a tar archive, as EachFile does.
func EachEntry(r io.Reader, visit func(h *tar.Header, name string, r io.Reader) error) error {
	tr := tar.NewReader(bufio.NewReaderSize(r, readSize))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if name == "." {
			continue
		}
		if !filepath.IsLocal(name) {
			return fmt.Errorf("entry %q lies outside", h.Name)
		}
		if err := visit(h, name, tr); err != nil {
			return err
		}
	}
}

// readSize is how much is read from a pipe at once.
const readSize = 1 << 20

// Put writes a package's file over what is in the tree.
func Put(root, name string, mode int64, r io.Reader) error {
	target := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, FileMode(mode))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// UnpackImage puts the image of a kernel that a package has at target, readable by whoever reads the tree: some distributions' is root's alone.
func UnpackImage(ctx context.Context, deb, release, target string) error {
	found := errors.New("found")
	err := EachFile(ctx, deb, func(h *tar.Header, name string, r io.Reader) error {
		if name != "boot/vmlinuz-"+release || h.Typeflag != tar.TypeReg {
			return nil
		}
		if err := Put(filepath.Dir(target), filepath.Base(target), 0, r); err != nil {
			return err
		}
		return found // the modules that follow are large
	})
	switch {
	case errors.Is(err, found):
		return nil
	case err == nil:
		return fmt.Errorf("unpack %s: there is no boot/vmlinuz-%s in it", filepath.Base(deb), release)
	}
	return err
}
