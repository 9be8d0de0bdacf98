package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kernel"
)

// lockdownPath is where the kernel's lockdown is raised, and never lowered (security/lockdown/lockdown.c).
const lockdownPath = "/sys/kernel/security/lockdown"

// transfer gives the kernel module transfers that contradict themselves, and writes that a lockdown forbids: it refuses each. In a kernel that
// is locked down already there are those only.
func transfer(locked bool) error {
	symbols, err := kernel.Live(kernel.LiveOptions{})
	if err != nil {
		return err
	}
	defer symbols.Close()
	at := symbols.Symbols.LookupIn("", "jiffies_64")
	if len(at) != 1 {
		return fmt.Errorf("the kernel has %d jiffies_64", len(at))
	}
	d, err := engine.Open()
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Begin("0123456789abcdef", engine.OpApply, 1); err != nil {
		return err
	}
	if locked {
		return lockedTransfer(d)
	}
	a := at[0].Address
	piece := func(offset, n uint64) engine.Piece { return engine.Piece{Address: a + offset, Bytes: make([]byte, n)} }
	list := func(p ...engine.Piece) []engine.Piece { return p }
	for _, c := range []struct {
		name string
		t    engine.Transfer
		want error
	}{
		{"nothing", engine.Transfer{}, nil},
		{"a set in two guards", engine.Transfer{Guards: list(piece(0, 4), piece(4, 4)), Sets: list(piece(0, 8))}, nil},
		{"guards out of order", engine.Transfer{Guards: list(piece(8, 4), piece(0, 4))}, unix.EINVAL},
		{"guards over each other", engine.Transfer{Guards: list(piece(0, 8), piece(4, 8))}, unix.EINVAL},
		{"sets over each other", engine.Transfer{Guards: list(piece(0, 16)), Sets: list(piece(0, 8), piece(4, 8))}, unix.EINVAL},
		{"an empty piece", engine.Transfer{Guards: list(piece(0, 0))}, unix.EINVAL},
		{"a large piece", engine.Transfer{Guards: list(piece(0, 4097))}, unix.EINVAL},
		{"a set outside", engine.Transfer{Guards: list(piece(0, 8)), Sets: list(piece(4, 8))}, unix.ERANGE},
		{"a set in a gap", engine.Transfer{Guards: list(piece(0, 4), piece(5, 4)), Sets: list(piece(0, 8))}, unix.ERANGE},
		{"a set without a guard", engine.Transfer{Sets: list(piece(0, 8))}, unix.ERANGE},
		{"user space", engine.Transfer{Guards: list(engine.Piece{Address: 4096, Bytes: []byte{0}})}, unix.EFAULT},
		{"the end of memory", engine.Transfer{Guards: list(engine.Piece{Address: ^uint64(3), Bytes: make([]byte, 8)})}, unix.EFAULT},
		{"many guards", engine.Transfer{Guards: make([]engine.Piece, 0x200001)}, unix.E2BIG},
		{"a large field", engine.Transfer{Attaches: []engine.Attach{{Field: "x", Object: a, Data: make([]byte, 4097)}}}, unix.EINVAL},
	} {
		err := d.Transfer(&c.t)
		if c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) && !(c.want == unix.E2BIG && err != nil && strings.Contains(err.Error(), "more than")) {
			return fmt.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if err := os.WriteFile(lockdownPath, []byte("integrity"), 0); err != nil {
		return fmt.Errorf("raise the lockdown: %w", err)
	}
	return lockedTransfer(d)
}

func lockedTransfer(d *engine.Device) error {
	for _, err := range []error{d.Transfer(&engine.Transfer{}), d.Carry(0, 0, 1)} {
		if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "lockdown") {
			return fmt.Errorf("with lockdown: %v, want %v", err, unix.EPERM)
		}
	}
	return nil
}

// begin has the kernel module begin to apply an update where lockdown lets nobody read the kernel's memory.
func begin() error {
	d, err := engine.Open()
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Begin("0123456789abcdef", engine.OpApply, 1); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "lockdown=confidentiality") {
		return fmt.Errorf("with lockdown: %v, want %v", err, unix.EPERM)
	}
	return nil
}
