// Package engine talks to the ksplice kernel module: memory, transactions, slots, commit; and loads and unloads
// parts, clearing what a killed run left behind. The check, apply, undo and status pipelines call it.
package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DevicePath is where the kernel module is spoken to.
const DevicePath = "/dev/ksplice"

// abi is KSPLICE_ABI of kmod/ksplice_uapi.h that this package speaks. With modules of another one it undoes and disarms, as these are
// the same in all, and does not apply.
const abi = 1

// ErrABI says that the kernel module that is loaded came with another ksplice, and is too old or too new to apply with.
var ErrABI = errors.New("updates can be undone with it, but not applied: undo those that are applied, then `rmmod ksplice && modprobe ksplice` " +
	"loads the installed module; where that is no other, install packages ksplice and ksplice-dkms of one version")

// ErrBusy says that another ksplice is at work on this machine.
var ErrBusy = errors.New("another ksplice is changing this machine; wait for it")

// ErrMapped says that parts of an undone update of the same id have stayed in the kernel: something may still hold addresses
// in them, and no two modules of one name can be loaded.
var ErrMapped = errors.New("the update was undone, but its parts stay mapped, as code outside may hold addresses in them: " +
	"it cannot be applied again before the next boot; made again with another --description it is an update of its own")

// ErrLocked says that an update sets fields of data, and that the kernel is locked down (kmod/writes.c: ksplice_writes_allowed).
var ErrLocked = errors.New("it changes initial values of data, which the kernel's lockdown forbids, as no signature says where they lie: " +
	"have the vendor carry that by hooks, whose code is signed, or apply the update without Secure Boot")

// ErrNoModule says that the kernel module is not there.
var ErrNoModule = errors.New("the ksplice kernel module is not loaded; run `modprobe ksplice`")

// Op is what a transaction is for.
type Op uint32

// The operations: KSPLICE_OP_APPLY and KSPLICE_OP_UNDO.
const (
	OpApply Op = 1
	OpUndo  Op = 2
)

// Cause says why a commit did not happen: enum ksplice_cause.
type Cause uint32

// The causes.
const (
	CauseOK Cause = iota
	CauseConflict
	CauseChanged
	CauseWindow
	CauseForbidden
	CauseDependedOn
	CauseProbed
	CauseVetoed
	CauseNoMemory
	CauseInvalid
	CauseParts
	CauseInterrupted
	CauseUnsafeStack
	CauseMoved
)

var causeNames = [...]string{"ok", "conflict", "changed", "window", "forbidden", "depended on", "probed", "vetoed",
	"no memory", "invalid", "parts", "interrupted", "unsafe stack", "moved"}

// String returns the cause's name.
func (c Cause) String() string {
	if int(c) < len(causeNames) {
		return causeNames[c]
	}
	return fmt.Sprintf("cause %d", uint32(c))
}

// Info is what the loaded kernel module can do.
type Info struct {
	ABI       uint32
	Slots     uint32 // how many slots a part may have
	KeyCopies uint32
	Ftrace    bool // redirect by ftrace is possible
	Freeze    bool // it freezes processes for a commit, and thaws them
	Also      bool // it undoes other updates in the same stop
	Arm       bool // it waits for modules
	Transfer  bool // it changes data in the stop
}

// Window is the bytes that matching saw where a jump will be written.
type Window struct {
	Address uint64
	Bytes   []byte
}

// Conflict is a thread that stood in the way.
type Conflict struct {
	PID      int    `json:"pid"`
	Command  string `json:"command"`
	Function string `json:"function"`
	Address  uint64 `json:"address"`
	// Kernel says that it is a thread of the kernel's own, which nobody can freeze.
	Kernel bool `json:"kernel_thread,omitempty"`
}

// Result is how a commit ended.
type Result struct {
	Cause    Cause
	Errno    unix.Errno
	Attempts int
	Pause    time.Duration
	Address  uint64
	Where    string
	// Conflicts is filled in when Cause is CauseConflict.
	Conflicts []Conflict
}

// The structures of kmod/ksplice_uapi.h, field for field.
type (
	infoC struct {
		abi, slots, keyCopies, features uint32
		reserved                        [4]uint64
	}
	rangeC struct{ address, buffer, length, done uint64 }
	listC  struct {
		pointer      uint64
		nr, reserved uint32
	}
	beginC struct {
		id          [64]byte
		op, nrParts uint32
	}
	pinC     struct{ module [64]byte }
	keyCopyC struct{ key, copy uint64 }
	windowC  struct {
		address  uint64
		length   uint32
		bytes    [16]byte
		reserved uint32
	}
	commitC struct {
		attempts, intervalMS uint32
		reserved             [2]uint64
	}
	resultC struct {
		timeoutMS, done              uint32
		errno                        int32
		cause, attempts, nrConflicts uint32
		pauseNS, address             uint64
		where                        [256]byte
	}
	freezeC struct {
		fd       int32
		reserved uint32
	}
	alsoC  struct{ id [64]byte }
	carryC struct{ from, to, length uint64 }
	armC   struct {
		id, module       [64]byte
		helper           [256]byte
		flags, timeoutMS uint32
		reserved         [2]uint64
	}
	arrivedC struct {
		id, module [64]byte
		text       [256]byte
		errno      int32
		reserved   uint32
	}
	conflictC struct {
		pid      int32
		reserved uint32
		address  uint64
		comm     [16]byte
		function [128]byte
	}
)

// Directions of an ioctl, include/uapi/asm-generic/ioctl.h.
const (
	iocWrite = 1
	iocRead  = 2
)

func ioc(direction, nr, size uintptr) uintptr { return direction<<30 | size<<16 | 'K'<<8 | nr }

var (
	iocInfo      = ioc(iocRead, 0, unsafe.Sizeof(infoC{}))
	iocReadMem   = ioc(iocRead|iocWrite, 1, unsafe.Sizeof(listC{}))
	iocBegin     = ioc(iocWrite, 2, unsafe.Sizeof(beginC{}))
	iocPin       = ioc(iocWrite, 3, unsafe.Sizeof(pinC{}))
	iocKeyCopy   = ioc(iocRead|iocWrite, 4, unsafe.Sizeof(keyCopyC{}))
	iocSlots     = ioc(iocWrite, 5, unsafe.Sizeof(listC{}))
	iocExpect    = ioc(iocWrite, 6, unsafe.Sizeof(listC{}))
	iocCommit    = ioc(iocWrite, 7, unsafe.Sizeof(commitC{}))
	iocWait      = ioc(iocRead|iocWrite, 8, unsafe.Sizeof(resultC{}))
	iocConflicts = ioc(iocRead|iocWrite, 9, unsafe.Sizeof(listC{}))
	iocFreeze    = ioc(iocWrite, 10, unsafe.Sizeof(freezeC{}))
	iocAlso      = ioc(iocWrite, 11, unsafe.Sizeof(alsoC{}))
	iocArm       = ioc(iocWrite, 12, unsafe.Sizeof(armC{}))
	iocDisarm    = ioc(iocWrite, 13, unsafe.Sizeof(alsoC{}))
	iocArrived   = ioc(iocWrite, 14, unsafe.Sizeof(arrivedC{}))
	iocCarry     = ioc(iocWrite, 15, unsafe.Sizeof(carryC{}))
)

// Device is an open /dev/ksplice. Closing it drops a transaction that was not committed; so does the end of the process.
type Device struct {
	file *os.File
	info Info
}

// Open opens the device.
func Open() (*Device, error) {
	f, err := os.OpenFile(DevicePath, os.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if d := ReadDemand(); d.Signed() {
			return nil, fmt.Errorf("%w; as %s, it must be signed: dkms does that with a key that is enrolled once "+
				"(Debian: `mokutil --import /var/lib/dkms/mok.pub`, Ubuntu: `update-secureboot-policy --enroll-key`; then reboot)", ErrNoModule, d.why())
		}
		return nil, ErrNoModule
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("open %s: %w; run as root", DevicePath, err)
	case err != nil:
		return nil, fmt.Errorf("open ksplice device: %w", err)
	}
	d := &Device{file: f}
	var c infoC
	if err := d.ioctl(iocInfo, unsafe.Pointer(&c)); err != nil {
		f.Close()
		return nil, fmt.Errorf("ask ksplice module for its version: %w", err)
	}
	d.info = Info{ABI: c.abi, Slots: c.slots, KeyCopies: c.keyCopies, Ftrace: c.features&1 != 0, Freeze: c.features&2 != 0,
		Also: c.features&4 != 0, Arm: c.features&8 != 0, Transfer: c.features&16 != 0}
	return d, nil
}

// Close closes the device.
func (d *Device) Close() error { return d.file.Close() }

// Info returns what the module can do.
func (d *Device) Info() Info { return d.info }

// CanApply returns an error that wraps ErrABI when the module can undo only.
func (d *Device) CanApply() error {
	if d.info.ABI != abi {
		return fmt.Errorf("the loaded ksplice module speaks ABI %d, this ksplice %d: %w", d.info.ABI, abi, ErrABI)
	}
	return nil
}

func (d *Device) ioctl(request uintptr, argument unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.file.Fd(), request, uintptr(argument))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		return nil
	}
}

func (d *Device) list(request uintptr, pointer unsafe.Pointer, nr int) error {
	c := listC{pointer: uint64(uintptr(pointer)), nr: uint32(nr)}
	err := d.ioctl(request, unsafe.Pointer(&c))
	runtime.KeepAlive(pointer)
	return err
}

// ReadMemory fills p from kernel memory at address. It fails, naming the first address that cannot be read, where
// any byte cannot.
func (d *Device) ReadMemory(p []byte, address uint64) error {
	if len(p) == 0 {
		return nil
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&p[0])
	r := &rangeC{address: address, buffer: uint64(uintptr(unsafe.Pointer(&p[0]))), length: uint64(len(p))}
	pin.Pin(r)
	if err := d.list(iocReadMem, unsafe.Pointer(r), 1); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("read kernel memory at %#x: %w; %s", address, err, lockedAdvice)
		}
		return fmt.Errorf("read kernel memory at %#x: %w", address, err)
	}
	if r.done != r.length {
		return fmt.Errorf("read kernel memory at %#x: nothing is mapped there", address+r.done)
	}
	return nil
}

// lockedAdvice is what to do where nobody may read kernel memory (security/lockdown: LOCKDOWN_KCORE).
const lockedAdvice = "the kernel's lockdown forbids it, as lockdown=confidentiality does to everybody: nothing can be proved of this kernel, nor applied to it, " +
	"before it is booted with lockdown=integrity, which is what Secure Boot asks for"

// Begin begins the transaction; parts is how many parts will be loaded (apply).
func (d *Device) Begin(id string, op Op, parts int) error {
	if op != OpUndo {
		if err := d.CanApply(); err != nil {
			return fmt.Errorf("begin %s: %w", id, err)
		}
	}
	c := beginC{op: uint32(op), nrParts: uint32(parts)}
	if copy(c.id[:len(c.id)-1], id) != len(id) {
		return fmt.Errorf("begin: id %q is too long", id)
	}
	err := d.ioctl(iocBegin, unsafe.Pointer(&c))
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("begin %s: %w", id, ErrBusy)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("begin %s: %w", id, ErrApplied)
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("begin %s: %w", id, ErrMapped)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("begin %s: %w", id, ErrNotApplied)
	case op == OpApply && errors.Is(err, unix.EPERM):
		return fmt.Errorf("begin %s: %w; where ksplice has CAP_SYS_MODULE, %s", id, err, lockedAdvice)
	case err != nil:
		return fmt.Errorf("begin %s: %w", id, err)
	}
	return nil
}

// Also has an applied update undone in the same stop; what it redirects, the transaction's own update may redirect in its place.
func (d *Device) Also(id string) error {
	if !d.info.Also {
		return errors.New("the loaded ksplice module undoes one update at a time: reload the one that came with this ksplice")
	}
	var c alsoC
	if copy(c.id[:len(c.id)-1], id) != len(id) {
		return fmt.Errorf("undo %s, too: the id is too long", id)
	}
	switch err := d.ioctl(iocAlso, unsafe.Pointer(&c)); {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("undo %s, too: %w", id, ErrNotApplied)
	case err != nil:
		return fmt.Errorf("undo %s, too: %w", id, err)
	}
	return nil
}

// Carry has what a variable of an update holds that Also named copied, in the stop, into a variable of the transaction's own: addresses,
// and a length in bytes.
func (d *Device) Carry(from, to, length uint64) error {
	c := carryC{from, to, length}
	if err := d.ioctl(iocCarry, unsafe.Pointer(&c)); errors.Is(err, unix.EPERM) {
		return fmt.Errorf("carry %d bytes over from %#x: %w; the kernel's lockdown forbids to write what no signature stands behind: "+
			"undo the older update, then apply this one", length, from, err)
	} else if err != nil {
		return fmt.Errorf("carry %d bytes over from %#x: %w", length, from, err)
	}
	return nil
}

// Pin holds a kernel module until the update's parts have gone.
func (d *Device) Pin(module string) error {
	var c pinC
	if copy(c.module[:len(c.module)-1], module) != len(module) {
		return fmt.Errorf("pin module: name %q is too long", module)
	}
	if err := d.ioctl(iocPin, unsafe.Pointer(&c)); err != nil {
		return fmt.Errorf("pin module %s: %w; it may be on its way in or out", module, err)
	}
	return nil
}

// KeyCopy returns the address of a private copy of the static key at address key.
func (d *Device) KeyCopy(key uint64) (uint64, error) {
	c := keyCopyC{key: key}
	if err := d.ioctl(iocKeyCopy, unsafe.Pointer(&c)); err != nil {
		return 0, fmt.Errorf("copy static key at %#x: %w", key, err)
	}
	return c.copy, nil
}

// SetSlots gives the values of slots 0.. for the next part.
func (d *Device) SetSlots(values []uint64) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	var p unsafe.Pointer
	if len(values) > 0 {
		pin.Pin(&values[0])
		p = unsafe.Pointer(&values[0])
	}
	if err := d.list(iocSlots, p, len(values)); err != nil {
		return fmt.Errorf("set %d slots: %w", len(values), err)
	}
	return nil
}

// Expect gives the bytes that stand where jumps will be written.
func (d *Device) Expect(windows []Window) error {
	if len(windows) == 0 {
		return nil
	}
	c := make([]windowC, len(windows))
	for i, w := range windows {
		if len(w.Bytes) > len(c[i].bytes) {
			return fmt.Errorf("expect window at %#x: %d bytes are too many", w.Address, len(w.Bytes))
		}
		c[i].address, c[i].length = w.Address, uint32(len(w.Bytes))
		copy(c[i].bytes[:], w.Bytes)
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&c[0])
	if err := d.list(iocExpect, unsafe.Pointer(&c[0]), len(c)); err != nil {
		return fmt.Errorf("expect %d windows: %w", len(c), err)
	}
	return nil
}

// Freeze has the kernel module freeze a cgroup by its cgroup.freeze, open for writing, and thaw it as soon as the commit is decided or
// the transaction dropped. It is an error when that is so already.
func (d *Device) Freeze(file *os.File) error {
	c := freezeC{fd: int32(file.Fd())}
	if err := d.ioctl(iocFreeze, unsafe.Pointer(&c)); err != nil {
		return fmt.Errorf("freeze %s: %w", file.Name(), err)
	}
	return nil
}

// Commit commits the transaction, or says why not. While stacks conflict it tries up to attempts times.
func (d *Device) Commit(ctx context.Context, attempts int, interval time.Duration) (*Result, error) {
	c := commitC{attempts: uint32(attempts), intervalMS: uint32(interval.Milliseconds())}
	switch err := d.ioctl(iocCommit, unsafe.Pointer(&c)); {
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("commit the update: %w; %w", err, ErrLocked)
	case err != nil:
		return nil, fmt.Errorf("commit: %w", err)
	}
	for {
		r := resultC{timeoutMS: 200}
		if err := d.ioctl(iocWait, unsafe.Pointer(&r)); err != nil && !errors.Is(err, unix.ETIMEDOUT) {
			return nil, fmt.Errorf("wait for commit: %w", err)
		}
		if r.done == 0 {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("commit: %w; the kernel module drops the transaction, or finishes it if the stop had begun", err)
			}
			continue
		}
		result := &Result{Cause: Cause(r.cause), Errno: unix.Errno(-r.errno), Attempts: int(r.attempts),
			Pause: time.Duration(r.pauseNS), Address: r.address, Where: unix.ByteSliceToString(r.where[:])}
		if r.nrConflicts > 0 {
			var err error
			if result.Conflicts, err = d.conflicts(int(r.nrConflicts)); err != nil {
				return nil, err
			}
		}
		return result, nil
	}
}

func (d *Device) conflicts(nr int) ([]Conflict, error) {
	c := make([]conflictC, nr)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&c[0])
	l := listC{pointer: uint64(uintptr(unsafe.Pointer(&c[0]))), nr: uint32(nr)}
	if err := d.ioctl(iocConflicts, unsafe.Pointer(&l)); err != nil {
		return nil, fmt.Errorf("read conflicts: %w", err)
	}
	var out []Conflict
	for _, x := range c[:min(int(l.nr), nr)] {
		out = append(out, Conflict{PID: int(x.pid), Command: unix.ByteSliceToString(x.comm[:]),
			Function: unix.ByteSliceToString(x.function[:]), Address: x.address})
	}
	return out, nil
}
