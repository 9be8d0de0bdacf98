package kerneltest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/vmtest"
)

// herdPatch has the objects of testdata/herd gain a member, in a gap, that holds twice the number.
const herdPatch = `--- a/main.c
+++ b/main.c
@@ -11,3 +11,3 @@
 	unsigned int number;
-	/* a gap */
+	unsigned int twice;
 	u64 wool;
@@ -26,3 +26,3 @@
 	list_for_each_entry(s, &herd, herd)
-		sum += s->number;
+		sum += s->twice;
 	return scnprintf(buffer, PAGE_SIZE, "%llu\n", sum);
`

// BenchmarkTransfer measures a state transfer over 1,000 and 100,000 objects: what the walk takes, the plugin, and how long the machine
// stands, beside the stop of the same update without a transfer.
func BenchmarkTransfer(b *testing.B) {
	vmtest.Need(b)
	for _, series := range wantedSeries() {
		b.Run(series, func(b *testing.B) { prepare(b, series).transferBench(b) })
	}
}

func (l *lab) transferBench(b *testing.B) {
	built := filepath.Join(b.TempDir(), "herd")
	if err := os.CopyFS(built, os.DirFS("testdata/herd")); err != nil {
		b.Fatal(err)
	}
	if out, err := exec.CommandContext(b.Context(), "make", "-C", l.kernel.KDir, "M="+built, "modules").CombinedOutput(); err != nil {
		b.Fatalf("build the module: %v\n%s", err, out)
	}
	config := l.vendors(b, "./cmd/ksplice/kerneltest/transform-herd")
	file := l.create(b, "herd", []byte(herdPatch), "--module-source", built, "--config", config)
	plain := l.create(b, "plain", []byte(strings.Replace(herdPatch[:strings.Index(herdPatch, "@@ -11")]+herdPatch[strings.Index(herdPatch, "@@ -26"):], "s->twice", "s->number * 2", 1)),
		"--module-source", built)
	l.boot(b, vmtest.Options{MemoryMiB: 2048, Files: map[string]string{"/lib/herd.ko": filepath.Join(built, "herd.ko")}})
	l.configure(b, guestConfig, fmt.Sprintf("[plugins]\ndirs = [%q]\n", guestPlugins))
	type applied struct {
		Commit struct {
			Pause time.Duration `json:"pause_ns"`
		} `json:"commit"`
		Transfer struct {
			Objects, Bytes, Sets int
			Walks                time.Duration `json:"walks_ns"`
			Plugin               time.Duration `json:"plugin_ns"`
		} `json:"transfer"`
	}
	apply := func(file string) (a applied) {
		out := l.must(b, exitOK, "", "apply", "--json", "--attempts", "100", "--config", guestConfig, file)
		if err := json.Unmarshal([]byte(out), &a); err != nil {
			b.Fatal(err)
		}
		return a
	}
	for b.Loop() {
		for _, n := range []int{1000, 100000} {
			l.MustRun(b, "insmod", "/lib/herd.ko", fmt.Sprintf("size=%d", n))
			without := apply(plain)
			l.undo(b, l.id(b, plain))
			a := apply(file)
			want := fmt.Sprint(n * (n - 1))
			if sum := strings.TrimSpace(l.MustRun(b, "cat", "/sys/module/herd/parameters/sum")); sum != want || a.Transfer.Sets != n-1 {
				b.Fatalf("the sum is %s, want %s; the transfer was %+v", sum, want, a.Transfer)
			}
			for what, d := range map[string]time.Duration{"walks": a.Transfer.Walks, "plugin": a.Transfer.Plugin, "stop": a.Commit.Pause, "stop-without": without.Commit.Pause} {
				b.ReportMetric(float64(d.Microseconds())/1000, fmt.Sprintf("ms/%s-of-%d", what, n))
			}
			b.ReportMetric(float64(a.Transfer.Bytes), fmt.Sprintf("bytes-read-of-%d", n))
			l.must(b, exitOK, "undone", "undo", "--attempts", "100", "--config", guestConfig, l.id(b, file))
			l.MustRun(b, "rmmod", "herd")
		}
	}
}
