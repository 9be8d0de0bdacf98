package kerneltest

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/core/create"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// TestCreate makes updates of the same patch in several ways, which must give the same bytes, and one that must be given up
// early. No guest is booted but for the update that backend-kbuild makes.
func TestCreate(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		e, err := examples.Get("uptime-words")
		if err != nil {
			t.Fatal(err)
		}
		first := l.example(t, e) // and the tree is ready
		want, err := os.ReadFile(filepath.Join(l.share, filepath.Base(first)))
		if err != nil {
			t.Fatal(err)
		}
		patch := filepath.Join(l.share, "uptime-words.patch")
		if l.turn("6.12") {
			t.Run("same bytes", func(t *testing.T) { l.sameBytes(t, patch, want) })
		}
		if l.turn("6.1") {
			t.Run("header", func(t *testing.T) { l.headerLayout(t) })
		}
		t.Run("reach", func(t *testing.T) { l.reach(t) })
		t.Run("keys", func(t *testing.T) { l.keys(t) })
		t.Run("items", func(t *testing.T) { l.items(t) })
		t.Run("vanilla tree", func(t *testing.T) { l.vanilla(t, e, patch) })
	})
}

// userCache is where ksplice keeps trees unless told otherwise.
func userCache(t *testing.T) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "ksplice")
}

// freshCache makes a cache that has the user's trees and nothing else. It lies beside them: trees are linked into it.
func freshCache(t *testing.T) string {
	t.Helper()
	user := userCache(t)
	dir, err := os.MkdirTemp(user, "test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Symlink(filepath.Join(user, "backends"), filepath.Join(dir, "backends")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sameBytes makes the update again: two at once in one new cache, and, when everything is asked for, with a tree that is prepared anew
// at another place.
func (l *lab) sameBytes(t *testing.T, patch string, want []byte) {
	cache := freshCache(t)
	runs := map[string][]string{"one": {"--cache", cache, "--jobs", "1"}, "other": {"--cache", cache}}
	if os.Getenv(allVariable) == "1" {
		runs["elsewhere"] = []string{"--cache", t.TempDir()}
	}
	var g errgroup.Group
	create := func(name string, args []string) func() error {
		return func() error {
			file := filepath.Join(l.share, name+".ksplice")
			out, errs, exit := l.host(t, append([]string{"create", "--patch", patch, "--kernel", l.kernel.Release, "-o", file}, args...)...)
			if exit != exitOK {
				t.Errorf("%s: exit code %d\n%s%s", name, exit, out, errs)
				return nil
			}
			got, err := os.ReadFile(file)
			if err == nil && !bytes.Equal(got, want) {
				t.Errorf("%s: the update differs from the first: %d bytes, %d", name, len(got), len(want))
			}
			return err
		}
	}
	for name, args := range runs {
		g.Go(create(name, args))
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	// Once more, from what these have left in the cache.
	if err := create("cached", runs["one"])(); err != nil {
		t.Fatal(err)
	}
}

// headerLayout changes a structure in a header that many units include: their number is said, and few units are compiled.
func (l *lab) headerLayout(t *testing.T) {
	text, err := examples.Refusal{Name: "layout-header"}.Patch(l.series())
	if err != nil {
		t.Fatal(err)
	}
	patch := filepath.Join(l.share, "layout-header.patch")
	if err := os.WriteFile(patch, text, 0o644); err != nil {
		t.Fatal(err)
	}
	cache := freshCache(t)
	out, errs, exit := l.host(t, "create", "--patch", patch, "--kernel", l.kernel.Release, "--cache", cache, "-o", filepath.Join(l.share, "header.ksplice"))
	if exit != exitRefused || !regexp.MustCompile(`struct in_device changes \(include/linux/inetdevice\.h`).MatchString(errs) {
		t.Errorf("create: exit code %d\n%s%s", exit, out, errs)
	}
	m := regexp.MustCompile(`(?m)^patch .* (\d+) translation units \(those that include the patched headers\)$`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("the number of units is not said: %s", out)
	}
	if n, err := strconv.Atoi(m[1]); err != nil || n < 50 {
		t.Errorf("%s units include the header, want 50 or more", m[1])
	}
	objects, err := filepath.Glob(filepath.Join(cache, "objects", "*", "*", "*.o"))
	if err != nil || len(objects) > 4 {
		t.Errorf("%d objects were compiled (%v), want two units at most, before and after: one tells the types, the other uses the changed one", len(objects), err)
	}
}

// keys makes an update of a function with static calls, in which the unit before the patch has them, too: run's own table tells their keys, so
// that no unit that defines them is searched for.
func (l *lab) keys(t *testing.T) {
	e, err := examples.Get("netif-rx-drop")
	if err != nil {
		t.Fatal(err)
	}
	text, err := e.Patch(l.series())
	if err != nil {
		t.Fatal(err)
	}
	patch := filepath.Join(l.share, "keys.patch")
	if err := os.WriteFile(patch, text, 0o644); err != nil {
		t.Fatal(err)
	}
	out, errs, exit := l.host(t, "create", "--patch", patch, "--kernel", l.kernel.Release, "--json", "-o", filepath.Join(l.share, "keys.ksplice"))
	if exit != exitOK {
		t.Fatalf("create: exit code %d\n%s%s", exit, out, errs)
	}
	if strings.Contains(out, "__SCK__") || strings.Contains(out, `"search"`) {
		t.Errorf("keys are searched for: %s", out)
	}
}

// baseHeader gives a unit a header of its own; onHeader changes that and adds a file that no makefile names.
const (
	baseHeader = `--- /dev/null
+++ b/fs/proc/words.h
@@ -0,0 +1 @@
+#define WORDS "base\n"
--- a/fs/proc/uptime.c
+++ b/fs/proc/uptime.c
@@ -10,4 +10,5 @@
 #include "internal.h"
+#include "words.h"
 
 static int uptime_proc_show(struct seq_file *m, void *v)
 {
@@ -35,4 +36,5 @@
 			(unsigned long) idle.tv_sec,
 			(idle.tv_nsec / (NSEC_PER_SEC / 100)));
+	seq_puts(m, WORDS);
 	return 0;
 }
`
	onHeader = `--- a/fs/proc/words.h
+++ b/fs/proc/words.h
@@ -1 +1 @@
-#define WORDS "base\n"
+#define WORDS "last\n"
--- /dev/null
+++ b/fs/proc/nobody.c
@@ -0,0 +1 @@
+int nobody;
`
)

// twoModules changes a function of an object that two modules have.
const twoModules = `--- a/drivers/net/ethernet/cavium/liquidio/octeon_device.c
+++ b/drivers/net/ethernet/cavium/liquidio/octeon_device.c
@@ -868,6 +868,7 @@
 	union oct_txpciq txpciq;
 	int numa_node = dev_to_node(&oct->pci_dev->dev);
 
+	asm volatile("nop");
 	if (OCTEON_CN6XXX(oct))
 		num_descs =
 			CFG_GET_NUM_DEF_TX_DESCS(CHIP_CONF(oct, cn6xxx));
`

// reach makes updates that stand on another one: who includes a header since then is compiled, too; a file of which nothing is built is
// noted; and a further unit is named as people write it, or does not exist.
func (l *lab) reach(t *testing.T) {
	l.create(t, "base-header", []byte(baseHeader))
	base := filepath.Join(l.share, "base-header.ksplice")
	patch := filepath.Join(l.share, "on-header.patch")
	if err := os.WriteFile(patch, []byte(onHeader), 0o644); err != nil {
		t.Fatal(err)
	}
	create := func(unit string) (out, errs string, exit int) {
		return l.host(t, "create", "--patch", patch, "--kernel", l.kernel.Release, "--on", base, "--unit", unit, "--json", "-o", filepath.Join(l.share, "on-header.ksplice"))
	}
	out, errs, exit := create("./fs/proc/loadavg.c")
	if exit != exitOK {
		t.Fatalf("create: exit code %d\n%s%s", exit, out, errs)
	}
	var report struct {
		Units   int      `json:"units"`
		Notes   []string `json:"notes"`
		Changed []struct {
			Source string `json:"source"`
		} `json:"changed"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if report.Units != 2 || len(report.Changed) != 1 || report.Changed[0].Source != "fs/proc/uptime.c" {
		t.Errorf("units: %s", out)
	}
	if !slices.Contains(report.Notes, "fs/proc/nobody.c: this kernel builds nothing of it") {
		t.Errorf("notes = %q", report.Notes)
	}
	if l.series() == "6.1" { // later the two modules have a third one for what they share
		l.twoModules(t)
	}
	if out, errs, exit := create("fs/proc/missing.c"); exit != exitRefused || !strings.Contains(errs, "this kernel compiles no fs/proc/missing.c, which --unit names") {
		t.Errorf("a unit that does not exist: exit code %d\n%s%s", exit, out, errs)
	}
}

// twoModules wants a part for each of the modules that have one object.
func (l *lab) twoModules(t *testing.T) {
	l.create(t, "two-modules", []byte(twoModules))
	u, err := update.ReadFile(filepath.Join(l.share, "two-modules.ksplice"))
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, p := range u.Manifest.Parts {
		targets = append(targets, p.Target)
	}
	if !slices.Equal(targets, []string{"liquidio", "liquidio_vf"}) {
		t.Errorf("an object of two modules: parts for %q", targets)
	}
}

// vanilla makes the update with backend-kbuild from a source tree in which nothing was ever built, and applies it to the kernel.
func (l *lab) vanilla(t *testing.T, e examples.Example, patch string) {
	if os.Getenv(allVariable) != "1" {
		t.Skipf("SKIPPED: it prepares a kernel tree from nothing; set $%s=1 (`make road`)", allVariable)
	}
	source := l.unpackSource(t)
	file := filepath.Join(l.share, "vanilla.ksplice")
	out, errs, exit := l.host(t, "create", "--patch", patch, "--kernel", l.kernel.Release, "-o", file, "--cache", t.TempDir(), "--backend", "kbuild",
		"--backend-option", "source="+source, "--backend-option", "build="+l.kernel.KDir)
	if exit != exitOK {
		t.Fatalf("create: exit code %d\n%s%s", exit, out, errs)
	}
	t.Logf("%s", out)
	l.boot(t, vmtest.Options{})
	l.setUp(t, &e)
	l.sees(t, &e.Show[0], "old")
	l.apply(t, "/share/vanilla.ksplice")
	l.sees(t, &e.Show[0], "new")
	l.undo(t, l.id(t, "/share/vanilla.ksplice"))
	l.sees(t, &e.Show[0], "old")
	l.clean(t)
}

// unpackSource unpacks the sources of the kernel as their package brings them.
func (l *lab) unpackSource(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, argv := range [][]string{
		{"apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "linux-source-" + l.series() + "=" + l.kernel.Version},
		{"sh", "-c", "dpkg-deb --fsys-tarfile *.deb | tar -x --wildcards './usr/src/linux-source-*.tar.xz'"},
		{"sh", "-c", "mkdir source && tar -xJf usr/src/linux-source-*.tar.xz -C source --strip-components=1"},
	} {
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	return filepath.Join(dir, "source")
}

// items reports what two patches change of what existing data mean, and makes an update of one that its author accepts, under another id
// than where nobody or somebody else takes it.
func (l *lab) items(t *testing.T) {
	file := func(name string, text []byte, err error) string {
		path := filepath.Join(l.share, name+".patch")
		if err == nil {
			err = os.WriteFile(path, text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	text, err := examples.Refusal{Name: "layout"}.Patch(l.series())
	layout := file("layout", text, err)
	e, err := examples.Get("overcommit-ratio")
	if err != nil {
		t.Fatal(err)
	}
	text, err = e.Patch(l.series())
	ratio := file("ratio", text, err)
	run := func(want int, args ...string) string {
		t.Helper()
		out, errs, exit := l.host(t, append([]string{"create", "--kernel", l.kernel.Release}, args...)...)
		if exit != want {
			t.Fatalf("create %q: exit code %d, want %d\n%s%s", args, exit, want, out, errs)
		}
		return out + errs
	}
	report := func(path string) create.Report {
		t.Helper()
		var r create.Report
		if err := json.Unmarshal([]byte(run(exitOK, "--report", "--json", "--patch", path)), &r); err != nil || len(r.Items) != 1 {
			t.Fatalf("the report of %s: %v, items %v", path, err, r.Items)
		}
		return r
	}
	const id, ratioID = "layout:fs/eventfd.c:eventfd_ctx", "initialiser:mm/util.o:sysctl_overcommit_ratio"
	if it := report(layout).Items[0]; it.ID != id || it.Claim != nil || !slices.Equal(it.Units, []string{"fs/eventfd.o"}) {
		t.Errorf("the item of a layout: %+v", it)
	}
	if it := report(ratio).Items[0]; it.ID != ratioID || it.Claim == nil || it.Claim.Plugin != "initdata" {
		t.Errorf("the item of an initialiser: %+v", it)
	}
	said := run(exitRefused, "--patch", layout, "-o", filepath.Join(l.share, "layout.ksplice"))
	if !strings.Contains(said, "--accept "+id) {
		t.Errorf("the refusal does not say what could be accepted: %s", said)
	}
	run(exitUsage, "--patch", layout, "--accept", id, "-o", filepath.Join(l.share, "layout.ksplice"))
	run(exitRefused, "--patch", layout, "--accept", id, "--because", "a test", "--accept", "layout:x.c:y", "--because", "a test", "-o", filepath.Join(l.share, "layout.ksplice"))
	var ids []string
	for name, args := range map[string][]string{"layout": {"--patch", layout, "--accept", id, "--because", "nobody lives long"},
		"carried": {"--patch", ratio}, "left": {"--patch", ratio, "--accept", ratioID, "--because", "who set it knows why"}} {
		path := filepath.Join(l.share, name+".ksplice")
		run(exitOK, append(args, "-o", path)...)
		u, err := update.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, u.Manifest.ID)
		c, writes := u.Manifest.Claims[0], len(u.Manifest.Parts[0].Writes)
		if accepted := name != "carried"; (c.Plugin == "") != accepted || writes != map[bool]int{false: 1, true: 0}[accepted] {
			t.Errorf("%s: claim %+v, %d writes", name, c, writes)
		}
		if out, errs, _ := l.host(t, "inspect", path); name == "layout" && !strings.Contains(out, "by the author: nobody lives long") {
			t.Errorf("inspect does not show what was accepted: %s%s", out, errs)
		}
	}
	if slices.Sort(ids); len(slices.Compact(ids)) != 3 {
		t.Errorf("ids %q", ids)
	}
}
