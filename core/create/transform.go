package create

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/transform"
)

// Transform is a transform plugin by its name.
type Transform struct {
	Name string
	transform.Transform
}

// offer is a change of what existing data mean, as transform plugins are asked about it.
type offer struct {
	unit   *unit
	datum  *diff.DataChange // nil for all but initialisers
	kind   string           // of a layout: "struct", "union", "enum" or "variable"
	plugin string           // the one that is asked; empty: all
	item   transform.Item
	it     *Item  // the same in the report
	text   string // why it is refused where nobody takes it; initialisers are refused elsewhere
}

// maxRounds bounds how often plugins may edit the sources.
const maxRounds = 8

// errEdited says that the sources are others now: compile and compare again.
var errEdited = errors.New("transform plugins have edited the sources")

// rounds compiles and compares, and again as long as transform plugins edit the sources after the patch.
func (r *run) rounds(ctx context.Context) error {
	first := r.report
	for range maxRounds {
		if err := r.affected(ctx); err != nil {
			return err
		}
		err := r.compile(ctx)
		if err == nil {
			r.stage("diff")
			err = r.compare(ctx)
		}
		if !errors.Is(err, errEdited) {
			return err
		}
		items := slices.DeleteFunc(r.report.Items, func(it *Item) bool { return it.Claim == nil })
		stages, cached := r.report.Stages, r.report.Cached
		r.report = first
		r.report.Items, r.report.Stages, r.report.Cached, r.units = items, stages, cached, nil
		if err := r.addHeader(); err != nil {
			return err
		}
	}
	return fmt.Errorf("transform plugins edit the sources again after %d rounds", maxRounds)
}

// touched lists the sources and headers that are others after the patch, and after the edits of transform plugins.
func (r *run) touched() []string {
	paths := code(r.patches[len(r.patches)-1])
	for _, name := range slices.Sorted(maps.Keys(r.edits)) {
		if !slices.Contains(paths, name) {
			paths = append(paths, name)
		}
	}
	return slices.DeleteFunc(paths, func(name string) bool {
		if _, ok := r.edits[name]; !ok {
			return false
		}
		was, ok := r.before[name]
		if !ok {
			was, _ = r.original(name)
		}
		return bytes.Equal(was, r.after[name])
	})
}

// transform offers what existing data would have to change to the transform plugins, and has carried what they claim. What nobody claims
// stays refused.
func (r *run) transform(ctx context.Context) error {
	offers, err := r.initialisers()
	if err != nil {
		return err
	}
	offers = slices.DeleteFunc(offers, func(o *offer) bool {
		if r.accepted(o.it) {
			o.unit.accept(o.item.Name)
			return true
		}
		if !o.unit.result.Rewritable(o.item.Name) {
			return false
		}
		if err := r.rewrite(o); err != nil {
			r.note(fmt.Sprintf("the patch has %s rewritten, which cannot be: %v", o.it.ID, err))
			return false
		}
		r.claim(o.it, update.Claim{Item: o.it.ID, Hook: true, Because: "it may be rewritten"})
		return true
	})
	asked, err := r.requests()
	if err != nil {
		return err
	}
	rest, err := r.ask(ctx, append(offers, asked...))
	if err != nil || r.o.ReportOnly {
		return err
	}
	var reasons []string
	for _, o := range rest {
		if o.item.Kind == transform.ItemTransfer {
			reasons = append(reasons, o.text+", which does not take it: is it installed? `ksplice plugin list` shows which are")
		}
	}
	if len(reasons) > 0 {
		return refuse(ReasonState, reasons...)
	}
	return nil
}

// ask asks the transform plugins, one after the other, and returns what none of them takes. With edits of theirs it is errEdited.
func (r *run) ask(ctx context.Context, offers []*offer) ([]*offer, error) {
	if len(offers) == 0 {
		return nil, nil
	}
	plugins, err := r.o.Transforms(ctx)
	if err != nil || len(plugins) == 0 {
		return offers, err
	}
	dir, err := r.sources()
	if err != nil {
		return nil, err
	}
	edits := map[string][]byte{}
	for _, p := range plugins {
		if len(offers) == 0 || len(edits) > 0 { // others are asked when that is compiled
			break
		}
		if offers, err = r.plan(ctx, p, dir, offers, edits); err != nil {
			return nil, fmt.Errorf("transform plugin %s: %w", p.Name, err)
		}
	}
	if len(edits) == 0 || r.o.ReportOnly {
		return offers, nil
	}
	for name, text := range edits {
		r.edits[name] = text
		if err := r.put(name, text); err != nil {
			return nil, err
		}
	}
	return nil, errEdited
}

// initialisers lists those of all units.
func (r *run) initialisers() ([]*offer, error) {
	var out []*offer
	for _, u := range r.units {
		for _, f := range u.result.Refusals {
			i := slices.IndexFunc(u.result.Data, func(d diff.DataChange) bool { return d.Kind == diff.Changed && d.Name == f.Where })
			if !f.Initialiser || i < 0 {
				continue
			}
			n := &offer{unit: u, datum: &u.result.Data[i], it: r.item(u.initialiser(f.Where), "initialiser", u.Object, f.Reason)}
			n.item = transform.Item{ID: n.it.ID, Kind: transform.ItemInitialiser, Unit: u.Object, Name: f.Where, Detail: f.Reason}
			n.item.Pre, n.item.Post = u.result.Initial(n.datum)
			fields, _, err := semantic.Fields(u.pre.object.Path, n.datum.Pre.Name, n.datum.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", u.Object, err)
			}
			for _, x := range fields {
				field := transform.Field{Name: x.Name, Type: x.Type, Within: x.Within, Offset: x.Offset, Size: x.Size}
				field.PreAddress, field.PostAddress = u.result.Addresses(n.datum, x.Offset)
				n.item.Fields = append(n.item.Fields, field)
			}
			out = append(out, n)
		}
	}
	return out, nil
}

// accept leaves a datum of run as it is, though post fills it otherwise.
func (u *unit) accept(datum string) {
	u.result.Leave(datum)
	if u.init != nil {
		u.init.Leave(datum)
	}
}

// initialiser is the ID of the item that a datum of the unit is filled otherwise.
func (u *unit) initialiser(datum string) string { return "initialiser:" + u.where() + ":" + datum }

// where names a unit: its object, and the module where it is of one.
func (u *unit) where() string { return strings.TrimPrefix(u.Module+":"+u.Object, ":") }

// sources writes the files after the patch where a plugin can look at them.
func (r *run) sources() (string, error) {
	r.asked++
	dir := filepath.Join(r.dir, fmt.Sprintf("sources-%d", r.asked))
	for name, b := range r.after {
		if b == nil {
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", fmt.Errorf("write sources for the transform plugins: %w", err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return "", fmt.Errorf("write sources for the transform plugins: %w", err)
		}
	}
	return dir, nil
}

// plan asks one plugin, adds what it makes of the sources to edits, and returns the offers that it leaves to others.
func (r *run) plan(ctx context.Context, p Transform, dir string, offers []*offer, edits map[string][]byte) ([]*offer, error) {
	req := &transform.PlanRequest{Round: r.asked - 1, Patch: r.text, SourceDir: dir}
	var others []*offer
	offers = slices.DeleteFunc(slices.Clone(offers), func(o *offer) bool {
		if o.plugin == "" || o.plugin == p.Name {
			return false
		}
		others = append(others, o)
		return true
	})
	if len(offers) == 0 {
		return others, nil
	}
	for _, o := range offers {
		req.Items = append(req.Items, o.item)
	}
	resp, err := p.Plan(ctx, req)
	if err != nil {
		return nil, err
	}
	for name, text := range resp.Edits {
		if r.after[name] == nil || name == ksplicePath {
			return nil, fmt.Errorf("it edits %s, which is no source that the patch leaves", name)
		}
		edits[name] = text
	}
	rest := others
	for _, o := range offers {
		if why := resp.Declined[o.item.ID]; why != "" {
			r.note(fmt.Sprintf("transform plugin %s leaves %s: %s", p.Name, o.item.ID, why))
			o.text += fmt.Sprintf("; transform plugin %s cannot carry it: %s", p.Name, why)
		}
		if !slices.Contains(resp.Claimed, o.item.ID) {
			rest = append(rest, o)
			continue
		}
		because := resp.Because[o.item.ID]
		plan, carried := resp.Transfers[o.item.ID]
		if carried {
			if err := r.transferIn(o, p.Name, plan, len(resp.Edits) > 0); err != nil {
				r.note(fmt.Sprintf("transform plugin %s claims %s, which cannot be transferred: %v", p.Name, o.item.ID, err))
				o.text += fmt.Sprintf("; transform plugin %s cannot carry it: %v", p.Name, err)
				rest = append(rest, o)
				continue
			}
		}
		switch {
		case slices.Contains(resp.Rewrites, o.item.ID):
			if err := r.rewrite(o); err != nil {
				r.report.Notes = append(r.report.Notes, fmt.Sprintf("transform plugin %s claims %s, which cannot be written: %v", p.Name, o.item.ID, err))
				rest = append(rest, o)
				continue
			}
		case len(resp.Edits) > 0:
			r.edited[o.item.ID] = true
		case carried && o.datum != nil:
			o.unit.accept(o.item.Name)
		case carried:
		default:
			return nil, fmt.Errorf("it claims %s and does not say how it is to be carried", o.item.ID)
		}
		r.claim(o.it, update.Claim{Item: o.item.ID, Plugin: p.Name, Because: because})
		r.o.Say("carried", fmt.Sprintf("%s by %s: %s", o.item.Name, p.Name, because))
	}
	return rest, nil
}

// rewrite has a datum's new value written.
func (r *run) rewrite(o *offer) error {
	fields := make([]diff.Field, len(o.item.Fields))
	for i, f := range o.item.Fields {
		fields[i] = diff.Field{Name: f.Name, Offset: f.Offset, Size: f.Size}
	}
	if err := o.unit.result.Rewrite(o.item.Name, fields); err != nil {
		return err
	}
	if o.unit.init != nil {
		// Where that cannot be, the part for before init is left out (settleInits).
		_ = o.unit.init.Rewrite(o.item.Name, fields)
	}
	return nil
}
