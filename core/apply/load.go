// Package apply holds the pipelines that run on the machine to be patched: check, apply, undo, status. They only say
// in which order the stages run and what happens when one refuses; the stages are in match, bind and engine.
package apply

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// WrongKernelError says that the update was made for another kernel.
type WrongKernelError struct {
	What, Want, Got string
}

// Error implements error.
func (e *WrongKernelError) Error() string {
	return fmt.Sprintf("the update is for another kernel: its %s is %q, this machine's is %q", e.What, e.Want, e.Got)
}

// identify refuses a kernel that is not the update's own. Matching would refuse it too; this says so in plain words.
func identify(m *update.Manifest, k *kernel.Kernel) error {
	for _, c := range []struct{ what, want, got string }{
		{"release", m.Kernel.Release, k.Identity.Release},
		{"version", m.Kernel.Version, k.Identity.Version},
		{"build id", m.Kernel.BuildID, k.Identity.BuildID},
	} {
		if c.want != "" && c.got != "" && c.want != c.got {
			return &WrongKernelError{c.what, c.want, c.got}
		}
	}
	if k.Identity.Machine != 0 && k.Identity.Machine != m.Kernel.Machine {
		return &WrongKernelError{"ELF machine", fmt.Sprint(m.Kernel.Machine), fmt.Sprint(k.Identity.Machine)}
	}
	return nil
}

// choose returns a manifest with the parts to take, and the units that a kernel with certain modules has. What a slot wants of a unit
// that is not there goes by its name, as what only new code names does.
func choose(m *update.Manifest, loaded func(module string) bool, take func(*update.Part) bool) *update.Manifest {
	out := *m
	out.Units, out.Parts = nil, nil
	number := make([]int, len(m.Units))
	for i, u := range m.Units {
		number[i] = -1
		if loaded(u.Module) {
			number[i] = len(out.Units)
			out.Units = append(out.Units, u)
		}
	}
	for i := range m.Parts {
		if !take(&m.Parts[i]) {
			continue
		}
		p := m.Parts[i]
		p.Functions, p.Writes, p.Slots = slices.Clone(p.Functions), slices.Clone(p.Writes), slices.Clone(p.Slots)
		for j := range p.Functions {
			p.Functions[j].Unit = number[p.Functions[j].Unit]
		}
		for j := range p.Writes {
			p.Writes[j].Unit = number[p.Writes[j].Unit]
		}
		for j := range p.Slots {
			if s := &p.Slots[j]; s.Unit >= 0 {
				s.Unit = number[s.Unit]
			}
		}
		out.Parts = append(out.Parts, p)
	}
	out.Transfers = nil
	for _, t := range m.Transfers {
		module := m.Units[t.Unit].Module
		if slices.ContainsFunc(out.Parts, func(p update.Part) bool { return p.Target == module || module == "" && p.Target == "vmlinux" }) {
			t.Unit = number[t.Unit]
			out.Transfers = append(out.Transfers, t)
		}
	}
	return &out
}

// units unpacks pre objects into dir and describes them.
func units(ctx context.Context, m *update.Manifest, files map[string][]byte, a arch.Arch, dir string) ([]*match.Unit, error) {
	var out []*match.Unit
	for i, mu := range m.Units {
		b := files[mu.Pre]
		path := filepath.Join(dir, fmt.Sprintf("%04d-%s", i, strings.ReplaceAll(mu.Object, "/", "_")))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return nil, fmt.Errorf("unpack pre object: %w", err)
		}
		var parts []string
		for _, id := range m.Base {
			parts = append(parts, engine.PartName(id, cmp.Or(mu.Module, "vmlinux")))
			if mu.Module != "" {
				parts = append(parts, engine.InitPartName(id, mu.Module))
			}
		}
		out = append(out, &match.Unit{Name: mu.Object, Module: mu.Module, Parts: parts, Object: plugin.File{Path: path, SHA256: mu.SHA256},
			Target: arch.Target{Machine: m.Kernel.Machine, Facts: m.Facts, Config: m.Config, Module: mu.Module != ""}})
	}
	return out, Describe(ctx, a, out)
}

// Describe reads the units' objects and asks the architecture plugin about them, in one call for each kind of target.
func Describe(ctx context.Context, a arch.Arch, units []*match.Unit) error {
	for _, module := range []bool{false, true} {
		var req arch.DescribeRequest
		var of []*match.Unit
		for _, u := range units {
			if u.Target.Module != module {
				continue
			}
			f, err := objfile.ReadFile(u.Object.Path)
			if err != nil {
				return fmt.Errorf("read object %s: %w", u.Name, err)
			}
			u.File = f
			req.Target = u.Target
			req.Objects = append(req.Objects, u.Object)
			of = append(of, u)
		}
		if len(of) == 0 {
			continue
		}
		resp, err := a.Describe(ctx, &req)
		if err != nil {
			return fmt.Errorf("describe objects: %w", err)
		}
		if len(resp.Objects) != len(of) {
			return fmt.Errorf("describe objects: the architecture plugin described %d of %d", len(resp.Objects), len(of))
		}
		for i, u := range of {
			u.Desc = &resp.Objects[i]
		}
	}
	return nil
}
