package kbuild

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/sdk/backend"
)

// Units finds translation units; see backend.Backend. A source that is no unit of its own, a header or a .c file that
// others include, stands for all built units that include it, directly or not. That set may be too large (a name that could
// mean several files counts for each), never too small; units whose source is made during the build (tables, mostly) are
// not looked into.
func (Service) Units(ctx context.Context, req *backend.UnitsRequest) (*backend.UnitsResponse, error) {
	t, err := openFor(req.Tree)
	if err != nil {
		return nil, err
	}
	work := req.WorkDir
	if work == "" {
		work = t.Root()
	}
	d, err := t.directories(work)
	if err != nil {
		return nil, err
	}
	defer d.save()
	s := &unitSearch{t: t, d: d, work: work}
	if s.includes, err = t.includes(); err != nil {
		return nil, err
	}
	if req.All {
		list, err := s.all(ctx)
		if err != nil {
			return nil, err
		}
		return &backend.UnitsResponse{Units: sorted(slices.Clone(list))}, nil
	}
	var list []backend.Unit
	for _, source := range req.Sources {
		found, err := s.find(ctx, path.Clean(source))
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	return &backend.UnitsResponse{Units: sorted(list)}, nil
}

// sorted sorts units and drops doubles.
func sorted(list []backend.Unit) []backend.Unit {
	slices.SortFunc(list, func(a, b backend.Unit) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Module, b.Module))
	})
	return slices.Compact(list)
}

// unitSearch is one call of Units.
type unitSearch struct {
	t        *Tree
	d        *directories
	work     string
	every    []backend.Unit // all units, once asked for
	bySource map[string][]backend.Unit
	includes *includes
}

func (s *unitSearch) exists(name string) bool {
	_, err := os.Lstat(filepath.Join(s.work, name))
	return err == nil
}

func (s *unitSearch) all(ctx context.Context) ([]backend.Unit, error) {
	if s.every != nil {
		return s.every, nil
	}
	dirs, err := s.d.all(ctx, jobs(0), func(int) {})
	if err != nil {
		return nil, err
	}
	s.every = units(dirs, nil, s.source)
	s.bySource = map[string][]backend.Unit{}
	for _, u := range s.every {
		s.bySource[u.Source] = append(s.bySource[u.Source], u)
	}
	return s.every, nil
}

// manyIncluders is above how many includers of a file all makefiles are read, instead of those on the way to each.
const manyIncluders = 200

// find finds the units that compile one source, and those that include it. A source may be both: some .c files are compiled by
// themselves and included by others.
func (s *unitSearch) find(ctx context.Context, source string) ([]backend.Unit, error) {
	if !filepath.IsLocal(source) {
		return nil, errors.New("find units: " + source + " lies outside the tree")
	}
	list, err := s.of(ctx, source)
	if err != nil {
		return nil, err
	}
	files, everything := s.includes.includers(source)
	switch {
	case everything || len(files) > manyIncluders:
		all, err := s.all(ctx)
		if err != nil {
			return nil, err
		}
		if everything {
			return all, nil
		}
		for _, f := range files {
			list = append(list, s.bySource[f]...)
		}
	default:
		for _, f := range files {
			of, err := s.of(ctx, f)
			if err != nil {
				return nil, err
			}
			list = append(list, of...)
		}
	}
	return list, nil
}

// of finds the units that compile a file as their source: its own object, and those that a makefile's rule makes of it.
func (s *unitSearch) of(ctx context.Context, source string) ([]backend.Unit, error) {
	ext := path.Ext(source)
	if ext != ".c" && ext != ".S" {
		return nil, nil
	}
	wanted := map[string]bool{strings.TrimSuffix(source, ext) + ".o": true}
	for _, r := range s.includes.rules {
		if object, ok := r.object(source); ok {
			wanted[object] = true
		}
	}
	var list []backend.Unit
	for object := range wanted {
		dirs, err := s.d.chain(ctx, object)
		if err != nil {
			return nil, err
		}
		list = append(list, units(dirs, map[string]bool{object: true}, s.source)...)
	}
	return slices.DeleteFunc(list, func(u backend.Unit) bool { return u.Source != source }), nil
}

// source is what an object is compiled from; empty when that is made during the build.
func (s *unitSearch) source(object string) string {
	stem := strings.TrimSuffix(object, ".o")
	for _, ext := range []string{".c", ".S"} {
		if s.exists(stem+ext) || s.exists(stem+ext+shippedSuffix) {
			return stem + ext
		}
	}
	for _, r := range s.includes.rules {
		if source, ok := r.from(object); ok && s.exists(source) {
			return source
		}
	}
	return ""
}
