package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/create"
	"github.com/ksplice/ksplice/core/vmtest"
)

// Where things are in the guest.
const (
	guestTools = "/usr/local"
	guestUser  = "/bin/exercise"
	guestTool  = "/bin/labtool"
	guestKmod  = "/root/ksplice.ko"
	guestText  = "/tmp/text"
)

const (
	memory    = 2048    // MiB of the guest
	processes = "3"     // of the workload
	pause     = "400ms" // between two uses of everything by one of them: the guest is emulated, and slow
	// watched is how long replacements are watched while the workload runs.
	watched = 3 * time.Second
)

// machine is a guest with the workload in it, booted when it is first needed and again after anything went wrong in it.
type machine struct {
	e    *evaluation
	g    *vmtest.Guest
	load *vmtest.Process
}

func (m *machine) boot(ctx context.Context) error {
	var err error
	if m.g, err = vmtest.Boot(ctx, vmtest.Options{Kernel: m.e.kernel, Files: m.e.files, Share: m.e.share, MemoryMiB: memory}); err != nil {
		return err
	}
	r, err := m.g.Run(ctx, "insmod", guestKmod)
	if err == nil && r.Exit != 0 {
		err = errors.New(strings.TrimSpace(r.Stderr))
	}
	if err != nil {
		return fmt.Errorf("load the ksplice module: %w", err)
	}
	if m.load, err = m.g.Start(ctx, guestUser, "loop", "-procs", processes, "-pause", pause, "-limit", "24h", "mixed"); err != nil {
		return err
	}
	for !strings.Contains(m.load.Output(), `"ready":true`) {
		select {
		case <-m.load.Done():
			return fmt.Errorf("the workload does not run: %s", m.load.Output())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// close ends the guest and says whether it complained.
func (m *machine) close() error {
	if m.g == nil {
		return nil
	}
	err := errors.Join(m.g.Err(), m.g.Close())
	m.g, m.load = nil, nil
	return err
}

// try takes an update down the road in the guest and gives the verdict. An error is the run's.
func (m *machine) try(ctx context.Context, r *Result) error {
	if m.g == nil {
		if err := m.boot(ctx); err != nil {
			return err
		}
	}
	defer os.Remove(r.file)
	t := &trial{m: m, r: r, file: "/share/" + filepath.Base(r.file)}
	t.run(ctx)
	if ctx.Err() != nil {
		r.Verdict = ""
		return context.Cause(ctx)
	}
	err := m.g.Err()
	select {
	case <-m.load.Done():
		err = errors.Join(err, fmt.Errorf("the workload ended: %s", m.load.Output()))
	default:
	}
	if err != nil {
		r.end(Failed, "console", err.Error())
	}
	if r.Verdict == Failed {
		_ = m.close() // what it complains of is in the verdict
	}
	return nil
}

// trial is one update in the guest.
type trial struct {
	m    *machine
	r    *Result
	file string
}

// command runs a program; the verdict is failed, at the stage, when it ends with another status than 0.
func (t *trial) command(ctx context.Context, stage string, argv ...string) (stdout string, ok bool) {
	start := time.Now()
	res, err := t.m.g.Run(ctx, argv...)
	t.r.Times = append(t.r.Times, create.Stage{Name: stage, Time: time.Since(start)})
	switch {
	case err != nil:
		t.r.end(Failed, stage, err.Error())
	case res.Exit != 0:
		t.r.end(Failed, stage, strings.TrimSpace(res.Stderr))
	default:
		return res.Stdout, true
	}
	return "", false
}

// run takes the update down the road. Every step sets the verdict when it fails.
func (t *trial) run(ctx context.Context) {
	var modules []string
	for _, p := range t.r.parts {
		if p.target == "vmlinux" {
			continue
		}
		modules = append(modules, p.target)
		if _, ok := t.command(ctx, "load", "modprobe", p.target); !ok {
			t.r.Verdict = NotLoaded
			return
		}
	}
	if _, ok := t.command(ctx, "text", append([]string{guestTool, "text", "save", guestText}, modules...)...); !ok {
		return
	}
	if _, ok := t.command(ctx, "check", "ksplice", "check", "--allow-unsigned", t.file); !ok {
		return
	}
	out, ok := t.command(ctx, "apply", "ksplice", "apply", "--json", "--allow-unsigned", "--freeze", "--attempts", "50", t.file)
	if !ok {
		if strings.Contains(strings.Join(t.r.Reasons, " "), ": kernel thread ") {
			t.r.Verdict = NeedsCode // to have the thread leave the function
		}
		return
	}
	var said apply.Report
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		t.r.end(Failed, "apply", err.Error())
		return
	}
	t.r.Pause = said.Result.Pause
	if !t.watch(ctx) {
		return
	}
	if _, ok := t.command(ctx, "undo", "ksplice", "undo", "--freeze", "--attempts", "50", said.ID); !ok {
		return
	}
	if _, ok := t.command(ctx, "compare", guestTool, "text", "compare", guestText); ok {
		t.r.end(Applied, "")
	}
}

// watch counts calls of the replacements, by probes at their entries.
func (t *trial) watch(ctx context.Context) bool {
	argv := []string{guestUser, "entered", "-for", watched.String()}
	for _, p := range t.r.parts {
		for _, f := range p.functions {
			argv = append(argv, p.name+":"+f+".ksplice")
		}
	}
	out, ok := t.command(ctx, "watch", argv...)
	if !ok {
		return false
	}
	if err := json.Unmarshal([]byte(out), &t.r.Entered); err != nil {
		t.r.end(Failed, "watch", err.Error())
		return false
	}
	return true
}
