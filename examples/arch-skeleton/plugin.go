package main

import (
	"context"
	"debug/elf"
	"fmt"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Plugin is the architecture plugin. Methods that a later version of the SDK adds refuse by themselves.
type Plugin struct{ arch.Unimplemented }

// machine is the ELF machine number: 183.
const machine = elf.EM_AARCH64

// Info says who the plugin is.
func (*Plugin) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Name: "aarch64", Version: "0.1.0", Machines: []uint16{uint16(machine)}, Description: "arm64, not finished: PORTING.md says what is missing"}, nil
}

// note is the number of a note in PORTING.md.
type note int

// The notes by which something is refused.
const (
	noteReferences   note = 3
	noteBranches     note = 4
	noteTracer       note = 5
	noteJumpLabels   note = 6
	noteAlternatives note = 7
	noteTables       note = 8
	noteBoot         note = 9
	noteMatch        note = 10
	noteFixup        note = 11
	noteRedirect     note = 12
)

// missing is the error of what is not done: no answer is better than one that leaves something out.
func missing(n note, where, format string, args ...any) error {
	return &plugin.Diagnostic{Fault: plugin.FaultInternal, Where: where, Summary: fmt.Sprintf(format, args...),
		Detail: fmt.Sprintf("this plugin is not finished; porting note %d in its PORTING.md says how to fill it in", n)}
}

// checkTarget refuses objects of other machines.
func checkTarget(t arch.Target) error {
	if t.Machine != uint16(machine) {
		return plugin.Errorf(plugin.FaultUser, fmt.Sprintf("ELF machine %d", t.Machine), "this plugin is for machine %d", machine)
	}
	return nil
}

// Describe describes objects, each for itself.
func (*Plugin) Describe(ctx context.Context, req *arch.DescribeRequest) (*arch.DescribeResponse, error) {
	if err := checkTarget(req.Target); err != nil {
		return nil, err
	}
	resp := &arch.DescribeResponse{Objects: make([]arch.ObjectDescription, len(req.Objects))}
	for i, f := range req.Objects {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		o, err := readObject(f)
		if err != nil {
			return nil, err
		}
		d, err := describe(o)
		if err != nil {
			return nil, err
		}
		resp.Objects[i] = *d
	}
	return resp, nil
}

// Match compares functions with a running kernel's.
func (*Plugin) Match(_ context.Context, req *arch.MatchRequest) (*arch.MatchResponse, error) {
	return nil, missing(noteMatch, req.Object.Path, "functions cannot be compared with a running kernel's")
}

// Fixup prepares code for life in a module.
func (*Plugin) Fixup(_ context.Context, req *arch.FixupRequest) (*arch.FixupResponse, error) {
	return nil, missing(noteFixup, req.Object.Path, "code cannot be prepared for a module")
}

// Redirect says how functions are redirected.
func (*Plugin) Redirect(_ context.Context, req *arch.RedirectRequest) (*arch.RedirectResponse, error) {
	return nil, missing(noteRedirect, req.Object.Path, "functions cannot be redirected")
}
