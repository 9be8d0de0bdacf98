package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// action uses kernel code once and returns what a program sees of it.
type action struct {
	args string // names of the arguments
	do   func(args []string) (string, error)
}

var actions = map[string]action{
	"file":       {"PATH", file},
	"short-read": {"", shortRead},
	"eventfd":    {"", oneEventfd},
	"udp":        {"SIZE", udp},
	"set":        {"PATH TEXT", set},
	"chmod":      {"PATH MODE", chmod},
	"add-key":    {"TYPE DESCRIPTION", addKey},
	"txqlen":     {"DEVICE NUMBER", txqlen},
	"qdisc":      {"DEVICE KIND OPTION NUMBER", qdisc},
	"getppid":    {"", getppid},
	"log":        {"WORDS", log},
	"write":      {"PATH TEXT", write},
	"mixed":      {"", mixed},
	"construct":  {"NUMBER", construct},
	"overflow":   {"", overflow},
	"poly1305":   {"", poly1305},
	"callchain":  {"EVENT NUMBER", callchain},
}

// find returns the action that the arguments name, ready to be used; its text has no newline at the end.
func find(args []string) (func() (string, error), error) {
	if len(args) == 0 {
		return nil, fmt.Errorf("no action: %w", errUsage)
	}
	a, ok := actions[args[0]]
	if !ok {
		return nil, fmt.Errorf("unknown action %q: %w", args[0], errUsage)
	}
	if want := len(strings.Fields(a.args)); len(args)-1 != want {
		return nil, fmt.Errorf("action %s takes %d arguments (%s), not %d: %w", args[0], want, a.args, len(args)-1, errUsage)
	}
	return func() (string, error) {
		text, err := a.do(args[1:])
		return strings.TrimSuffix(text, "\n"), err
	}, nil
}

func do(args []string) error {
	act, err := find(args)
	if err != nil {
		return err
	}
	text, err := act()
	if err != nil {
		return err
	}
	_, err = fmt.Println(text)
	return err
}

// file reads a file to its end.
func file(args []string) (string, error) {
	f, err := os.Open(args[0])
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return "", err
	}
	if len(b) == 0 {
		return "", fmt.Errorf("read %s: it is empty", args[0])
	}
	return string(b), nil
}

// shortRead reads fewer than eight bytes from an eventfd and returns the error's name.
func shortRead([]string) (string, error) {
	fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("make an eventfd: %w", err)
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, make([]byte, 4))
	errno, ok := err.(unix.Errno)
	if !ok {
		return "", fmt.Errorf("read 4 bytes of an eventfd: got %d bytes and %v, want an error number", n, err)
	}
	return unix.ErrnoName(errno), nil
}

// udpWait bounds the wait for a datagram on the loopback device. The device delivers before sendto returns or soon after.
const udpWait = 200 * time.Millisecond

// udp sends a datagram of a size to this process over the loopback device and says whether it came.
func udp(args []string) (string, error) {
	size, err := strconv.Atoi(args[0])
	if err != nil || size < 0 || size > 1400 {
		return "", fmt.Errorf("size %q is not a number of bytes up to 1400", args[0])
	}
	if err := loopbackUp(); err != nil {
		return "", err
	}
	in, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(in)
	if err := unix.Bind(in, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", fmt.Errorf("bind to 127.0.0.1: %w", err)
	}
	timeout := unix.NsecToTimeval(udpWait.Nanoseconds())
	if err := unix.SetsockoptTimeval(in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return "", fmt.Errorf("set a limit: %w", err)
	}
	self, err := unix.Getsockname(in)
	if err != nil {
		return "", fmt.Errorf("ask for the port: %w", err)
	}
	if err := unix.Sendto(in, make([]byte, size), 0, self); err != nil {
		return "", fmt.Errorf("send %d bytes: %w", size, err)
	}
	for {
		n, _, err := unix.Recvfrom(in, make([]byte, 2048), 0)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return "lost", nil
		case err != nil:
			return "", fmt.Errorf("receive: %w", err)
		case n != size:
			return "", fmt.Errorf("received %d bytes, sent %d", n, size)
		default:
			return "arrived", nil
		}
	}
}

// loopbackUp brings the loopback device up.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("ask for the flags of lo: %w", err)
	}
	if ifr.Uint16()&unix.IFF_UP != 0 {
		return nil
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// getppidChild in the environment makes this program print its parent's pid.
const getppidChild = "EXERCISE_GETPPID"

func init() {
	if os.Getenv(getppidChild) != "" {
		fmt.Println(os.Getppid())
		os.Exit(0)
	}
}

// getppid calls getppid() in a new pid namespace, whose first process has a parent that it cannot see.
func getppid([]string) (string, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), getppidChild+"=1")
	cmd.Stderr = os.Stderr
	// In a process group of its own: a SIGTERM for the loop would end the child as a failure (the first process of a namespace
	// does not die of it, and Go's runtime then exits with 2).
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Setpgid: true}
	b, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run in a new pid namespace: %w", err)
	}
	return string(b), nil
}

// log returns the lines of the kernel's log that hold the words, without their times; "no line" when there is none.
func log(args []string) (string, error) {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return "", fmt.Errorf("ask for the size of the kernel's log: %w", err)
	}
	b := make([]byte, size)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, b)
	if err != nil {
		return "", fmt.Errorf("read the kernel's log: %w", err)
	}
	var out []string
	for line := range strings.Lines(string(b[:n])) {
		if strings.Contains(line, args[0]) {
			_, text, found := strings.Cut(line, "] ")
			if !found {
				text = line
			}
			out = append(out, strings.TrimSpace(text))
		}
	}
	if out == nil {
		return "no line", nil
	}
	return strings.Join(out, "\n"), nil
}

// write writes a text to a file, as a shell's echo does.
func write(args []string) (string, error) {
	f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := f.WriteString(args[1] + "\n"); err != nil {
		return "", err
	}
	return "written", nil
}
