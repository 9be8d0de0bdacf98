package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// patience is how long a stage may take before it is shown on a terminal.
const patience = 2 * time.Second

// progress shows the stages of a long command on standard error when they are slow: on a terminal one line that is written over, elsewhere
// a line now and then.
type progress struct {
	mu       sync.Mutex
	w        io.Writer
	patience time.Duration
	terminal bool
	show     bool
	meter    meter
	sparse   sparse
	drawn    bool // the terminal's line has something on it
	done     chan struct{}
}

// newProgress shows on w from now on, until it is closed.
func newProgress(w io.Writer, quiet bool, patience time.Duration) *progress {
	p := &progress{w: w, patience: patience, show: !quiet, done: make(chan struct{})}
	if f, ok := w.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		p.terminal = err == nil
	}
	if p.show {
		go p.turn()
	}
	return p
}

// turn keeps the time of a stage that says nothing moving.
func (p *progress) turn() {
	t := time.NewTicker(min(p.patience, time.Second))
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case now := <-t.C:
			p.mu.Lock()
			p.draw(now)
			p.mu.Unlock()
		}
	}
}

// begin begins a stage that will not say how far it is.
func (p *progress) begin(stage string) { p.event(plugin.Progress{Stage: stage}) }

// event takes one event of a plugin or of a stage.
func (p *progress) event(ev plugin.Progress) { p.eventAt(ev, time.Now()) }

func (p *progress) eventAt(ev plugin.Progress, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.meter.event(ev, now) {
		p.erase()
	}
	p.draw(now)
}

// draw shows where the stage is, when it has taken long enough.
func (p *progress) draw(now time.Time) {
	switch {
	case !p.show || p.meter.last.Stage == "":
	case !p.terminal:
		if p.sparse.worth(&p.meter, now) {
			fmt.Fprintln(p.w, p.meter.text(now))
		}
	case now.Sub(p.meter.since) >= p.patience:
		line := []rune(p.meter.bar() + p.meter.text(now))
		if columns := p.columns(); len(line) >= columns {
			line = line[:columns-1] // a line that wraps could not be written over
		}
		fmt.Fprintf(p.w, "\r%s\x1b[K", string(line))
		p.drawn = true
	}
}

// columns is the terminal's width.
func (p *progress) columns() int {
	const usual = 80
	f, ok := p.w.(*os.File)
	if !ok {
		return usual
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return usual
	}
	return int(size.Col)
}

// erase takes the terminal's line away.
func (p *progress) erase() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

// clear takes what is shown away so that a line can be printed.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	if p.show {
		p.show = false
		close(p.done)
	}
}
