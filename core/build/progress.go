package build

import (
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// sideBySide calls f for 0 to n-1 at the same time, each with its share of the jobs (0: one a processor), or one after another where there
// are fewer jobs than that.
func sideBySide(n, jobs int, f func(i, jobs int) error) error {
	if jobs <= 0 {
		jobs = runtime.NumCPU()
	}
	var g errgroup.Group
	if jobs < n {
		g.SetLimit(1)
	}
	for i := range n {
		share := jobs
		if jobs >= n {
			share = jobs / n
			if i < jobs%n {
				share++
			}
		}
		g.Go(func() error { return f(i, share) })
	}
	return g.Wait()
}

// mergeProgress makes n functions of one: it is told the sum of what they say. Until all have spoken, the silent ones are taken for as much
// work as those that did.
func mergeProgress(n int, to plugin.ProgressFunc) []plugin.ProgressFunc {
	var mu sync.Mutex
	last := make([]plugin.Progress, n)
	out := make([]plugin.ProgressFunc, n)
	for i := range out {
		out[i] = func(p plugin.Progress) {
			mu.Lock()
			defer mu.Unlock()
			last[i] = p
			var known int64
			sum := plugin.Progress{Stage: p.Stage, Message: p.Message}
			for _, l := range last {
				if l.Total > 0 {
					known++
					sum.Done += l.Done
					sum.Total += l.Total
				}
			}
			if known > 0 {
				sum.Total = sum.Total * int64(n) / known
			}
			to(sum)
		}
	}
	return out
}

// within tells the progress of a part of the work as that of the whole, done units of which lie behind.
func within(to plugin.ProgressFunc, done, total int) plugin.ProgressFunc {
	return func(p plugin.Progress) {
		p.Done, p.Total = p.Done+int64(done), int64(total)
		to(p)
	}
}
