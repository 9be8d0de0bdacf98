package create

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/part"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
)

// vmlinux is the target's name for the kernel proper.
const vmlinux = "vmlinux"

// assemble makes the parts and the update.
func (r *run) assemble(ctx context.Context) (*update.Update, error) {
	units := r.kept()
	u := &update.Update{Files: map[string][]byte{"patch.diff": r.text}}
	m := &u.Manifest
	m.Description, m.Effective = r.o.Description, r.o.Effective
	m.Kernel = update.Kernel{Release: r.tree.Release, Version: r.tree.Version, BuildID: r.buildID, Banner: update.Line(r.tree.Banner), Machine: r.tree.Machine}
	m.Toolchain = update.Toolchain{Backend: r.o.BackendName, Arch: r.o.ArchInfo.Name, Tree: r.tree.ID, CompilerVersion: update.Line(r.tree.CompilerVersion)}
	m.Facts, m.Config = r.target.Facts, r.target.Config
	m.Patch = update.Patch{File: "patch.diff", SHA256: update.Digest(r.text), External: r.o.ModuleSource != ""}
	for _, f := range r.patches[len(r.patches)-1].Files {
		m.Patch.Files = append(m.Patch.Files, update.PatchFile{Path: f.Path(), Added: f.Added, Removed: f.Removed})
	}
	r.keepEdits()
	for i, name := range slices.Sorted(maps.Keys(r.edits)) {
		e := update.Edit{Path: name, File: fmt.Sprintf("edits/%04d", i), SHA256: update.Digest(r.edits[name])}
		u.Files[e.File] = r.edits[name]
		m.Patch.Edits = append(m.Patch.Edits, e)
	}
	for _, b := range r.o.Base {
		m.Base = append(m.Base, b.Manifest.ID)
	}
	pieces := [][]byte{[]byte(m.Kernel.Release), []byte(m.Kernel.Version), []byte(m.Kernel.BuildID), r.text, []byte(m.Description), []byte(strings.Join(m.Base, " "))}
	for _, x := range units {
		pieces = append(pieces, []byte(x.Object), x.pre.bytes, x.post.bytes)
	}
	for _, c := range r.claims { // what is carried and what is left is in the parts
		pieces = append(pieces, []byte(c.Item), []byte(c.Plugin))
	}
	var err error
	if m.Transfers, err = r.transfers(units); err != nil {
		return nil, err
	}
	text, err := digest(m.Transfers)
	if err != nil {
		return nil, fmt.Errorf("describe state transfers: %w", err)
	}
	m.ID = update.ID(append(pieces, text)...)
	r.report.ID = m.ID
	m.Claims = r.claims

	type made struct {
		target string
		init   bool
	}
	targets := map[made][]int{} // indices in units
	for i, x := range units {
		name := path.Join("pre", x.file())
		u.Files[name] = x.pre.bytes
		m.Units = append(m.Units, update.Unit{Source: x.Source, Object: x.Object, Module: x.Module, Pre: name, SHA256: update.Digest(x.pre.bytes)})
		if t := (made{x.target(), false}); x.differs(false) {
			targets[t] = append(targets[t], i)
		}
		if t := (made{x.target(), true}); x.init != nil && x.differs(true) {
			targets[t] = append(targets[t], i)
		}
	}
	// Parts for before init come first: where one cannot be made, the other is told so.
	order := slices.SortedFunc(maps.Keys(targets), func(a, b made) int {
		return cmp.Or(strings.Compare(a.target, b.target), cmp.Compare(fmt.Sprint(b.init), fmt.Sprint(a.init)))
	})
	for _, t := range order {
		p, ko, err := r.part(ctx, m, t.target, t.init, units, targets[t])
		if refused := (*RefusedError)(nil); t.init && errors.As(err, &refused) {
			r.dropInit(t.target, refused.Reasons[0].Text)
			continue
		}
		if err != nil {
			return nil, err
		}
		m.Parts = append(m.Parts, *p)
		u.Files[p.File] = ko
	}
	if len(m.Parts) == 0 {
		return nil, refuse(ReasonNoEffect, strings.Join(append([]string{"nothing of it can be replaced"}, r.report.Notes...), "\n  "))
	}
	return u, nil
}

// kept returns the units that travel with the update: those with differences, those whose names new code of others may use from now on,
// and those that were asked for.
func (r *run) kept() []*unit {
	asked := map[string]bool{}
	for _, s := range r.o.Units {
		asked[s] = true
	}
	var out []*unit
	for _, u := range r.units {
		if u.differs(false) || u.differs(true) || asked[u.Source] || len(u.result.Exposed()) > 0 {
			out = append(out, u)
		}
	}
	return out
}

// part makes one part. init says that it is for before the init of its module.
func (r *run) part(ctx context.Context, m *update.Manifest, target string, init bool, units []*unit, which []int) (*update.Part, []byte, error) {
	in := part.Input{ID: m.ID, Target: target, Name: engine.PartName(m.ID, target), Description: m.Description, MaxSlots: maxSlots}
	if init {
		in.Name = engine.InitPartName(m.ID, target)
	}
	for _, i := range which {
		x := units[i]
		result := x.comparison(init)
		input := part.UnitInput{Unit: x.Unit, Index: i, Pre: x.pre.diff, Post: x.post.diff, Result: result}
		closure, err := result.Closure()
		if err != nil && init {
			return nil, nil, refuse(ReasonUnsupported, fmt.Sprintf("%s: %v", x.Object, err))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", x.Object, err)
		}
		input.Closure = closure
		if input.Fixup, err = r.fixup(ctx, x, closure); err != nil {
			return nil, nil, err
		}
		if input.Redirects, err = r.redirects(ctx, x, result); err != nil {
			return nil, nil, err
		}
		in.Units = append(in.Units, input)
	}
	for i, x := range units {
		if !x.differs(init) && x.target() == target {
			in.Others = append(in.Others, part.OtherUnit{Index: i, Pre: x.pre.diff, Result: x.comparison(init)})
		}
	}
	out, err := part.Build(&in)
	if err != nil {
		return nil, nil, refuse(ReasonUnsupported, err.Error())
	}
	if missing, err := r.unproved(target, init, out.Slots); err != nil {
		return nil, nil, err
	} else if missing != nil && !r.searched[missing.part] {
		return nil, nil, missing
	}
	var objects []string
	for i, f := range append(out.Objects, out.Description) {
		p := filepath.Join(r.dir, fmt.Sprintf("%s-%d.o", in.Name, i))
		if err := f.WriteFile(p); err != nil {
			return nil, nil, fmt.Errorf("part %s: %w", in.Name, err)
		}
		objects = append(objects, p)
	}
	link := &backend.LinkRequest{Tree: r.tree, Name: in.Name, Glue: map[string]string{"glue.c": out.Glue}, Objects: objects, Script: out.Script,
		Provided: map[string]string{"ksplice_part_register": "ksplice", "ksplice_part_unregister": "ksplice", "ksplice_part": "ksplice"}}
	for _, name := range out.Offered {
		link.Provided[name] = "ksplice"
	}
	resp, err := r.o.Builder.Link(ctx, link, r.o.Progress)
	if err != nil {
		return nil, nil, fmt.Errorf("link part %s: %w", in.Name, err)
	}
	ko, err := os.ReadFile(resp.Module)
	if err != nil {
		return nil, nil, fmt.Errorf("link part %s: %w", in.Name, err)
	}
	posts := map[string]string{}
	for _, i := range which {
		posts[units[i].Source] = units[i].post.object.Path
	}
	if err := part.Place(out.Data, ko, posts); err != nil {
		return nil, nil, fmt.Errorf("part %s: %w", in.Name, err)
	}
	return &update.Part{Target: target, Init: init, AfterInit: !init && r.afterInit(target), Name: in.Name, File: "parts/" + in.Name + ".ko", SHA256: update.Digest(ko), Size: int64(len(ko)),
		Functions: out.Functions, Writes: out.Writes, Hooks: out.Hooks, New: out.New, Globals: out.Globals, Data: out.Data, Slots: out.Slots, Escapes: out.Escapes, Notes: out.Notes}, ko, nil
}

// fixup asks how the extracted code must be edited to live in a module.
func (r *run) fixup(ctx context.Context, u *unit, c *diff.Closure) (*arch.FixupResponse, error) {
	req := &arch.FixupRequest{Target: r.archTarget(u.Module != ""), Object: u.post.stripped, Sections: c.SectionIndices()}
	resp, err := r.arch.Fixup(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("%s: fix up extracted code: %w", u.Object, err)
	}
	var reasons []string
	for i := range resp.Refusals {
		reasons = append(reasons, u.Object+": "+resp.Refusals[i].Error())
	}
	if len(reasons) > 0 {
		return nil, refuse(ReasonUnsupported, reasons...)
	}
	return resp, nil
}

// redirects asks how each changed function can be redirected.
func (r *run) redirects(ctx context.Context, u *unit, result *diff.Result) (map[uint32]arch.Redirect, error) {
	req := &arch.RedirectRequest{Target: r.archTarget(u.Module != ""), Object: u.pre.stripped}
	var names []string
	for _, f := range result.Functions {
		if f.Kind == diff.Changed {
			req.Functions = append(req.Functions, uint32(f.Pre.Index))
			names = append(names, f.Name)
		}
	}
	resp, err := r.arch.Redirect(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("%s: redirect functions: %w", u.Object, err)
	}
	if len(resp.Redirects) != len(req.Functions) {
		return nil, fmt.Errorf("%s: the architecture plugin gave %d redirects for %d functions", u.Object, len(resp.Redirects), len(req.Functions))
	}
	out := map[uint32]arch.Redirect{}
	for i, x := range resp.Redirects {
		out[req.Functions[i]] = x
	}
	return out, r.refuseRedirects(u, req.Functions, names, out)
}

// refuseRedirects refuses functions that cannot be redirected. Pieces split off a function are entered through it alone and need none.
func (r *run) refuseRedirects(u *unit, symbols []uint32, names []string, redirects map[uint32]arch.Redirect) error {
	fragment := map[uint32]bool{}
	for i := range u.pre.diff.Desc.Functions {
		f := &u.pre.diff.Desc.Functions[i]
		fragment[f.Symbol] = f.Parent >= 0
	}
	var reasons []string
	for i, s := range symbols {
		if x := redirects[s]; x.Kind == arch.RedirectNone && !fragment[s] {
			reasons = append(reasons, fmt.Sprintf("%s: %s cannot be redirected: %s", u.Object, names[i], x.Reason))
		}
	}
	if len(reasons) > 0 {
		return refuse(ReasonUnsupported, reasons...)
	}
	return nil
}
