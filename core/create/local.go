package create

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/core/build"
	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/sdk/backend"
)

// local is a change of a structure that no object may outlive: nothing but functions of the unit can name it (semantic.Change.Confined).
type local struct {
	unit *unit
	semantic.Change
}

// locals decides about the changes of structures that layout put off until the differences are known. One is good if whoever can have
// an object of the structure is replaced, and so runs nowhere when the update goes in, or out.
func (r *run) locals(ctx context.Context, list []local) error {
	var changed []*offer
	told := map[*unit][2]*semantic.Told{}
	for _, c := range list {
		sides, ok := told[c.unit]
		if !ok {
			var err error
			if sides, err = r.tell(ctx, c.unit); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				r.debug(c, err)
			}
			told[c.unit] = sides
		}
		names, err := c.unit.replacesAll(c.Name, sides)
		if err != nil {
			r.debug(c, err)
			changed = r.misread(changed, c.unit, &c.Change)
			continue
		}
		r.note(fmt.Sprintf("%s %s (%s): %s: no object of it outlives the functions that have to do with it, which are replaced: %s", c.Kind, c.Name, c.Where, c.Detail,
			strings.Join(names, " ")))
	}
	return r.carry(ctx, changed)
}

// debug logs why objects of a structure are not known to be gone.
func (r *run) debug(c local, err error) {
	if r.o.Log != nil {
		r.o.Log.Debug("objects may outlive the functions", "unit", c.unit.Object, "type", c.Name, "reason", err)
	}
}

// tell has the compiler tell of a unit, before and after the patch.
func (r *run) tell(ctx context.Context, u *unit) (sides [2]*semantic.Told, err error) {
	r.stage("lifetimes")
	var g errgroup.Group
	for i, files := range []map[string][]byte{r.pre, r.post} {
		g.Go(func() error {
			in := build.CompileInput{Files: files, Units: []backend.Unit{u.Unit}, Flags: slices.Concat(r.flags, semantic.ToldFlags)}
			object, text, err := r.o.Builder.Tell(ctx, r.tree, in, semantic.ToldFiles)
			if err == nil {
				sides[i] = &semantic.Told{Object: object, Functions: text[0], Signatures: text[1], Symbols: text[2]}
			}
			return err
		})
	}
	err = g.Wait()
	return sides, err
}

// replacesAll names the functions of the unit that have to do with a structure, if the update replaces all of them: those before the patch
// are changed, those after it changed or new.
func (u *unit) replacesAll(tag string, sides [2]*semantic.Told) ([]string, error) {
	var all []string
	for i, f := range []*objfile.File{u.pre.diff.File, u.post.diff.File} {
		if sides[i] == nil {
			return nil, errors.New("the compiler does not tell of the unit")
		}
		holders, err := semantic.Holders(sides[i], tag)
		if err != nil {
			return nil, err
		}
		for _, y := range f.Symbols {
			name, _, _ := strings.Cut(y.Name, ".") // NAME.cold, NAME.isra.0
			if y.Section == nil || y.Type != elf.STT_FUNC || !slices.Contains(holders, name) {
				continue
			}
			if !u.replaced(y) {
				return nil, fmt.Errorf("%s has to do with it and is not replaced", y.Name)
			}
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// replaced says that a function is one that the update replaces, or brings.
func (u *unit) replaced(y *objfile.Symbol) bool {
	return slices.ContainsFunc(u.result.Functions, func(f diff.FunctionChange) bool {
		return f.Kind == diff.Changed && (f.Pre == y || f.Post == y) || f.Kind == diff.New && f.Post == y
	})
}
