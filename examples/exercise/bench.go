package main

import (
	"flag"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// timing is what a benchmark measured, times in nanoseconds a call.
type timing struct {
	Call   string    `json:"call"`
	Calls  int       `json:"calls"` // in each round
	Rounds []float64 `json:"rounds_ns"`
	Min    float64   `json:"min_ns"`
	Median float64   `json:"median_ns"`
}

// bench measures two system calls in turn, round after round, so that both see the same machine: getppid, which the example patch and
// the livepatch module replace, and getuid, which nobody replaces.
func bench(args []string) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	calls := fs.Int("calls", 200_000, "`calls` in a round")
	rounds := fs.Int("rounds", 31, "`rounds`")
	if err := fs.Parse(args); err != nil || fs.NArg() != 0 {
		return errUsage
	}
	if *calls < 1 || *rounds < 1 {
		return fmt.Errorf("-calls and -rounds must be positive: %w", errUsage)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pair := []struct {
		name   string
		number uintptr
	}{{"getppid", unix.SYS_GETPPID}, {"getuid", unix.SYS_GETUID}}
	out := make([]timing, len(pair))
	for i, c := range pair {
		out[i] = timing{Call: c.name, Calls: *calls}
		measure(c.number, *calls/10+1) // warm
	}
	for range *rounds {
		for i, c := range pair {
			out[i].Rounds = append(out[i].Rounds, measure(c.number, *calls))
		}
	}
	for i := range out {
		sorted := slices.Sorted(slices.Values(out[i].Rounds))
		out[i].Min, out[i].Median = sorted[0], sorted[len(sorted)/2]
		if err := say(out[i]); err != nil {
			return err
		}
	}
	return nil
}

// measure returns nanoseconds a call. RawSyscall is used: the scheduler of Go's runtime stays out.
func measure(number uintptr, calls int) float64 {
	began := time.Now()
	for range calls {
		unix.RawSyscall(number, 0, 0, 0)
	}
	return float64(time.Since(began).Nanoseconds()) / float64(calls)
}
