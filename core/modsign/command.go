package modsign

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// commandLimit bounds a run of a vendor's command; a signing service may have a queue.
const commandLimit = 2 * time.Minute

// Command signs modules with a program of the vendor's, for keys that no file holds (an HSM, a signing service).
type Command struct {
	// Line is for the shell. It gets the module's path as its last argument, and the hash to sign with in KSPLICE_MODULE_HASH ("sha256"). It
	// either puts the signature behind the module, as scripts/sign-file does, or writes the PKCS#7 message (DER, detached) to standard output. Where
	// we have a terminal it may ask there (/dev/tty); its standard input is empty.
	Line string
	// Cert is whose signature it must be; nil: anybody's.
	Cert *x509.Certificate
}

// Sign runs the command on a copy of the module and returns the signed module: the same bytes, with a signature that the kernel can read.
func (c *Command) Sign(ctx context.Context, module []byte, hash Hash) ([]byte, error) {
	signed, err := c.run(ctx, module, hash)
	if err != nil {
		return nil, fmt.Errorf("the signing command: %w", err)
	}
	s, err := Parse(signed)
	if err != nil {
		return nil, fmt.Errorf("the signing command: %w", err)
	}
	if !bytes.Equal(s.content, module) {
		return nil, errors.New("the signing command: it changed the module itself; it may add a signature and nothing else")
	}
	if c.Cert != nil {
		if err := s.Verify(c.Cert); err != nil {
			return nil, fmt.Errorf("the signing command: %w", err)
		}
	}
	return signed, nil
}

// leave has the command ask at our terminal, for a PIN say: so it stays in our group of processes, as one in the background could not read there.
// What is returned sets the terminal up as it was, whatever a command that was killed had made of it.
func leave(tty *os.File) func() {
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	return func() {
		// Whoever is in the background himself would be stopped.
		if group, groupErr := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil && groupErr == nil && group == unix.Getpgrp() {
			_ = term.Restore(fd, before) // a terminal that has gone needs nothing
		}
		tty.Close()
	}
}

func (c *Command) run(ctx context.Context, module []byte, hash Hash) ([]byte, error) {
	dir, err := os.MkdirTemp("", "ksplice-sign-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "part.ko")
	if err := os.WriteFile(file, module, 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, commandLimit, fmt.Errorf("no signature within %v", commandLimit))
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", c.Line+` "$@"`, c.Line, file)
	cmd.Env = append(os.Environ(), "KSPLICE_MODULE_HASH="+string(hash))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second // what the shell has started does not hold the pipes
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		defer leave(tty)()
	} else { // and ends with it
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s: %w\n%s", c.Line, err, strings.TrimSpace(errs.String()))
	}
	signed, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	switch {
	case !bytes.Equal(signed, module):
		return signed, nil
	case out.Len() > 0:
		return appendTo(module, out.Bytes()), nil
	}
	return nil, fmt.Errorf("%s: it neither signed the file that it was given nor wrote a signature to standard output", c.Line)
}
