package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// errno is the error number that an error of package os has; other errors stay what they are.
func errno(err error) error {
	var n unix.Errno
	if errors.As(err, &n) {
		return n
	}
	return err
}

// set writes to a file and says whether that was taken; what was there before is there again then.
func set(args []string) (string, error) {
	was, err := os.ReadFile(args[0])
	if err != nil {
		return "", err
	}
	text, err := outcome(errno(os.WriteFile(args[0], []byte(args[1]+"\n"), 0)))
	if err != nil {
		return "", err
	}
	return text, os.WriteFile(args[0], was, 0)
}

// chmod changes a file's mode and says whether that was taken.
func chmod(args []string) (string, error) {
	mode, err := strconv.ParseUint(args[1], 8, 12)
	if err != nil {
		return "", err
	}
	return outcome(errno(os.Chmod(args[0], os.FileMode(mode))))
}

// addKey adds a key to a keyring of the process's and says whether that was taken.
func addKey(args []string) (string, error) {
	_, err := unix.AddKey(args[0], args[1], []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
	text, err := outcome(err)
	if err != nil {
		return "", fmt.Errorf("add a key: %w", err)
	}
	return text, nil
}
