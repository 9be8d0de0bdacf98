package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// progress tells people how far a run is: a bar on a terminal, else a line a patch.
type progress struct {
	all, n   int
	begun    time.Time
	terminal bool
}

func newProgress(all int) *progress {
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	return &progress{all: all, begun: time.Now(), terminal: err == nil}
}

// width is the bar's, in characters.
const width = 30

func (p *progress) done(r *Result) {
	p.n++
	left := time.Duration(float64(time.Since(p.begun)) / float64(p.n) * float64(p.all-p.n)).Round(time.Second)
	text := fmt.Sprintf("%s: %s", r.Patch, r.Verdict)
	if r.Stage != "" {
		text += " (" + r.Stage + ")"
	}
	if !p.terminal {
		fmt.Fprintf(os.Stderr, "%d/%d, %v left  %s\n", p.n, p.all, left, text)
		return
	}
	full := width * p.n / p.all
	fmt.Fprintf(os.Stderr, "\r\x1b[K[%s%s] %d/%d, %v left  %s", strings.Repeat("#", full), strings.Repeat(".", width-full), p.n, p.all, left, text)
	if p.n == p.all {
		fmt.Fprintln(os.Stderr)
	}
}
