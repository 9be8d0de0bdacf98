package vmtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"

	"github.com/ksplice/ksplice/core/vmtest/internal/wire"
)

// archive writes an initramfs: a cpio archive in the "newc" format, not compressed, as unpacking it would cost an emulated
// machine more than reading it (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel).
type archive struct {
	w    *cpio.Writer
	made map[string]bool
}

// dirs adds the directories that lead to a file.
func (a *archive) dirs(name string) error {
	dir := path.Dir(name)
	if dir == "/" || a.made[dir] {
		return nil
	}
	if err := a.dirs(dir); err != nil {
		return err
	}
	a.made[dir] = true
	return a.w.WriteHeader(&cpio.Header{Name: dir[1:], Mode: cpio.TypeDir | 0o755, Links: 2})
}

func (a *archive) add(name string, mode os.FileMode, data []byte) error {
	if err := a.header(name, mode, int64(len(data))); err != nil {
		return err
	}
	_, err := a.w.Write(data)
	return err
}

func (a *archive) header(name string, mode os.FileMode, size int64) error {
	if name = path.Clean("/" + name); name == "/" {
		return errors.New("a file of the guest has no name")
	}
	if err := a.dirs(name); err != nil {
		return err
	}
	return a.w.WriteHeader(&cpio.Header{Name: name[1:], Mode: cpio.TypeReg | cpio.FileMode(mode.Perm()), Size: size, Links: 1})
}

// addFile adds a file of the host.
func (a *archive) addFile(name, host string) error {
	f, err := os.Open(host)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", host)
	}
	if err := a.header(name, info.Mode(), info.Size()); err != nil {
		return err
	}
	n, err := io.Copy(a.w, f)
	if err == nil && n != info.Size() {
		err = fmt.Errorf("%s changed while it was read", host)
	}
	return err
}

// writeInitramfs writes the initramfs of a guest to the file.
func writeInitramfs(file string, o *Options, initBinary, busybox string, mounts []wire.Mount) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := bufio.NewWriterSize(f, 1<<20)
	a := &archive{cpio.NewWriter(buf), make(map[string]bool)}
	if err := a.addFile("/init", initBinary); err != nil {
		return err
	}
	if err := a.addFile("/bin/busybox", busybox); err != nil {
		return err
	}
	order, err := o.Kernel.moduleOrder(append(slices.Clone(ownModules), o.Modules...))
	if err != nil {
		return err
	}
	config := wire.Config{Mounts: mounts}
	for i, rel := range order {
		b, err := readModule(filepath.Join(o.Kernel.ModulesDir, rel))
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%s/%03d-%s.ko", wire.ModuleDir, i, moduleName(rel))
		if err := a.add(name, 0o644, b); err != nil {
			return err
		}
		config.Modules = append(config.Modules, name)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Files)) {
		if !strings.HasPrefix(name, "/") {
			return fmt.Errorf("file %q of the guest: give its full path", name)
		}
		if err := a.addFile(name, o.Files[name]); err != nil {
			return err
		}
	}
	b, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := a.add(wire.ConfigPath, 0o644, b); err != nil {
		return err
	}
	if err := a.w.Close(); err != nil {
		return err
	}
	if err := buf.Flush(); err != nil {
		return err
	}
	return f.Close()
}
