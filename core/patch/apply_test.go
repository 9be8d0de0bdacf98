package patch

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// reader serves files from a map.
func reader(files map[string]string) func(string) ([]byte, error) {
	return func(path string) ([]byte, error) {
		if s, ok := files[path]; ok {
			return []byte(s), nil
		}
		return nil, fmt.Errorf("open %s: %w", path, fs.ErrNotExist)
	}
}

// parse parses a patch whose file names are all mm/a.c.
func parse(t *testing.T, hunks string) *Patch {
	t.Helper()
	if strings.HasPrefix(hunks, "@@") {
		hunks = "--- a/mm/a.c\n+++ b/mm/a.c\n" + hunks
	}
	p, err := Parse([]byte(hunks))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// letters is a file of a line a letter.
func letters(s string) string {
	var b strings.Builder
	for _, c := range s {
		fmt.Fprintf(&b, "%c\n", c)
	}
	return b.String()
}

func TestApply(t *testing.T) {
	for _, tt := range []struct {
		name, patch string
		files       map[string]string
		want        map[string]string // "-" stands for a file that is gone
		offsets     []Offset
	}{
		{"one hunk", "@@ -1,4 +1,5 @@\n a\n-b\n+B\n+C\n c\n d\n",
			map[string]string{"mm/a.c": letters("abcd")}, map[string]string{"mm/a.c": letters("aBCcd")}, nil},
		{"end without newline", "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n",
			map[string]string{"mm/a.c": "a\nb"}, map[string]string{"mm/a.c": "a\nb\n"}, nil},
		{"offset", "@@ -2,3 +2,3 @@\n b\n-c\n+C\n d\n",
			map[string]string{"mm/a.c": letters("xyzabcdef")}, map[string]string{"mm/a.c": letters("xyzabCdef")}, []Offset{{"mm/a.c", 1, 3}}},
		{"offset of the second", "@@ -2,3 +2,3 @@\n b\n-c\n+C\n d\n@@ -6,3 +6,2 @@\n f\n-g\n h\n",
			map[string]string{"mm/a.c": letters("xabcdefgh.")}, map[string]string{"mm/a.c": letters("xabCdefh.")}, []Offset{{"mm/a.c", 1, 1}, {"mm/a.c", 2, 1}}},
		{"exact place among equals", "@@ -5,3 +5,3 @@\n a\n-b\n+B\n c\n",
			map[string]string{"mm/a.c": letters("abc.abc.")}, map[string]string{"mm/a.c": letters("abc.aBc.")}, nil},
		{"no context but a place", "@@ -2 +2 @@\n-b\n+B\n",
			map[string]string{"mm/a.c": letters("abc")}, map[string]string{"mm/a.c": letters("aBc")}, nil},
		{"new", "--- /dev/null\n+++ b/mm/new.c\n@@ -0,0 +1 @@\n+x\n",
			nil, map[string]string{"mm/new.c": "x\n"}, nil},
		{"gone", "--- a/mm/a.c\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-a\n-b\n",
			map[string]string{"mm/a.c": letters("ab")}, map[string]string{"mm/a.c": "-"}, nil},
		{"renamed", "diff --git a/mm/a.c b/mm/b.c\nrename from mm/a.c\nrename to mm/b.c\n--- a/mm/a.c\n+++ b/mm/b.c\n@@ -1,2 +1,2 @@\n a\n-b\n+B\n",
			map[string]string{"mm/a.c": letters("ab")}, map[string]string{"mm/a.c": "-", "mm/b.c": letters("aB")}, nil},
		{"mode only", "diff --git a/mm/a.c b/mm/a.c\nold mode 100644\nnew mode 100755\n",
			map[string]string{"mm/a.c": "a\n"}, map[string]string{}, nil},
		{"one file twice", "--- a/mm/a.c\n+++ b/mm/a.c\n@@ -1,2 +1,2 @@\n a\n-b\n+B\n--- a/mm/a.c\n+++ b/mm/a.c\n@@ -1,2 +1,2 @@\n a\n-B\n+C\n",
			map[string]string{"mm/a.c": letters("ab")}, map[string]string{"mm/a.c": letters("aC")}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := parse(t, tt.patch)
			r, err := p.ApplyTo(reader(tt.files))
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			after := maps.Clone(tt.files)
			if after == nil {
				after = map[string]string{}
			}
			for path, b := range r.Files {
				if got[path] = string(b); b == nil {
					got[path] = "-"
					delete(after, path)
				} else {
					after[path] = string(b)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.offsets, r.Offsets); diff != "" {
				t.Errorf("offsets (-want +got):\n%s", diff)
			}
			back, err := p.Reverse().Apply(reader(after))
			if err != nil {
				t.Fatalf("reversed: %v", err)
			}
			for path, b := range back {
				if want, ok := tt.files[path]; string(b) != want || ok != (b != nil) {
					t.Errorf("reversed: %s = %q, want %q", path, b, want)
				}
			}
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, patch string
		files       map[string]string
		want        HunkError
	}{
		{"other line", "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n@@ -5,3 +5,3 @@\n e\n-f\n+F\n g\n",
			map[string]string{"mm/a.c": letters("abcdeXg")},
			HunkError{File: "mm/a.c", Hunk: 2, PatchLine: 8, Line: 6, Expected: "f\n", Found: "X\n", Reason: "its context is not in the source"}},
		{"short file", "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n", map[string]string{"mm/a.c": letters("ab")},
			HunkError{File: "mm/a.c", Hunk: 1, PatchLine: 3, Line: 3, Expected: "c\n", Reason: "its context is not in the source"}},
		{"white space", "@@ -1,3 +1,3 @@\n a\n-    b = 1;\n+B\n c\n", map[string]string{"mm/a.c": "a\n\tb = 1;\nc\n"},
			HunkError{File: "mm/a.c", Hunk: 1, PatchLine: 3, Line: 2, Expected: "    b = 1;\n", Found: "\tb = 1;\n", Reason: "the source differs in white space (was the patch mailed or pasted?)"}},
		{"ambiguous", "@@ -3,3 +3,3 @@\n a\n-b\n+B\n c\n", map[string]string{"mm/a.c": letters("xabc.abc.")},
			HunkError{File: "mm/a.c", Hunk: 1, PatchLine: 3, Reason: "it is not where it says (line 3), and fits both line 2 and line 6"}},
		{"no context", "@@ -2,0 +3 @@\n+x\n", map[string]string{"mm/a.c": letters("abc")},
			HunkError{File: "mm/a.c", Hunk: 1, PatchLine: 3, Reason: "it has no context that says where it belongs (make the patch with three lines of it)"}},
		{"not at the end", "@@ -1,3 +1,4 @@\n a\n b\n c\n+d\n", map[string]string{"mm/a.c": letters("abcx")},
			HunkError{File: "mm/a.c", Hunk: 1, PatchLine: 3, Reason: "its lines are in the source, but not next to the end of the file that its context says"}},
		{"not at the start", "@@ -1,3 +1,4 @@\n+_\n a\n b\n c\n", map[string]string{"mm/a.c": letters("xabc")},
			HunkError{File: "mm/a.c", Hunk: 1, PatchLine: 3, Line: 1, Expected: "a\n", Found: "x\n", Reason: "its context is not in the source"}},
		{"exists", "--- /dev/null\n+++ b/mm/a.c\n@@ -0,0 +1 @@\n+x\n", map[string]string{"mm/a.c": "y\n"},
			HunkError{File: "mm/a.c", Hunk: 1, PatchLine: 3, Reason: "it makes a file that exists"}},
		{"more to delete", "--- a/mm/a.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n", map[string]string{"mm/a.c": "x\ny\n"},
			HunkError{File: "mm/a.c", Hunk: 1, PatchLine: 3, Reason: "it deletes a file that has more lines"}},
		{"applied", "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n", map[string]string{"mm/a.c": letters("aBc")},
			HunkError{File: "mm/a.c", Hunk: 1, PatchLine: 3, Line: 2, Expected: "b\n", Found: "B\n", Reason: "its context is not in the source", Applied: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse(t, tt.patch).Apply(reader(tt.files))
			var got *HunkError
			if !errors.As(err, &got) {
				t.Fatalf("Apply gives error %v, want a HunkError", err)
			}
			if diff := cmp.Diff(tt.want, *got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			for _, word := range []string{"mm/a.c", fmt.Sprintf("hunk %d", tt.want.Hunk), tt.want.Reason} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("error %q does not say %q", err, word)
				}
			}
			if tt.want.Applied != strings.Contains(err.Error(), "already") {
				t.Errorf("error %q, applied %v", err, tt.want.Applied)
			}
		})
	}
	_, err := parse(t, "@@ -1 +1 @@\n-a\n+b\n").Apply(reader(nil))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "mm/a.c") {
		t.Errorf("Apply without the file gives %v, want %v with its name", err, fs.ErrNotExist)
	}
}

// gnuPatch applies a patch to files with GNU patch.
func gnuPatch(t *testing.T, files map[string][]byte, text []byte, args ...string) (map[string][]byte, error) {
	t.Helper()
	dir := t.TempDir()
	for path, b := range files {
		at := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("patch", append([]string{"-p1", "--fuzz=0", "--batch", "--no-backup-if-mismatch", "-r", "-", "-d", dir}, args...)...)
	cmd.Stdin = bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	after := map[string][]byte{}
	for path := range files {
		b, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		after[path] = b
	}
	return after, nil
}

// TestApplyAsGNU edits files at random, lets diff make the patch, moves the source a little, and compares with GNU patch.
func TestApplyAsGNU(t *testing.T) {
	for _, tool := range []string{"patch", "diff"} {
		need.Program(t, tool)
	}
	random := rand.New(rand.NewSource(7))
	dir := t.TempDir()
	applied, offsets := 0, 0
	for round := range 60 {
		var lines []string
		for i := range 30 + random.Intn(60) {
			lines = append(lines, fmt.Sprintf("line %d\n", i*(1+random.Intn(3))))
		}
		old := strings.Join(lines, "")
		made := strings.Join(edit(random, lines), "")
		for name, s := range map[string]string{"old": old, "new": made} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text, _ := exec.Command("diff", "-u", "--label", "a/mm/a.c", "--label", "b/mm/a.c", filepath.Join(dir, "old"), filepath.Join(dir, "new")).Output()
		if len(text) == 0 {
			continue
		}
		source := old
		if round%2 == 1 {
			source = strings.Repeat("moved\n", random.Intn(4)) + strings.Join(edit(random, lines), "")
		}
		want, gnuErr := gnuPatch(t, map[string][]byte{"mm/a.c": []byte(source)}, text)
		r, err := parse(t, string(text)).ApplyTo(reader(map[string]string{"mm/a.c": source}))
		if err != nil {
			if gnuErr == nil && !strings.Contains(err.Error(), "fits both") {
				t.Errorf("round %d: GNU patch applies what is refused here: %v\n%s", round, err, text)
			}
			continue
		}
		applied++
		offsets += len(r.Offsets)
		if gnuErr != nil {
			t.Errorf("round %d: applied, though GNU patch refuses: %v\n%s", round, gnuErr, text)
		} else if diff := cmp.Diff(string(want["mm/a.c"]), string(r.Files["mm/a.c"])); diff != "" {
			t.Errorf("round %d (-GNU +here):\n%s", round, diff)
		}
	}
	if applied < 20 || offsets == 0 {
		t.Errorf("%d patches applied with %d offsets: too few to prove anything", applied, offsets)
	}
}

// edit changes lines at random.
func edit(random *rand.Rand, lines []string) []string {
	var out []string
	for _, l := range lines {
		switch random.Intn(25) {
		case 0:
		case 1:
			out = append(out, l, fmt.Sprintf("new %d\n", random.Intn(1000)))
		default:
			out = append(out, l)
		}
	}
	return out
}

// TestPatches takes every patch of the directory KSPLICE_TEST_PATCHES out of the source tree KSPLICE_TEST_SOURCE, as patch -R
// does, and compares with what GNU patch makes. The files are then stabilised, which must not change them otherwise.
func TestPatches(t *testing.T) {
	patches, source := os.Getenv("KSPLICE_TEST_PATCHES"), os.Getenv("KSPLICE_TEST_SOURCE")
	if patches == "" || source == "" {
		t.Skip("SKIPPED: it wants KSPLICE_TEST_PATCHES and KSPLICE_TEST_SOURCE, directories of patches and of the kernel source that holds them")
	}
	names, err := filepath.Glob(filepath.Join(patches, "*.patch"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no patches in %s (%v)", patches, err)
	}
	files := 0
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		before := map[string][]byte{}
		r, err := p.Reverse().ApplyTo(func(path string) ([]byte, error) {
			b, err := os.ReadFile(filepath.Join(source, path))
			before[path] = b
			return b, err
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want, err := gnuPatch(t, before, text, "-R")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for path, got := range r.Files {
			files++
			if !bytes.Equal(got, want[path]) {
				t.Errorf("%s: %s is not what GNU patch makes", name, path)
			}
			stable, err := StabilizeLines(before[path], got, path)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if !bytes.Equal(withoutLines(stable), got) {
				t.Errorf("%s: stabilising %s changes it", name, path)
			}
		}
	}
	t.Logf("%d patches, %d files", len(names), files)
}

// withoutLines takes inserted #line directives out. The sources of tests have none of their own.
func withoutLines(b []byte) []byte {
	var out []byte
	for _, l := range splitLines(b) {
		if !strings.HasPrefix(l, "#line ") {
			out = append(out, l...)
		}
	}
	return out
}
