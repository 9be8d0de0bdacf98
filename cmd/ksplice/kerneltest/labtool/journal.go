package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/ksplice/ksplice/core/journal"
)

// keepJournal takes entries in the place of systemd's journal and keeps them in a file, each followed by an empty line. It ends when it is killed.
func keepJournal(file string) error {
	if err := os.MkdirAll(filepath.Dir(journal.Socket), 0o755); err != nil {
		return err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: journal.Socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for b := make([]byte, 1<<18); ; {
		n, err := conn.Read(b)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(f, "%s\n", b[:n]); err != nil {
			return err
		}
	}
}
