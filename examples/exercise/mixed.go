package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mixed uses files, memory, pipes, sockets and processes once each, as many programs do.
func mixed([]string) (string, error) {
	for _, part := range []struct {
		what string
		do   func() error
	}{
		{"files", files}, {"memory", mapMemory}, {"pipes", pipes}, {"sockets", sockets}, {"processes", processes},
	} {
		if err := part.do(); err != nil {
			return "", fmt.Errorf("%s: %w", part.what, err)
		}
	}
	return "done", nil
}

// files makes, writes, reads, renames and removes files, and reads some of the kernel's own.
func files() error {
	dir, err := os.MkdirTemp("", "mixed-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	err = errors.Join(os.WriteFile(a, make([]byte, 9000), 0o644), os.Link(a, b), os.Symlink(a, b+"link"), os.Truncate(b, 100), os.Rename(a, b+"new"),
		os.Chmod(b, 0o600))
	if err != nil {
		return err
	}
	for _, name := range []string{b, "/proc/self/maps", "/proc/stat", "/proc/meminfo", "/proc/mounts", "/proc/net/dev"} {
		if _, err := file([]string{name}); err != nil {
			return err
		}
	}
	_, err = os.ReadDir(dir)
	return err
}

// mapMemory maps, writes, protects, advises and unmaps memory.
func mapMemory() error {
	m, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	for i := 0; i < len(m); i += 4096 {
		m[i] = 1
	}
	return errors.Join(unix.Madvise(m[:1<<19], unix.MADV_DONTNEED), unix.Mprotect(m, unix.PROT_READ), unix.Munmap(m))
}

// pipes sends bytes through a pipe and waits for them with epoll.
func pipes() error {
	p := make([]int, 2)
	if err := unix.Pipe2(p, unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(ep)
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, p[0], &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		return err
	}
	if _, err := unix.Write(p[1], []byte("words")); err != nil {
		return err
	}
	for {
		n, err := unix.EpollWait(ep, make([]unix.EpollEvent, 1), 10000)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n != 1 {
			err = fmt.Errorf("%d events on the pipe, want 1", n)
		}
		if err != nil {
			return err
		}
		break
	}
	_, err = unix.Read(p[0], make([]byte, 16))
	return err
}

// sockets talks over TCP, UDP and a unix socket, each with itself.
func sockets() error {
	if _, err := udp([]string{"700"}); err != nil {
		return fmt.Errorf("udp: %w", err)
	}
	dir, err := os.MkdirTemp("", "mixed-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(dir, "socket")} {
		if err := talk(network, address); err != nil {
			return fmt.Errorf("%s: %w", network, err)
		}
	}
	return nil
}

func talk(network, address string) error {
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	defer l.Close()
	failed := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.Copy(c, io.LimitReader(c, 5000))
			err = errors.Join(err, c.Close())
		}
		failed <- err
	}()
	c, err := net.Dial(network, l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 5000)); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, c)
	if err == nil && n != 5000 {
		err = fmt.Errorf("%d bytes of 5000 came back", n)
	}
	return errors.Join(err, <-failed)
}

// processes runs a program and waits for its end.
func processes() error {
	cmd := exec.Command("true")
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // a SIGTERM for the loop is not for it
	return cmd.Run()
}
