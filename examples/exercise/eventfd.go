package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// readInfo writes to an eventfd, reads it, and returns what its fdinfo says of reads.
func readInfo(fd int) (string, error) {
	b := binary.NativeEndian.AppendUint64(nil, 1)
	if _, err := unix.Write(fd, b); err != nil {
		return "", fmt.Errorf("write to an eventfd: %w", err)
	}
	if _, err := unix.Read(fd, b); err != nil {
		return "", fmt.Errorf("read an eventfd: %w", err)
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(info)) {
		if n, ok := strings.CutPrefix(line, "eventfd-reads: "); ok {
			return "reads: " + strings.TrimSpace(n), nil
		}
	}
	return "no reads", nil
}

// oneEventfd is readInfo for an eventfd of its own.
func oneEventfd([]string) (string, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("make an eventfd: %w", err)
	}
	defer unix.Close(fd)
	return readInfo(fd)
}

// keepEventfd keeps an eventfd until SIGTERM, and reads it at each SIGUSR1.
func keepEventfd(args []string) error {
	if len(args) != 0 {
		return errUsage
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM)
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("make an eventfd: %w", err)
	}
	defer unix.Close(fd)
	fmt.Println("ready")
	for s := range signals {
		if s == syscall.SIGTERM {
			break
		}
		text, err := readInfo(fd)
		if err != nil {
			return err
		}
		fmt.Println(text)
	}
	return nil
}
