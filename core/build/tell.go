package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ksplice/ksplice/sdk/backend"
)

// Tell compiles the only unit of an input, and returns the object and the files of some names that the input's flags have the compiler write
// where it runs: at the top of the work tree. Nothing of it is kept. A backend whose compiler runs elsewhere gives an error that is
// os.ErrNotExist.
func (b *Builder) Tell(ctx context.Context, tree *backend.Tree, in CompileInput, names []string) (object []byte, files [][]byte, err error) {
	if len(in.Units) != 1 {
		return nil, nil, errors.New("tell of a unit: there must be one")
	}
	c, err := changesOf(tree, in.Files)
	if err != nil {
		return nil, nil, err
	}
	w, err := b.workTree(ctx, tree)
	if err != nil {
		return nil, nil, err
	}
	clean := false
	defer func() { w.end(clean) }()
	if err := w.put(tree, c.files); err != nil {
		clean = true
		return nil, nil, err
	}
	got, err := b.results(ctx, &backend.CompileRequest{Tree: tree, WorkDir: w.dir, Units: in.Units, ExtraFlags: in.Flags, Jobs: in.Jobs}, c, orSilent(nil))
	clean = got != nil
	if err == nil {
		err = b.failed(got)
	}
	if err != nil {
		return nil, nil, err
	}
	if object, err = os.ReadFile(got[0].Object); err != nil {
		return nil, nil, fmt.Errorf("read object: %w", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			return nil, nil, fmt.Errorf("read what the compiler tells: %w", err)
		}
		files = append(files, text)
	}
	return object, files, nil
}
