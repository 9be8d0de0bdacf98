package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/vmtest/internal/wire"
)

// filesystems are mounted in this order. An optional one is left out where the kernel does not have it.
var filesystems = []struct {
	kind, path, data string
	optional         bool
}{
	{kind: "proc", path: "/proc"},
	{kind: "sysfs", path: "/sys"},
	{kind: "devtmpfs", path: "/dev"},
	{kind: "devpts", path: "/dev/pts", optional: true},
	{kind: "tmpfs", path: "/dev/shm"},
	{kind: "tmpfs", path: "/tmp", data: "mode=1777"},
	{kind: "tmpfs", path: "/run", data: "mode=755"},
	{kind: "securityfs", path: "/sys/kernel/security", optional: true},
	{kind: "debugfs", path: "/sys/kernel/debug", optional: true},
	{kind: "tracefs", path: "/sys/kernel/tracing", optional: true},
	{kind: "cgroup2", path: "/sys/fs/cgroup", optional: true},
	{kind: "bpf", path: "/sys/fs/bpf", optional: true},
}

// setup makes the machine ready for the agent.
func setup() error {
	unix.Umask(0o022)
	os.Clearenv()
	for _, kv := range environment {
		for i := range kv {
			if kv[i] == '=' {
				os.Setenv(kv[:i], kv[i+1:])
				break
			}
		}
	}
	for _, fs := range filesystems {
		if err := mount(fs.kind, fs.kind, fs.path, 0, fs.data); err != nil && !fs.optional {
			return err
		}
	}
	for _, dir := range []string{"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/root", "/etc", "/var/log", "/var/tmp", "/lib/modules"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2"} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	for path, text := range map[string]string{"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "/etc/group": "root:x:0:\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if out, err := exec.Command("/bin/busybox", "--install", "-s").CombinedOutput(); err != nil {
		return fmt.Errorf("install busybox: %w: %s", err, out)
	}
	if err := loopback(); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	b, err := os.ReadFile(wire.ConfigPath)
	if err != nil {
		return err
	}
	var config wire.Config
	if err := json.Unmarshal(b, &config); err != nil {
		return fmt.Errorf("read %s: %w", wire.ConfigPath, err)
	}
	for _, path := range config.Modules {
		if err := load(path); err != nil {
			return fmt.Errorf("load module %s: %w", filepath.Base(path), err)
		}
	}
	if err := os.RemoveAll(wire.ModuleDir); err != nil { // they fill memory
		return err
	}
	for _, m := range config.Mounts {
		var flags uintptr
		data := "trans=virtio,version=9p2000.L,msize=262144,access=any,cache=mmap"
		if m.ReadOnly {
			flags = unix.MS_RDONLY
			data = "trans=virtio,version=9p2000.L,msize=262144,access=any,cache=loose"
		}
		if err := mount(m.Tag, "9p", m.Path, flags, data); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, kind, path string, flags uintptr, data string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, path, kind, flags, data); err != nil && err != unix.EBUSY { // the kernel may have mounted /dev
		return fmt.Errorf("mount %s on %s: %w", kind, path, err)
	}
	return nil
}

// loopback brings up lo, which a kernel without IPv4 has no use for.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}
