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
// mean several files counts for each), never too small, but for includes whose name is computed by a macro.
func Units(ctx context.Context, req *backend.UnitsRequest) (*backend.UnitsResponse, error) {
	t, err := openFor(req.Tree)
	if err != nil {
		return nil, err
	}
	work := req.WorkDir
	if work == "" {
		work = t.Root()
	}
	d, done, err := t.directories(work)
	if err != nil {
		return nil, err
	}
	defer done()
	s := &unitSearch{t: t, d: d, work: work}
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
	s.every = units(dirs, nil, s.exists)
	s.bySource = map[string][]backend.Unit{}
	for _, u := range s.every {
		s.bySource[u.Source] = append(s.bySource[u.Source], u)
	}
	return s.every, nil
}

// find finds the units of one source, or those that include it.
func (s *unitSearch) find(ctx context.Context, source string) ([]backend.Unit, error) {
	ext := path.Ext(source)
	if !filepath.IsLocal(source) {
		return nil, errors.New("find units: " + source + " lies outside the tree")
	}
	if ext == ".c" || ext == ".S" {
		dirs, err := s.d.chain(ctx, source)
		if err != nil {
			return nil, err
		}
		object := strings.TrimSuffix(source, ext) + ".o"
		list := slices.DeleteFunc(units(dirs, map[string]bool{object: true}, s.exists), func(u backend.Unit) bool { return u.Source != source })
		if len(list) > 0 {
			return list, nil
		}
	}
	if s.includes == nil {
		var err error
		if s.includes, err = s.t.includes(s.work); err != nil {
			return nil, err
		}
	}
	files, everything := s.includes.includers(source)
	all, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	if everything {
		return all, nil
	}
	list := slices.Clone(s.bySource[source])
	for _, f := range files {
		list = append(list, s.bySource[f]...)
	}
	return list, nil
}
