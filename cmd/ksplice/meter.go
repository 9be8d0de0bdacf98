package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// meter knows how far a stage is, and says it in words. Its clock is its caller's.
type meter struct {
	last plugin.Progress
	// since is when the stage began, counting when the first of its events that has a total came, from is what was done by then: what is
	// found done counts for nothing in the rate.
	since, counting time.Time
	from            int64
}

// event takes an event, and says whether it begins another stage. The total may change while a stage goes on; when less is done
// than before, the stage has begun again.
func (m *meter) event(ev plugin.Progress, now time.Time) (begins bool) {
	begins = ev.Stage != m.last.Stage
	if begins {
		m.since, m.counting = now, time.Time{}
	}
	if ev.Total > 0 && (m.counting.IsZero() || ev.Done < m.last.Done) {
		m.counting, m.from = now, ev.Done
	}
	m.last = ev
	return begins
}

const (
	// leastSteps is from how many steps on a rate is one: those that run side by side end together.
	leastSteps = 4
	// leastTime is from which time on.
	leastTime = 3 * time.Second
)

// left estimates how long the stage will go on, at the rate that it had until now.
func (m *meter) left(now time.Time) (time.Duration, bool) {
	done, took := m.last.Done-m.from, now.Sub(m.counting)
	if m.counting.IsZero() || m.last.Total <= m.last.Done || done < leastSteps || done*100 < m.last.Total-m.from || took < leastTime {
		return 0, false
	}
	return time.Duration(float64(took) / float64(done) * float64(m.last.Total-m.last.Done)), true
}

// share is how much of the stage is done, of one; ok says that it is known.
func (m *meter) share() (part float64, ok bool) {
	if m.last.Total <= 0 {
		return 0, false
	}
	return min(1, float64(m.last.Done)/float64(m.last.Total)), true
}

// text says where the stage is: "compile net/core/dev.c  112/500, 22%, 1 min 40 s, about 6 min left".
func (m *meter) text(now time.Time) string {
	var where []string
	if part, ok := m.share(); ok {
		if m.last.Total < 1<<20 { // more are bytes
			where = append(where, fmt.Sprintf("%d/%d", m.last.Done, m.last.Total))
		}
		where = append(where, fmt.Sprintf("%.0f%%", 100*part))
	}
	where = append(where, duration(now.Sub(m.since)))
	if d, ok := m.left(now); ok {
		where = append(where, "about "+about(d)+" left")
	}
	return strings.TrimSpace(m.last.Stage+" "+m.last.Message) + "  " + strings.Join(where, ", ")
}

const barWidth = 20

// bar draws how much of the stage is done; empty when that is not known.
func (m *meter) bar() string {
	part, ok := m.share()
	if !ok {
		return ""
	}
	n := int(part * barWidth)
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", barWidth-n) + "] "
}

// duration writes a time to the second.
func duration(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
}

// about writes an estimate no finer than it is good for, never too short by its rounding.
func about(d time.Duration) string {
	up := func(unit time.Duration) time.Duration { return (d + unit - 1) / unit * unit }
	switch {
	case d <= 55*time.Second:
		return fmt.Sprintf("%d s", max(up(5*time.Second), 5*time.Second)/time.Second)
	case d <= 59*time.Minute:
		return fmt.Sprintf("%d min", up(time.Minute)/time.Minute)
	}
	d = up(10 * time.Minute)
	return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
}

// sparse decides when a line is worth it where lines stay: not before a stage has taken long, and then with every tenth of it that is done,
// or after so much time.
type sparse struct {
	said   time.Time
	tenths int
}

const (
	sparseTime  = 10 * time.Second
	sparseLimit = time.Minute
)

// worth says whether the meter's state is worth a line, which is then written.
func (s *sparse) worth(m *meter, now time.Time) bool {
	if s.said.Before(m.since) { // another stage
		*s = sparse{said: m.since}
	}
	part, ok := m.share()
	tenths := int(part * 10)
	if took := now.Sub(s.said); took < sparseTime || ok && tenths == s.tenths && took < sparseLimit {
		return false
	}
	s.said, s.tenths = now, tenths
	return true
}
