package create

import (
	"fmt"
	"maps"
	"slices"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/update"
)

// Code of a module's init is gone once it has run, so that a part for a module that is loaded cannot replace it. Where it changes, the
// update has a second part for the module, which takes the first one's place where the module's init waits for it.

// inits compares the units of modules whose init changes once more, with their init.
func (r *run) inits() error {
	changes := map[string]bool{}
	for _, u := range r.units {
		changes[u.target()] = changes[u.target()] || u.Module != "" && u.result.Init
	}
	for _, u := range r.units {
		if !changes[u.target()] {
			continue
		}
		var err error
		if u.init, err = diff.CompareInit(u.pre.diff, u.post.diff); err != nil {
			return fmt.Errorf("%s: %w", u.Object, err)
		}
	}
	return nil
}

// settleInits drops the comparisons with init of which no part can be made, or none is needed.
func (r *run) settleInits() {
	of := map[string][]diff.Unit{}
	for _, u := range r.units {
		if u.init != nil {
			of[u.Module] = append(of[u.Module], diff.Unit{Object: u.Object, Module: u.Module, Result: u.init})
		}
	}
	for _, module := range slices.Sorted(maps.Keys(of)) {
		list := of[module]
		why, needed := r.initOfBase(module), false
		for _, x := range diff.Moved(list) {
			why = fmt.Sprintf("%s: %s", x.Where, x.Reason)
		}
		for _, x := range list {
			for _, f := range x.Result.Refusals {
				why = fmt.Sprintf("%s: %s: %s", x.Object, f.Where, f.Reason)
			}
			if x.Result.Exit {
				why = x.Object + ": the module's exit changes with it, which would run as it was once the update is undone"
			}
			needed = needed || len(x.Result.InitFunctions()) > 0
		}
		if why != "" || !needed {
			r.dropInit(module, why)
		}
	}
}

// initOfBase says why no part for before a module's init can stand on the base: run has another init than pre.
func (r *run) initOfBase(module string) string {
	for _, b := range r.o.Base {
		if slices.ContainsFunc(b.Manifest.Parts, func(p update.Part) bool { return p.Target == module && p.AfterInit }) {
			return fmt.Sprintf("update %s, which this one stands on, changes it too, and does not carry that", b.Manifest.ID)
		}
	}
	return ""
}

// dropInit leaves a module's init out; why is empty where nothing of it would be replaced.
func (r *run) dropInit(module, why string) {
	if why != "" {
		r.note(fmt.Sprintf("the init of module %s changes, and no part can carry that: %s", module, why))
	}
	for _, u := range r.units {
		if u.Module == module {
			u.init = nil
		}
	}
	for i := range r.report.Changed {
		if c := &r.report.Changed[i]; c.Module == module {
			c.Init = nil
		}
	}
}

// afterInit says that a module's init changes and no part carries that.
func (r *run) afterInit(module string) bool {
	return slices.ContainsFunc(r.units, func(u *unit) bool { return u.Module != "" && u.Module == module && u.result.Init && u.init == nil })
}

// initFunctions names the functions of a unit's init that a part for before init replaces.
func (u *unit) initFunctions() []string {
	if u.init == nil {
		return nil
	}
	return u.init.InitFunctions()
}

// comparison is the unit's: for a part that comes before its module's init, or for any other.
func (u *unit) comparison(init bool) *diff.Result {
	if init && u.init != nil {
		return u.init
	}
	return u.result
}

// differs says that a part has something of the unit.
func (u *unit) differs(init bool) bool { return u.comparison(init).Defines() }
