package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sleeper is a way to sleep until somebody wakes it.
type sleeper struct {
	calls []uintptr // the system call that it sleeps in
	sleep func() error
	wake  func() error
}

// sleepers are the functions that people always sleep in: ep_poll, do_wait, futex_wait, n_tty_read and pipe_read.
var sleepers = map[string]func() (*sleeper, error){
	"epoll": inEpoll, "child": inWait, "futex": inFutex, "tty": inTerminal, "pipe": inPipe,
}

// asleep sleeps in a system call until a file appears, and counts how often the call was interrupted. Run with
// GODEBUG=asyncpreemptoff=1, it gets no signals of Go's own.
func asleep(args []string) error {
	f := flag.NewFlagSet("asleep", flag.ContinueOnError)
	until := f.String("until", "", "the `file` whose appearing ends it")
	if err := f.Parse(args); err != nil || f.NArg() != 1 || *until == "" || sleepers[f.Arg(0)] == nil {
		return fmt.Errorf("%w: asleep -until FILE epoll|child|futex|tty|pipe", errUsage)
	}
	s, err := sleepers[f.Arg(0)]()
	if err != nil {
		return err
	}
	var interrupted atomic.Int64
	tids, done := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		tids <- unix.Gettid()
		for {
			err := s.sleep()
			if !errors.Is(err, unix.EINTR) {
				done <- err
				return
			}
			interrupted.Add(1)
		}
	}()
	tid := <-tids
	inCall := func() error {
		return waitInCall(tid, func(call string) bool {
			return slices.ContainsFunc(s.calls, func(n uintptr) bool { return strings.HasPrefix(call, fmt.Sprintf("%d ", n)) })
		})
	}
	if err := inCall(); err != nil {
		return err
	}
	if err := say(map[string]any{"pid": os.Getpid(), "tid": tid, "asleep": true}); err != nil {
		return err
	}
	for {
		select {
		case err := <-done:
			return fmt.Errorf("it woke by itself: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		if _, err := os.Stat(*until); err == nil {
			break
		}
	}
	// It sleeps on after whatever has happened, in the same call.
	if err := inCall(); err != nil {
		return err
	}
	n := interrupted.Load()
	if err := s.wake(); err != nil {
		return fmt.Errorf("wake the thread: %w", err)
	}
	if err := <-done; err != nil {
		return err
	}
	return say(map[string]any{"pid": os.Getpid(), "tid": tid, "asleep": false, "interrupted": n})
}

// waitInCall waits until a thread of this process sleeps in a system call: its state is S (fs/proc/base.c:proc_pid_syscall gives
// the call's number and arguments).
func waitInCall(tid int, right func(call string) bool) error {
	dir := fmt.Sprintf("/proc/self/task/%d/", tid)
	var stat, now string
	for end := time.Now().Add(asleepWithin); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(dir + "stat")
		if err != nil {
			return err
		}
		_, stat, _ = strings.Cut(string(b), ") ")
		if b, err = os.ReadFile(dir + "syscall"); err != nil {
			return err
		}
		now = string(b)
		if strings.HasPrefix(stat, "S ") && right(now) {
			return nil
		}
	}
	return fmt.Errorf("thread %d does not sleep as it should after %v: state %.1q, system call %q", tid, asleepWithin, stat, now)
}

func inEpoll() (*sleeper, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return nil, err
	}
	return &sleeper{
		calls: []uintptr{unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT},
		sleep: func() error {
			events := make([]unix.EpollEvent, 1)
			n, err := unix.EpollWait(ep, events, -1)
			if err == nil && (n != 1 || events[0].Fd != int32(fd)) {
				return fmt.Errorf("epoll_wait gave %d events: %+v", n, events)
			}
			return err
		},
		wake: func() error {
			_, err := unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 1))
			return err
		},
	}, nil
}

func inWait() (*sleeper, error) {
	child := exec.Command("sleep", "100000")
	if err := child.Start(); err != nil {
		return nil, err
	}
	return &sleeper{
		calls: []uintptr{unix.SYS_WAIT4},
		sleep: func() error {
			var status unix.WaitStatus
			pid, err := unix.Wait4(child.Process.Pid, &status, 0, nil)
			if err == nil && (pid != child.Process.Pid || status.Signal() != unix.SIGKILL) {
				return fmt.Errorf("wait4 gave %d, status %#x", pid, status)
			}
			return err
		},
		wake: func() error { return unix.Kill(child.Process.Pid, unix.SIGKILL) },
	}, nil
}

func inFutex() (*sleeper, error) {
	const wait, wake = 0, 1 // FUTEX_WAIT, FUTEX_WAKE (include/uapi/linux/futex.h)
	word := new(atomic.Uint32)
	futex := func(op, value uintptr) (uintptr, error) {
		n, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), op, value, 0, 0, 0)
		if errno != 0 {
			return n, errno
		}
		return n, nil
	}
	return &sleeper{
		calls: []uintptr{unix.SYS_FUTEX},
		sleep: func() error {
			_, err := futex(wait, 0)
			if err == nil && word.Load() == 0 {
				return errors.New("futex ended without a wake")
			}
			return err
		},
		wake: func() error {
			word.Store(1)
			n, err := futex(wake, 1)
			if err == nil && n != 1 {
				return fmt.Errorf("%d threads were woken", n)
			}
			return err
		},
	}, nil
}

func inTerminal() (*sleeper, error) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return nil, err
	}
	slave, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/pts/%d: %w", n, err)
	}
	return reader(slave, master), nil
}

func inPipe() (*sleeper, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	return reader(p[0], p[1]), nil
}

// reader sleeps in a read from one descriptor until a line is written to the other.
func reader(from, to int) *sleeper {
	const line = "awake\n"
	return &sleeper{
		calls: []uintptr{unix.SYS_READ},
		sleep: func() error {
			b := make([]byte, 64)
			n, err := unix.Read(from, b)
			if err == nil && string(b[:n]) != line {
				return fmt.Errorf("read gave %q", b[:n])
			}
			return err
		},
		wake: func() error {
			_, err := unix.Write(to, []byte(line))
			return err
		},
	}
}
