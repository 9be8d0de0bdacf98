package engine

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Locked says whether a ksplice that changes this machine is at work. It looks, and does not take the lock: that would be in the way of one
// that begins at this moment.
func Locked() (bool, error) { return lockedAt(LockPath) }

func lockedAt(path string) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the ksplice lock: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false, fmt.Errorf("look at the ksplice lock: %s: its inode is not known", path)
	}
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return false, fmt.Errorf("look at the ksplice lock: %w", err)
	}
	return holds(string(b), uint64(st.Dev), st.Ino), nil
}

// holds looks for a flock of a file in the lines of /proc/locks: "1: FLOCK  ADVISORY  WRITE 708 00:1a:43 0 EOF" (fs/locks.c: lock_get_status).
// Those who wait for one have "->" in front.
func holds(locks string, dev, inode uint64) bool {
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(dev), unix.Minor(dev), inode)
	for line := range strings.Lines(locks) {
		if f := strings.Fields(line); len(f) > 5 && f[1] == "FLOCK" && f[5] == file {
			return true
		}
	}
	return false
}
