package kbuild

import (
	"archive/tar"
	"bufio"
	"bytes"
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

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Unpack unpacks a kernel's source, a tar archive compressed with xz, into the directory root, without the one directory that all its
// names begin with ("linux-6.1/"). An archive that would write or lead outside of root, by a name or by a link, is refused with
// ErrUnsafe. It takes xz of package xz-utils. Whoever calls it removes root when it fails: Store.Make does.
func Unpack(ctx context.Context, archive, root string, progress plugin.ProgressFunc) error {
	if err := unpack(ctx, archive, root, progress); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("unpack %s: %w", filepath.Base(archive), err)
	}
	return nil
}

// ErrUnsafe says that an archive has a name or a link that leads out of the directory that it is unpacked in.
var ErrUnsafe = errors.New("it leads out of the source")

func unpack(ctx context.Context, archive, root string, progress plugin.ProgressFunc) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "xz", "-dc", "-T0")
	var stderr bytes.Buffer
	cmd.Env, cmd.Stderr = session(), &stderr
	cmd.Stdin = &counted{Reader: f, total: st.Size(), progress: progress}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = killGrace
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	u := &unpacking{root: dir}
	err = u.all(ctx, out)
	if err != nil {
		cancel() // xz would wait for its reader
	}
	if werr := cmd.Wait(); werr != nil && err == nil {
		err = fmt.Errorf("xz: %w: %s", werr, bytes.TrimSpace(stderr.Bytes()))
	}
	if err != nil {
		return err
	}
	return u.checkLinks()
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

// unpacking is one archive on its way to the disk. The root refuses whatever leads out of it, but not links that do.
type unpacking struct {
	root  *os.Root
	top   string // the first element of every name
	links []string
	made  map[string]bool // directories
}

// readSize is how much is read from xz at once.
const readSize = 1 << 20

func (u *unpacking) all(ctx context.Context, r io.Reader) error {
	u.made = map[string]bool{}
	tr := tar.NewReader(bufio.NewReaderSize(r, readSize))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r) // the padding behind the end
			return err
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader { // git archive's, with the commit
			continue
		}
		name, err := u.name(h.Name)
		if err == nil && name != "." {
			err = u.entry(h, name, tr)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

// name is an entry's name in the root.
func (u *unpacking) name(full string) (string, error) {
	clean := path.Clean(full)
	if !filepath.IsLocal(clean) {
		return "", ErrUnsafe
	}
	top, rest, _ := strings.Cut(clean, "/")
	if u.top == "" {
		u.top = top
	}
	if top != u.top {
		return "", fmt.Errorf("it is not below %s/, as the first entry is: a source's archive has one directory at its top", u.top)
	}
	return path.Clean(rest), nil
}

func (u *unpacking) entry(h *tar.Header, name string, r io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		return u.mkdir(name)
	}
	if err := u.mkdir(path.Dir(name)); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644|fs.FileMode(h.Mode)&0o111)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		return err
	case tar.TypeSymlink:
		u.links = append(u.links, name)
		return u.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		to, err := u.name(h.Linkname)
		if err != nil {
			return fmt.Errorf("it is linked to %q: %w", h.Linkname, err)
		}
		return u.root.Link(to, name)
	}
	return errors.New("it is neither a file nor a directory nor a link: no kernel's source has such a thing")
}

func (u *unpacking) mkdir(name string) error {
	if u.made[name] {
		return nil
	}
	if err := u.root.MkdirAll(name, 0o755); err != nil {
		return err
	}
	u.made[name] = true
	return nil
}

// checkLinks refuses symbolic links that lead out, through others or not: what comes after, patch and make, would follow them. Some of a
// kernel's lead nowhere.
func (u *unpacking) checkLinks() error {
	for _, name := range u.links {
		if _, err := u.root.Stat(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%q: %w (%w)", path.Join(u.top, name), ErrUnsafe, err)
		}
	}
	return nil
}
