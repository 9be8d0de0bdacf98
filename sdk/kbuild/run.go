package kbuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// killGrace is how long a killed process may take to close its pipes before they are abandoned.
const killGrace = 5 * time.Second

// command is one program to run.
type command struct {
	dir  string
	env  []string
	argv []string
}

// output is what a program said.
type output struct {
	stdout, stderr []byte
	took           time.Duration
}

// run runs the program in a process group of its own. When ctx ends the whole group is killed, and when this process
// dies the program goes with it. A program that fails is an *exec.ExitError; the end of ctx is ctx.Err().
func run(ctx context.Context, c command) (*output, error) {
	// PR_SET_PDEATHSIG follows the thread that started the child, so the thread has to live as long.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.dir, c.env, &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killGrace
	start := time.Now()
	err := cmd.Run()
	out := &output{stdout.Bytes(), stderr.Bytes(), time.Since(start)}
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	return out, err
}

// failure is the error of a program that ran and failed, with the last lines of what it said.
func failure(what string, out *output, err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %s", what, err, tail(out))
}

// tailLines is how many lines of a log an error repeats.
const tailLines = 8

// notRemade is what make -k says of every target that needs one that failed: it says nothing of why.
var notRemade = regexp.MustCompile(`^make(\[\d+\])?: Target '.*' not remade because of errors\.$`)

func tail(out *output) string {
	text := strings.TrimSpace(string(out.stderr))
	if text == "" {
		text = strings.TrimSpace(string(out.stdout))
	}
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return notRemade.MatchString(l) })
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	return strings.Join(lines, "\n")
}

// Run runs a program in dir, for what a backend does by itself: apply patches, unpack. Of the environment it gets what programs need (PATH, HOME,
// TMPDIR), in English. The error of a program that fails has the end of what it said. When ctx ends, the program and all that it started
// are killed, and the error is ctx.Err().
func Run(ctx context.Context, dir string, argv []string) error {
	out, err := run(ctx, command{dir: dir, env: session(), argv: argv})
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return failure(argv[0], out, err)
	}
	return nil
}
