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
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Options steer the pipelines.
type Options struct {
	Arch arch.Arch
	Log  hclog.Logger
	// Attempts is how often the commit is tried while threads stand in the way, Interval the time between.
	Attempts int
	Interval time.Duration
	// Freeze has user processes that stand in the way frozen for the commit.
	Freeze bool
	// Stage, where set, is told of every stage as it begins.
	Stage func(name string)
}

func (o *Options) stage(name, id string) {
	o.Log.Debug("stage", "name", name, "id", id)
	if o.Stage != nil {
		o.Stage(name)
	}
}

// ErrModuleNotLoaded says that a part's target is not there.
var ErrModuleNotLoaded = errors.New("the module is not loaded; load it first")

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
	// DeadProbes are probes inside replaced functions: they are not reached any more.
	DeadProbes []string `json:"dead_probes,omitempty"`
	// Stages is the wall time of each stage.
	Stages []Stage `json:"stages"`
}

// Stage is the time one stage took.
type Stage struct {
	Name string        `json:"name"`
	Time time.Duration `json:"time_ns"`
}

// session is one run of a pipeline.
type session struct {
	opts   Options
	u      *update.Update
	dir    string
	report Report
	start  time.Time
	stuck  bool // parts of a failed attempt could not be unloaded
}

func newSession(u *update.Update, opts Options) (*session, error) {
	dir, err := os.MkdirTemp("", "ksplice-*")
	if err != nil {
		return nil, fmt.Errorf("make a directory to work in: %w", err)
	}
	s := &session{opts: opts, u: u, dir: dir, start: time.Now()}
	s.report.ID = u.Manifest.ID
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
	k, err := kernel.Live(kernel.LiveOptions{Memory: memory})
	if err != nil {
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
	s.stage("")
	return &s.report, nil
}

func notApplied(id string) error {
	updates, err := engine.Updates()
	if err != nil {
		return err
	}
	for _, a := range updates {
		if a.ID == id && a.Stage == "applied" {
			return fmt.Errorf("update %s: %w", id, engine.ErrApplied)
		}
	}
	return nil
}

// match identifies the kernel, and matches all units.
func (s *session) match(ctx context.Context, k *kernel.Kernel) (*bind.Input, error) {
	if err := identify(&s.u.Manifest, k); err != nil {
		return nil, err
	}
	for _, p := range s.u.Manifest.Parts {
		if _, ok := k.Modules[p.Target]; p.Target != "vmlinux" && !ok {
			return nil, fmt.Errorf("part %s: module %s: %w", p.Name, p.Target, ErrModuleNotLoaded)
		}
	}
	s.stage("describe")
	units, err := units(ctx, s.u, s.opts.Arch, s.dir)
	if err != nil {
		return nil, err
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
	return &bind.Input{Kernel: k, Manifest: &s.u.Manifest, Units: units, Solution: sol}, nil
}

// bind binds all parts, and fills in what the report says of them.
func (s *session) bind(in *bind.Input) ([]*bind.Binding, error) {
	tracing, err := in.Kernel.Tracing()
	if err != nil {
		return nil, err
	}
	s.report.Functions, s.report.DeadProbes, s.report.Notes = nil, nil, nil
	var out []*bind.Binding
	for i := range s.u.Manifest.Parts {
		p := &s.u.Manifest.Parts[i]
		b, err := bind.Part(in, p)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
		s.report.Notes = append(s.report.Notes, p.Notes...)
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
	s, err := newSession(u, opts)
	if err != nil {
		return nil, err
	}
	defer s.close()
	s.stage("clear")
	if err := clearUp(ctx, opts.Log, u.Manifest.ID); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		err := s.attempt(ctx)
		if err == nil {
			s.stage("")
			return &s.report, nil
		}
		var refused *CommitError
		changed := errors.As(err, &refused) && (refused.Cause == engine.CauseChanged || refused.Cause == engine.CauseWindow)
		if !changed || s.stuck || try > rematches {
			return nil, err
		}
		opts.Log.Info("the running code changed between match and commit; matching again", "why", err)
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
	m := &s.u.Manifest
	s.stage("begin")
	d, err := engine.Open()
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Begin(m.ID, engine.OpApply, len(m.Parts)); err != nil {
		return err
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
	k, err := kernel.Live(kernel.LiveOptions{Memory: d})
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
	held, err := pinOwners(d, m, bindings)
	if err != nil {
		return err
	}
	if len(held) > 0 {
		now, err := kernel.Live(kernel.LiveOptions{Memory: d})
		if err != nil {
			return err
		}
		if err := sameModules(k, now, held); err != nil {
			return err
		}
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
	if s.report.Result, err = s.opts.commit(ctx, d, m.ID, engine.OpApply); err != nil {
		return err
	}
	loaded = nil // they are the kernel's now
	s.stage("verify")
	return verify(m)
}
