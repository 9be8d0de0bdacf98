package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrWaitedFor says that a module's init waits for the update at this moment.
var ErrWaitedFor = errors.New("a module that is being loaded waits for the update at this moment; try again")

// When says when an armed part goes in.
type When string

// The times: KSPLICE_ARM_*.
const (
	// WhenLive: as soon as may be once the module is live.
	WhenLive When = "live"
	// WhenInit: before the module's init, which waits a bounded time for it and goes on without.
	WhenInit When = "init"
	// WhenInitOrRefuse: before the module's init; without it the module is not loaded.
	WhenInitOrRefuse When = "init-or-refuse"
)

var whenFlags = map[When]uint32{WhenLive: 0, WhenInit: 1, WhenInitOrRefuse: 3}

// Armed is an update's part that waits for its module.
type Armed struct {
	ID     string `json:"id"`
	Module string `json:"module"`
	When   When   `json:"when"`
	// Wait is how long the module's init waits at most, in nanoseconds.
	Wait time.Duration `json:"wait_ns"`
	// Live says that the module is live.
	Live bool `json:"live"`
	// State is one line for people: what it waits for, or what came of it; "applied" when it is.
	State string `json:"state"`
}

// ReadArmed lists what is armed, in the order of arming. Without the kernel module, or with one that cannot wait, it is empty.
func ReadArmed() ([]Armed, error) {
	b, err := os.ReadFile(filepath.Join(SysfsPath, "armed"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list armed updates: %w", err)
	}
	return parseArmed(string(b))
}

// parseArmed reads lines of "id module when timeout_ms live_ns state" (kmod/arrive.c: armed_read).
func parseArmed(text string) ([]Armed, error) {
	var out []Armed
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 6)
		if len(f) != 6 {
			return nil, fmt.Errorf("list armed updates: line %.100q has %d fields, not 6", line, len(f))
		}
		ms, err := strconv.ParseUint(f[3], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("list armed updates: %s: time: %w", f[0], err)
		}
		live, err := strconv.ParseUint(f[4], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("list armed updates: %s: time: %w", f[0], err)
		}
		out = append(out, Armed{ID: f[0], Module: f[1], When: When(f[2]), Wait: time.Duration(ms) * time.Millisecond, Live: live != 0, State: f[5]})
	}
	return out, nil
}

// Arm has the kernel module run `helper arrive ID MODULE` when the module comes. It outlives the device and the process.
func (d *Device) Arm(a *Armed, helper string) error {
	if !d.info.Arm {
		return errors.New("the loaded ksplice module cannot wait for modules: reload the one that came with this ksplice, or load the update's modules first")
	}
	flags, known := whenFlags[a.When]
	c := armC{flags: flags, timeoutMS: uint32(a.Wait.Milliseconds())}
	switch {
	case !known:
		return fmt.Errorf("arm %s: time %q is not known", a.ID, a.When)
	case copy(c.id[:len(c.id)-1], a.ID) != len(a.ID), copy(c.module[:len(c.module)-1], a.Module) != len(a.Module):
		return fmt.Errorf("arm %s for module %s: a name is too long", a.ID, a.Module)
	case copy(c.helper[:len(c.helper)-1], helper) != len(helper):
		return fmt.Errorf("arm %s: the path %s is too long for the kernel module", a.ID, helper)
	}
	if err := d.ioctl(iocArm, unsafe.Pointer(&c)); err != nil {
		return fmt.Errorf("arm %s for module %s: %w", a.ID, a.Module, err)
	}
	return nil
}

// Disarm takes back all that is armed of an update. Nothing armed is no error.
func (d *Device) Disarm(id string) error {
	if !d.info.Arm {
		return nil
	}
	var c alsoC
	if copy(c.id[:len(c.id)-1], id) != len(id) {
		return fmt.Errorf("disarm %s: the id is too long", id)
	}
	switch err := d.ioctl(iocDisarm, unsafe.Pointer(&c)); {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("disarm %s: %w", id, ErrWaitedFor)
	case err != nil && !errors.Is(err, unix.ENOENT):
		return fmt.Errorf("disarm %s: %w", id, err)
	}
	return nil
}

// Arrived tells the kernel module how it went with a part whose module has come: cause is nil, or why it did not.
func (d *Device) Arrived(id, module string, cause error) error {
	var c arrivedC
	text := "applied"
	if cause != nil {
		text, c.errno = cause.Error(), -int32(unix.EIO)
	}
	copy(c.id[:len(c.id)-1], id)
	copy(c.module[:len(c.module)-1], module)
	copy(c.text[:len(c.text)-1], text)
	if err := d.ioctl(iocArrived, unsafe.Pointer(&c)); err != nil {
		return fmt.Errorf("report on %s for module %s: %w", id, module, err)
	}
	return nil
}
