package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// killAt runs a command and kills it the moment that a line of its standard error has the words. It says "killed", or "ended" when the
// command was faster or never said them.
func killAt(words string, argv []string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout = io.Discard
	errs, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	seen := false
	lines := bufio.NewScanner(errs)
	for lines.Scan() {
		if !seen && strings.Contains(lines.Text(), words) {
			seen = true
			_ = cmd.Process.Signal(syscall.SIGKILL) // it may have ended just now: looked at below
		}
		fmt.Fprintln(os.Stderr, lines.Text())
	}
	_ = cmd.Wait() // it was killed, or its own exit code does not matter here
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		fmt.Println("killed")
	} else {
		fmt.Println("ended")
	}
	return nil
}
