package create

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/patch"
	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/sdk/backend"
)

const (
	// manyUnits is from how many units on it pays to look at a patched header's types first.
	manyUnits = 8
	// maxAhead bounds the units that go ahead because they use a changed type.
	maxAhead = 2
	// allTypes has gcc describe the types that a unit declares and does not use, too.
	allTypes = "-fno-eliminate-unused-debug-types"
)

// ahead chooses units to compile before the others. Of a few it is the first. Where a patched header reaches many, one of them is
// compiled with all its types described; units that speak of a type which changes there come first. Only what these objects
// themselves use is refused: a type that nobody uses may change.
func (r *run) ahead(ctx context.Context) ([]*unit, error) {
	headers := r.headers()
	first := r.units[:1]
	if len(r.units) < manyUnits || len(headers) == 0 || r.fresh(first[0].Source) || r.gone(first[0].Source) {
		return first, nil
	}
	probe := first[0]
	if found := r.mentioning(headers, 1); len(found) > 0 {
		probe = found[0]
	}
	names, err := r.changedTypes(ctx, probe)
	if err != nil {
		return nil, err
	}
	if found := r.mentioning(names, maxAhead); len(found) > 0 {
		return found, nil
	}
	return first, nil
}

// headers are the patched headers as units include them.
func (r *run) headers() []string {
	var out []string
	for _, f := range r.patches[len(r.patches)-1].Files {
		if p := f.Path(); strings.HasSuffix(p, ".h") && patch.Classify(p).Class != patch.Ignored {
			_, name, ok := strings.Cut(p, "include/")
			if !ok {
				name = filepath.Base(p)
			}
			out = append(out, name)
		}
	}
	return out
}

// mentioning returns the first units whose source has one of the words in it, of those that exist before and after the patch.
func (r *run) mentioning(words []string, most int) []*unit {
	var out []*unit
	for _, u := range r.units {
		if r.fresh(u.Source) || r.gone(u.Source) {
			continue
		}
		text, ok := r.post[u.Source]
		if !ok {
			// One that cannot be read is generated; it goes with the rest.
			text, _ = os.ReadFile(filepath.Join(r.tree.Source, u.Source))
		}
		for _, w := range words {
			if bytes.Contains(text, []byte(w)) {
				out = append(out, u)
				break
			}
		}
		if len(out) == most {
			break
		}
	}
	return out
}

// changedTypes names the types whose layout the patch changes, among all that a unit declares.
func (r *run) changedTypes(ctx context.Context, u *unit) ([]string, error) {
	r.stage("types")
	described := append(slices.Clone(r.flags), allTypes)
	same := []backend.Unit{u.Unit}
	pre, post, err := r.objects(ctx, same, same, described)
	if err != nil {
		return nil, err
	}
	changes, err := semantic.CompareFiles(pre[0].Path, post[0].Path)
	if err != nil {
		return nil, fmt.Errorf("%s: compare types: %w", u.Object, err)
	}
	var names []string
	for _, c := range changes {
		names = append(names, c.Name)
	}
	return names, nil
}
