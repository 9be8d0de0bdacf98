package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// asleepWithin bounds the wait for a thread to fall asleep.
const asleepWithin = 30 * time.Second

// sleepInEventfd lets a thread read an eventfd whose count is zero, until somebody sends on wake.
func sleepInEventfd(wake <-chan os.Signal) error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make an eventfd: %w", err)
	}
	defer unix.Close(fd)
	tids, done := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		tids <- unix.Gettid()
		done <- readEight(fd)
	}()
	tid := <-tids
	if err := waitAsleep(tid, fd); err != nil {
		return err
	}
	if err := say(map[string]any{"pid": os.Getpid(), "tid": tid, "asleep": true}); err != nil {
		return err
	}
	select {
	case <-wake:
	case err := <-done:
		return fmt.Errorf("the read ended by itself: %v", err)
	}
	if _, err := unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 1)); err != nil {
		return fmt.Errorf("wake the thread: %w", err)
	}
	if err := <-done; err != nil {
		return err
	}
	return say(map[string]any{"pid": os.Getpid(), "tid": tid, "asleep": false})
}

// readEight reads an eventfd's count. Go's own signals for preemption interrupt the read: it goes back to sleep.
func readEight(fd int) error {
	b := make([]byte, 8)
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != len(b) {
			return fmt.Errorf("read an eventfd: got %d bytes, %w", n, err)
		}
		return nil
	}
}

// waitAsleep waits until a thread of this process sleeps in a read of the descriptor.
func waitAsleep(tid, fd int) error {
	call := fmt.Sprintf("%d %#x ", unix.SYS_READ, fd)
	return waitInCall(tid, func(now string) bool { return strings.HasPrefix(now, call) })
}
