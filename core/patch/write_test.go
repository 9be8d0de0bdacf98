package patch

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestBytes parses what Bytes wrote, of patches as they are and reversed.
func TestBytes(t *testing.T) {
	texts := map[string]string{
		"new file":     "A title\n\ndiff --git a/x.c b/x.c\nnew file mode 100644\n--- /dev/null\n+++ b/x.c\n@@ -0,0 +1,2 @@\n+a\n+b\n",
		"no newline":   "--- a/x.c\n+++ b/x.c\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n",
		"rename":       "diff --git a/x.c b/y.c\nsimilarity index 90%\nrename from x.c\nrename to y.c\n--- a/x.c\n+++ b/y.c\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n",
		"two files":    "Subject: [PATCH] both\n\n--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n--- a/y.c\n+++ b/y.c\n@@ -3,2 +3,3 @@ int f(void)\n a\n+b\n c\n",
		"deleted file": "diff --git a/x.c b/x.c\ndeleted file mode 100644\n--- a/x.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n",
	}
	lines, err := os.ReadFile(filepath.Join("testdata", "lines.patch"))
	if err != nil {
		t.Fatal(err)
	}
	texts["a real one"] = string(lines)
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			p, err := Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []*Patch{p, p.Reverse()} {
				got, err := Parse(want.Bytes())
				if err != nil {
					t.Fatalf("%v\n%s", err, want.Bytes())
				}
				if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Hunk{}, "PatchLine")); d != "" {
					t.Errorf("-want +got:\n%s\n%s", d, want.Bytes())
				}
			}
		})
	}
}
