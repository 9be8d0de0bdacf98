package journal

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listen is a journal that takes one entry a call, by datagram or by file.
func listen(t *testing.T) (path string, next func() string) {
	path = filepath.Join(t.TempDir(), "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return path, func() string {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b, rights := make([]byte, 1<<20), make([]byte, 64)
		n, nr, _, _, err := conn.ReadMsgUnix(b, rights)
		if err != nil {
			t.Fatal(err)
		}
		if nr == 0 {
			return string(b[:n])
		}
		messages, err := unix.ParseSocketControlMessage(rights[:nr])
		if err != nil || n != 0 {
			t.Fatalf("a file with %d bytes beside it: %v", n, err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fds[0]), "entry")
		defer f.Close()
		// The journal takes no file that somebody could still change.
		seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
		if want := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL; err != nil || seals != want {
			t.Errorf("seals %#x, want %#x: %v", seals, want, err)
		}
		all, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
		if err != nil {
			t.Fatal(err)
		}
		return string(all)
	}
}

func TestSend(t *testing.T) {
	path, next := listen(t)
	e := &Entry{Message: "it is done", ID: strings.Repeat("0a", 16), Priority: Notice, Fields: []Field{{"KSPLICE_ID", "3f9c2ab1"}, {"KSPLICE_EMPTY", ""}, {"KSPLICE_LINES", "a=1\nb"}}}
	if err := At(path).Send(e); err != nil {
		t.Fatal(err)
	}
	want := "MESSAGE=it is done\nMESSAGE_ID=" + strings.Repeat("0a", 16) + "\nPRIORITY=5\nSYSLOG_IDENTIFIER=ksplice\nKSPLICE_ID=3f9c2ab1\nKSPLICE_EMPTY=\nKSPLICE_LINES\n\x05\x00\x00\x00\x00\x00\x00\x00a=1\nb\n"
	if got := next(); got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
	// What no datagram takes comes whole all the same.
	long := strings.Repeat("function ", 1<<20)
	e.Fields = []Field{{"KSPLICE_FUNCTIONS", long}}
	if err := At(path).Send(e); err != nil {
		t.Fatal(err)
	}
	if got := next(); !strings.HasSuffix(got, "\nKSPLICE_FUNCTIONS="+long+"\n") {
		t.Errorf("of %d bytes %d came, or others", len(long), len(got))
	}
	for _, name := range []string{"", "lower", "_PID", "0A", "A=B", "A\nB", strings.Repeat("A", 65)} {
		e.Fields = []Field{{name, "x"}}
		if err := At(path).Send(e); err == nil {
			t.Errorf("%q was taken for the name of a field", name)
		}
	}
}

// TestNobody: without a journal, and with one that has ended, there is no error.
func TestNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	e := &Entry{Message: "x", ID: strings.Repeat("00", 16), Priority: Warning}
	if err := At(path).Send(e); err != nil {
		t.Error(err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close() // which leaves the socket's name
	if err := At(path).Send(e); err != nil {
		t.Error(err)
	}
	// One that hangs holds nobody up for long.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for begin := time.Now(); ; {
		if err = At(path).Send(e); err != nil {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatal("a journal that does not read takes everything")
		}
	}
	if !strings.Contains(err.Error(), "write to the journal") {
		t.Error(err)
	}
}
