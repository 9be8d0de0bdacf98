package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// terminal returns both ends of a pseudo-terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	need.OK(t, err)
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// await reads from the terminal until it shows the words.
func await(t *testing.T, master *os.File, words string) {
	t.Helper()
	found := make(chan string, 1)
	go func() {
		var seen bytes.Buffer
		buf := make([]byte, 4096)
		for !strings.Contains(seen.String(), words) {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			seen.Write(buf[:n])
		}
		found <- seen.String()
	}()
	select {
	case <-found:
	case <-time.After(20 * time.Second):
		t.Fatalf("the terminal never shows %q", words)
	}
}

// TestProgress: a slow stage is shown on a terminal, also one that says nothing of itself.
func TestProgress(t *testing.T) {
	master, slave := terminal(t)
	p := newProgress(slave, false, 10*time.Millisecond)
	p.begin("configure")
	await(t, master, "configure")
	p.event(plugin.Progress{Stage: "unpack", Message: "linux-source", Done: 0, Total: 200})
	time.Sleep(30 * time.Millisecond)
	p.event(plugin.Progress{Stage: "unpack", Message: "linux-source", Done: 100, Total: 200})
	await(t, master, "50%")
	p.clear()
	p.close()
	p.close() // twice does no harm
}

// TestProgressQuiet: nothing is shown where nobody wants it, nor before it takes long.
func TestProgressQuiet(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	_, slave := terminal(t)
	for _, p := range []*progress{newProgress(file, false, time.Nanosecond), newProgress(file, true, time.Nanosecond), newProgress(slave, true, time.Nanosecond),
		newProgress(slave, false, time.Hour)} {
		p.begin("configure")
		p.event(plugin.Progress{Stage: "configure", Done: 1, Total: 2})
		if p.drawn {
			t.Errorf("a bar is shown")
		}
		p.close()
	}
	if st, err := file.Stat(); err != nil || st.Size() != 0 {
		t.Errorf("%d bytes were written to a file (%v)", st.Size(), err)
	}
}

// TestProgressNarrow: a line is cut where the terminal ends, since it could not be written over otherwise.
func TestProgressNarrow(t *testing.T) {
	master, slave := terminal(t)
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 30}); err != nil {
		t.Fatal(err)
	}
	p := newProgress(slave, false, time.Hour)
	defer p.close()
	p.eventAt(plugin.Progress{Stage: "compile", Message: "drivers/net/ethernet/somebody/something.c", Total: 10}, at(0))
	p.mu.Lock()
	p.draw(at(2 * 3600))
	p.mu.Unlock()
	await(t, master, "\r[....................] compil\x1b[K")
}
