package create

import (
	"context"
	"fmt"
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

// initialiser is a changed initialiser of data that the running kernel has, as the report's item.
type initialiser struct {
	unit  *unit
	datum *diff.DataChange
	item  transform.Item
}

// transform offers what existing data would have to change to the transform plugins, and has carried what they claim. What nobody claims
// stays refused.
func (r *run) transform(ctx context.Context) error {
	items, err := r.initialisers()
	if err != nil {
		return err
	}
	items = slices.DeleteFunc(items, func(n *initialiser) bool {
		it := r.item(n.item.ID, "initialiser", n.unit.Object, n.item.Detail)
		if !r.accepted(it) {
			return false
		}
		n.unit.accept(n.item.Name)
		return true
	})
	if len(items) == 0 {
		return nil
	}
	plugins, err := r.o.Transforms(ctx)
	if err != nil {
		return err
	}
	dir, err := r.sources()
	if err != nil {
		return err
	}
	for _, p := range plugins {
		if items, err = r.plan(ctx, p, dir, items); err != nil {
			return fmt.Errorf("transform plugin %s: %w", p.Name, err)
		}
	}
	return nil
}

// initialisers lists those of all units.
func (r *run) initialisers() ([]*initialiser, error) {
	var out []*initialiser
	for _, u := range r.units {
		for _, f := range u.result.Refusals {
			i := slices.IndexFunc(u.result.Data, func(d diff.DataChange) bool { return d.Kind == diff.Changed && d.Name == f.Where })
			if !f.Initialiser || i < 0 {
				continue
			}
			n := &initialiser{unit: u, datum: &u.result.Data[i]}
			n.item = transform.Item{ID: u.initialiser(f.Where), Kind: transform.ItemInitialiser, Unit: u.Object, Name: f.Where, Detail: f.Reason}
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
	dir := filepath.Join(r.dir, "sources")
	for name, b := range r.post {
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

// plan asks one plugin, and returns the items that it leaves to others.
func (r *run) plan(ctx context.Context, p Transform, dir string, items []*initialiser) ([]*initialiser, error) {
	req := &transform.PlanRequest{Patch: r.text, SourceDir: dir}
	for _, n := range items {
		req.Items = append(req.Items, n.item)
	}
	resp, err := p.Plan(ctx, req)
	if err != nil {
		return nil, err
	}
	if len(resp.Edits) > 0 {
		return nil, fmt.Errorf("it edits sources, which this ksplice does not do yet")
	}
	var rest []*initialiser
	for _, n := range items {
		if !slices.Contains(resp.Claimed, n.item.ID) {
			rest = append(rest, n)
			continue
		}
		if !slices.Contains(resp.Rewrites, n.item.ID) {
			return nil, fmt.Errorf("it claims %s and does not say how it is to be carried", n.item.ID)
		}
		fields := make([]diff.Field, len(n.item.Fields))
		for i, f := range n.item.Fields {
			fields[i] = diff.Field{Name: f.Name, Offset: f.Offset, Size: f.Size}
		}
		if err := n.unit.result.Rewrite(n.item.Name, fields); err != nil {
			r.report.Notes = append(r.report.Notes, fmt.Sprintf("transform plugin %s claims %s, which cannot be written: %v", p.Name, n.item.ID, err))
			rest = append(rest, n)
			continue
		}
		if n.unit.init != nil {
			// Where that cannot be, the part for before init is left out (settleInits).
			_ = n.unit.init.Rewrite(n.item.Name, fields)
		}
		because := resp.Because[n.item.ID]
		r.claim(r.item(n.item.ID, "initialiser", n.unit.Object, n.item.Detail), update.Claim{Item: n.item.ID, Plugin: p.Name, Because: because})
		r.o.Say("carried", fmt.Sprintf("%s by %s: %s", n.item.Name, p.Name, because))
	}
	return rest, nil
}
