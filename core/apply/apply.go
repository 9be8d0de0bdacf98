package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/core/bind"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/freeze"
	"github.com/ksplice/ksplice/core/kept"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/part"
	"github.com/ksplice/ksplice/core/transfer"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/transform"
)

// Options steer the pipelines.
type Options struct {
	Arch arch.Arch
	// Transform gives the transform plugin of a name, for updates that transfer state.
	Transform func(ctx context.Context, name string) (transform.Transform, error)
	Log       hclog.Logger
	// Attempts is how often the commit is tried while threads stand in the way, Interval the time between.
	Attempts int
	Interval time.Duration
	// Freeze has user processes that stand in the way frozen for the commit.
	Freeze bool
	// Replace are IDs of applied updates that go in the same stop: the new one was made for the kernel without them.
	Replace []string
	// When says when parts go in whose modules are not loaded; Wait is how long a module's init waits for it at most.
	When engine.When
	Wait time.Duration
	// Helper is the program that the kernel module runs when such a module comes, Settings what it needs besides the update.
	Helper   string
	Settings kept.Settings
	// Stage, where set, is told of every stage as it begins.
	Stage func(name string)
}

func (o *Options) stage(name, id string) {
	o.Log.Debug("stage", "name", name, "id", id)
	if o.Stage != nil {
		o.Stage(name)
	}
}

// rematches is how often matching starts again when run changed, legally, between match and commit (a tracer, a static key).
const rematches = 3

// Report is what check and apply tell.
type Report struct {
	ID     string      `json:"id"`
	Match  match.Stats `json:"matched"`
	Notes  []string    `json:"notes,omitempty"`
	Result Commit      `json:"commit,omitzero"`
	// Functions are the replaced functions, by part.
	Functions []string `json:"functions"`
	// Sets are the fields of data that get another value, by part.
	Sets []string `json:"sets,omitempty"`
	// Hooks are the update's own, each with its time: "apply fill".
	Hooks []string `json:"hooks,omitempty"`
	// Transfer is what state transfers did; nil where there are none.
	Transfer *transfer.Stats `json:"transfer,omitempty"`
	// Armed are the modules that are not loaded: their parts go in when they are.
	Armed []string `json:"armed,omitempty"`
	// Replaced are the updates that went in the same stop.
	Replaced []string `json:"replaced,omitempty"`
	// DeadProbes are probes inside replaced functions: they are not reached any more.
	DeadProbes []string `json:"dead_probes,omitempty"`
	// Stages is the wall time of each stage.
	Stages []Stage `json:"stages"`
}

// Changes says that something of the update is for what runs now.
func (r *Report) Changes() bool { return len(r.Functions)+len(r.Sets)+len(r.Hooks) > 0 }

// Stage is the time one stage took.
type Stage struct {
	Name string        `json:"name"`
	Time time.Duration `json:"time_ns"`
}

// session is one run of a pipeline.
type session struct {
	opts Options
	u    *update.Update
	// m is the update's manifest with those parts only that are applied now, and the units that can be matched.
	m   *update.Manifest
	id  string // of the transaction
	dir string
	// through are updates whose redirects are looked through, coming a module whose init waits for us.
	through []string
	coming  string
	init    bool     // its init counts
	left    []string // what of the update is left out, and why
	report  Report
	start   time.Time
	stuck   bool // parts of a failed attempt could not be unloaded
	// committed says that it is in force, whatever comes after: what undo needs must be kept.
	committed bool
}

func newSession(u *update.Update, opts Options) (*session, error) {
	demand := engine.ReadDemand()
	for i := range u.Manifest.Parts {
		p := &u.Manifest.Parts[i]
		if err := part.Sealed(u.Files[p.File], p); err != nil {
			return nil, err
		}
		if err := demand.Loadable(p.Name, u.Files[p.File]); err != nil {
			return nil, err
		}
		for _, w := range p.Writes {
			if err := demand.Writable(p.Name, w.Name); err != nil {
				return nil, err
			}
		}
	}
	dir, err := os.MkdirTemp("", "ksplice-*")
	if err != nil {
		return nil, fmt.Errorf("make a directory to work in: %w", err)
	}
	s := &session{opts: opts, u: u, m: &u.Manifest, id: u.Manifest.ID, dir: dir, through: opts.Replace, start: time.Now()}
	s.report.ID, s.report.Replaced = u.Manifest.ID, opts.Replace
	return s, nil
}

func (s *session) close() { os.RemoveAll(s.dir) }

// stage notes that a stage begins; the one before it ends.
func (s *session) stage(name string) {
	now := time.Now()
	if n := len(s.report.Stages); n > 0 {
		s.report.Stages[n-1].Time = now.Sub(s.start)
	}
	s.start = now
	if name != "" {
		s.report.Stages = append(s.report.Stages, Stage{Name: name})
		s.opts.stage(name, s.u.Manifest.ID)
	}
}

// Check proves that the update fits the running kernel and touches nothing. It works without the kernel module.
func Check(ctx context.Context, u *update.Update, opts Options) (*Report, error) {
	s, err := newSession(u, opts)
	if err != nil {
		return nil, err
	}
	defer s.close()
	s.stage("read")
	var memory kernel.Memory
	if d, err := engine.Open(); err == nil {
		defer d.Close()
		memory = d
	}
	if err := notApplied(u.Manifest.ID); err != nil {
		return nil, err
	}
	if err := replaceable(u, opts.Replace); err != nil {
		return nil, err
	}
	k, err := s.live(memory)
	if err != nil {
		return nil, err
	}
	s.choose(k)
	if err := s.nothing(); err != nil {
		return nil, err
	}
	in, err := s.match(ctx, k)
	if err != nil {
		return nil, err
	}
	s.stage("bind")
	if _, err := s.bind(in); err != nil {
		return nil, err
	}
	going, err := members(opts.Replace)
	if err != nil {
		return nil, err
	}
	if _, err := carry(s.m, going, manifests); err != nil {
		return nil, err
	}
	transfers, _, err := bind.Transfers(in)
	if err != nil {
		return nil, err
	}
	if len(transfers) > 0 {
		s.stage("transfer")
		t, err := s.opts.look(ctx, k.Memory, transfers)
		if err != nil {
			return nil, err
		}
		s.report.Transfer = &t.Stats
	}
	s.stage("")
	return &s.report, nil
}

func notApplied(id string) error {
	updates, err := engine.Updates()
	if err != nil {
		return err
	}
	for _, a := range updates {
		if engine.UpdateID(a.ID) == id && a.Stage == "applied" {
			return fmt.Errorf("update %s: %w", id, engine.ErrApplied)
		}
	}
	waiting, err := engine.ReadArmed()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(waiting, func(a engine.Armed) bool { return a.ID == id }) {
		return fmt.Errorf("update %s: %w, and waits for modules", id, engine.ErrApplied)
	}
	return nil
}

// live opens the running kernel.
func (s *session) live(m kernel.Memory) (*kernel.Kernel, error) {
	return kernel.Live(kernel.LiveOptions{Memory: m, Through: s.through, Coming: s.coming})
}

// choose leaves out parts and units of modules that are not loaded.
func (s *session) choose(k *kernel.Kernel) {
	loaded := func(module string) bool {
		_, ok := k.Modules[module]
		return ok || module == "vmlinux" || module == ""
	}
	s.m = choose(&s.u.Manifest, loaded, func(p *update.Part) bool { return loaded(p.Target) && !p.Init })
	s.report.Armed, s.left = nil, nil
	waits := s.opts.When == engine.WhenInit || s.opts.When == engine.WhenInitOrRefuse
	for i := range s.u.Manifest.Parts {
		p := &s.u.Manifest.Parts[i]
		only := p.Init && !slices.ContainsFunc(s.u.Manifest.Parts, func(o update.Part) bool { return o.Target == p.Target && !o.Init })
		switch {
		case loaded(p.Target) && only:
			s.left = append(s.left, (&InitError{p.Target, "which has run: unload the module, apply the update with --before-init, and load it again"}).Error())
		case loaded(p.Target):
		case only && !waits:
			s.left = append(s.left, (&InitError{p.Target, "which waits for it with --before-init only"}).Error())
		case !slices.Contains(s.report.Armed, p.Target):
			s.report.Armed = append(s.report.Armed, p.Target)
			if p.AfterInit && waits {
				s.left = append(s.left, (&AfterInitError{p.Target}).Error())
			}
		}
	}
	s.report.Notes = slices.Clone(s.left)
}

// InitError says that a module gets nothing of an update, as all that changes for it is its init.
type InitError struct {
	Module string
	// Why says what is wrong with that, and what to do.
	Why string
}

// Error implements error.
func (e *InitError) Error() string {
	return fmt.Sprintf("all that the update changes of module %s is its init, %s", e.Module, e.Why)
}

// AfterInitError says that the part for a module does not go in before its init.
type AfterInitError struct{ Module string }

// Error implements error.
func (e *AfterInitError) Error() string {
	return fmt.Sprintf("the init of module %s changes, too, and the update does not carry that: its part goes in when the module is live, not before", e.Module)
}

// nothing refuses an update of which no module gets anything, now or later.
func (s *session) nothing() error {
	if len(s.m.Parts) > 0 || len(s.report.Armed) > 0 || len(s.left) == 0 {
		return nil
	}
	return &NothingError{s.left}
}

// NothingError says why nothing of an update can be applied.
type NothingError struct{ Reasons []string }

// Error implements error.
func (e *NothingError) Error() string { return strings.Join(e.Reasons, "\n  ") }

// match identifies the kernel, and matches all units.
func (s *session) match(ctx context.Context, k *kernel.Kernel) (*bind.Input, error) {
	if err := identify(s.m, k); err != nil {
		return nil, err
	}
	s.stage("describe")
	units, err := units(ctx, s.m, s.u.Files, s.opts.Arch, s.dir)
	if err != nil {
		return nil, err
	}
	for _, u := range units {
		u.Init = s.init && u.Module == s.coming
	}
	s.stage("match")
	sol, err := match.Run(ctx, k, s.opts.Arch, units)
	if err != nil {
		return nil, err
	}
	s.report.Match = sol.Stats
	if err := sol.Err(); err != nil {
		return nil, err
	}
	return &bind.Input{Kernel: k, Manifest: s.m, Units: units, Solution: sol}, nil
}

// bind binds all parts, and fills in what the report says of them.
func (s *session) bind(in *bind.Input) ([]*bind.Binding, error) {
	tracing, err := in.Kernel.Tracing()
	if err != nil {
		return nil, err
	}
	s.report.Functions, s.report.Sets, s.report.Hooks, s.report.DeadProbes, s.report.Notes = nil, nil, nil, nil, slices.Clone(s.left)
	var out []*bind.Binding
	for i := range s.m.Parts {
		p := &s.m.Parts[i]
		b, err := bind.Part(in, p)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
		s.report.Notes = append(s.report.Notes, p.Notes...)
		for _, w := range p.Writes {
			s.report.Sets = append(s.report.Sets, w.Name)
		}
		for _, h := range p.Hooks {
			s.report.Hooks = append(s.report.Hooks, h.When+" "+h.Function)
		}
		for _, f := range p.Functions {
			if f.Fragment {
				continue
			}
			s.report.Functions = append(s.report.Functions, f.Name)
			if m, ok := in.Solution.Function(f.Unit, f.Symbol); ok {
				w := f.Redirect.Window
				if at, ok := probeIn(tracing.Kprobes, m.Code+w.Offset, w.Length); ok && f.Redirect.Kind == arch.RedirectJump {
					return nil, &bind.Error{Part: p.Name, Name: f.Name, Reason: probed(at - m.Code)}
				}
				s.report.DeadProbes = append(s.report.DeadProbes, deadProbes(tracing.Kprobes, f.Name, m.Code, f.Redirect.Window.Offset, m.RunSize)...)
			}
		}
	}
	return out, nil
}

// Apply applies the update: pin, read, match, bind, load, commit, verify. It leaves nothing behind when it fails.
func Apply(ctx context.Context, u *update.Update, opts Options) (*Report, error) {
	unlock, err := engine.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := notApplied(u.Manifest.ID); err != nil {
		return nil, err
	}
	if err := replaceable(u, opts.Replace); err != nil {
		return nil, err
	}
	s, err := newSession(u, opts)
	if err != nil {
		return nil, err
	}
	defer s.close()
	s.stage("clear")
	if err := clearUp(ctx, opts.Log, u.Manifest.ID); err != nil {
		return nil, err
	}
	d, err := engine.Open()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := d.CanApply(); err != nil {
		return nil, err
	}
	k, err := s.live(d)
	if err != nil {
		return nil, err
	}
	s.choose(k)
	if err := s.nothing(); err != nil {
		return nil, err
	}
	if err := kept.Default().SaveManifest(&u.Manifest); err != nil {
		return nil, err
	}
	if err := s.arm(d); err != nil {
		return nil, errors.Join(err, kept.Default().Forget(u.Manifest.ID))
	}
	switch {
	case len(s.m.Parts) > 0:
		err = s.try(ctx)
	case len(opts.Replace) > 0:
		err = fmt.Errorf("none of the modules that the update is for is loaded, so that it cannot take the place of %s: undo that first", strings.Join(opts.Replace, ", "))
	default:
		err = identify(s.m, k)
	}
	if err != nil && !s.committed {
		return nil, errors.Join(err, forget(d, u.Manifest.ID))
	}
	if err != nil {
		return nil, err
	}
	s.arrivals(ctx, d)
	s.stage("")
	return &s.report, nil
}

// try runs transactions until one commits, or is refused for another reason than that the running code changed.
func (s *session) try(ctx context.Context) error {
	for try := 1; ; try++ {
		err := s.attempt(ctx)
		if err == nil {
			return nil
		}
		var refused *CommitError
		changed := errors.As(err, &refused) && (refused.Cause == engine.CauseChanged || refused.Cause == engine.CauseWindow)
		if !changed || s.stuck || try > rematches {
			return err
		}
		s.opts.Log.Info("the running code changed between match and commit; matching again", "why", err)
	}
}

// clearUp removes what a killed run left. What cannot be removed is in the way of an update of the same id only.
func clearUp(ctx context.Context, log hclog.Logger, id string) error {
	if err := freeze.Recover(log); err != nil {
		log.Warn("processes that an earlier run froze run, but in a cgroup of its", "error", err)
	}
	names, err := engine.Orphans()
	if err != nil {
		return err
	}
	for _, n := range names {
		switch err := engine.Unload(ctx, n); {
		case err == nil:
			log.Info("removed a part that an earlier run left behind", "part", n)
		case id != "" && strings.HasPrefix(n, engine.PartName(id, "")):
			return fmt.Errorf("clear what an earlier run left: %w", err)
		default:
			log.Warn("a part that an earlier run left behind cannot be removed", "part", n, "error", err)
		}
	}
	return nil
}

// attempt runs one transaction.
func (s *session) attempt(ctx context.Context) (err error) {
	m := s.m
	s.stage("begin")
	d, err := engine.Open()
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Begin(s.id, engine.OpApply, len(m.Parts)); err != nil {
		return err
	}
	going, err := members(s.opts.Replace)
	if err != nil {
		return err
	}
	for _, a := range going {
		if err := d.Also(a.ID); err != nil {
			return err
		}
	}
	s.stage("pin")
	for _, p := range m.Parts {
		if p.Target == "vmlinux" {
			continue
		}
		if err := d.Pin(p.Target); err != nil {
			return err
		}
	}
	s.stage("read")
	k, err := s.live(d)
	if err != nil {
		return err
	}
	in, err := s.match(ctx, k)
	if err != nil {
		return err
	}
	s.stage("bind")
	in.KeyCopy = d.KeyCopy
	bindings, err := s.bind(in)
	if err != nil {
		return err
	}
	transfers, owners, err := bind.Transfers(in)
	if err != nil {
		return err
	}
	held, err := pinOwners(d, m, append(bindings, &bind.Binding{Modules: owners}))
	if err != nil {
		return err
	}
	if len(held) > 0 {
		now, err := s.live(d)
		if err != nil {
			return err
		}
		if err := sameModules(k, now, held); err != nil {
			return err
		}
	}
	state, err := carry(m, going, manifests)
	if err != nil {
		return err
	}
	s.stage("load")
	var loaded []string
	defer func() {
		if err != nil {
			d.Close() // drops the transaction, which lets the parts go
			for _, name := range slices.Backward(loaded) {
				if uerr := engine.Unload(context.WithoutCancel(ctx), name); uerr != nil {
					s.stuck = true
					err = errors.Join(err, uerr)
				}
			}
		}
	}()
	var windows []engine.Window
	for _, b := range bindings {
		if uint32(len(b.Values)) > d.Info().Slots {
			return fmt.Errorf("part %s has %d slots, the kernel module %d", b.Part.Name, len(b.Values), d.Info().Slots)
		}
		if err := d.SetSlots(b.Values); err != nil {
			return err
		}
		if err := engine.Load(b.Part.Name, s.u.Files[b.Part.File]); err != nil {
			return err
		}
		loaded = append(loaded, b.Part.Name)
		windows = append(windows, b.Windows...)
	}
	s.stage("commit")
	if err := d.Expect(windows); err != nil {
		return err
	}
	if err := carryAll(d, state); err != nil {
		return err
	}
	if err := kept.Default().SaveTransfers(s.id, transfers); err != nil {
		return err
	}
	if s.report.Result, s.report.Transfer, err = s.opts.commitAll(ctx, d, s.id, engine.OpApply, transfers); err != nil {
		return err
	}
	loaded, s.committed = nil, true // they are the kernel's now
	if len(s.opts.Replace) > 0 {
		s.stage("unload")
		d.Close() // lets the replaced ones go
		s.bury(ctx, going)
	}
	s.stage("verify")
	return verify(m, s.id)
}
