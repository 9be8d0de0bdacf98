package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/unix"
)

// attribute is a netlink attribute, padded to four bytes (include/uapi/linux/netlink.h: struct nlattr).
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, -len(b)&3)...)
}

func number(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// route sends one request of rtnetlink.
func route(kind, flags uint16, body []byte) error {
	return request(unix.NETLINK_ROUTE, kind, flags, body)
}

// request sends one request of a netlink protocol and returns the kernel's answer: nil or an error number.
func request(protocol int, kind, flags uint16, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fmt.Errorf("make a netlink socket: %w", err)
	}
	defer unix.Close(fd)
	b := number(uint32(unix.NLMSG_HDRLEN + len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(append(b, make([]byte, 8)...), body...)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send a netlink request: %w", err)
	}
	answer := make([]byte, 8192)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil || n < unix.NLMSG_HDRLEN+4 {
		return fmt.Errorf("read the answer to a netlink request: %d bytes, %w", n, err)
	}
	if errno := int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); errno != 0 {
		return unix.Errno(-errno)
	}
	return nil
}

// outcome says what became of a call: "done", or the name of its error number.
func outcome(err error) (string, error) {
	if err == nil {
		return "done", nil
	}
	if errno, ok := err.(unix.Errno); ok {
		return unix.ErrnoName(errno), nil
	}
	return "", err
}

func index(device string) (uint32, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return 0, err
	}
	return uint32(i.Index), nil
}

// txqlen sets a device's queue length by netlink: struct ifinfomsg and IFLA_TXQLEN.
func txqlen(args []string) (string, error) {
	i, err := index(args[0])
	if err != nil {
		return "", err
	}
	n, err := strconv.ParseUint(args[1], 10, 32)
	if err != nil {
		return "", err
	}
	body := append(make([]byte, 4), number(i)...)
	body = append(append(body, make([]byte, 8)...), attribute(unix.IFLA_TXQLEN, number(uint32(n)))...)
	return outcome(route(unix.RTM_SETLINK, 0, body))
}

// queue is struct tcmsg of a device's root, and the kind of its queueing discipline.
func queue(device, kind string, options []byte) ([]byte, error) {
	const root, tcaKind, tcaOptions = 0xffffffff, 1, 2
	i, err := index(device)
	if err != nil {
		return nil, err
	}
	body := append(make([]byte, 4), number(i)...)
	body = append(append(body, number(0)...), number(root)...)
	body = append(append(body, number(0)...), attribute(tcaKind, append([]byte(kind), 0))...)
	if options != nil {
		body = append(body, attribute(tcaOptions, options)...)
	}
	return body, nil
}

// qdisc gives a device a queueing discipline with one option, a 32-bit number, and takes it away again.
func qdisc(args []string) (string, error) {
	option, err := strconv.ParseUint(args[2], 10, 16)
	if err != nil {
		return "", err
	}
	value, err := strconv.ParseUint(args[3], 10, 32)
	if err != nil {
		return "", err
	}
	body, err := queue(args[0], args[1], attribute(uint16(option), number(uint32(value))))
	if err != nil {
		return "", err
	}
	text, err := outcome(route(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body))
	if err != nil || text != "done" {
		return text, err
	}
	return outcome(route(unix.RTM_DELQDISC, 0, body))
}

// up sets a device up or down.
func up(device string, on bool) error {
	i, err := index(device)
	if err != nil {
		return err
	}
	flags := uint32(0)
	if on {
		flags = unix.IFF_UP
	}
	body := append(make([]byte, 4), number(i)...)
	return route(unix.RTM_NEWLINK, 0, append(append(body, number(flags)...), number(unix.IFF_UP)...))
}
