// Package pluginhost discovers, verifies, launches and supervises plugins. Pipelines ask it for a plugin by kind and
// get the Go interface of that kind; behind it is a process that was started for this host alone, and whatever the
// process does, its caller gets a reply that keeps the contract or one error that names the plugin.
package pluginhost

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

// Config says where plugins are and how they are treated.
type Config struct {
	// Dirs are looked through in order; see DefaultDirs.
	Dirs []string
	// Pins holds the hex SHA-256 that a plugin's binary must have, by file name ("arch-x86_64"). Plugins without a pin
	// are not checked.
	Pins map[string]string
	// PluginConfig holds what plugins get in Configure, by file name.
	PluginConfig map[string]map[string]string
	// Logger gets the plugins' logs as KIND.NAME; nil drops them.
	Logger hclog.Logger
	// Timeouts bounds what plugins do.
	Timeouts Timeouts
}

// Timeouts bounds what plugins do; zero means the default. The context of a call may be shorter.
type Timeouts struct {
	// Describe bounds `BINARY describe`; default 30 s: early in a boot it comes from a cold disk.
	Describe time.Duration
	// Start bounds the handshake, and each call of the base service; default a minute.
	Start time.Duration
	// Call bounds calls without progress; default 10 min.
	Call time.Duration
	// Build bounds calls with progress (Prepare, Compile, Link); default 4 h.
	Build time.Duration
	// Cancel is how long a cancelled call may clean up before the plugin is killed; default 5 s.
	Cancel time.Duration
}

// withDefaults returns t with the defaults in place of zeros.
func (t Timeouts) withDefaults() Timeouts {
	for _, d := range []struct {
		value *time.Duration
		other time.Duration
	}{
		{&t.Describe, 30 * time.Second},
		{&t.Start, time.Minute},
		{&t.Call, 10 * time.Minute},
		{&t.Build, 4 * time.Hour},
		{&t.Cancel, 5 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.other
		}
	}
	return t
}

// Host has plugins. It starts each when it is first asked for and again when it has died since, and ends them in Close.
type Host struct {
	config Config
	asRoot bool
	scan   func() []*candidate // once

	mu     sync.Mutex // guards the fields below and config.PluginConfig
	closed bool
	time   map[string]time.Duration
}

// New returns a host. It touches nothing before it is asked for something.
func New(config Config) *Host {
	if config.Logger == nil {
		config.Logger = hclog.NewNullLogger()
	}
	config.Timeouts = config.Timeouts.withDefaults()
	h := &Host{config: config, asRoot: os.Geteuid() == 0, time: make(map[string]time.Duration)}
	h.scan = sync.OnceValue(func() []*candidate { return scan(config.Dirs, config.Logger) })
	return h
}

// List returns every executable in the directories, usable as a plugin or not, in their order. It asks each who it is and starts
// none to work.
func (h *Host) List(ctx context.Context) []Found {
	candidates := h.scan()
	h.describeAll(ctx, candidates)
	out := make([]Found, len(candidates))
	for i, c := range candidates {
		out[i] = Found{Path: c.found, File: c.file, Directory: c.dir, ShadowedBy: c.shadowed}
		info, err := h.describe(ctx, c)
		if info != nil {
			out[i].Info = *info
		}
		if c.identity() != "" {
			if sum, e := digest(c.path); e == nil {
				out[i].SHA256 = sum
			}
		}
		if err != nil {
			out[i].Skipped = err.Error()
		}
	}
	return out
}

// describeAll asks the candidates who they are, a few at once.
func (h *Host) describeAll(ctx context.Context, candidates []*candidate) {
	var g errgroup.Group
	g.SetLimit(4)
	for _, c := range candidates {
		g.Go(func() error {
			h.describe(ctx, c) // the error stays with the candidate
			return nil
		})
	}
	g.Wait()
}

// Arch returns the architecture plugin that serves an ELF machine number. It implements arch.FactSource too.
func (h *Host) Arch(ctx context.Context, machine uint16) (arch.Arch, plugin.Info, error) {
	candidates := h.ofKind(plugin.KindArch)
	h.describeAll(ctx, candidates)
	for _, c := range candidates {
		info, err := h.describe(ctx, c)
		if err != nil || !slices.Contains(info.Machines, machine) {
			continue
		}
		i, err := h.start(ctx, c)
		if err != nil {
			return nil, plugin.Info{}, err
		}
		return i.impl.(arch.Arch), i.info, nil
	}
	return nil, plugin.Info{}, h.notFound(ctx, candidates, fmt.Sprintf("no architecture plugin serves ELF machine %d", machine))
}

// Configure adds keys to what the plugin with that file name is given when it starts; they win over those of Config. A
// plugin that runs already is not told.
func (h *Host) Configure(file string, keys map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := maps.Clone(h.config.PluginConfig)
	if all == nil {
		all = map[string]map[string]string{}
	}
	merged := maps.Clone(all[file])
	if merged == nil {
		merged = map[string]string{}
	}
	maps.Copy(merged, keys)
	all[file] = merged
	h.config.PluginConfig = all
}

// configOf returns the configuration of the plugin with that file name.
func (h *Host) configOf(file string) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.config.PluginConfig[file]
}

// Backend returns the backend with the given name.
func (h *Host) Backend(ctx context.Context, name string) (backend.Backend, plugin.Info, error) {
	i, err := h.named(ctx, plugin.KindBackend, name)
	if err != nil {
		return nil, plugin.Info{}, err
	}
	return i.impl.(backend.Backend), i.info, nil
}

// Backends returns the names of the usable backends, in the order of the directories. With none it is an error that says
// why.
func (h *Host) Backends(ctx context.Context) ([]string, error) {
	names := h.names(ctx, plugin.KindBackend)
	if len(names) == 0 {
		return nil, h.notFound(ctx, h.ofKind(plugin.KindBackend), "there is no backend plugin")
	}
	return names, nil
}

// Transform returns the transform plugin with the given name.
func (h *Host) Transform(ctx context.Context, name string) (transform.Transform, plugin.Info, error) {
	i, err := h.named(ctx, plugin.KindTransform, name)
	if err != nil {
		return nil, plugin.Info{}, err
	}
	return i.impl.(transform.Transform), i.info, nil
}

// Transforms returns the names of the usable transform plugins, in the order of the directories; there may be none.
func (h *Host) Transforms(ctx context.Context) []string { return h.names(ctx, plugin.KindTransform) }

// Named returns the plugin of a kind and name as what all kinds are: the client of its kind is behind it.
func (h *Host) Named(ctx context.Context, kind plugin.Kind, name string) (plugin.Base, error) {
	i, err := h.named(ctx, kind, name)
	if err != nil {
		return nil, err
	}
	return i.impl, nil
}

// Describe returns who the plugin of a kind and name says it is, without starting it to work.
func (h *Host) Describe(ctx context.Context, kind plugin.Kind, name string) (plugin.Info, error) {
	candidates := h.ofKind(kind)
	for _, c := range candidates {
		if c.name != name || c.unusable != nil {
			continue
		}
		info, err := h.describe(ctx, c)
		if err != nil {
			return plugin.Info{}, err
		}
		return *info, nil
	}
	return plugin.Info{}, h.notFound(ctx, candidates, fmt.Sprintf("there is no %s plugin %q", kind, name))
}

// CallTime returns the wall time spent in calls so far, by file name of the plugin. Calls that run at once count each.
func (h *Host) CallTime() map[string]time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.time)
}

func (h *Host) account(file string, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.time[file] += d
}

// Close ends all plugins. It takes a few seconds at most, whatever they do; the host starts none afterwards. It is an
// error when one cannot even be killed.
func (h *Host) Close() error {
	h.mu.Lock()
	was := h.closed
	h.closed = true
	h.mu.Unlock()
	if was {
		return nil
	}
	var g errgroup.Group
	for _, c := range h.scan() {
		g.Go(func() error {
			c.starting.Lock()
			defer c.starting.Unlock()
			if c.inst == nil {
				return nil
			}
			err := c.inst.stop()
			c.inst = nil
			return err
		})
	}
	return g.Wait()
}

// isClosed says whether Close was called.
func (h *Host) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// start returns the running instance of a plugin and starts it first where there is none.
func (h *Host) start(ctx context.Context, c *candidate) (*instance, error) {
	c.starting.Lock()
	defer c.starting.Unlock()
	if h.isClosed() {
		return nil, newError(ErrClosed, c.label, "this is a bug of ksplice", "it was asked for after the end")
	}
	if c.inst != nil && c.inst.alive() {
		return c.inst, nil
	}
	if c.inst != nil {
		c.inst.stop()
		c.inst = nil
	}
	i, err := h.launch(ctx, c)
	if err != nil {
		return nil, err
	}
	c.inst = i
	return i, nil
}

// ofKind returns the candidates of a kind.
func (h *Host) ofKind(kind plugin.Kind) []*candidate {
	var out []*candidate
	for _, c := range h.scan() {
		if c.kind == kind {
			out = append(out, c)
		}
	}
	return out
}

// names returns the names of the usable plugins of a kind.
func (h *Host) names(ctx context.Context, kind plugin.Kind) []string {
	candidates := h.ofKind(kind)
	h.describeAll(ctx, candidates)
	var out []string
	for _, c := range candidates {
		if _, err := h.describe(ctx, c); err == nil {
			out = append(out, c.name)
		}
	}
	return out
}

// named returns the running plugin of that kind and name.
func (h *Host) named(ctx context.Context, kind plugin.Kind, name string) (*instance, error) {
	candidates := h.ofKind(kind)
	for _, c := range candidates {
		if c.name == name && c.unusable == nil {
			return h.start(ctx, c)
		}
	}
	return nil, h.notFound(ctx, candidates, fmt.Sprintf("there is no %s plugin %q", kind, name))
}

// notFound says where was looked and what was skipped.
func (h *Host) notFound(ctx context.Context, candidates []*candidate, summary string) error {
	var detail strings.Builder
	fmt.Fprintf(&detail, "looked in %s", strings.Join(h.config.Dirs, ", "))
	for _, c := range candidates {
		if info, err := h.describe(ctx, c); err != nil {
			fmt.Fprintf(&detail, "\nskipped: %v", err)
		} else {
			fmt.Fprintf(&detail, "\nfound %s %s", info.Kind, info.Name)
		}
	}
	fmt.Fprintf(&detail, "\ninstall the plugin into one of them, or name its directory in $%s", PathVariable)
	return newError(ErrNotFound, "", detail.String(), "%s", summary)
}
