package create

import (
	"fmt"

	"github.com/ksplice/ksplice/core/diff"
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

// settleInits drops the comparisons with init of which no part can be made, or none is needed, and says so.
func (r *run) settleInits() {
	of := map[string][]diff.Unit{}
	for _, u := range r.units {
		if u.init != nil {
			of[u.Module] = append(of[u.Module], diff.Unit{Object: u.Object, Module: u.Module, Result: u.init})
		}
	}
	for _, u := range r.units {
		list := of[u.Module]
		if u.init == nil || len(list) == 0 {
			continue
		}
		why, needed := "", false
		for _, x := range diff.Moved(list) {
			why = fmt.Sprintf("%s: %s", x.Where, x.Reason)
		}
		for _, x := range list {
			for _, f := range x.Result.Refusals {
				why = fmt.Sprintf("%s: %s: %s", x.Object, f.Where, f.Reason)
			}
			needed = needed || len(x.Result.InitFunctions()) > 0
		}
		delete(of, u.Module) // it is decided for all of them
		if why != "" {
			r.note(fmt.Sprintf("the init of module %s changes, and no part can carry that: %s", u.Module, why))
		}
		if why == "" && needed {
			continue
		}
		for _, o := range r.units {
			if o.Module == u.Module {
				o.init = nil
			}
		}
	}
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
