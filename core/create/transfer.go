package create

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/transform"
)

// transferMacro is how a patch asks a transform plugin to carry what no layout and no initialiser tells of (kmod/include/ksplice.h).
const transferMacro = "ksplice_transfer"

// transferPrefix begins the IDs of such items.
const transferPrefix = "transfer:"

// carriage is an item that a transform plugin carries at apply.
type carriage struct {
	plugin string
	item   transform.Item
	it     *Item // the same in the report, with the objects that have to do with it
	plan   transform.TransferPlan
	kind   string // of a layout: "struct", "union" ...
}

// transferIn notes that a plugin carries an item at apply. Where objects that exist would be too small for the new code, that cannot be: it
// is seen now, or where the plugin edits the sources, too, when those are compiled.
func (r *run) transferIn(o *offer, plugin string, plan transform.TransferPlan, edits bool) error {
	c := &carriage{plugin: plugin, item: o.item, it: o.it, plan: plan, kind: o.kind}
	// A unit that is not compiled yet may have what others have not.
	whole := !edits && !slices.ContainsFunc(r.units, func(u *unit) bool { return !u.described() })
	if _, err := r.transferFrom(c, r.units); err != nil && whole {
		return err
	}
	r.carriages = append(slices.DeleteFunc(r.carriages, func(x *carriage) bool { return x.item.ID == c.item.ID }), c)
	return nil
}

// transfers describes all that is carried at apply, for the manifest; units are those of the update, in order.
func (r *run) transfers(units []*unit) ([]update.Transfer, error) {
	var out []update.Transfer
	for _, c := range r.carriages {
		t, err := r.transferFrom(c, units)
		if err != nil {
			return nil, refuse(ReasonState, fmt.Sprintf("transform plugin %s carries %s at apply: %v", c.plugin, c.item.ID, err))
		}
		out = append(out, *t)
	}
	return out, nil
}

// transferFrom describes one from the first unit whose debug information has all that it needs. Its Unit is the number in units.
func (r *run) transferFrom(c *carriage, units []*unit) (*update.Transfer, error) {
	err := fmt.Errorf("the update changes no code of %s", strings.Join(c.it.Units, ", "))
	for i, u := range units {
		if !slices.Contains(c.it.Units, u.Object) || !u.described() || u.result != nil && !u.differs(false) && !u.differs(true) {
			continue
		}
		t, why := r.transferOf(c, u, i)
		if why == nil {
			return t, nil
		}
		err = why
	}
	return nil, err
}

// described says that the unit has been compiled, and read.
func (u *unit) described() bool {
	return u.pre != nil && u.post != nil && u.pre.diff != nil && u.post.diff != nil
}

// transferOf describes one.
func (r *run) transferOf(c *carriage, u *unit, index int) (*update.Transfer, error) {
	t := &update.Transfer{Item: c.item.ID, Plugin: c.plugin, Data: c.plan.Data, Unit: index}
	types := slices.Clone(c.plan.Types)
	tag := ""
	if c.item.Kind == transform.ItemLayout && (c.kind == "struct" || c.kind == "union") {
		tag = c.kind + " " + c.item.Name
		if !slices.Contains(types, tag) {
			types = append(types, tag)
		}
	}
	before, of, err := layouts(u.pre.object.Path, types, c.plan.Globals)
	if err != nil {
		return nil, err
	}
	after, _, err := layouts(u.post.object.Path, types, c.plan.Globals)
	if err != nil {
		return nil, err
	}
	for _, name := range types {
		if a, b := before[name].Size, after[name].Size; a != b {
			return nil, fmt.Errorf("%s has %d bytes after the patch and %d before: objects that exist cannot become others in their place", name, b, a)
		}
	}
	t.Before, t.After = before, after
	for _, name := range c.plan.Globals {
		g, err := u.global(name)
		if err != nil {
			return nil, err
		}
		g.Type = of[name]
		t.Globals = append(t.Globals, g)
	}
	return t, nil
}

// layouts describes types of an object, with what the kernel's own containers need.
func layouts(path string, types, globals []string) (update.Layouts, map[string]string, error) {
	l, of, err := semantic.Layouts(path, types, globals)
	if err != nil {
		return nil, nil, err
	}
	// Nothing points to a node of an XArray by its type (include/linux/xarray.h).
	const node = "struct xa_node"
	if _, ok := l["struct xarray"]; ok && !slices.Contains(types, node) {
		if with, of, err := semantic.Layouts(path, append(slices.Clone(types), node), globals); err == nil {
			return with, of, nil
		}
	}
	return l, of, nil
}

// global finds a variable's symbol in the pre object. One that the unit only declares, and does not use, is found by its name at apply.
func (u *unit) global(name string) (update.Global, error) {
	g := update.Global{Name: name}
	var found []string
	for _, y := range u.pre.diff.File.Symbols[1:] {
		st, static := u.pre.diff.Statics[y.Name]
		own := y.Name == name
		if function, variable, ok := strings.Cut(name, "."); ok && static {
			own = st.Function == function && st.Name == variable
		}
		if !own {
			continue
		}
		if y.Type == elf.STT_FUNC || y.Section != nil && y.Section.Flags&elf.SHF_EXECINSTR != 0 {
			return g, fmt.Errorf("%s of %s is no variable", name, u.where())
		}
		found = append(found, y.Name)
		g.Symbol = uint32(y.Index)
		g.PerCPU = y.Section != nil && strings.HasPrefix(y.Section.Name, ".data..percpu")
	}
	if len(found) > 1 {
		return g, fmt.Errorf("%s of %s may be any of %s", name, u.where(), strings.Join(found, ", "))
	}
	return g, nil
}

// requests offers what the patch asks plugins to carry.
func (r *run) requests() ([]*offer, error) {
	var out []*offer
	for _, t := range r.patchTransfers {
		i := slices.IndexFunc(r.units, func(u *unit) bool { return u.result.Claims(t.id()) })
		if i < 0 && r.o.ReportOnly {
			continue
		}
		if i < 0 {
			return nil, refuse(ReasonState, fmt.Sprintf("the patch has %s(\"%s\", \"%s\") where nothing is compiled: move that out of #if, into a file that this kernel builds", transferMacro, t.plugin, t.what))
		}
		u := r.units[i]
		o := &offer{unit: u, plugin: t.plugin, it: r.item(t.id(), "transfer", u.Object, t.what)}
		for _, x := range r.units {
			if x.result.Claims(t.id()) && !slices.Contains(o.it.Units, x.Object) {
				o.it.Units = append(o.it.Units, x.Object)
			}
		}
		if r.accepted(o.it) || o.it.Claim != nil {
			continue
		}
		o.text = fmt.Sprintf("the patch asks transform plugin %s for %q", t.plugin, t.what)
		o.item = transform.Item{ID: o.it.ID, Kind: transform.ItemTransfer, Unit: u.Object, Name: t.what, Detail: o.text}
		out = append(out, o)
	}
	return out, nil
}

// patchTransfer is what a patch asks a plugin for.
type patchTransfer struct{ plugin, what string }

func (t patchTransfer) id() string { return transferPrefix + t.plugin + ":" + t.what }

// digest is what tells transfers of two updates apart.
func digest(list []update.Transfer) ([]byte, error) {
	if len(list) == 0 {
		return nil, nil
	}
	return json.Marshal(list)
}
