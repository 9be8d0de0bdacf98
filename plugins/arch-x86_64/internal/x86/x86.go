// Package x86 is the architecture plugin for x86-64: it answers the host's calls with the packages beside it. The plugin's
// main function serves it.
package x86

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/fixup"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/match"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/object"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/redirect"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Plugin implements arch.Arch, arch.FactSource and arch.ConfigSource. The zero value is ready.
type Plugin struct {
	arch.Unimplemented
	units cache
}

// Version is the plugin's own.
const Version = "0.1.0"

// Info says who the plugin is.
func (*Plugin) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Kind: plugin.KindArch, Name: "x86_64", Version: Version, Protocols: plugin.Protocols(),
		Description: "Describes, matches and redirects the code of x86-64 kernels.", Machines: []uint16{uint16(elf.EM_X86_64)}}, nil
}

// FactExpressions lists the structure sizes that tables are read with.
func (*Plugin) FactExpressions(context.Context) ([]arch.FactExpression, error) {
	return describe.FactExpressions(), nil
}

var configSymbols = slices.Concat(describe.ConfigSymbols, match.ConfigSymbols)

// ConfigSymbols lists what any answer depends on of a configuration.
func (*Plugin) ConfigSymbols() []string { return configSymbols }

// Describe tells what is in objects.
func (p *Plugin) Describe(ctx context.Context, req *arch.DescribeRequest) (*arch.DescribeResponse, error) {
	resp := &arch.DescribeResponse{Objects: make([]arch.ObjectDescription, len(req.Objects))}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, f := range req.Objects {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			u, err := p.unit(f, &req.Target)
			if err != nil {
				return err
			}
			resp.Objects[i] = u.Desc
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return resp, nil
}

// Match compares functions of a pre object with candidate bytes of run.
func (p *Plugin) Match(ctx context.Context, req *arch.MatchRequest) (*arch.MatchResponse, error) {
	u, err := p.unit(req.Object, &req.Target)
	if err != nil {
		return nil, err
	}
	run, err := req.Run.Read()
	if err != nil {
		return nil, fault(plugin.FaultMachine, req.Run.Path, "the bytes of the running kernel cannot be read", err)
	}
	results, err := match.Run(ctx, u, req, run)
	if err != nil {
		return nil, fault(plugin.FaultInternal, req.Object.Path, "the request to match makes no sense", err)
	}
	return &arch.MatchResponse{Results: results}, nil
}

// Fixup says how extracted code must be edited to live in a module.
func (p *Plugin) Fixup(_ context.Context, req *arch.FixupRequest) (*arch.FixupResponse, error) {
	u, err := p.unit(req.Object, &req.Target)
	if err != nil {
		return nil, err
	}
	for _, s := range req.Sections {
		if uint64(s) >= uint64(len(u.File.Sections)) {
			return nil, plugin.Errorf(plugin.FaultInternal, req.Object.Path, "there is no section %d, the object has %d",
				s, len(u.File.Sections))
		}
	}
	return fixup.Run(u, req.Sections), nil
}

// Redirect says how functions can be redirected.
func (p *Plugin) Redirect(_ context.Context, req *arch.RedirectRequest) (*arch.RedirectResponse, error) {
	u, err := p.unit(req.Object, &req.Target)
	if err != nil {
		return nil, err
	}
	redirects, err := redirect.Run(u, req.Functions)
	if err != nil {
		return nil, fault(plugin.FaultInternal, req.Object.Path, "the request to redirect makes no sense", err)
	}
	return &arch.RedirectResponse{Redirects: redirects}, nil
}

// fault makes a diagnostic of an error; one that comes of a call that was given up stays as it is.
func fault(f plugin.Fault, where, summary string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &plugin.Diagnostic{Fault: f, Where: where, Summary: summary, Detail: err.Error()}
}

// unit reads and describes an object, or takes it from those of the last calls.
func (p *Plugin) unit(f plugin.File, t *arch.Target) (*describe.Unit, error) {
	if t.Machine != uint16(elf.EM_X86_64) {
		return nil, plugin.Errorf(plugin.FaultUser, f.Path, "this plugin serves ELF machine %d (x86-64), not %d", elf.EM_X86_64, t.Machine)
	}
	target := relevant(t)
	return p.units.get(f, fmt.Sprint(target), func() (*describe.Unit, error) {
		o, err := object.Read(f)
		if err != nil {
			return nil, fault(plugin.FaultToolchain, f.Path, "the object cannot be read", err)
		}
		u, err := describe.New(o, target)
		if err != nil {
			return nil, fault(plugin.FaultToolchain, f.Path, "the object cannot be described", err)
		}
		return u, nil
	})
}

// relevant is the part of a target that any answer depends on.
func relevant(t *arch.Target) arch.Target {
	out := arch.Target{Machine: t.Machine, Facts: t.Facts, Module: t.Module, Config: map[string]string{}}
	for _, n := range configSymbols {
		if v, ok := t.Config[n]; ok {
			out.Config[n] = v
		}
	}
	return out
}

// cacheSize is how many objects the plugin remembers: a host asks about the same few several times in a row.
const cacheSize = 16

// cache remembers described objects by their content.
type cache struct {
	mu    sync.Mutex
	order []cacheKey
	units map[cacheKey]*describe.Unit
}

type cacheKey struct {
	digest, target string
}

// get returns the unit of a file, or makes it. A file whose digest was not announced is never remembered.
func (c *cache) get(f plugin.File, target string, load func() (*describe.Unit, error)) (*describe.Unit, error) {
	k := cacheKey{f.SHA256, target}
	c.mu.Lock()
	u, ok := c.units[k]
	c.mu.Unlock()
	if ok {
		return u, nil
	}
	u, err := load()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.units == nil {
		c.units = map[cacheKey]*describe.Unit{}
	}
	if _, ok := c.units[k]; !ok {
		c.order = append(c.order, k)
		c.units[k] = u
	}
	if len(c.order) > cacheSize {
		delete(c.units, c.order[0])
		c.order = c.order[1:]
	}
	return u, nil
}
