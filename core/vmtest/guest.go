package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ksplice/ksplice/core/vmtest/internal/wire"
)

// Guest is a running machine. Its methods may be called from several goroutines.
type Guest struct {
	kernel     *Kernel
	dir        string // of its own on the host
	process    *os.Process
	port       *os.File
	console    console
	complaints syncBuffer // QEMU's standard error

	poweroffLimit time.Duration // how long Close waits
	image         *ImageOptions // what it was booted with, if from a disk

	debugSocket   string // of QEMU's debugger stub; empty without Options.Debug
	monitorSocket string // of QEMU's monitor, likewise

	ready     chan struct{} // closed when the agent answers
	readyOnce sync.Once
	exited    chan struct{} // closed when QEMU has ended
	waitErr   error         // of QEMU; valid once exited is closed
	closeOnce sync.Once
	closeErr  error

	sending sync.Mutex // guards enc
	enc     *json.Encoder

	mu       sync.Mutex // guards what follows
	closing  bool
	expected []*regexp.Regexp // lines of the console that are no complaints, each once
	last     uint64           // the last request's ID
	calls    map[uint64]*call // what awaits replies
}

// call is a request that is not answered to the end.
type call struct {
	mu        sync.Mutex // guards the buffers
	out, err  strings.Builder
	all       strings.Builder
	started   chan struct{} // closed when pid is valid
	pid       int
	done      chan struct{} // closed when code or failure is valid
	code      int
	failure   error
	finishing sync.Once
}

// Kernel returns what the guest runs.
func (g *Guest) Kernel() *Kernel { return g.kernel }

// receive hands the agent's replies to the calls that wait for them.
func (g *Guest) receive() {
	dec := json.NewDecoder(g.port)
	var err error
	for {
		var r wire.Reply
		if err = dec.Decode(&r); err != nil {
			break
		}
		if r.Event == wire.Ready {
			g.readyOnce.Do(func() { close(g.ready) })
			continue
		}
		g.mu.Lock()
		c := g.calls[r.ID]
		if r.Event == wire.Exit || r.Event == wire.Done {
			delete(g.calls, r.ID)
		}
		g.mu.Unlock()
		if c != nil {
			c.reply(r)
		}
	}
	<-g.exited // the port is open as long as QEMU lives
	g.mu.Lock()
	calls := g.calls
	g.calls = nil
	g.mu.Unlock()
	for _, c := range calls {
		c.finish(0, g.gone())
	}
}

func (c *call) reply(r wire.Reply) {
	switch r.Event {
	case wire.Started:
		c.pid = r.PID
		close(c.started)
	case wire.Out:
		c.mu.Lock()
		defer c.mu.Unlock()
		if r.Stream == 2 {
			c.err.Write(r.Data)
		} else {
			c.out.Write(r.Data)
		}
		c.all.Write(r.Data)
	case wire.Exit:
		c.finish(r.Code, nil)
	case wire.Done:
		if r.Error != "" {
			c.finish(0, errors.New(r.Error))
		} else {
			c.finish(0, nil)
		}
	}
}

func (c *call) finish(code int, failure error) {
	c.finishing.Do(func() {
		c.code, c.failure = code, failure
		close(c.done)
	})
}

// gone is the error of what cannot be done as the machine has stopped.
func (g *Guest) gone() error {
	return fmt.Errorf("the machine has stopped: %s\n%s", g.exitReason(), g.console.tail())
}

// exitReason says how QEMU ended, which it must have.
func (g *Guest) exitReason() string {
	reason := "QEMU ended"
	if g.waitErr != nil {
		reason += ": " + g.waitErr.Error()
	}
	if words := strings.TrimSpace(g.complaints.String()); words != "" {
		reason += ": " + words
	}
	return reason
}

// request sends a request, whose ID it sets, and returns what its replies come to.
func (g *Guest) request(r wire.Request) (*call, uint64, error) {
	c := &call{started: make(chan struct{}), done: make(chan struct{})}
	g.mu.Lock()
	if g.calls == nil {
		g.mu.Unlock()
		return nil, 0, g.gone()
	}
	g.last++
	r.ID = g.last
	g.calls[r.ID] = c
	g.mu.Unlock()
	if err := g.send(r); err != nil {
		g.mu.Lock()
		delete(g.calls, r.ID)
		g.mu.Unlock()
		return nil, 0, err
	}
	return c, r.ID, nil
}

func (g *Guest) send(r wire.Request) error {
	g.sending.Lock()
	defer g.sending.Unlock()
	// The agent always reads. If it does not for so long, the kernel hangs.
	if err := g.port.SetWriteDeadline(time.Now().Add(answerLimit)); err != nil {
		return g.sendError(err)
	}
	if err := g.enc.Encode(r); err != nil {
		return g.sendError(err)
	}
	return nil
}

func (g *Guest) sendError(err error) error {
	select {
	case <-g.exited:
		return g.gone()
	default:
		return fmt.Errorf("ask the guest: %w\n%s", err, g.console.tail())
	}
}

// await waits for the end of a call that the agent answers at once.
func (g *Guest) await(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("no answer within %v", answerLimit))
	defer cancel()
	select {
	case <-c.done:
		return c.failure
	case <-ctx.Done():
		return fmt.Errorf("wait for the guest: %w\n%s", context.Cause(ctx), g.console.tail())
	}
}

// WriteFile writes a file of the guest, and makes the directories above it.
func (g *Guest) WriteFile(path string, data []byte, mode os.FileMode) error {
	for offset := 0; ; {
		n := min(len(data)-offset, wire.Chunk)
		c, _, err := g.request(wire.Request{Op: wire.OpWrite, Path: path, Mode: uint32(mode.Perm()), Offset: int64(offset),
			Data: data[offset : offset+n]})
		if err == nil {
			err = g.await(context.Background(), c)
		}
		if err != nil {
			return fmt.Errorf("write %s in the guest: %w", path, err)
		}
		if offset += n; offset >= len(data) {
			return nil
		}
	}
}

// ReadFile reads a file of the guest.
func (g *Guest) ReadFile(path string) ([]byte, error) {
	c, _, err := g.request(wire.Request{Op: wire.OpRead, Path: path})
	if err == nil {
		err = g.await(context.Background(), c)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s in the guest: %w", path, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return []byte(c.out.String()), nil
}

// Close powers the machine off, and kills it when that takes too long. The error says that it did, or that the machine
// had stopped before.
func (g *Guest) Close() error {
	g.closeOnce.Do(func() {
		stopped := false
		select {
		case <-g.exited:
			stopped = true
		default:
		}
		g.mu.Lock()
		g.closing = true
		g.mu.Unlock()
		if stopped {
			g.closeErr = g.gone()
			return
		}
		if err := g.send(wire.Request{Op: wire.OpPoweroff}); err != nil {
			g.closeErr = err
		} else {
			select {
			case <-g.exited:
				return
			case <-time.After(g.poweroffLimit):
				g.closeErr = fmt.Errorf("the machine did not power off within %v and was killed\n%s", g.poweroffLimit, g.console.tail())
			}
		}
		g.kill()
	})
	return g.closeErr
}

// kill ends QEMU at once and waits for it.
func (g *Guest) kill() {
	_ = g.process.Signal(syscall.SIGKILL) // it may just have ended
	<-g.exited
}
