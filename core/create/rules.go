package create

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/build"
	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/patch"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// isRules says that a file is a makefile that a patch may change.
func isRules(file string) bool { return patch.Classify(file).Class == patch.Rules }

// rules lists the makefiles that the patch changes.
func (r *run) rules() []string {
	var out []string
	for _, f := range r.patches[len(r.patches)-1].Files {
		if isRules(f.Path()) {
			out = append(out, f.Path())
		}
	}
	return out
}

// built finds the units that compile files, or include them, where the tree has changed files. Only makefiles, and sources that are gone,
// make that another question than what the tree itself builds.
func (r *run) built(ctx context.Context, files map[string][]byte, paths []string) ([]backend.Unit, error) {
	for name, b := range files {
		if isRules(name) || b == nil && !isHeader(name) {
			return r.o.Builder.AffectedIn(ctx, r.tree, files, paths)
		}
	}
	return r.o.Builder.Affected(ctx, r.tree, paths)
}

// reached finds the units that the files reach: after the patch, and those whose source it takes away.
func (r *run) reached(ctx context.Context, paths []string) ([]backend.Unit, error) {
	units, err := r.built(ctx, r.post, paths)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(paths, r.gone) {
		return units, nil
	}
	before, err := r.built(ctx, r.pre, paths)
	if err != nil {
		return nil, err
	}
	return append(units, slices.DeleteFunc(before, func(u backend.Unit) bool { return !r.gone(u.Source) })...), nil
}

// fresh says that the patch brings a file.
func (r *run) fresh(file string) bool {
	if r.post[file] == nil || r.pre[file] != nil {
		return false
	}
	if _, ok := r.pre[file]; ok {
		return true
	}
	_, err := os.Stat(filepath.Join(r.tree.Source, file))
	return errors.Is(err, os.ErrNotExist)
}

// gone says that the patch takes a file away.
func (r *run) gone(file string) bool {
	b, ok := r.post[file]
	was, there := r.pre[file]
	return ok && b == nil && !(there && was == nil)
}

// checkRules refuses changes of makefiles that do more than build the patch's new files, or leave out those that it takes away: what kbuild
// makes of the directories concerned must be the same but for these.
func (r *run) checkRules(ctx context.Context) error {
	rules := r.rules()
	if len(rules) == 0 {
		return nil
	}
	var reasons []string
	for _, f := range rules {
		if r.fresh(f) {
			if other := r.otherMakefile(f); other != "" {
				reasons = append(reasons, fmt.Sprintf("%s: the directory has %s already, and kbuild reads one of them", f, other))
			}
		}
	}
	if len(reasons) > 0 {
		return refuse(ReasonUnsupported, reasons...)
	}
	sources, err := r.beside(append(rules, code(r.patches[len(r.patches)-1])...))
	if err != nil {
		return err
	}
	var units [2][]backend.Unit
	for i, files := range []map[string][]byte{r.pre, r.post} {
		list, err := r.built(ctx, files, sources)
		if err != nil {
			return err
		}
		units[i] = slices.DeleteFunc(list, func(u backend.Unit) bool { return !slices.Contains(sources, u.Source) })
	}
	pre, post := units[0], units[1]
	for _, u := range pre {
		if !r.gone(u.Source) && !slices.Contains(post, u) {
			reasons = append(reasons, fmt.Sprintf("%s: it is no longer built for %s, where the running kernel has it: leave it in the makefile's lists", u.Source, targetOf(u)))
		}
	}
	for _, u := range post {
		switch {
		case slices.Contains(pre, u):
		case !r.fresh(u.Source):
			reasons = append(reasons, fmt.Sprintf("%s: it would be built for %s, where the running kernel does not have it: add new files only to the makefile's lists", u.Source, targetOf(u)))
		case u.Module != "" && !slices.ContainsFunc(pre, func(o backend.Unit) bool { return o.Module == u.Module }):
			reasons = append(reasons, fmt.Sprintf("%s: it would make a new module %s: build that and load it by itself, or add the file to a module that is there", u.Source, u.Module))
		}
	}
	if len(reasons) > 0 {
		return refuse(ReasonUnsupported, reasons...)
	}
	return nil
}

// otherMakefile names the makefile that the tree has in a makefile's directory under another name.
func (r *run) otherMakefile(file string) string {
	for _, name := range []string{"Kbuild", "Makefile"} {
		other := path.Join(path.Dir(file), name)
		if _, err := os.Stat(filepath.Join(r.tree.Source, other)); err == nil && other != file {
			return other
		}
	}
	return ""
}

// beside lists the sources in the directories of files, before or after the patch.
func (r *run) beside(files []string) ([]string, error) {
	var out []string
	dirs := map[string]bool{}
	for _, f := range files {
		dirs[path.Dir(f)] = true
	}
	isSource := func(name string) bool { return strings.HasSuffix(name, ".c") || strings.HasSuffix(name, ".S") }
	for dir := range dirs {
		entries, err := os.ReadDir(filepath.Join(r.tree.Source, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("look at what the makefiles build: %w", err)
		}
		for _, e := range entries {
			if isSource(e.Name()) {
				out = append(out, path.Join(dir, e.Name()))
			}
		}
	}
	for name := range r.post { // what r.pre has, r.post has, too
		if dirs[path.Dir(name)] && isSource(name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// nothing is the side of a unit on which its source does not exist: an object with nothing in it.
func (r *run) nothing(name string) (*side, error) {
	file := filepath.Join(r.dir, name)
	if err := objfile.New(elf.Machine(r.tree.Machine)).WriteFile(file); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	f, err := objfile.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s := &side{nothing: true, stripped: plugin.File{Path: file, SHA256: update.Digest(b)}, bytes: b, diff: &diff.Object{File: f}}
	s.object = build.Object{Path: file, SHA256: s.stripped.SHA256, Cached: true}
	return s, nil
}
