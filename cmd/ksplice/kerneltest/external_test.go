package kerneltest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
)

// tallyPatch changes a header of both sources, and one of these.
const tallyPatch = `--- a/include/tally.h
+++ b/include/tally.h
@@ -2,7 +2,7 @@
 #ifndef TALLY_H
 #define TALLY_H
 
-#define TALLY_STEP 2
+#define TALLY_STEP 5
 
 int tally_add(int sum);
 
--- a/main.c
+++ b/main.c
@@ -11,7 +11,7 @@
 static int show(char *buffer, const struct kernel_param *kp)
 {
 	sum = tally_add(sum);
-	return scnprintf(buffer, PAGE_SIZE, "%s %d\n", __FILE__, sum);
+	return scnprintf(buffer, PAGE_SIZE, "%s: %d\n", __FILE__, sum);
 }
 
 static const struct kernel_param_ops ops = { .get = show };
`

// TestExternal updates a module that was built against the distribution's headers, outside of the kernel's source.
func TestExternal(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		built := filepath.Join(t.TempDir(), "tally")
		if err := os.CopyFS(built, os.DirFS("testdata/tally")); err != nil {
			t.Fatal(err)
		}
		// What was built there is in the way of nothing.
		if out, err := exec.CommandContext(t.Context(), "make", "-C", l.kernel.KDir, "M="+built, "modules").CombinedOutput(); err != nil {
			t.Fatalf("build the module: %v\n%s", err, out)
		}
		moved := filepath.Join(t.TempDir(), "moved")
		if err := os.CopyFS(moved, os.DirFS("testdata/tally")); err != nil {
			t.Fatal(err)
		}
		file := l.create(t, "tally", []byte(tallyPatch), "--module-source", built)
		same := l.create(t, "tally-moved", []byte(tallyPatch), "--module-source", moved, "--module-built", built)
		wrong := l.create(t, "tally-wrong", []byte(tallyPatch), "--module-source", moved)
		l.boot(t, vmtest.Options{Files: map[string]string{"/lib/tally.ko": filepath.Join(built, "tally.ko")}})
		before := l.saveText(t)
		l.MustRun(t, "insmod", "/lib/tally.ko")
		if l.id(t, file) != l.id(t, same) {
			t.Error("the same source in another directory makes another update")
		}
		l.must(t, exitRefused, "tally", "check", wrong)
		reads := func(want string) {
			t.Helper()
			if got := strings.TrimSpace(l.MustRun(t, "cat", "/sys/module/tally/parameters/sum")); got != built+want {
				t.Errorf("the module says %q, want %q", got, built+want)
			}
		}
		reads("/main.c 42")
		l.apply(t, file)
		reads("/main.c: 47")
		reads("/main.c: 52")
		l.undo(t, l.id(t, file))
		reads("/main.c 54")
		l.MustRun(t, "rmmod", "tally")
		before()
		l.clean(t)
	})
}
