package main

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vlanArgs is struct vlan_ioctl_args of include/uapi/linux/if_vlan.h: a command, a device's name, a union of 24 bytes
// whose first four are the id, and a quality of service.
type vlanArgs struct {
	Command int32
	Device  [24]byte
	ID      int32
	_       [20]byte
	QoS     int16
	_       [2]byte
}

// addVLAN is ADD_VLAN_CMD of the same header.
const addVLAN = 0

// vlan makes a VLAN device on top of another. The module 8021q must be loaded. One that is there already is fine.
func vlan(args []string) error {
	if len(args) != 2 {
		return errUsage
	}
	id, err := strconv.ParseUint(args[1], 10, 12)
	if err != nil {
		return fmt.Errorf("id %q is not a number up to 4095: %w", args[1], errUsage)
	}
	a := vlanArgs{Command: addVLAN, ID: int32(id)}
	if copy(a.Device[:len(a.Device)-1], args[0]) < len(args[0]) {
		return fmt.Errorf("device name %q is too long", args[0])
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFVLAN, uintptr(unsafe.Pointer(&a)))
	runtime.KeepAlive(&a)
	if errno != 0 && !errors.Is(errno, unix.EEXIST) {
		return fmt.Errorf("add VLAN %d to %s: %w", id, args[0], errno)
	}
	return say(map[string]string{"device": fmt.Sprintf("%s.%d", args[0], id)})
}
