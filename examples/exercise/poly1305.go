package main

import (
	"encoding/hex"
	"fmt"

	"golang.org/x/sys/unix"
)

// poly1305 has the kernel make the tag of RFC 7539, 2.5.2, and returns it.
func poly1305([]string) (string, error) {
	key, err := hex.DecodeString("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
	if err != nil {
		return "", err
	}
	fd, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("make a socket for hashes: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrALG{Type: "hash", Name: "poly1305"}); err != nil {
		return "", fmt.Errorf("choose poly1305: %w", err)
	}
	// x/sys's Accept takes no socket of this family: its peers have no address.
	op, _, errno := unix.Syscall(unix.SYS_ACCEPT, uintptr(fd), 0, 0)
	if errno != 0 {
		return "", fmt.Errorf("begin a hash: %w", errno)
	}
	defer unix.Close(int(op))
	// The key comes first (crypto/poly1305_generic.c: crypto_poly1305_setdctxkey).
	if _, err := unix.Write(int(op), append(key, "Cryptographic Forum Research Group"...)); err != nil {
		return "", fmt.Errorf("hash: %w", err)
	}
	tag := make([]byte, 16)
	if _, err := unix.Read(int(op), tag); err != nil {
		return "", fmt.Errorf("read the hash: %w", err)
	}
	return hex.EncodeToString(tag), nil
}
