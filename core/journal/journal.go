// Package journal sends entries with fields to systemd's journal. The commands that change the machine call it.
package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is where the journal takes entries (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const Socket = "/run/systemd/journal/socket"

// Priority is how much an entry matters, as syslog(3) has it.
type Priority int

// The priorities that are used.
const (
	Error   Priority = 3
	Warning Priority = 4
	Notice  Priority = 5
)

// Entry is one entry.
type Entry struct {
	// Message is the text for people.
	Message string
	// ID tells what kind of entry it is: 32 hex digits (MESSAGE_ID, sd_journal_get_catalog(3)).
	ID       string
	Priority Priority
	// Fields are further ones, in the order in which they are sent.
	Fields []Field
}

// Field is a field of one's own.
type Field struct {
	// Name has capital letters, digits and underscores, begins with a letter, and has 64 characters at most: the journal drops others without a word.
	Name string
	// Value may hold anything, line feeds too.
	Value string
}

var validName = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)

// patience bounds how long an entry waits for a journal that does not read.
const patience = 2 * time.Second

// Journal is where entries go.
type Journal struct{ path string }

// Default is the machine's journal.
func Default() Journal { return Journal{Socket} }

// At is one somewhere else, for tests.
func At(path string) Journal { return Journal{path} }

// Send sends an entry. A machine that has no journal, or one that does not run, is no error: there is nobody to tell.
func (j Journal) Send(e *Entry) error {
	b, err := e.encode()
	if err != nil {
		return err
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: j.path, Net: "unixgram"})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write to the journal: %w", err)
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("write to the journal: %w", err)
	}
	_, err = conn.Write(b)
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
		err = sendFile(conn, b)
	}
	if err != nil {
		return fmt.Errorf("write to the journal: %w", err)
	}
	return nil
}

// sendFile sends what is too long for a datagram: in a file without a name that nobody can change any more.
func sendFile(conn *net.UnixConn, b []byte) error {
	fd, err := unix.MemfdCreate("ksplice-journal", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "ksplice-journal")
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), nil, unix.UnixRights(int(f.Fd())), nil, 0)
		return !errors.Is(sent, unix.EAGAIN)
	}); err != nil {
		return err
	}
	return sent
}

// encode writes the fields one after the other: NAME=VALUE and a line feed; or, where the value has one itself, NAME, a line feed, the value's length
// in 64 bits with the low byte first, the value, and a line feed.
func (e *Entry) encode() ([]byte, error) {
	var b bytes.Buffer
	all := append([]Field{{"MESSAGE", e.Message}, {"MESSAGE_ID", e.ID}, {"PRIORITY", fmt.Sprint(int(e.Priority))}, {"SYSLOG_IDENTIFIER", "ksplice"}}, e.Fields...)
	for _, f := range all {
		if !validName.MatchString(f.Name) {
			return nil, fmt.Errorf("write to the journal: %q cannot be the name of a field", f.Name)
		}
		b.WriteString(f.Name)
		if strings.Contains(f.Value, "\n") {
			b.WriteByte('\n')
			b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(f.Value))))
		} else {
			b.WriteByte('=')
		}
		b.WriteString(f.Value)
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}
