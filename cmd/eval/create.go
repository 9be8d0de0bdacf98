package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ksplice/ksplice/core/create"
	"github.com/ksplice/ksplice/core/update"
)

// createLimit bounds one create: a patched header may reach a thousand units.
const createLimit = time.Hour

// madePart is what is used of a part that create made.
type madePart struct {
	target, name string
	functions    []string // those that are entered at their beginning
}

// create makes the update of a patch. An error is the run's; whatever the patch is to blame for is its verdict.
func (e *evaluation) create(ctx context.Context, patch string, r *Result) error {
	limited, cancel := context.WithTimeout(ctx, createLimit)
	defer cancel()
	r.file = filepath.Join(e.share, r.Patch+".ksplice")
	args := []string{"create", "--json", "--patch", patch, "--kernel", e.kernel.Release, "-o", r.file}
	if e.reverse {
		args = append(args, "--reverse")
	}
	cmd := exec.CommandContext(limited, filepath.Join(e.tools, "bin", "ksplice"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *exec.ExitError
	switch {
	case limited.Err() != nil:
		r.end(Failed, "create", fmt.Sprintf("it did not end within %v", createLimit))
		return nil
	case errors.As(err, &exit):
		r.refused(stdout.Bytes(), stderr.String())
		return nil
	case err != nil:
		return err
	}
	return r.made(stdout.Bytes())
}

// refused gives the verdict on what create said when it made no update.
func (r *Result) refused(stdout []byte, stderr string) {
	var said struct {
		Reasons []create.Reason `json:"reasons"`
	}
	if err := json.Unmarshal(stdout, &said); err != nil || len(said.Reasons) == 0 {
		if strings.Contains(stderr, "compile post: ") {
			r.end(Unfit, "create", strings.TrimSpace(stderr)) // before the patch it compiled
			return
		}
		r.end(Failed, "create", strings.TrimSpace(stderr))
		return
	}
	var texts []string
	verdict := map[create.ReasonKind]Verdict{create.ReasonState: NeedsCode, create.ReasonNotBuilt: NotBuilt, create.ReasonNoEffect: NoEffect, create.ReasonPatch: Unfit}
	worst := Verdict("")
	for _, x := range said.Reasons {
		texts = append(texts, x.Text)
		v, ok := verdict[x.Kind]
		if !ok {
			v = Failed // it holds what no update carries
		}
		if worst == "" || v == Failed {
			worst = v
		}
	}
	r.end(worst, "create", texts...)
}

// made reads what create says of the update, and the update.
func (r *Result) made(stdout []byte) error {
	var said create.Report
	if err := json.Unmarshal(stdout, &said); err != nil {
		return fmt.Errorf("what create says of %s: %w", r.Patch, err)
	}
	u, err := update.ReadFile(r.file)
	if err != nil {
		return err
	}
	st, err := os.Stat(r.file)
	if err != nil {
		return err
	}
	r.Units, r.Create, r.Size = said.Units, said.Stages, st.Size()
	for _, p := range u.Manifest.Parts {
		if p.Init {
			continue // its module is loaded before the update is applied
		}
		m := madePart{target: p.Target, name: p.Name}
		for _, f := range p.Functions {
			r.Functions = append(r.Functions, f.Name)
			if !f.Fragment {
				m.functions = append(m.functions, f.Name)
			}
		}
		r.New = append(r.New, p.New...)
		r.Targets = append(r.Targets, p.Target)
		r.parts = append(r.parts, m)
	}
	slices.Sort(r.Functions)
	if len(r.parts) == 0 {
		r.end(OnlyInit, "create")
	}
	return nil
}
