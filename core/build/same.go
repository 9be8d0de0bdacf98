package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/core/csource"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

const (
	// sampled is how many units are preprocessed at a time, and at first: the texts of a unit before and after the patch take some 10 MB.
	sampled = 16
	// worthwhile is the share of the first ones that must need no new code for the rest to be preprocessed, too. To preprocess a unit
	// takes about a tenth of what it takes to compile it.
	worthwhile = 1.0 / 8
)

// Unaffected says which of the units need no other code with the files after than they have with those before, as their preprocessed texts
// prove (core/csource). Where it does not pay, or nothing is proved, the answer is false.
func (b *Builder) Unaffected(ctx context.Context, tree *backend.Tree, before, after CompileInput, progress plugin.ProgressFunc) ([]bool, error) {
	root, err := b.root()
	if err != nil {
		return nil, err
	}
	pre, err := changesOf(tree, before.Files)
	if err != nil {
		return nil, err
	}
	post, err := changesOf(tree, after.Files)
	if err != nil {
		return nil, err
	}
	units := before.Units
	if len(units) == 0 || pre.others != post.others { // makefiles, and what else the compiler does not read, decide what is compiled how
		return make([]bool, len(units)), nil
	}
	parts := append([]string{layout, "unaffected", tree.ID, pre.all, post.all}, before.Flags...)
	for _, u := range units {
		parts = append(parts, u.Source, u.Object, u.Module)
	}
	key := digest(parts...)
	path := filepath.Join(root, "facts", key+recordSuffix)
	var same []bool
	if readSealed(path, key, &same) && len(same) == len(units) {
		return same, nil
	}
	s := &comparison{b: b, tree: tree, units: units, flags: before.Flags, jobs: before.Jobs, progress: orSilent(progress), same: make([]bool, len(units))}
	if err := s.do(ctx, pre, post); err != nil {
		return nil, err
	}
	if err := writeSealed(path, key, s.same); err != nil {
		b.log.Warn("what the preprocessor tells is not kept", "error", err)
	}
	return s.same, nil
}

// comparison is one call of Unaffected.
type comparison struct {
	b        *Builder
	tree     *backend.Tree
	units    []backend.Unit
	flags    []string
	jobs     int
	progress plugin.ProgressFunc
	same     []bool
}

func (s *comparison) do(ctx context.Context, pre, post *changes) error {
	var trees [2]*workTree
	clean := true
	for i, c := range []*changes{pre, post} {
		w, err := s.b.workTree(ctx, s.tree)
		if err != nil {
			return err
		}
		defer func() { w.end(clean) }()
		trees[i] = w
		if err := w.put(s.tree, c.files); err != nil {
			return err
		}
	}
	merged := mergeProgress(2, s.progress)
	for first := 0; first < len(s.units); first += sampled {
		list := s.units[first:min(first+sampled, len(s.units))]
		var texts [2][]backend.CompileResult
		err := sideBySide(2, s.jobs, func(i, jobs int) (err error) {
			req := &backend.CompileRequest{Tree: s.tree, WorkDir: trees[i].dir, Units: list, ExtraFlags: s.flags, Jobs: jobs, Preprocess: true}
			texts[i], err = s.b.results(ctx, req, []*changes{pre, post}[i], within(merged[i], first, len(s.units)))
			return err
		})
		if err != nil {
			clean = false
			return fmt.Errorf("preprocess: %w", err)
		}
		if err := s.compare(first, texts); err != nil {
			return fmt.Errorf("preprocess: %w", err)
		}
		if first == 0 && float64(count(s.same[:len(list)])) < worthwhile*float64(len(list)) {
			s.b.log.Debug("preprocessing does not pay", "units", len(s.units), "sampled", len(list))
			return nil
		}
	}
	return nil
}

// compare compares texts, those of the unit with number first to begin with, and removes them.
func (s *comparison) compare(first int, texts [2][]backend.CompileResult) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range texts[0] {
		g.Go(func() error {
			var text [2][]byte
			for side := range text {
				name := texts[side][i].Object
				if name == "" {
					return nil // it cannot be preprocessed: the compiler will say why
				}
				var err error
				if text[side], err = os.ReadFile(name); err != nil {
					return err
				}
				if err := os.Remove(name); err != nil {
					return err
				}
			}
			same := csource.Same
			if filepath.Ext(s.units[first+i].Source) != ".c" {
				same = csource.SameText
			}
			s.same[first+i] = same(text[0], text[1])
			return nil
		})
	}
	return g.Wait()
}

func count(list []bool) (n int) {
	for _, x := range list {
		if x {
			n++
		}
	}
	return n
}
