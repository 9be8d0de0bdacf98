package build

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ksplice/ksplice/sdk/arch"
)

// damages calls f with every single byte of a file changed, by its lowest bit and by the one that makes letters small, and then puts
// the file back.
func damages(t *testing.T, path string, f func(at int)) {
	t.Helper()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bit := range []byte{0x01, 0x20} {
		for i := range whole {
			b := append([]byte(nil), whole...)
			b[i] ^= bit
			writeOver(t, path, string(b))
			f(i)
		}
	}
	writeOver(t, path, string(whole))
}

// TestDamagedCache: with any byte of a record or of an object another one, the cache has nothing to give; in particular never the
// object from before a patch for that after it.
func TestDamagedCache(t *testing.T) {
	tree := newTree(t)
	sides := []struct {
		files map[string][]byte
		want  string
	}{
		{nil, "-f :ha;a;"},
		{files("h/a.h", "HA"), "-f :HA;a;"},
		{files("h/a.h", "HA", "a.c", "include h/a.h\nA"), "-f :HA;A;"},
	}
	all := make([]*changes, len(sides))
	for i, s := range sides {
		var err error
		if all[i], err = changesOf(tree, s.files); err != nil {
			t.Fatal(err)
		}
	}
	for made, m := range sides {
		b := New(&fake{}, t.TempDir(), nil)
		if got, _ := objectsOf(t, b, tree, m.files, "a.c"); got[0] != m.want {
			t.Fatalf("the object is %q", got[0])
		}
		found := func() (serves []int) {
			for i, s := range all {
				if o, ok := newUnitKey(b.dir, tree, unitOf("a.c"), []string{"-f", ":"}, s).find(s); ok {
					serves = append(serves, i)
					if text, err := os.ReadFile(o.Path); err != nil || string(text) != m.want {
						t.Errorf("found is %q, %v; want %q", text, err, m.want)
					}
				}
			}
			return serves
		}
		if got := found(); !slices.Equal(got, []int{made}) {
			t.Fatalf("the object of side %d serves %v", made, got)
		}
		for _, suffix := range []string{recordSuffix, objectSuffix} {
			kept, err := filepath.Glob(filepath.Join(b.dir, "objects/*/*/*"+suffix))
			if err != nil || len(kept) != 1 {
				t.Fatalf("the cache has %v (%v), want one file %s", kept, err, suffix)
			}
			damages(t, kept[0], func(at int) {
				if got := found(); len(got) > 0 {
					t.Errorf("byte %d of the %s of side %d damaged: it serves %v", at, suffix, made, got)
				}
			})
		}
		if got := found(); !slices.Equal(got, []int{made}) {
			t.Fatalf("as it was, the object of side %d serves %v", made, got)
		}
	}
}

// TestRecordElsewhere: a record in the place of another unit's is none.
func TestRecordElsewhere(t *testing.T) {
	tree := newTree(t)
	b := New(&fake{}, t.TempDir(), nil)
	objectsOf(t, b, tree, nil, "a.c")
	kept, err := filepath.Glob(filepath.Join(b.dir, "objects/*/*"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("the cache has %v, %v", kept, err)
	}
	c, err := changesOf(tree, nil)
	if err != nil {
		t.Fatal(err)
	}
	other := newUnitKey(b.dir, tree, unitOf("b.c"), []string{"-f", ":"}, c)
	if err := os.MkdirAll(filepath.Dir(other.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(kept[0], other.dir); err != nil {
		t.Fatal(err)
	}
	if got, cached := objectsOf(t, b, tree, nil, "b.c"); got[0] != "-f :hb;b;" || cached[0] {
		t.Errorf("b.c is %q, cached %t", got[0], cached[0])
	}
}

// TestDamagedFacts: facts whose file was altered are asked for again.
func TestDamagedFacts(t *testing.T) {
	tree := newTree(t)
	f := &fake{}
	b := New(f, t.TempDir(), nil)
	facts := func() int64 {
		m, err := b.Facts(t.Context(), tree, []arch.FactExpression{{Name: "size", Expression: "sizeof(int)"}})
		if err != nil {
			t.Fatal(err)
		}
		return m["size"]
	}
	facts()
	kept, err := filepath.Glob(filepath.Join(b.dir, "facts/*"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("the cache has %v, %v", kept, err)
	}
	damages(t, kept[0], func(at int) {
		before := f.facts
		if got := facts(); got != 7 || f.facts != before+1 {
			t.Errorf("byte %d damaged: %d, the backend was asked %d times", at, got, f.facts-before)
		}
	})
	before := f.facts
	if got := facts(); got != 7 || f.facts != before {
		t.Errorf("the file as it was: %d, the backend was asked %d times", got, f.facts-before)
	}
}
