package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// seen is what a loop counted.
type seen struct {
	Times int64 `json:"times"`
	Old   int64 `json:"old"`
	New   int64 `json:"new"`
	// Turns says how often old followed new or the other way round, in one process.
	Turns int64 `json:"turns"`
	// Longest is the longest single use, in nanoseconds.
	Longest int64 `json:"longest_ns"`
}

func (s *seen) add(x seen) {
	s.Times += x.Times
	s.Old += x.Old
	s.New += x.New
	s.Turns += x.Turns
	s.Longest = max(s.Longest, x.Longest)
}

// loop uses the code until SIGTERM. Each use must match the old or the new expression; anything else, and any error, ends the
// loop with a failure. It prints {"ready":true} when every process has used the code once, and what it saw at the end.
func loop(args []string) error {
	fs := flag.NewFlagSet("loop", flag.ContinueOnError)
	procs := fs.Int("procs", 1, "`processes` to use the code in")
	was := fs.String("old", "", "`expression` that the old effect matches")
	now := fs.String("new", "", "`expression` that the new effect matches")
	pause := fs.Duration("pause", 0, "`time` between two uses; they leave the processor to others")
	limit := fs.Duration("limit", 30*time.Minute, "end after this `time` with a failure")
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	act, err := find(fs.Args())
	if err != nil {
		return err
	}
	if *procs < 1 || *procs > 256 {
		return fmt.Errorf("-procs %d is not between 1 and 256: %w", *procs, errUsage)
	}
	// Caught to the very end: a second SIGTERM comes while the counts are on their way (spread), and would end the process.
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	deadline, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()

	var total seen
	if *procs == 1 {
		total, err = repeat(deadline, act, *was, *now, *pause)
	} else {
		one := []string{"loop", "-old", *was, "-new", *now, "-limit", limit.String(), "-pause", pause.String(), "--"}
		total, err = spread(deadline, *procs, append(one, fs.Args()...))
	}
	if err == nil && ctx.Err() == nil {
		err = fmt.Errorf("nobody ended the loop within %v", *limit)
	}
	if say := say(total); err == nil {
		err = say
	}
	return err
}

// repeat uses the code in this process.
func repeat(ctx context.Context, act func() (string, error), was, now string, pause time.Duration) (seen, error) {
	var s seen
	oldRE, err := regexp.Compile(was)
	if err != nil {
		return s, fmt.Errorf("-old: %w", err)
	}
	newRE, err := regexp.Compile(now)
	if err != nil {
		return s, fmt.Errorf("-new: %w", err)
	}
	judge, last := was != "" || now != "", byte(0)
	for ctx.Err() == nil {
		if pause > 0 && s.Times > 0 {
			time.Sleep(pause)
		}
		began := time.Now()
		text, err := act()
		if err != nil {
			return s, fmt.Errorf("use %d: %w", s.Times+1, err)
		}
		s.Longest = max(s.Longest, time.Since(began).Nanoseconds())
		s.Times++
		this := last
		switch {
		case !judge:
		case newRE.MatchString(text) && now != "":
			s.New++
			this = 'n'
		case oldRE.MatchString(text) && was != "":
			s.Old++
			this = 'o'
		default:
			return s, fmt.Errorf("use %d: %q matches neither -old nor -new", s.Times, text)
		}
		if last != 0 && this != last {
			s.Turns++
		}
		last = this
		if s.Times == 1 {
			if err := say(map[string]bool{"ready": true}); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

// spread uses the code in further processes, each of which runs this program with the arguments, and adds up what they saw.
func spread(ctx context.Context, procs int, one []string) (seen, error) {
	type child struct {
		cmd *exec.Cmd
		out *json.Decoder
		err bytes.Buffer
	}
	var total seen
	children := make([]*child, 0, procs)
	// Whatever happens, no process stays.
	defer func() {
		for _, c := range children {
			_ = c.cmd.Process.Kill() // it has ended if all went well
		}
	}()
	end := func(c *child) error {
		// SIGTERM reaches it even when the whole group got one already.
		_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have failed by itself: Wait says so
		var s seen
		err := c.out.Decode(&s)
		_, _ = io.Copy(io.Discard, c.out.Buffered()) // nothing follows
		if w := c.cmd.Wait(); w != nil {
			return fmt.Errorf("process %d: %w: %s", c.cmd.Process.Pid, w, bytes.TrimSpace(c.err.Bytes()))
		}
		if err != nil {
			return fmt.Errorf("process %d: read its counts: %w", c.cmd.Process.Pid, err)
		}
		total.add(s)
		return nil
	}
	for range procs {
		c := &child{}
		c.cmd = exec.Command("/proc/self/exe", one...)
		c.cmd.Stderr = &c.err
		out, err := c.cmd.StdoutPipe()
		if err != nil {
			return total, err
		}
		if err := c.cmd.Start(); err != nil {
			return total, fmt.Errorf("start a process: %w", err)
		}
		c.out = json.NewDecoder(out)
		children = append(children, c)
	}
	for _, c := range children {
		var first struct {
			Ready bool `json:"ready"`
		}
		if err := c.out.Decode(&first); err != nil || !first.Ready {
			_ = c.cmd.Wait() // why it failed is on its standard error
			return total, fmt.Errorf("process %d did not get ready: %s", c.cmd.Process.Pid, bytes.TrimSpace(c.err.Bytes()))
		}
	}
	if err := say(map[string]bool{"ready": true}); err != nil {
		return total, err
	}
	<-ctx.Done()
	var failed error
	for _, c := range children {
		if err := end(c); err != nil && failed == nil {
			failed = err
		}
	}
	return total, failed
}

// sleep puts a thread to sleep in eventfd_read. It prints {"pid":P,"tid":T,"asleep":true} once the kernel says so; SIGUSR1
// wakes the thread, and the program ends well.
func sleep(args []string) error {
	if len(args) != 0 {
		return errUsage
	}
	wake := make(chan os.Signal, 1)
	signal.Notify(wake, syscall.SIGUSR1, syscall.SIGTERM)
	return sleepInEventfd(wake)
}
