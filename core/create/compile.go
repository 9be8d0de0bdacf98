package create

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
// layout is refused before the rest is compiled.
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
		if err := r.layout([]*unit{u}); err != nil {
			return err
		}
	}
	if len(rest) == 0 {
		return nil
	}
	return r.compileGroup(ctx, rest)
}

func (r *run) compileGroup(ctx context.Context, group []*unit) error {
	for _, s := range []struct {
		name   string
		files  map[string][]byte
		absent func(source string) bool
		set    func(*unit, *side)
	}{
		{"pre", r.pre, r.fresh, func(u *unit, s *side) { u.pre = s }},
		{"post", r.post, r.gone, func(u *unit, s *side) { u.post = s }},
	} {
		r.stage(s.name)
		var there []*unit
		var units []backend.Unit
		for _, u := range group {
			if !s.absent(u.Source) {
				there, units = append(there, u), append(units, u.Unit)
				continue
			}
			sd, err := r.nothing(s.name + "-" + u.file())
			if err != nil {
				return fmt.Errorf("%s: %w", u.Object, err)
			}
			s.set(u, sd)
		}
		if len(units) == 0 {
			continue
		}
		objects, err := r.objects(ctx, s.name, s.files, units, r.flags)
		if err != nil {
			return err
		}
		for i, o := range objects {
			if o.Cached {
				r.report.Cached++
			}
			sd := &side{object: o}
			if err := r.strip(sd, s.name+"-"+there[i].file()); err != nil {
				return fmt.Errorf("%s: %w", there[i].Object, err)
			}
			s.set(there[i], sd)
		}
	}
	return nil
}

// objects compiles units with some files changed.
func (r *run) objects(ctx context.Context, what string, files map[string][]byte, units []backend.Unit, flags []string) ([]build.Object, error) {
	objects, err := r.o.Builder.Compile(ctx, r.tree, build.CompileInput{Files: files, Units: units, Flags: flags, Jobs: r.o.Jobs}, r.o.Progress)
	if err != nil {
		return nil, fmt.Errorf("compile %s: %w", what, err)
	}
	return objects, nil
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

// layout refuses changed types. Source of the rule: objects of the old layout are alive when the new code begins to run.
func (r *run) layout(group []*unit) error {
	seen := map[string]bool{}
	var reasons []string
	for _, u := range group {
		if !u.paired() || u.pre.object.SHA256 == u.post.object.SHA256 {
			continue
		}
		changes, err := semantic.CompareFiles(u.pre.object.Path, u.post.object.Path)
		if err != nil {
			return fmt.Errorf("%s: compare types: %w", u.Object, err)
		}
		for _, c := range changes {
			if c.Bound {
				text := fmt.Sprintf("%s %s (%s): %s: it counts the others, and data are taken not to hold it", c.Kind, c.Name, c.Where, c.Detail)
				if !slices.Contains(r.report.Notes, text) {
					r.report.Notes = append(r.report.Notes, text)
				}
				continue
			}
			text := fmt.Sprintf("layout of %s %s changes (%s): %s: objects that exist already would be misread; this needs code that carries them over",
				c.Kind, c.Name, c.Where, c.Detail)
			if !seen[text] {
				seen[text] = true
				reasons = append(reasons, text)
			}
		}
	}
	if len(reasons) > 0 {
		return refuse(ReasonState, reasons...)
	}
	return nil
}

// compare describes all objects and compares pre with post.
func (r *run) compare(ctx context.Context) error {
	if err := r.describe(ctx, r.units); err != nil {
		return err
	}
	if err := r.layout(r.units); err != nil {
		return err
	}
	var reasons []Reason
	refused := func(where string, list []diff.Refusal) {
		for _, x := range list {
			text := fmt.Sprintf("%s%s: %s", where, x.Where, x.Reason)
			if x.Fix != "" {
				text += "; " + x.Fix
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
	refused("", diff.Moved(compared))
	for _, u := range r.units {
		res := u.result
		refused(u.Object+": ", res.Refusals)
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
		if len(c.Functions)+len(c.New)+len(c.Removed)+len(c.Moved) == 0 {
			continue
		}
		changed = changed || len(c.Functions) > 0
		added, removed = append(added, c.New...), append(removed, c.Removed...)
		r.report.Changed = append(r.report.Changed, c)
		r.o.Say("changed", sayChanged(&c))
	}
	if len(reasons) > 0 {
		sortReasons(reasons)
		return &RefusedError{reasons}
	}
	if !changed {
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
