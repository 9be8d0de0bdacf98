package create

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/transform"
)

// Item is a change of what data mean that exist in the running kernel: the update is made when somebody takes it upon himself.
type Item struct {
	// ID names it: "layout:fs/eventfd.c:eventfd_ctx", "initialiser:sch_plug:net/sched/sch_plug.o:plug_qdisc_ops".
	ID string `json:"id"`
	// Kind is "layout" or "initialiser".
	Kind string `json:"kind"`
	// Units are the objects that have to do with it.
	Units  []string `json:"units"`
	Detail string   `json:"detail"`
	// Claim says who takes it; nil: nobody does.
	Claim *update.Claim `json:"claim,omitempty"`
}

// item returns the report's item of an ID, a new one where it has none. Details that differ between units are all told.
func (r *run) item(id, kind, unit, detail string) *Item {
	i := slices.IndexFunc(r.report.Items, func(it *Item) bool { return it.ID == id })
	if i < 0 {
		i = len(r.report.Items)
		r.report.Items = append(r.report.Items, &Item{ID: id, Kind: kind, Detail: detail})
	}
	it := r.report.Items[i]
	if !slices.Contains(it.Units, unit) {
		it.Units = append(it.Units, unit)
	}
	if !strings.Contains(it.Detail, detail) {
		it.Detail += "; " + detail
	}
	return it
}

// claim notes who takes an item.
func (r *run) claim(it *Item, c update.Claim) {
	if it.Claim != nil {
		return
	}
	c.Because = update.Line(c.Because) // plugins and patches write it as they like
	it.Claim = &c
	r.claims = append(r.claims, c)
}

// accepted says that the author takes an item, or the patch itself does, and notes that.
func (r *run) accepted(it *Item) bool {
	because, ok := r.o.Accept[it.ID]
	c := update.Claim{Item: it.ID, Because: because}
	if !ok {
		c.Because, ok = r.patchClaims[it.ID]
		c.Hook = true
	}
	if ok {
		r.claim(it, c)
	}
	return ok
}

// misread takes a changed type into the report, and adds it to those that somebody must carry unless somebody does already.
func (r *run) misread(list []*offer, u *unit, c *semantic.Change) []*offer {
	file, _, _ := strings.Cut(c.Where, ":")
	o := &offer{unit: u, kind: c.Kind, it: r.item("layout:"+file+":"+c.Name, "layout", u.Object, fmt.Sprintf("%s %s (%s): %s", c.Kind, c.Name, c.Where, c.Detail))}
	if r.accepted(o.it) || o.it.Claim != nil && !r.edited[o.it.ID] {
		return list
	}
	if slices.ContainsFunc(list, func(x *offer) bool { return x.it == o.it }) {
		return list
	}
	o.text = fmt.Sprintf("layout of %s %s changes (%s): %s: objects that exist already would be misread; this needs code that carries them over and says so (ksplice_claim), or --accept %s where it does no harm",
		c.Kind, c.Name, c.Where, c.Detail, o.it.ID)
	o.item = transform.Item{ID: o.it.ID, Kind: transform.ItemLayout, Unit: u.Object, Name: c.Name, Detail: c.Detail, Source: file}
	for _, m := range c.Added {
		o.item.Members = append(o.item.Members, transform.Member(m))
	}
	return append(list, o)
}

// carry has transform plugins carry changed types, or refuses them.
func (r *run) carry(ctx context.Context, list []*offer) error {
	var reasons []string
	open := slices.DeleteFunc(slices.Clone(list), func(o *offer) bool {
		if o.it.Claim == nil {
			return false
		}
		reasons = append(reasons, fmt.Sprintf("transform plugin %s claims %s, and with what it made of the sources the layout changes all the same: %s", o.it.Claim.Plugin, o.it.ID, o.item.Detail))
		return true
	})
	rest, err := r.ask(ctx, open)
	if err != nil || r.o.ReportOnly {
		return err
	}
	for _, o := range rest {
		reasons = append(reasons, o.text)
	}
	if len(reasons) > 0 {
		return refuse(ReasonState, reasons...)
	}
	return nil
}

// unknownItems refuses what the author accepts, or the patch claims, and the patch does not change.
func (r *run) unknownItems() error {
	var reasons []string
	taken := map[string]string{}
	for id := range r.patchClaims {
		taken[id] = claimMacro
	}
	for id := range r.o.Accept {
		taken[id] = "--accept"
	}
	for _, id := range slices.Sorted(maps.Keys(taken)) {
		if slices.ContainsFunc(r.report.Items, func(it *Item) bool { return it.ID == id }) {
			continue
		}
		text := fmt.Sprintf("%s %s: the patch changes nothing of that name", taken[id], id)
		if len(r.report.Items) > 0 {
			var have []string
			for _, it := range r.report.Items {
				have = append(have, it.ID)
			}
			text += "; what it changes is " + strings.Join(have, ", ")
		}
		reasons = append(reasons, text)
	}
	if len(reasons) > 0 {
		return refuse(ReasonState, reasons...)
	}
	return nil
}
