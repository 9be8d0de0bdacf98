package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ksplice/ksplice/core/create"
)

// Verdict says how a patch fared.
type Verdict string

// The verdicts.
const (
	// Applied: applied and undone with no code written for it.
	Applied Verdict = "applied with no code"
	// NeedsCode: data that exist in the running kernel would have to change.
	NeedsCode Verdict = "needs code"
	// NotBuilt: this kernel's configuration builds nothing of it.
	NotBuilt Verdict = "not built for this config"
	// NoEffect: no object code of a function changes.
	NoEffect Verdict = "no object code changes"
	// OnlyInit: all that changes is the init of modules; here those are loaded before the update is applied.
	OnlyInit Verdict = "changes a module's init only"
	// NotLoaded: the module that it changes does not load in the guest.
	NotLoaded Verdict = "module does not load here"
	// Unfit: the patch does not apply to this kernel's source, or what it makes of that does not compile.
	Unfit Verdict = "does not fit this source"
	// Failed: anything else.
	Failed Verdict = "failed"
)

// Result is what is known of one patch.
type Result struct {
	Patch string `json:"patch"`
	// Key names everything that the result depends on: the patch's digest, the kernel and the tools.
	Key     string  `json:"key"`
	Verdict Verdict `json:"verdict"`
	// Stage is where it ended, if not at the end; Reasons say why.
	Stage   string   `json:"stage,omitempty"`
	Reasons []string `json:"reasons,omitempty"`

	Units     int      `json:"units"`
	Targets   []string `json:"targets,omitempty"`
	Functions []string `json:"functions,omitempty"`
	New       []string `json:"new,omitempty"`
	// Size is the update file's, in bytes.
	Size int64 `json:"size,omitempty"`
	// Create has the time of create's stages, Times that of the steps in the guest.
	Create []create.Stage `json:"create,omitempty"`
	Times  []create.Stage `json:"times,omitempty"`
	Pause  time.Duration  `json:"pause_ns,omitempty"`
	// Entered counts calls of the replacements while the workload ran.
	Entered []Entered `json:"entered,omitempty"`

	file  string // the update
	parts []madePart
}

// Entered is how often a replacement was called.
type Entered struct {
	Function string `json:"function"`
	Calls    uint64 `json:"calls"`
	// Error says why no probe could be put there.
	Error string `json:"error,omitempty"`
}

// end gives the result its verdict.
func (r *Result) end(v Verdict, stage string, reasons ...string) {
	r.Verdict, r.Stage, r.Reasons = v, stage, reasons
}

func (e *evaluation) resultFile(patch string) string {
	return filepath.Join(e.out, "results", patch+".json")
}

// known returns the result of an earlier run with the same patch, kernel and tools, else an empty one.
func (e *evaluation) known(patch string) (*Result, error) {
	text, err := os.ReadFile(patch)
	if err != nil {
		return nil, err
	}
	r := &Result{Patch: name(patch), Key: digest(text) + " " + e.key}
	b, err := os.ReadFile(e.resultFile(r.Patch))
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	var old Result
	if err := json.Unmarshal(b, &old); err != nil {
		return nil, fmt.Errorf("%s: %w; remove it to have the patch evaluated again", e.resultFile(r.Patch), err)
	}
	if old.Key == r.Key && old.Verdict != Failed {
		return &old, nil
	}
	return r, nil
}

// keep writes a result so that nobody ever sees half of it.
func (e *evaluation) keep(r *Result) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	tmp := e.resultFile(r.Patch) + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, e.resultFile(r.Patch))
}
