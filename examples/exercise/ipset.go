package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/netfilter/ipset/ip_set.h: commands, and the kernel's answer that an entry is not in a set, or is already.
const (
	setCreate = 2
	setAdd    = 9
	setDelete = 10
	setTest   = 11

	errSetExist = unix.Errno(4103)
)

// tellSet sends a command about an IP set.
func tellSet(command uint16, name string, attributes ...[]byte) error {
	const subsystem, protocol, setName, version = 6, 1, 2, 7
	body := append([]byte{unix.AF_UNSPEC, 0, 0, 0}, attribute(protocol, []byte{version})...) // struct nfgenmsg
	body = append(body, attribute(setName, append([]byte(name), 0))...)
	for _, a := range attributes {
		body = append(body, a...)
	}
	return request(unix.NETLINK_NETFILTER, subsystem<<8|command, unix.NLM_F_EXCL, body)
}

// createSet makes a set of the type hash:net,port,net.
func createSet(name string, family uint8) error {
	const typeName, revision, familyOf = 3, 4, 5
	return tellSet(setCreate, name, attribute(typeName, []byte("hash:net,port,net\x00")), attribute(revision, []byte{3}), attribute(familyOf, []byte{family}))
}

// tellEntry sends a command about the entry of a network and of some of its neighbours.
func tellEntry(command uint16, name string, network, neighbours netip.Prefix) error {
	const data, ip, bits, port, protocol, ip2, bits2 = 7, 1, 3, 4, 7, 20, 21
	address := func(kind uint16, a netip.Addr) []byte {
		family := uint16(1)
		if a.Is6() {
			family = 2
		}
		return attribute(kind|unix.NLA_F_NESTED, attribute(family|unix.NLA_F_NET_BYTEORDER, a.AsSlice()))
	}
	body := append(address(ip, network.Addr()), attribute(bits, []byte{byte(network.Bits())})...)
	body = append(append(body, address(ip2, neighbours.Addr())...), attribute(bits2, []byte{byte(neighbours.Bits())})...)
	body = append(body, attribute(port|unix.NLA_F_NET_BYTEORDER, binary.BigEndian.AppendUint16(nil, 80))...)
	body = append(body, attribute(protocol, []byte{unix.IPPROTO_TCP})...)
	return tellSet(command, name, attribute(data|unix.NLA_F_NESTED, body))
}

// netSet is a set of networks.
type netSet struct {
	name       string
	networks   []netip.Prefix // one in front of the others of its size
	neighbours netip.Prefix
}

// holdIPSet keeps a set of networks of IPv4 and one of IPv6, NAME4 and NAME6. Each use looks for an address of every network, also while one
// network of two that have the same size is not in it.
func holdIPSet(args []string) (func() error, error) {
	networks := func(texts ...string) []netip.Prefix {
		out := make([]netip.Prefix, len(texts))
		for i, t := range texts {
			out[i] = netip.MustParsePrefix(t)
		}
		return out
	}
	sets := []netSet{
		{args[0] + "4", networks("10.0.1.0/24", "10.0.2.0/24", "10.0.4.0/23", "10.1.0.1/32", "10.1.0.2/32", "128.0.0.0/1"), netip.MustParsePrefix("192.168.0.0/24")},
		{args[0] + "6", networks("2001:db8:0:1::/64", "2001:db8:0:2::/64", "2001:db8:0:4::/63", "2001:db8:1::1/128", "2001:db8:1::2/128", "8000::/1"), netip.MustParsePrefix("2001:db8:2::/64")},
	}
	families := []uint8{unix.AF_INET, unix.AF_INET6}
	for i, s := range sets {
		if err := createSet(s.name, families[i]); err != nil {
			return nil, fmt.Errorf("make the set %s: %w", s.name, err)
		}
		for _, n := range s.networks {
			if err := tellEntry(setAdd, s.name, n, s.neighbours); err != nil {
				return nil, fmt.Errorf("add %s to %s: %w", n, s.name, err)
			}
		}
	}
	return func() error {
		for _, s := range sets {
			if err := s.use(); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
		return nil
	}, nil
}

func (s *netSet) use() error {
	if err := s.has(netip.Prefix{}); err != nil {
		return err
	}
	for i := 0; i+1 < len(s.networks); i++ {
		n := s.networks[i]
		if n.Bits() != s.networks[i+1].Bits() {
			continue
		}
		if err := tellEntry(setDelete, s.name, n, s.neighbours); err != nil {
			return fmt.Errorf("delete %s: %w", n, err)
		}
		if err := s.has(n); err != nil {
			return fmt.Errorf("without %s: %w", n, err)
		}
		if err := tellEntry(setAdd, s.name, n, s.neighbours); err != nil {
			return fmt.Errorf("add %s again: %w", n, err)
		}
	}
	return s.has(netip.Prefix{})
}

// has looks for an address of every network: all are there but those of one.
func (s *netSet) has(but netip.Prefix) error {
	host := func(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr(), p.Addr().BitLen()) }
	for _, n := range s.networks {
		err := tellEntry(setTest, s.name, host(n), host(s.neighbours))
		switch {
		case err == nil && n == but:
			return fmt.Errorf("%s is there", n.Addr())
		case err != nil && (n != but || !errors.Is(err, errSetExist)):
			return fmt.Errorf("look for %s: %w", n.Addr(), err)
		}
	}
	return nil
}
