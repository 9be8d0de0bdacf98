package build

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ksplice/ksplice/sdk/backend"
)

func age(t *testing.T, path string, d time.Duration) {
	t.Helper()
	then := time.Now().Add(-d)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestSweepScratch(t *testing.T) {
	b := New(&fake{}, t.TempDir(), nil)
	alive, _, err := b.Temporary("x")
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(b.dir, "scratch")
	dead := filepath.Join(base, "run-dead")
	writeTest(t, filepath.Join(dead, "x"), "x")
	writeTest(t, dead+lockSuffix, "")
	half := filepath.Join(base, "run-half")
	writeTest(t, filepath.Join(half, "x"), "x")
	writeTest(t, filepath.Join(base, "run-lock"+lockSuffix), "")
	sweepScratch(base)
	if !there(alive) {
		t.Errorf("the directory of a run that is alive was removed")
	}
	for _, p := range []string{dead, dead + lockSuffix, half, half + lockSuffix, filepath.Join(base, "run-lock"+lockSuffix)} {
		if there(p) {
			t.Errorf("%s stays", filepath.Base(p))
		}
	}
}

func TestSweepObjects(t *testing.T) {
	base := t.TempDir()
	write := func(name string, size int, old time.Duration) string {
		p := filepath.Join(base, name)
		writeTest(t, p, string(make([]byte, size)))
		age(t, p, old)
		return p
	}
	oldest, older := write("a/1/x.o", 40, 5*time.Hour), write("b/2/x.o", 40, 4*time.Hour)
	newer, young := write("c/3/x.o", 40, 3*time.Hour), write("d/4/x.o", 400, time.Minute)
	sweepObjects(base, 600)
	if !there(oldest) {
		t.Errorf("an object was removed although there is room")
	}
	sweepObjects(base, 480)
	if there(oldest) || !there(older) || !there(newer) || !there(young) {
		t.Errorf("not just the oldest object was removed")
	}
	sweepObjects(base, 10)
	if there(older) || there(newer) || !there(young) {
		t.Errorf("the young object, which may be in use, has to stay, and no other")
	}
}

func TestSweepWork(t *testing.T) {
	b := New(&fake{}, t.TempDir(), nil)
	var trees [3]*backend.Tree
	var bases [3]string
	var work [3]*workTree
	for i := range trees {
		trees[i] = newTree(t)
		w, err := b.workTree(t.Context(), trees[i])
		if err != nil {
			t.Fatal(err)
		}
		work[i], bases[i] = w, filepath.Dir(w.dir)
		if i != 2 { // the third stays in use
			w.end(true)
		}
		age(t, w.dir+lockSuffix, 2*workTreeAge)
	}
	trash := filepath.Join(bases[0], trashPrefix+"x")
	writeTest(t, filepath.Join(trash, "y"), "y")
	sweepWork(filepath.Join(b.dir, "work"), filepath.Base(bases[0]))
	if !there(work[0].dir) || there(trash) {
		t.Errorf("of the current tree only the rubbish is to go")
	}
	if there(bases[1]) {
		t.Errorf("work trees that were not used for long stay")
	}
	if !there(work[2].dir) {
		t.Errorf("a work tree in use was removed")
	}
	work[2].end(true)
}
