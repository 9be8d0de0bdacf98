package engine

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLocked: the lock of another open file is seen, and one that has gone is not.
func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	want := func(want bool, when string) {
		t.Helper()
		if got, err := lockedAt(path); err != nil || got != want {
			t.Errorf("%s: locked is %v, %v; want %v", when, got, err, want)
		}
	}
	want(false, "without a file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	want(false, "nobody has it")
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	want(true, "we have it")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	want(false, "we had it")
}

func TestHolds(t *testing.T) {
	const locks = "1: POSIX  ADVISORY  WRITE 12 00:1a:43 0 EOF\n2: FLOCK  ADVISORY  WRITE 708 00:1a:44 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 709 00:1a:45 0 EOF\n"
	for inode, want := range map[uint64]bool{43: false, 44: true, 45: false, 4: false} {
		if got := holds(locks, unix.Mkdev(0, 0x1a), inode); got != want {
			t.Errorf("inode %d: %v, want %v", inode, got, want)
		}
	}
}
