package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Livepatched is a function that the kernel's own livepatch has redirected.
type Livepatched struct {
	// Module is the module it is in; empty for the kernel proper.
	Module, Name string
}

// Tracing is who else changes, or watches, the kernel's code.
type Tracing struct {
	// Kprobes are the addresses of registered probes, sorted; empty where the kernel has no debugfs to tell them. A
	// breakpoint at any other place is then nobody's.
	Kprobes []uint64
	// Livepatched is sorted by module and name.
	Livepatched []Livepatched
}

// Tracing reads what traces this kernel. Only the running kernel can be asked: for an image or a core it is empty.
func (k *Kernel) Tracing() (*Tracing, error) {
	if !k.live {
		return &Tracing{}, nil
	}
	return LiveTracing(k.root)
}

// LiveTracing reads what traces the running kernel. root is put before the paths that it reads; empty but in tests.
func LiveTracing(root string) (*Tracing, error) {
	t := &Tracing{}
	text, err := kprobeList(root)
	if err != nil {
		return nil, fmt.Errorf("list kprobes: %w", err)
	}
	if t.Kprobes, err = parseKprobes(text); err != nil {
		return nil, fmt.Errorf("list kprobes: %w", err)
	}
	if t.Livepatched, err = livepatched(filepath.Join("/", root, "sys/kernel/livepatch")); err != nil {
		return nil, fmt.Errorf("list livepatched functions: %w", err)
	}
	return t, nil
}

// kprobeList reads kprobes/list of debugfs: where that is mounted, else from an instance that nobody else sees.
func kprobeList(root string) (string, error) {
	dir := filepath.Join("/", root, "sys/kernel/debug")
	b, err := os.ReadFile(filepath.Join(dir, "kprobes/list"))
	if err == nil {
		return string(b), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", hint(err)
	}
	if _, e := os.Stat(dir); e != nil || root != "" {
		return "", nil // the kernel has no debugfs, or debugfs no kprobes
	}
	fs, err := unix.Fsopen("debugfs", unix.FSOPEN_CLOEXEC)
	switch {
	case errors.Is(err, unix.ENODEV):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("open debugfs: %w", hint(err))
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return "", fmt.Errorf("open debugfs: %w; or mount it: mount -t debugfs debugfs /sys/kernel/debug", hint(err))
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return "", fmt.Errorf("open debugfs: %w", hint(err))
	}
	defer unix.Close(mnt)
	fd, err := unix.Openat(mnt, "kprobes/list", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return "", nil // without CONFIG_KPROBES
	case err != nil:
		return "", hint(err)
	}
	f := os.NewFile(uintptr(fd), "kprobes/list")
	defer f.Close()
	if b, err = io.ReadAll(f); err != nil {
		return "", err
	}
	return string(b), nil
}

// parseKprobes reads lines "ADDRESS TYPE SYMBOL+OFFSET [MODULE] [FLAG]..." (kernel/kprobes.c: report_probe). Probes that
// have gone, with the module they were in, are left out.
func parseKprobes(text string) ([]uint64, error) {
	var out []uint64
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		v, rest, ok := cutHex(line)
		if !ok || rest == "" || rest[0] != ' ' {
			return nil, fmt.Errorf("line %.100q begins with no address: %w", line, ErrFormat)
		}
		if v == 0 {
			return nil, ErrHidden
		}
		if strings.Contains(rest, "[GONE]") {
			continue
		}
		out = append(out, v)
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out, nil
}

// livepatched reads /sys/kernel/livepatch/PATCH/OBJECT/FUNCTION,POSITION (Documentation/ABI/testing/sysfs-kernel-livepatch;
// kernel/livepatch/core.c). A patch that is disabled and at rest redirects nothing.
func livepatched(dir string) ([]Livepatched, error) {
	patches, err := subdirectories(dir)
	if err != nil {
		return nil, err
	}
	var out []Livepatched
	for _, patch := range patches {
		if flag(filepath.Join(patch, "enabled")) == "0" && flag(filepath.Join(patch, "transition")) == "0" {
			continue
		}
		objects, err := subdirectories(patch)
		if err != nil {
			return nil, err
		}
		for _, object := range objects {
			functions, err := subdirectories(object)
			if err != nil {
				return nil, err
			}
			module := filepath.Base(object)
			if module == "vmlinux" {
				module = ""
			}
			for _, f := range functions {
				name, _, _ := strings.Cut(filepath.Base(f), ",")
				out = append(out, Livepatched{module, name})
			}
		}
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].Module < out[j].Module || out[i].Module == out[j].Module && out[i].Name < out[j].Name
	})
	return out, nil
}

func flag(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

// subdirectories lists the directories in dir; none where dir does not exist.
func subdirectories(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, hint(err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, nil
}
