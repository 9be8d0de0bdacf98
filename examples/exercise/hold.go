package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// holders make objects, and return what uses them once.
var holders = map[string]struct {
	args int
	make func(args []string) (func() error, error)
}{
	"link":      {1, holdLink},
	"teql":      {1, holdTEQL},
	"can":       {0, holdCAN},
	"bluetooth": {0, holdBluetooth},
	"deadline":  {0, holdDeadline},
	"iso":       {1, holdISO},
	"codel":     {1, holdCodel},
	"ipset":     {1, holdIPSet},
	"j1939":     {0, holdJ1939},
}

// hold makes objects and uses them at each SIGUSR1, until SIGTERM.
func hold(args []string) error {
	if len(args) == 0 || holders[args[0]].make == nil || len(args)-1 != holders[args[0]].args {
		return errUsage
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM)
	runtime.LockOSThread()
	use, err := holders[args[0]].make(args[1:])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for s := range signals {
		if s == syscall.SIGTERM {
			break
		}
		if err := use(); err != nil {
			return err
		}
		fmt.Println("used")
	}
	return nil
}

// holdLink sets a device up and down.
func holdLink(args []string) (func() error, error) {
	return func() error { return errors.Join(up(args[0], true), up(args[0], false)) }, nil
}

// holdTEQL makes a device a slave of teql0, and sends through that.
func holdTEQL(args []string) (func() error, error) {
	body, err := queue(args[0], "teql0", nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(up(args[0], true), route(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body), up("teql0", true)); err != nil {
		return nil, err
	}
	return func() error {
		return errors.Join(sendRaw("teql0"), route(unix.RTM_DELQDISC, 0, body), route(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body), sendRaw("teql0"))
	}, nil
}

// sendRaw sends an IPv4 packet to nobody over a device.
func sendRaw(device string) error {
	i, err := index(device)
	if err != nil {
		return err
	}
	const ip = 0x0008 // ETH_P_IP in the network's order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, ip)
	if err != nil {
		return fmt.Errorf("make a packet socket: %w", err)
	}
	defer unix.Close(fd)
	packet := append([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 127, 0, 0, 1, 127, 0, 0, 2}, make([]byte, 12)...)
	err = unix.Sendto(fd, packet, 0, &unix.SockaddrLinklayer{Protocol: ip, Ifindex: int(i), Halen: 6})
	if err != nil && !errors.Is(err, unix.ENOBUFS) {
		return fmt.Errorf("send over %s: %w", device, err)
	}
	return nil
}

// canSockets is how many there are: what they leave behind shows.
const canSockets = 200

// holdCAN keeps raw CAN sockets; each use closes half of them and makes new ones.
func holdCAN([]string) (func() error, error) {
	var open []int
	fill := func() error {
		for len(open) < canSockets {
			fd, err := unix.Socket(unix.AF_CAN, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.CAN_RAW)
			if err != nil {
				return fmt.Errorf("make a CAN socket: %w", err)
			}
			open = append(open, fd)
		}
		return nil
	}
	return func() error {
		for _, fd := range open[:canSockets/2] {
			if err := unix.Close(fd); err != nil {
				return err
			}
		}
		open = open[canSockets/2:]
		return fill()
	}, fill()
}

// holdJ1939 keeps two J1939 sockets on a virtual CAN device; each use gives one a filter, sends to it from the other, and makes the
// other anew.
func holdJ1939([]string) (func() error, error) {
	const device = "vcan0"
	const infoKind = 1
	body := append(make([]byte, unix.SizeofIfInfomsg), attribute(unix.IFLA_IFNAME, []byte(device+"\x00"))...)
	body = append(body, attribute(unix.IFLA_LINKINFO, attribute(infoKind, []byte("vcan\x00")))...)
	if err := route(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make %s: %w", device, err)
	}
	if err := up(device, true); err != nil {
		return nil, err
	}
	i, err := index(device)
	if err != nil {
		return nil, err
	}
	const from, to, noPGN = 0x20, 0x30, 0x40000
	open := func(address uint8) (int, error) {
		fd, err := unix.Socket(unix.AF_CAN, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.CAN_J1939)
		if err != nil {
			return 0, fmt.Errorf("make a J1939 socket: %w", err)
		}
		return fd, unix.Bind(fd, &unix.SockaddrCANJ1939{Ifindex: int(i), PGN: noPGN, Addr: address})
	}
	receiver, err := open(to)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptTimeval(receiver, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		return nil, err
	}
	sender, err := open(from)
	return func() error {
		// struct j1939_filter of include/uapi/linux/can/j1939.h: only what comes from that address.
		const level, option = unix.SOL_CAN_BASE + unix.CAN_J1939, 1
		filter := append(make([]byte, 24), from, 0xff, 0, 0, 0, 0, 0, 0)
		if err := unix.SetsockoptString(receiver, level, option, string(filter)); err != nil {
			return fmt.Errorf("set a filter: %w", err)
		}
		if err := unix.Sendto(sender, []byte("hello"), 0, &unix.SockaddrCANJ1939{Ifindex: int(i), PGN: 0x12300, Addr: to}); err != nil {
			return fmt.Errorf("send over %s: %w", device, err)
		}
		if n, err := unix.Read(receiver, make([]byte, 8)); err != nil || n != len("hello") {
			return fmt.Errorf("receive from %s: %d bytes, %w", device, n, err)
		}
		if err := unix.Close(sender); err != nil {
			return err
		}
		sender, err = open(from)
		return err
	}, err
}

// holdBluetooth keeps a virtual controller; each use takes it away and makes a new one (drivers/bluetooth/hci_vhci.c: a packet of type 0xff
// makes one).
func holdBluetooth([]string) (func() error, error) {
	plug := func() (int, error) {
		fd, err := unix.Open("/dev/vhci", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, fmt.Errorf("open /dev/vhci: %w", err)
		}
		if _, err := unix.Write(fd, []byte{0xff, 0x00}); err != nil {
			return 0, fmt.Errorf("make a controller: %w", err)
		}
		answer := make([]byte, 16)
		if _, err := unix.Read(fd, answer); err != nil {
			return 0, fmt.Errorf("make a controller: %w", err)
		}
		return fd, nil
	}
	fd, err := plug()
	return func() error {
		if err := unix.Close(fd); err != nil {
			return err
		}
		fd, err = plug()
		return err
	}, err
}

// deadlineAttr is struct sched_attr of include/uapi/linux/sched/types.h.
type deadlineAttr struct {
	Size, Policy              uint32
	Flags                     uint64
	Nice                      int32
	Priority                  uint32
	Runtime, Deadline, Period uint64
}

// holdDeadline has a deadline task in a cgroup of its own with a cpuset; each use moves it out and in again.
func holdDeadline([]string) (func() error, error) {
	const dir, group = "/tmp/cgroup", "/tmp/cgroup/deadline"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("none", dir, "cgroup2", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("mount cgroup2: %w", err)
	}
	if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+cpuset"), 0); err != nil {
		return nil, err
	}
	if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	self := []byte(strconv.Itoa(os.Getpid()))
	move := func(to string) error { return os.WriteFile(to+"/cgroup.procs", self, 0) }
	if err := move(group); err != nil {
		return nil, err
	}
	const deadline = 6 // SCHED_DEADLINE
	a := deadlineAttr{Policy: deadline, Runtime: 1e6, Deadline: 1e9, Period: 1e9}
	a.Size = uint32(binary.Size(a))
	_, _, errno := unix.Syscall(unix.SYS_SCHED_SETATTR, 0, uintptr(unsafe.Pointer(&a)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("become a deadline task: %w", errno)
	}
	return func() error { return errors.Join(move(dir), move(group)) }, nil
}

// holdISO keeps an image of a CD mounted whose directory's entries continue elsewhere; each use reads them all again, there and in a fresh
// mount.
func holdISO(args []string) (func() error, error) {
	const kept, fresh = "/tmp/iso", "/tmp/iso-fresh"
	mount := func(at string) error {
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if out, err := exec.Command("mount", "-t", "iso9660", "-o", "loop,ro", args[0], at).CombinedOutput(); err != nil {
			return fmt.Errorf("mount %s: %w: %s", args[0], err, out)
		}
		return nil
	}
	read := func(at string) error {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
			return err
		}
		entries, err := os.ReadDir(at)
		if err != nil {
			return err
		}
		links := 0
		for _, e := range entries {
			if e.Type()&os.ModeSymlink == 0 {
				continue
			}
			if _, err := os.Readlink(at + "/" + e.Name()); err != nil {
				return err
			}
			links++
		}
		if links == 0 {
			return fmt.Errorf("%s has no symbolic links", at)
		}
		return nil
	}
	if err := mount(kept); err != nil {
		return nil, err
	}
	return func() error {
		if err := errors.Join(read(kept), mount(fresh)); err != nil {
			return err
		}
		return errors.Join(read(fresh), unix.Unmount(fresh, 0))
	}, read(kept)
}

// holdCodel keeps a queue of codel's on a device, and sends through it.
func holdCodel(args []string) (func() error, error) {
	body, err := queue(args[0], "codel", nil)
	if err != nil {
		return nil, err
	}
	return func() error {
		for range 100 {
			if err := sendRaw(args[0]); err != nil {
				return err
			}
		}
		return nil
	}, errors.Join(up(args[0], true), route(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body))
}
