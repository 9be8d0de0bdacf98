package apply

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kept"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/rootonly"
	"github.com/ksplice/ksplice/core/update"
)

// lockWait is how long a part whose module has come waits for another ksplice, which may be a boot that applies several updates on a slow machine.
const lockWait = 10 * time.Minute

// arm has the kernel module wait for the modules that are not loaded.
func (s *session) arm(d *engine.Device) error {
	if len(s.report.Armed) == 0 {
		return nil
	}
	s.stage("arm")
	if s.opts.Helper == "" {
		return errors.New("arm the update: nobody said which program applies it when its modules come")
	}
	if err := rootsOwn(s.opts.Helper); err != nil {
		return err
	}
	if err := kept.Default().Arm(s.u, &s.opts.Settings); err != nil {
		return err
	}
	for _, module := range s.report.Armed {
		a := &engine.Armed{ID: s.u.Manifest.ID, Module: module, When: s.opts.When, Wait: s.opts.Wait}
		if err := d.Arm(a, s.opts.Helper); err != nil {
			return errors.Join(err, forget(d, s.u.Manifest.ID))
		}
	}
	return nil
}

// HelperError says that somebody besides root could change the program that the kernel would run as root when a module comes.
type HelperError struct {
	Path string
	Err  error // who, and how
}

// Error implements error.
func (e *HelperError) Error() string {
	return fmt.Sprintf("arm the update: the kernel runs %s as root when the module comes, and not only root can change it: %v; take a ksplice that is installed, or chown root, chmod go-w", e.Path, e.Err)
}

// Unwrap returns the reason.
func (e *HelperError) Unwrap() error { return e.Err }

// rootsOwn refuses a helper that is not root's alone.
func rootsOwn(helper string) error {
	real, err := filepath.EvalSymlinks(helper)
	if err == nil {
		err = rootonly.File(real)
	}
	if err != nil {
		return &HelperError{helper, err}
	}
	return nil
}

// forget has nothing wait for modules any more, and drops what is kept of the update.
func forget(d *engine.Device, id string) error {
	if err := d.Disarm(id); err != nil {
		return err
	}
	return kept.Default().Forget(id)
}

// arrivals applies the parts of modules that came while the update was being applied: nobody had waited for those yet.
func (s *session) arrivals(ctx context.Context, d *engine.Device) {
	if len(s.report.Armed) == 0 {
		return
	}
	k, err := s.live(d)
	if err != nil {
		s.opts.Log.Warn("whether a module came meanwhile is not known", "error", err)
		return
	}
	for _, module := range s.report.Armed {
		if _, ok := k.Modules[module]; !ok {
			continue
		}
		if _, err := arrive(ctx, s.u, module, s.opts); err != nil {
			s.opts.Log.Warn("a module came meanwhile, and its part could not be applied", "module", module, "error", err)
		}
	}
}

// Arrive applies the part of an armed update for a module that has come, and tells the kernel module how it went. The kernel
// module calls for it, by way of the ksplice command; the module may be live, or wait in its init.
func Arrive(ctx context.Context, id, module string, opts Options) (*Report, error) {
	d, err := engine.Open()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	r, err := func() (*Report, error) {
		unlock, err := engine.LockWithin(ctx, lockWait)
		if err != nil {
			return nil, err
		}
		defer unlock()
		u, err := kept.Default().ReadUpdate(id)
		if err != nil {
			return nil, err
		}
		return arrive(ctx, u, module, opts)
	}()
	return r, errors.Join(err, d.Arrived(id, module, err))
}

// arrive applies one module's part, under the lock.
func arrive(ctx context.Context, u *update.Update, module string, opts Options) (*Report, error) {
	list, err := engine.ReadArmed()
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(list, func(a engine.Armed) bool { return a.ID == u.Manifest.ID && a.Module == module }) {
		return nil, fmt.Errorf("update %s is not armed for module %s any more", u.Manifest.ID, module)
	}
	opts.Replace = nil
	s, err := newSession(u, opts)
	if err != nil {
		return nil, err
	}
	defer s.close()
	s.id = engine.LateID(u.Manifest.ID, module)
	updates, err := engine.Updates()
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(updates, func(a engine.Applied) bool { return a.ID == s.id && a.Stage == "applied" }) {
		return &s.report, nil
	}
	// The rest of the update may be in already: pre is the kernel without it.
	s.through = []string{u.Manifest.ID}
	// Not by what is armed: that may have been only after the module had come.
	live, err := kernel.IsLive(module)
	if err != nil {
		return nil, err
	}
	if !live {
		s.coming = module
		s.init = slices.ContainsFunc(u.Manifest.Parts, func(p update.Part) bool { return p.Target == module && p.Init })
		if slices.ContainsFunc(u.Manifest.Parts, func(p update.Part) bool { return p.Target == module && p.AfterInit }) {
			return nil, &AfterInitError{module}
		}
	}
	s.stage("clear")
	if err := clearUp(ctx, opts.Log, u.Manifest.ID); err != nil {
		return nil, err
	}
	s.stage("read")
	d, err := engine.Open()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	k, err := s.live(d)
	if err != nil {
		return nil, err
	}
	if _, ok := k.Modules[module]; !ok {
		return nil, fmt.Errorf("module %s: %w", module, kernel.ErrNoModules)
	}
	s.m = choose(&u.Manifest, func(m string) bool {
		_, ok := k.Modules[m]
		return ok || m == ""
	}, func(p *update.Part) bool { return p.Target == module && p.Init == s.init })
	if len(s.m.Parts) == 0 {
		return nil, &InitError{module, "which did not wait for it"}
	}
	if err := s.try(ctx); err != nil {
		return nil, err
	}
	s.stage("")
	return &s.report, nil
}
