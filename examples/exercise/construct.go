package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// constructMark is the upper half of a word that tells patched code to show one of its constructs.
const constructMark = 0x6b73706c

// construct writes a word to an eventfd and returns what the call gives: a number, or an error's name.
func construct(args []string) (string, error) {
	command, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return "", err
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return "", fmt.Errorf("make an eventfd: %w", err)
	}
	defer unix.Close(fd)
	return command64(fd, constructMark<<32|command), nil
}

// command64 writes a word and says what came of it.
func command64(fd int, word uint64) string {
	b := binary.NativeEndian.AppendUint64(nil, word)
	n, _, errno := unix.Syscall(unix.SYS_WRITE, uintptr(fd), address(b), uintptr(len(b)))
	if errno != 0 {
		return unix.ErrnoName(errno)
	}
	return strconv.FormatUint(uint64(n), 10)
}

// trapChild in the environment makes this program trap.
const trapChild = "EXERCISE_TRAP"

func init() {
	if os.Getenv(trapChild) != "" {
		trap()
		os.Exit(0)
	}
}

// trap executes "int $4": an overflow, as the processor sees it.
func trap()

// overflow lets a process trap and returns the name of the signal that it dies of.
func overflow([]string) (string, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), trapChild+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return "", fmt.Errorf("a process trapped and went on (%v): %s", err, out)
	}
	// What Go's runtime says of a signal that it cannot handle.
	for _, name := range []string{"SIGSEGV", "SIGBUS"} {
		if strings.Contains(string(out), name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("a process that trapped ended otherwise: %w: %s", err, out)
}

// callchain has patched code show a construct, and returns the kernel's functions that perf's callchain of an event in it passes, the innermost
// first.
func callchain(args []string) (string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	chain, err := sampleChain(args[0], func() (string, error) { return construct(args[1:]) })
	if err != nil {
		return "", err
	}
	symbols, err := kallsyms()
	if err != nil {
		return "", err
	}
	var names []string
	for _, a := range chain {
		names = append(names, symbols.name(a))
	}
	return strings.Join(names, "\n"), nil
}
