package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/vmtest/internal/wire"
)

// portWait bounds the wait for the port to appear after its driver was loaded.
const portWait = time.Minute

// drain is how long output is still awaited when a process has ended, nothing of its is on the way, and others hold its pipes; longest bounds
// that where they go on writing.
const (
	drain   = 500 * time.Millisecond
	longest = 30 * time.Second
)

type server struct {
	sending sync.Mutex // guards enc
	enc     *json.Encoder

	mu   sync.Mutex // guards pids
	pids map[uint64]int
}

// agent serves the host until it goes away or asks for a power-off.
func agent() error {
	path, err := findPort()
	if err != nil {
		return err
	}
	port, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s := &server{enc: json.NewEncoder(port), pids: make(map[uint64]int)}
	if err := os.WriteFile("/dev/kmsg", []byte("<5>"+wire.ReadyMark+"\n"), 0); err != nil {
		return fmt.Errorf("write to the kernel's log: %w", err)
	}
	s.send(wire.Reply{Event: wire.Ready})
	dec := json.NewDecoder(bufio.NewReaderSize(port, 2*wire.Chunk))
	for {
		var req wire.Request
		if err := dec.Decode(&req); errors.Is(err, io.EOF) {
			return nil // the host has gone
		} else if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		switch req.Op {
		case wire.OpStart:
			go s.start(req)
		case wire.OpSignal:
			s.signal(req)
		case wire.OpRead:
			go func() { s.done(req.ID, s.read(req)) }()
		case wire.OpWrite:
			go func() { s.done(req.ID, write(req)) }()
		case wire.OpPoweroff:
			return nil
		default:
			s.done(req.ID, fmt.Errorf("unknown operation %q", req.Op))
		}
	}
}

func findPort() (string, error) {
	for end := time.Now().Add(portWait); ; time.Sleep(20 * time.Millisecond) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return "", err
		}
		for _, name := range names {
			if b, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(b)) == wire.Port {
				dev := "/dev/" + filepath.Base(filepath.Dir(name))
				if _, err := os.Stat(dev); err == nil {
					return dev, nil
				}
			}
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("no virtio-serial port %s after %v", wire.Port, portWait)
		}
	}
}

func (s *server) send(r wire.Reply) {
	s.sending.Lock()
	defer s.sending.Unlock()
	if err := s.enc.Encode(r); err != nil {
		fail(fmt.Errorf("answer the host: %w", err))
		os.Exit(1)
	}
}

func (s *server) done(id uint64, err error) {
	r := wire.Reply{ID: id, Event: wire.Done}
	if err != nil {
		r.Error = err.Error()
	}
	s.send(r)
}

// start runs a program and reports its life.
func (s *server) start(req wire.Request) {
	path, err := exec.LookPath(req.Argv[0])
	if err != nil {
		s.done(req.ID, err)
		return
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		s.done(req.ID, err)
		return
	}
	defer null.Close()
	files := []*os.File{null}
	var readers []*os.File
	for range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			s.done(req.ID, err)
			return
		}
		defer w.Close() // after the start it is closed at once; a second Close is harmless
		files, readers = append(files, w), append(readers, r)
	}
	p, err := os.StartProcess(path, req.Argv, &os.ProcAttr{Dir: "/root", Env: environment, Files: files, Sys: isolate})
	if err != nil {
		for _, r := range readers {
			r.Close()
		}
		s.done(req.ID, err)
		return
	}
	files[1].Close()
	files[2].Close()
	s.mu.Lock()
	s.pids[req.ID] = p.Pid
	s.mu.Unlock()
	s.send(wire.Reply{ID: req.ID, Event: wire.Started, PID: p.Pid})

	var copying sync.WaitGroup
	sources := make([]*source, len(readers))
	for i, r := range readers {
		sources[i] = &source{File: r}
		copying.Go(func() {
			defer r.Close()
			_ = s.stream(req.ID, i+1, sources[i])
		})
	}
	state, err := p.Wait()
	s.mu.Lock()
	delete(s.pids, req.ID)
	s.mu.Unlock()
	// What the process left running may hold the pipes: its later output is still sent, but not waited for.
	dry := make(chan struct{})
	go func() { copying.Wait(); close(dry) }()
	settle(dry, sources)
	if err != nil {
		s.done(req.ID, fmt.Errorf("wait for process %d: %w", p.Pid, err))
		return
	}
	code := state.ExitCode()
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal())
	}
	s.send(wire.Reply{ID: req.ID, Event: wire.Exit, Code: code})
}

// source is the reading end of a process's pipe.
type source struct {
	*os.File
	taken atomic.Bool // what was read is being sent
}

// Read implements io.Reader. Whoever reads again has sent what it read before.
func (s *source) Read(p []byte) (int, error) {
	s.taken.Store(false)
	n, err := s.File.Read(p)
	s.taken.Store(true)
	return n, err
}

// quiet says that nothing is in the pipe, nor on its way to the host.
func (s *source) quiet() bool {
	left := 0
	raw, err := s.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	return left == 0 && (err != nil || !s.taken.Load()) // it is closed where there is an error
}

// settle waits until the pipes are at their end, or have been quiet for a while. On a busy machine it takes what was written longer than that
// to be sent.
func settle(dry <-chan struct{}, sources []*source) {
	end := time.Now().Add(longest)
	for since := time.Now(); time.Since(since) < drain && time.Now().Before(end); {
		select {
		case <-dry:
			return
		case <-time.After(drain / 20):
		}
		if slices.ContainsFunc(sources, func(s *source) bool { return !s.quiet() }) {
			since = time.Now()
		}
	}
}

func (s *server) stream(id uint64, stream int, r io.Reader) error {
	buf := make([]byte, wire.Chunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			s.send(wire.Reply{ID: id, Event: wire.Out, Stream: stream, Data: buf[:n]})
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *server) signal(req wire.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pid, ok := s.pids[req.ID]; ok {
		_ = unix.Kill(-pid, unix.Signal(req.Signal)) // the group may just have gone
	}
}

func (s *server) read(req wire.Request) error {
	f, err := os.Open(req.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.stream(req.ID, 1, f)
}

func write(req wire.Request) error {
	flags := os.O_WRONLY
	if req.Offset == 0 {
		if err := os.MkdirAll(filepath.Dir(req.Path), 0o755); err != nil {
			return err
		}
		flags |= os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(req.Path, flags, os.FileMode(req.Mode))
	if err != nil {
		return err
	}
	// One plain write at the file's position when it is new, as the files of proc and sys want it.
	if req.Offset != 0 {
		_, err = f.Seek(req.Offset, io.SeekStart)
	}
	if err == nil {
		_, err = f.Write(req.Data)
	}
	return errors.Join(err, f.Close())
}
