package main

import (
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// patience is how long a stage may take before a progress bar appears.
const patience = 2 * time.Second

// progress shows the stages of a long command on standard error, when that is a terminal and a stage is slow: a bar where the
// stage says how far it is, else a spinner.
type progress struct {
	mu       sync.Mutex
	w        io.Writer
	patience time.Duration
	show     bool
	last     plugin.Progress
	since    time.Time
	bar      *progressbar.ProgressBar
	done     chan struct{}
}

// newProgress shows on w from now on, until it is closed.
func newProgress(w io.Writer, quiet bool, patience time.Duration) *progress {
	p := &progress{w: w, patience: patience, since: time.Now(), done: make(chan struct{})}
	if f, ok := w.(*os.File); ok && !quiet {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		p.show = err == nil
	}
	if p.show {
		go p.turn()
	}
	return p
}

// turn keeps the bar of a stage that says nothing moving.
func (p *progress) turn() {
	t := time.NewTicker(min(p.patience, 200*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-t.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		}
	}
}

// begin begins a stage that will not say how far it is.
func (p *progress) begin(stage string) { p.event(plugin.Progress{Stage: stage}) }

// event takes one event of a plugin or of a stage.
func (p *progress) event(ev plugin.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ev.Stage != p.last.Stage {
		p.finish()
		p.since = time.Now()
	}
	p.last = ev
	p.draw()
}

// draw shows the last event, when its stage has taken long enough.
func (p *progress) draw() {
	if !p.show || p.last.Stage == "" || time.Since(p.since) < p.patience {
		return
	}
	if p.bar == nil {
		total := p.last.Total
		if total == 0 {
			total = -1 // a spinner
		}
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(p.w),
			progressbar.OptionSetPredictTime(true), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30))
	}
	p.bar.Describe(strings.TrimSpace(p.last.Stage + " " + p.last.Message))
	_ = p.bar.Set64(p.last.Done)
}

func (p *progress) finish() {
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
}

// clear takes the bar away so that a line can be printed.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
	if p.show {
		p.show = false
		close(p.done)
	}
}
