package build

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// mirror makes dst a tree of hard links to src, from whatever it is: what is missing is linked, what is there beyond src is
// removed, what is another file is replaced. Files are told by their inode numbers, which come with the directories' entries,
// so a mirror that is in order costs no look at any file.
func mirror(ctx context.Context, src, dst string) error {
	m := &mirroring{src: src, dst: dst}
	m.more = sync.NewCond(&m.mu)
	if err := makeDir(dst); err != nil {
		return fmt.Errorf("make work tree: %w", err)
	}
	m.todo = []string{"."}
	g, ctx := errgroup.WithContext(ctx)
	for range max(2, runtime.GOMAXPROCS(0)) {
		g.Go(func() error { return m.work(ctx) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("make work tree: %w", err)
	}
	return nil
}

type mirroring struct {
	src, dst string
	mu       sync.Mutex
	more     *sync.Cond
	todo     []string
	busy     int
	failed   bool
}

// work mirrors directories until none is left.
func (m *mirroring) work(ctx context.Context) error {
	for {
		m.mu.Lock()
		for len(m.todo) == 0 && m.busy > 0 && !m.failed {
			m.more.Wait()
		}
		if len(m.todo) == 0 || m.failed {
			m.mu.Unlock()
			m.more.Broadcast()
			return nil
		}
		dir := m.todo[len(m.todo)-1]
		m.todo = m.todo[:len(m.todo)-1]
		m.busy++
		m.mu.Unlock()

		subdirs, err := m.directory(dir)
		if err == nil {
			err = ctx.Err()
		}
		m.mu.Lock()
		m.busy--
		m.todo = append(m.todo, subdirs...)
		m.failed = m.failed || err != nil
		m.mu.Unlock()
		m.more.Broadcast()
		if err != nil {
			return err
		}
	}
}

// directory mirrors the entries of one directory and returns its subdirectories.
func (m *mirroring) directory(dir string) (subdirs []string, err error) {
	src, dst := filepath.Join(m.src, dir), filepath.Join(m.dst, dir)
	want, err := readDir(src)
	if err != nil {
		return nil, err
	}
	have, err := readDir(dst)
	if err != nil {
		return nil, err
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			if err := os.RemoveAll(filepath.Join(dst, name)); err != nil {
				return nil, err
			}
		}
	}
	for name, w := range want {
		h, there := have[name]
		from, to := filepath.Join(src, name), filepath.Join(dst, name)
		switch {
		case w.kind == unix.DT_DIR:
			subdirs = append(subdirs, filepath.Join(dir, name))
			if there && h.kind == unix.DT_DIR {
				continue
			}
		case w.kind == unix.DT_LNK:
			if there && h.kind == unix.DT_LNK && sameLink(from, to) {
				continue
			}
		case there && h == w:
			continue
		}
		if there {
			if err := os.RemoveAll(to); err != nil {
				return nil, err
			}
		}
		switch w.kind {
		case unix.DT_DIR:
			err = os.Mkdir(to, 0o755)
		case unix.DT_LNK:
			var target string
			if target, err = os.Readlink(from); err == nil {
				err = os.Symlink(target, to)
			}
		case unix.DT_REG:
			err = link(from, to)
		default:
			err = fmt.Errorf("%s is neither a file nor a directory", from)
		}
		if err != nil {
			return nil, err
		}
	}
	return subdirs, nil
}

func sameLink(a, b string) bool {
	ta, erra := os.Readlink(a)
	tb, errb := os.Readlink(b)
	return erra == nil && errb == nil && ta == tb
}

// link links a file, or copies it where it cannot be linked: on another file system, or where it is somebody else's
// (fs.protected_hardlinks).
func link(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EMLINK) {
		return copyFile(from, to)
	}
	return err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, st.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chtimes(to, st.ModTime(), st.ModTime())
	}
	return err
}

func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o755)
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	if st, serr := os.Lstat(dir); serr != nil || st.IsDir() {
		return serr
	}
	if err := os.Remove(dir); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o755)
}

// dirEntry is what a directory says of a file: its inode number and type (DT_DIR ...).
type dirEntry struct {
	inode uint64
	kind  uint8
}

// readDir reads a directory by getdents64(2), because os.ReadDir leaves the inode numbers out.
func readDir(dir string) (map[string]dirEntry, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries := map[string]dirEntry{}
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Getdents(int(f.Fd()), buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read directory %s: %w", dir, err)
		}
		if n == 0 {
			return entries, nil
		}
		if err := parseDirents(buf[:n], dir, entries); err != nil {
			return nil, err
		}
	}
}

// Offsets in struct linux_dirent64 (include/linux/dirent.h).
const (
	direntReclen = unsafe.Offsetof(unix.Dirent{}.Reclen)
	direntType   = unsafe.Offsetof(unix.Dirent{}.Type)
	direntName   = unsafe.Offsetof(unix.Dirent{}.Name)
)

func parseDirents(buf []byte, dir string, entries map[string]dirEntry) error {
	for len(buf) > int(direntName) {
		length := int(binary.NativeEndian.Uint16(buf[direntReclen:]))
		if length <= int(direntName) || length > len(buf) {
			return fmt.Errorf("read directory %s: an entry of %d bytes in %d", dir, length, len(buf))
		}
		e := dirEntry{binary.NativeEndian.Uint64(buf), buf[direntType]}
		raw := buf[direntName:length]
		if i := bytes.IndexByte(raw, 0); i >= 0 {
			raw = raw[:i]
		}
		name := string(raw)
		buf = buf[length:]
		if name == "." || name == ".." {
			continue
		}
		if e.kind == unix.DT_UNKNOWN { // a file system that does not say
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
				return fmt.Errorf("look at %s: %w", filepath.Join(dir, name), err)
			}
			e.inode, e.kind = st.Ino, uint8(st.Mode&unix.S_IFMT>>12) // DT_x is S_IFx >> 12
		}
		entries[name] = e
	}
	return nil
}
