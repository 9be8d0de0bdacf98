package build

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ksplice/ksplice/sdk/backend"
)

// unitKey is the directory of one unit's objects: those of one tree, compiled with the same flags. In it are variants, an object
// and a record each; the record says which files the compiler read, and which of those were changed. An object serves a
// compile that would read the same: patches that touch other files share it.
type unitKey struct {
	dir  string
	full string
	unit backend.Unit
}

func newUnitKey(root string, tree *backend.Tree, u backend.Unit, flags []string, c *changes) unitKey {
	k := digest(append([]string{layout, tree.ID, u.Source, u.Object, u.Module, c.others}, flags...)...)
	return unitKey{filepath.Join(root, "objects", k[:2], k[2:34]), k, u}
}

// variant is the record of an object.
type variant struct {
	// Includes are the files that the compiler read, relative to the source directory, sorted.
	Includes []string `json:"includes"`
	// Changed has the digests of those that differ from the tree.
	Changed map[string]string `json:"changed,omitempty"`
	// Appear are the files that were new or gone.
	Appear []string `json:"appear,omitempty"`
	// All is a digest of all changed files where only just those are good: the unit read files that were made during the
	// build, from which nobody knows what.
	All    string `json:"all,omitempty"`
	SHA256 string `json:"sha256"`
	// Nanoseconds is what compiling took.
	Nanoseconds int64 `json:"nanoseconds"`
}

// fits says whether a compile with these changes would read what this one did.
func (v *variant) fits(c *changes) bool {
	if v.All != "" {
		return v.All == c.all
	}
	if !slices.Equal(v.Appear, c.appear) {
		return false
	}
	return maps.Equal(v.Changed, c.among(v.Includes))
}

// among gives the digests of the changed files among sorted names.
func (c *changes) among(includes []string) map[string]string {
	m := map[string]string{}
	for name, d := range c.digests {
		if _, ok := slices.BinarySearch(includes, name); ok {
			m[name] = d
		}
	}
	return m
}

const objectSuffix = ".o"

// find looks for an object. One that was altered is no object, and neither is one whose record was: with a name less among its
// includes it would serve source that it was not made of.
func (k unitKey) find(c *changes) (*Object, bool) {
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return nil, false
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok || strings.HasPrefix(name, ".") {
			continue
		}
		record := filepath.Join(k.dir, e.Name())
		var v variant
		if !readSealed(record, k.full, &v) || v.SHA256 == "" || !v.fits(c) {
			continue
		}
		object := filepath.Join(k.dir, name+objectSuffix)
		b, err := os.ReadFile(object)
		if err != nil || sum(b) != v.SHA256 {
			continue
		}
		now := time.Now() // used last: sweep takes the oldest first
		_ = os.Chtimes(object, now, now)
		_ = os.Chtimes(record, now, now)
		return &Object{Unit: k.unit, Path: object, SHA256: v.SHA256, Cached: true, Nanoseconds: v.Nanoseconds}, true
	}
	return nil, false
}

// keep moves a compiled object into the cache.
func (k unitKey) keep(tree *backend.Tree, c *changes, r *backend.CompileResult) (*Object, error) {
	b, err := os.ReadFile(r.Object)
	if err != nil {
		return nil, err
	}
	v := &variant{Includes: slices.Compact(slices.Sorted(slices.Values(r.Includes))), Appear: c.appear, SHA256: sum(b), Nanoseconds: r.Nanoseconds}
	v.Changed = c.among(v.Includes)
	whole, err := madeDuringBuild(tree, c, v.Includes)
	if err != nil {
		return nil, err
	}
	if whole {
		v.All = c.all
	}
	name := []string{v.All}
	name = append(name, v.Appear...)
	for _, p := range slices.Sorted(maps.Keys(v.Changed)) {
		name = append(name, p, v.Changed[p])
	}
	base := filepath.Join(k.dir, digest(name...)[:32])
	if err := os.MkdirAll(k.dir, 0o755); err != nil {
		return nil, err
	}
	// The object first: a record without its object is passed over, and so is an object without its record.
	if err := os.Chmod(r.Object, 0o444); err != nil {
		return nil, err
	}
	if err := os.Rename(r.Object, base+objectSuffix); err != nil {
		return nil, err
	}
	if err := writeSealed(base+recordSuffix, k.full, v); err != nil {
		return nil, err
	}
	return &Object{Unit: k.unit, Path: base + objectSuffix, SHA256: v.SHA256, Nanoseconds: r.Nanoseconds}, nil
}

// madeDuringBuild says whether a unit read files that neither the tree nor the patch has, or does not say what it read.
func madeDuringBuild(tree *backend.Tree, c *changes, includes []string) (bool, error) {
	if len(includes) == 0 {
		return true, nil
	}
	for _, name := range includes {
		if _, ok := c.files[name]; ok {
			continue
		}
		_, err := os.Lstat(filepath.Join(tree.Source, name))
		if errors.Is(err, os.ErrNotExist) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("look at what the compiler read: %w", err)
		}
	}
	return false, nil
}
