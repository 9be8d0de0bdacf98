package main

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// patience is how long a stage may take before a progress bar appears.
const patience = 2 * time.Second

// progress shows the stages of a long command on standard error, when that is a terminal and a stage is slow.
type progress struct {
	mu    sync.Mutex
	w     io.Writer
	show  bool
	stage string
	since time.Time
	bar   *progressbar.ProgressBar
}

func newProgress(w io.Writer, quiet bool) *progress {
	p := &progress{w: w}
	if f, ok := w.(*os.File); ok && !quiet {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		p.show = err == nil
	}
	return p
}

// event takes one event of a plugin or of a stage.
func (p *progress) event(ev plugin.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.show {
		return
	}
	if ev.Stage != p.stage {
		p.finish()
		p.stage, p.since = ev.Stage, time.Now()
	}
	if p.bar == nil {
		if time.Since(p.since) < patience {
			return
		}
		total := ev.Total
		if total == 0 {
			total = -1 // a spinner
		}
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(p.w), progressbar.OptionSetDescription(ev.Stage),
			progressbar.OptionSetPredictTime(true), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30))
	}
	p.bar.Describe(ev.Stage + " " + ev.Message)
	_ = p.bar.Set64(ev.Done)
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
	p.show = false
}
