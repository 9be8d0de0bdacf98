package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/plugin"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * float64(time.Second))) }

// TestMeter: what the line says. The rate is that since the first event of the stage with a total, of what was done since.
func TestMeter(t *testing.T) {
	ev := func(done, total int64) plugin.Progress {
		return plugin.Progress{Stage: "compile", Message: "a.c", Done: done, Total: total}
	}
	type step struct {
		at float64
		ev plugin.Progress
	}
	for _, tt := range []struct {
		name  string
		steps []step
		at    float64
		want  string
		bar   string
	}{
		{"says nothing of itself", []step{{0, plugin.Progress{Stage: "index"}}}, 75, "index  1 min 15 s", ""},
		{"nothing done", []step{{0, ev(0, 500)}}, 30, "compile a.c  0/500, 0%, 30 s", "[....................] "},
		{"too few for a rate", []step{{0, ev(0, 500)}, {10, ev(3, 500)}}, 10, "compile a.c  3/500, 1%, 10 s", "[....................] "},
		{"a rate", []step{{0, ev(0, 500)}, {20, ev(20, 500)}}, 20, "compile a.c  20/500, 4%, 20 s, about 8 min left", "[....................] "},
		{"the same a while later", []step{{0, ev(0, 500)}, {20, ev(20, 500)}}, 40, "compile a.c  20/500, 4%, 40 s, about 16 min left", "[....................] "},
		{"half", []step{{0, ev(0, 500)}, {100, ev(250, 500)}}, 100, "compile a.c  250/500, 50%, 1 min 40 s, about 2 min left", "[##########..........] "},
		{"near the end", []step{{0, ev(0, 500)}, {100, ev(490, 500)}}, 100, "compile a.c  490/500, 98%, 1 min 40 s, about 5 s left", "[###################.] "},
		{"the end", []step{{0, ev(0, 500)}, {100, ev(500, 500)}}, 100, "compile a.c  500/500, 100%, 1 min 40 s", "[####################] "},
		{"a slow start is no rate", []step{{0, plugin.Progress{Stage: "compile"}}, {60, ev(0, 100)}, {70, ev(10, 100)}}, 70,
			"compile a.c  10/100, 10%, 1 min 10 s, about 2 min left", "[##..................] "},
		{"what is found done is none either", []step{{0, ev(400, 500)}, {10, ev(405, 500)}}, 10,
			"compile a.c  405/500, 81%, 10 s, about 4 min left", "[################....] "},
		{"the total grows", []step{{0, ev(0, 100)}, {10, ev(10, 100)}, {10, ev(10, 200)}}, 10,
			"compile a.c  10/200, 5%, 10 s, about 4 min left", "[#...................] "},
		{"the stage begins again", []step{{0, ev(0, 10)}, {60, ev(10, 10)}, {60, ev(0, 100)}, {80, ev(50, 100)}}, 80,
			"compile a.c  50/100, 50%, 1 min 20 s, about 20 s left", "[##########..........] "},
		{"another stage", []step{{0, ev(0, 10)}, {60, ev(10, 10)}, {60, plugin.Progress{Stage: "link", Message: "m"}}}, 61, "link m  1 s", ""},
		{"bytes", []step{{0, plugin.Progress{Stage: "download", Total: 100 << 20}}, {4, plugin.Progress{Stage: "download", Done: 25 << 20, Total: 100 << 20}}}, 4,
			"download  25%, 4 s, about 15 s left", "[#####...............] "},
		{"more done than there is", []step{{0, ev(0, 10)}, {60, ev(12, 10)}}, 60, "compile a.c  12/10, 100%, 1 min 0 s", "[####################] "},
	} {
		var m meter
		for _, s := range tt.steps {
			m.event(s.ev, at(s.at))
		}
		if got := m.text(at(tt.at)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if got := m.bar(); got != tt.bar {
			t.Errorf("%s: bar %q, want %q", tt.name, got, tt.bar)
		}
	}
}

func TestAbout(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "5 s", 5 * time.Second: "5 s", 5001 * time.Millisecond: "10 s", 55 * time.Second: "55 s", 56 * time.Second: "1 min",
		61 * time.Second: "2 min", 59 * time.Minute: "59 min", 60 * time.Minute: "1 h 0 min", 61 * time.Minute: "1 h 10 min"} {
		if got := about(d); got != want {
			t.Errorf("about(%s) = %q, want %q", d, got, want)
		}
	}
}

// TestEstimate: for units that take between one and three seconds, on two processors, the estimate is at no time after the first tenth off
// by more than a fifth of the whole.
func TestEstimate(t *testing.T) {
	const units = 500
	var ends []float64
	var free [2]float64
	for i := range units {
		cpu := 0
		if free[1] < free[0] {
			cpu = 1
		}
		free[cpu] += 1 + float64(i*7919%100)/50
		ends = append(ends, free[cpu])
	}
	whole := max(free[0], free[1])
	var m meter
	m.event(plugin.Progress{Stage: "compile", Total: units}, at(0))
	for i, end := range ends {
		m.event(plugin.Progress{Stage: "compile", Done: int64(i + 1), Total: units}, at(end))
		left, ok := m.left(at(end))
		if off := left.Seconds() - (whole - end); i > units/10 && i < units-1 && (!ok || max(off, -off) > whole/5) {
			t.Fatalf("after %d units, at %.0f of %.0f s, the estimate is %s, %t", i+1, end, whole, left, ok)
		}
	}
}

// TestSparse: where there is no terminal, lines come seldom, and none for what is quick.
func TestSparse(t *testing.T) {
	var out bytes.Buffer
	p := &progress{w: &out, show: true, done: make(chan struct{})}
	p.eventAt(plugin.Progress{Stage: "types"}, at(0))
	for s := range 8 {
		p.draw(at(float64(s)))
	}
	p.eventAt(plugin.Progress{Stage: "compile", Total: 300}, at(8))
	for i := 1; i <= 300; i++ {
		p.eventAt(plugin.Progress{Stage: "compile", Message: fmt.Sprintf("%d.c", i), Done: int64(i), Total: 300}, at(8+float64(i)))
	}
	p.eventAt(plugin.Progress{Stage: "link", Message: "m"}, at(308))
	for s := range 25 {
		p.draw(at(308 + float64(s)))
	}
	var want []string
	for i := 30; i <= 300; i += 30 {
		line := fmt.Sprintf("compile %d.c  %d/300, %d%%, %s", i, i, i/3, duration(time.Duration(i)*time.Second))
		if i < 300 {
			line += ", about " + about(time.Duration(300-i)*time.Second) + " left"
		}
		want = append(want, line)
	}
	want = append(want, "link m  10 s", "link m  20 s")
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(out.String()), "\n")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	// A stage of which a tenth takes long has a line a minute.
	out.Reset()
	p.eventAt(plugin.Progress{Stage: "compile", Total: 5000}, at(1000))
	for i := 1; i <= 400; i++ {
		p.eventAt(plugin.Progress{Stage: "compile", Done: int64(i), Total: 5000}, at(1000+float64(i)))
	}
	if n := strings.Count(out.String(), "\n"); n != 6 {
		t.Errorf("%d lines in 400 s:\n%s", n, out.String())
	}
}
