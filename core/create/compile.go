package create

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/core/build"
	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// unit is one affected translation unit on its way through the pipeline.
type unit struct {
	backend.Unit
	pre, post *side
	result    *diff.Result
	init      *diff.Result // with the code and data of its module's init; nil where the update has no part for before that
}

// side is a unit before or after the patch.
type side struct {
	object   build.Object // as compiled, with debug information
	stripped plugin.File  // without
	bytes    []byte       // of stripped
	diff     *diff.Object
	nothing  bool // the source does not exist
}

// paired says that the unit's source exists before and after the patch.
func (u *unit) paired() bool { return !u.pre.nothing && !u.post.nothing }

// file is a file name for the unit's object. One object may be in several modules.
func (u *unit) file() string {
	name := strings.ReplaceAll(u.Object, "/", "_")
	if u.Module != "" {
		name = u.Module + "-" + name
	}
	return name
}

// compile compiles all units before and after the patch. Where there are many, some go ahead of the others, so that a change of
// layout is refused before the rest is compiled; and units that only include what is patched are left out where nothing changes for them.
func (r *run) compile(ctx context.Context) error {
	ahead, err := r.ahead(ctx)
	if err != nil {
		return err
	}
	rest := slices.DeleteFunc(slices.Clone(r.units), func(u *unit) bool { return slices.Contains(ahead, u) })
	for _, u := range ahead {
		if err := r.compileGroup(ctx, []*unit{u}); err != nil {
			return err
		}
		if _, err := r.layout(ctx, []*unit{u}); err != nil {
			return err
		}
	}
	if rest, err = r.affectedAmong(ctx, rest); err != nil || len(rest) == 0 {
		return err
	}
	return r.compileGroup(ctx, rest)
}

// fewUnits is up to how many units nothing is tried to leave some out.
const fewUnits = 4

// affectedAmong drops the units that provably need no new code: of those whose own source stays as it is and that nobody asked for.
func (r *run) affectedAmong(ctx context.Context, group []*unit) ([]*unit, error) {
	var maybe []*unit
	var units []backend.Unit
	for _, u := range group {
		if _, patched := r.post[u.Source]; !patched && !slices.Contains(r.o.Units, u.Source) {
			maybe, units = append(maybe, u), append(units, u.Unit)
		}
	}
	if len(maybe) <= fewUnits {
		return group, nil
	}
	r.stage("preprocess")
	same, err := r.o.Builder.Unaffected(ctx, r.tree, build.CompileInput{Files: r.pre, Units: units, Flags: r.flags, Jobs: r.o.Jobs},
		build.CompileInput{Files: r.post}, r.o.Progress)
	if err != nil {
		return nil, err
	}
	unaffected := map[*unit]bool{}
	for i, u := range maybe {
		if same[i] {
			unaffected[u] = true
		}
	}
	if len(unaffected) == 0 {
		return group, nil
	}
	drop := func(u *unit) bool { return unaffected[u] }
	r.units = slices.DeleteFunc(r.units, drop)
	r.report.Unaffected = len(unaffected)
	r.o.Say("skipped", count(len(unaffected), "unit")+" for which nothing changes: the preprocessed source proves it")
	return slices.DeleteFunc(group, drop), nil
}

func (r *run) compileGroup(ctx context.Context, group []*unit) error {
	var units [2][]backend.Unit // before and after: of those that exist there
	for _, u := range group {
		if !r.fresh(u.Source) {
			units[0] = append(units[0], u.Unit)
		}
		if !r.gone(u.Source) {
			units[1] = append(units[1], u.Unit)
		}
	}
	r.stage("compile")
	pre, post, err := r.objects(ctx, units[0], units[1], r.flags)
	if err != nil {
		return err
	}
	r.stage("strip")
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, u := range group {
		for _, s := range []struct {
			name   string
			absent bool
			from   *[]build.Object
			to     **side
		}{{"pre-", r.fresh(u.Source), &pre, &u.pre}, {"post-", r.gone(u.Source), &post, &u.post}} {
			name := s.name + u.file()
			if s.absent {
				if *s.to, err = r.nothing(name); err != nil {
					return fmt.Errorf("%s: %w", u.Object, err)
				}
				continue
			}
			sd := &side{object: (*s.from)[0]}
			*s.from, *s.to = (*s.from)[1:], sd
			if sd.object.Cached {
				r.report.Cached++
			}
			g.Go(func() error {
				if err := r.strip(sd, name); err != nil {
					return fmt.Errorf("%s: %w", u.Object, err)
				}
				return nil
			})
		}
	}
	return g.Wait()
}

// objects compiles units before and after the patch, side by side.
func (r *run) objects(ctx context.Context, before, after []backend.Unit, flags []string) (pre, post []build.Object, err error) {
	in := build.CompileInput{Name: "pre", Files: r.pre, Units: before, Flags: flags, Jobs: r.o.Jobs}
	out := in
	out.Name, out.Files, out.Units = "post", r.post, after
	both, err := r.o.Builder.CompileAll(ctx, r.tree, []build.CompileInput{in, out}, r.o.Progress)
	if err != nil {
		return nil, nil, fmt.Errorf("compile %w", err)
	}
	return both[0], both[1], nil
}

// strip writes the object without debug information: what is compared, described and shipped.
func (r *run) strip(s *side, name string) error {
	f, err := objfile.ReadFile(s.object.Path)
	if err != nil {
		return err
	}
	f.StripDebug()
	path := filepath.Join(r.dir, name)
	if err := f.WriteFile(path); err != nil {
		return err
	}
	if s.bytes, err = os.ReadFile(path); err != nil {
		return err
	}
	s.stripped = plugin.File{Path: path, SHA256: update.Digest(s.bytes)}
	// Read again: the numbers of sections and symbols are now those of the file that everybody sees.
	if f, err = objfile.ReadFile(path); err != nil {
		return err
	}
	s.diff = &diff.Object{File: f}
	return nil
}

// layout refuses changed types. Source of the rule: objects of the old layout are alive when the new code begins to run. It returns the
// changes that may do no harm all the same, for locals to decide.
func (r *run) layout(ctx context.Context, group []*unit) ([]local, error) {
	var open []local
	var changed []*offer
	for _, u := range group {
		if !u.paired() || u.pre.object.SHA256 == u.post.object.SHA256 {
			continue
		}
		changes, err := semantic.CompareFiles(u.pre.object.Path, u.post.object.Path)
		if err != nil {
			return nil, fmt.Errorf("%s: compare types: %w", u.Object, err)
		}
		for i := range changes {
			c := &changes[i]
			if c.Bound {
				r.note(fmt.Sprintf("%s %s (%s): %s: it counts the others, and data are taken not to hold it", c.Kind, c.Name, c.Where, c.Detail))
				continue
			}
			if c.Told {
				r.note(fmt.Sprintf("%s %s (%s): %s", c.Kind, c.Name, c.Where, c.Detail))
				continue
			}
			if c.Confined {
				open = append(open, local{u, *c})
				continue
			}
			changed = r.misread(changed, u, c)
		}
	}
	if len(changed) == 0 {
		return open, nil
	}
	// What might be proved of the others does not help any more.
	for _, c := range open {
		changed = r.misread(changed, c.unit, &c.Change)
	}
	return nil, r.carry(ctx, changed)
}

// note adds a note to the report, once.
func (r *run) note(text string) {
	if !slices.Contains(r.report.Notes, text) {
		r.report.Notes = append(r.report.Notes, text)
	}
}

// compare describes all objects and compares pre with post.
func (r *run) compare(ctx context.Context) error {
	if err := r.describe(ctx, r.units); err != nil {
		return err
	}
	open, err := r.layout(ctx, r.units)
	if err != nil {
		return err
	}
	var reasons []Reason
	refused := func(u *unit, list []diff.Refusal) {
		for _, x := range list {
			text := x.Where + ": " + x.Reason
			if x.Fix != "" {
				text += "; " + x.Fix
			}
			if u != nil {
				text = u.Object + ": " + text
			}
			if x.Initialiser && u != nil {
				if r.o.ReportOnly {
					continue // an item says so
				}
				text += ", or --accept " + u.initialiser(x.Where) + " where the old value does no harm"
			}
			kind := ReasonUnsupported
			if x.State {
				kind = ReasonState
			}
			reasons = append(reasons, Reason{kind, text})
		}
	}
	var compared []diff.Unit
	var added, removed []string
	changed := false
	for _, u := range r.units {
		if err := r.declarations(u); err != nil {
			return fmt.Errorf("%s: %w", u.Object, err)
		}
		res, err := diff.Compare(u.pre.diff, u.post.diff)
		if err != nil {
			return fmt.Errorf("%s: %w", u.Object, err)
		}
		u.result = res
		compared = append(compared, diff.Unit{Object: u.Object, Module: u.Module, Result: res})
	}
	if err := r.inits(); err != nil {
		return err
	}
	refused(nil, diff.Moved(compared))
	if err := r.locals(ctx, open); err != nil {
		return err
	}
	if err := r.transform(ctx); err != nil {
		return err
	}
	r.settleInits()
	if err := r.unknownItems(); err != nil {
		return err
	}
	for _, u := range r.units {
		res := u.result
		refused(u, res.Refusals)
		c := Changed{Source: u.Source, Module: u.Module}
		for _, f := range res.Functions {
			switch f.Kind {
			case diff.Changed:
				c.Functions = append(c.Functions, f.Name)
			case diff.New:
				c.New = append(c.New, f.Name)
			case diff.Removed:
				c.Removed = append(c.Removed, f.Name)
			case diff.MovedHere:
				c.Moved = append(c.Moved, f.Name)
			}
		}
		for _, n := range res.Notes {
			r.report.Notes = append(r.report.Notes, u.Object+": "+n)
		}
		c.Sets, c.Init = res.Sets(), u.initFunctions()
		for _, h := range res.Hooks {
			c.Hooks = append(c.Hooks, h.When+" "+h.Function.Name)
		}
		if len(c.Functions)+len(c.New)+len(c.Removed)+len(c.Moved)+len(c.Sets)+len(c.Init)+len(c.Hooks) == 0 {
			continue
		}
		changed = changed || len(c.Functions)+len(c.Sets)+len(c.Init)+len(c.Hooks) > 0
		added, removed = append(added, c.New...), append(removed, c.Removed...)
		r.report.Changed = append(r.report.Changed, c)
		r.o.Say("changed", sayChanged(&c))
	}
	signatures, err := r.sayExports()
	if err != nil {
		return err
	}
	for _, text := range signatures {
		reasons = append(reasons, Reason{ReasonUnsupported, text})
	}
	calls, err := r.earlyCalls(r.units)
	if err != nil {
		return err
	}
	reasons = slices.Concat(reasons, calls, r.uncompiled())
	if len(reasons) > 0 {
		sortReasons(reasons)
		if r.o.ReportOnly {
			r.report.Refusals = reasons
			return nil
		}
		return &RefusedError{reasons}
	}
	if !changed && !r.o.ReportOnly {
		why := "no function's object code changes: the running kernel would behave the same"
		if len(added) > 0 {
			why += ", nothing in it would call what is new (" + strings.Join(added, ", ") + ")"
		}
		if len(removed) > 0 {
			why += ", which has what is removed (" + strings.Join(removed, ", ") + ") for good"
		}
		return refuse(ReasonNoEffect, strings.Join(append([]string{why}, r.report.Notes...), "\n  "))
	}
	return nil
}

// declarations gives pre-post differencing what it needs besides the objects.
func (r *run) declarations(u *unit) error {
	for _, s := range []*side{u.pre, u.post} {
		s.diff.Name = u.Object
		if s.nothing || bytes.Equal(u.pre.bytes, u.post.bytes) {
			continue // then names are enough
		}
		var err error
		if s.diff.Statics, err = semantic.Statics(s.object.Path); err != nil {
			return err
		}
	}
	return nil
}

func sayChanged(c *Changed) string {
	text := c.Source + ": " + strings.Join(c.Functions, " ")
	if len(c.New) > 0 {
		text += " new: " + strings.Join(c.New, " ")
	}
	if len(c.Removed) > 0 {
		text += " removed: " + strings.Join(c.Removed, " ")
	}
	if len(c.Moved) > 0 {
		text += " moved here: " + strings.Join(c.Moved, " ")
	}
	if len(c.Sets) > 0 {
		text += " sets: " + strings.Join(c.Sets, " ")
	}
	if len(c.Hooks) > 0 {
		text += " hooks: " + strings.Join(c.Hooks, ", ")
	}
	if len(c.Init) > 0 {
		text += " before init: " + strings.Join(c.Init, " ")
	}
	if c.Module != "" {
		text += "     module " + c.Module
	}
	return text
}

// describe asks the architecture plugin about every object of units, in one call for each kind of target.
func (r *run) describe(ctx context.Context, units []*unit) error {
	for _, module := range []bool{false, true} {
		req := &arch.DescribeRequest{Target: r.archTarget(module)}
		var sides []*side
		for _, u := range units {
			if (u.Module != "") == module {
				sides = append(sides, u.pre, u.post)
			}
		}
		for _, s := range sides {
			req.Objects = append(req.Objects, s.stripped)
		}
		if len(sides) == 0 {
			continue
		}
		resp, err := r.arch.Describe(ctx, req)
		if err != nil {
			return fmt.Errorf("describe objects: %w", err)
		}
		if len(resp.Objects) != len(sides) {
			return fmt.Errorf("describe objects: the architecture plugin described %d of %d", len(resp.Objects), len(sides))
		}
		for i, s := range sides {
			s.diff.Desc = &resp.Objects[i]
		}
	}
	return nil
}

func (r *run) archTarget(module bool) arch.Target {
	t := r.target
	t.Module = module
	return t
}
