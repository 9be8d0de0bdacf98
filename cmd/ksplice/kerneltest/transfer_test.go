package kerneltest

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
)

// Where the guest has plugins that no package brings, and the configuration that names the place.
const (
	guestPlugins = "/opt/vendor"
	guestConfig  = "/opt/vendor.toml"
)

// vendors builds plugins from directories of the project, for the guest, and a configuration by which create on the host finds them.
func (l *lab) vendors(t testing.TB, dirs ...string) (config string) {
	t.Helper()
	here := t.TempDir()
	if err := os.Chmod(here, 0o755); err != nil { // as plugins are trusted
		t.Fatal(err)
	}
	for _, dir := range dirs {
		name := filepath.Base(dir)
		file, err := vmtest.Program(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		l.files[filepath.Join(guestPlugins, name)] = file
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(here, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config = filepath.Join(here, "vendor.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "[plugins]\ndirs = [%q]\n", here), 0o644); err != nil {
		t.Fatal(err)
	}
	return config
}

// randomPatch has reads of a table's entries show a shadow field, and asks a plugin to attach it.
func randomPatch() []byte {
	const header = "--- a/drivers/char/random.c\n+++ b/drivers/char/random.c\n"
	return []byte(edit("drivers/char/random.c", ` static u8 sysctl_bootid[UUID_SIZE];
+#include <ksplice.h>
+ksplice_transfer("faulty", "random_table base_crng crngs jiffies");
+KSPLICE_SHADOW(random_mark, "random.mark", u64, NULL, NULL);
 
`) + strings.TrimPrefix(edit("drivers/char/random.c", ` 
-	snprintf(uuid_string, sizeof(uuid_string), "%pU", uuid);
+	if (ksplice_shadow_get(&random_mark, table))
+		snprintf(uuid_string, sizeof(uuid_string), "mark %llu", *(u64 *)ksplice_shadow_get(&random_mark, table));
+	else
+		snprintf(uuid_string, sizeof(uuid_string), "%pU", uuid);
 	return proc_dostring(&fake_table, 0, buf, lenp, ppos);
`), header))
}

// kindsPatch changes a function of each of three files, and asks for a walk over a container of the kernel's own in each.
func kindsPatch() []byte {
	ask := func(what string) string {
		return "+#include <ksplice.h>\n+ksplice_transfer(\"faulty\", \"" + what + "\");\n"
	}
	return []byte(edit("kernel/pid.c", " EXPORT_SYMBOL_GPL(find_pid_ns);\n \n"+ask("idr")+` struct pid *find_vpid(int nr)
 {
+	if (nr < 0)
+		return NULL;
 	return find_pid_ns(nr, task_active_pid_ns(current));
 }
`) + edit("kernel/user.c", "  */\n"+ask("hlist")+` struct user_struct *find_user(kuid_t uid)
 {
 	struct user_struct *ret;
 	unsigned long flags;
 
+	if (!uid_valid(uid))
+		return NULL;
 	spin_lock_irqsave(&uidhash_lock, flags);
`) + edit("mm/vmalloc.c", "  */\n"+ask("tree")+` struct vm_struct *find_vm_area(const void *addr)
 {
 	struct vmap_area *va;
 
+	if (!addr)
+		return NULL;
 	va = find_vmap_area((unsigned long)addr);
`))
}

// TestTransfer: a vendor's plugin fills in a member for objects of before the update, and takes that back; and whatever a plugin does
// wrong, the kernel is as it was.
func TestTransfer(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		config := l.vendors(t, "./examples/transform-chrdev", "./cmd/ksplice/kerneltest/transform-faulty")
		root, err := filepath.Abs("../../..")
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(root, "examples", "transform-chrdev", "last-minor.patch"))
		if err != nil {
			t.Fatal(err)
		}
		if l.turn("6.1") {
			l.refusedTransfers(t, config, text)
		}
		chrdev := l.create(t, "chrdev", text, "--config", config)
		random := l.create(t, "random", randomPatch(), "--config", config)
		kinds := l.create(t, "kinds", kindsPatch(), "--config", config)
		l.boot(t, vmtest.Options{MemoryMiB: 2048})
		l.configure(t, guestConfig, fmt.Sprintf("[plugins]\ndirs = [%q]\n", guestPlugins))
		l.vendorExample(t, chrdev)
		out := l.must(t, exitOK, "fits", "check", "--config", l.mode(t, "marks"), kinds)
		for _, what := range []string{"idr", "hlist", "tree"} {
			if !strings.Contains(out, what+": all right") {
				t.Errorf("the walk %q is not told:\n%s", what, out)
			}
		}
		t.Logf("%s", out)
		l.faultyTransfers(t, random)
		l.MustRun(t, guestTool, "transfer")
	})
}

// refusedTransfers wants create to refuse what cannot be carried.
func (l *lab) refusedTransfers(t *testing.T, config string, chrdev []byte) {
	larger := strings.Replace(strings.Replace(string(chrdev), "+\tunsigned int last_minor;", "+\tunsigned int last_minor;\n+\tlong more;", 1), "@@ -39,2 +39,3 @@", "@@ -39,2 +39,4 @@", 1)
	for name, c := range map[string]struct{ patch, config, words string }{
		"nobody asked":    {string(randomPatch()), "", "the patch asks transform plugin faulty"},
		"no such global":  {strings.Replace(string(randomPatch()), "jiffies\"", "jiffies no_such\"", 1), config, "variable no_such"},
		"a function":      {strings.Replace(string(randomPatch()), "jiffies\"", "jiffies proc_do_uuid\"", 1), config, "proc_do_uuid"},
		"larger":          {larger, config, "transform plugin chrdev"},
		"nothing is told": {strings.Replace(string(randomPatch()), `, "random_table base_crng crngs jiffies"`, "", 1), config, "write ksplice_transfer("},
	} {
		path := filepath.Join(l.share, "refused.patch")
		if err := os.WriteFile(path, []byte(c.patch), 0o644); err != nil {
			t.Fatal(err)
		}
		_, errs, exit := l.host(t, "create", "--config", c.config, "--kernel", l.kernel.Release, "--patch", path, "-o", filepath.Join(l.share, "refused.ksplice"))
		if exit == exitOK || !strings.Contains(errs, c.words) {
			t.Errorf("%s: exit code %d, want %q:\n%s", name, exit, c.words, errs)
		}
	}
}

// regions lists what /proc/devices says of character devices: "4 tty", with the minors where it has them.
func (l *lab) regions(t *testing.T) []string {
	t.Helper()
	text, _, _ := strings.Cut(l.MustRun(t, "cat", "/proc/devices"), "\n\n")
	var out []string
	for _, line := range strings.Split(text, "\n")[1:] {
		out = append(out, strings.TrimSpace(line))
	}
	return out
}

func (l *lab) vendorExample(t *testing.T, file string) {
	before, same := l.regions(t), l.saveText(t)
	if !slices.Contains(before, "1 mem") || !slices.Contains(before, "5 /dev/console") {
		t.Fatalf("the guest has the regions %q", before)
	}
	l.must(t, exitRefused, "there is no transform plugin \"chrdev\"", "check", file) // nobody says where the plugin is
	l.must(t, exitOK, fmt.Sprintf("%d regions", len(before)), "check", "--config", guestConfig, file)
	for range often(2) {
		var r struct {
			Transfer struct{ Objects, Sets int }
		}
		out := l.must(t, exitOK, "", "apply", "--attempts", "100", "--json", "--config", guestConfig, file)
		if err := json.Unmarshal([]byte(out), &r); err != nil || r.Transfer.Objects != len(before) || r.Transfer.Sets == 0 {
			t.Fatalf("%v: the transfer was %+v, with %d regions", err, r.Transfer, len(before))
		}
		t.Logf("%d regions: %+v", len(before), r.Transfer)
		after := l.regions(t)
		for _, want := range []string{"1 mem 0-255", "5 /dev/tty 0-0", "5 /dev/console 1-1"} {
			if !slices.Contains(after, want) {
				t.Errorf("with the update there is no %q in %q", want, after)
			}
		}
		for i, a := range after {
			if !strings.HasPrefix(a, before[i]+" ") {
				t.Errorf("%q became %q", before[i], a)
			}
		}
		l.must(t, exitRefused, "there is no transform plugin \"chrdev\"", "undo", l.id(t, file))
		l.must(t, exitOK, fmt.Sprintf("%d regions", len(before)), "undo", "--attempts", "100", "--config", guestConfig, l.id(t, file))
		if again := l.regions(t); !slices.Equal(again, before) {
			t.Fatalf("after undo: %q, before %q", again, before)
		}
		same()
	}
}

// mode has the plugin for tests do something.
func (l *lab) mode(t *testing.T, mode string) (config string) {
	t.Helper()
	config = "/opt/faulty.toml"
	l.configure(t, config, fmt.Sprintf("[plugins]\ndirs = [%q]\n[plugin.transform-faulty]\nmode = %q\n", guestPlugins, mode))
	return config
}

func (l *lab) faultyTransfers(t *testing.T, file string) {
	same := l.saveText(t)
	faults := map[string]struct {
		exit  int
		words string
	}{
		"die":       {exitInternal, "it ended: exit status 3 during Transfer"},
		"panic":     {exitInternal, "panicked in Transfer"},
		"wild":      {exitInternal, "no walk has found a struct ctl_table at 0xdead000000000000"},
		"wild set":  {exitInternal, "no walk has found a struct ctl_table at 0xffffffff81000000"},
		"unmapped":  {exitRefused, "nothing is mapped there"},
		"many":      {exitInternal, "more than 1048576 sets"},
		"overlap":   {exitInternal, "lie over each other"},
		"text":      {exitRefused, "are code, or read-only, or no memory"},
		"read-only": {exitRefused, "are code, or read-only, or no memory"},
		"pointer":   {exitInternal, "no walk has found or read the address 0xdead000000000100"},
		"member":    {exitInternal, "has no member \"no_such\""},
		"field":     {exitRefused, "no update has a shadow field nobody.has"},
		"size":      {exitRefused, "shadow field random.mark has another size"},
		"busy":      {exitRefused, "does not hold still: at each of 20 attempts"},
		"no mode":   {exitUsage, "there is no mode"},
	}
	for i, mode := range slices.Sorted(maps.Keys(faults)) {
		// Half of them with each kernel; a million sets take an emulated machine a minute, and are tested without one as well.
		if os.Getenv(allVariable) != "1" && ((i%2 == 0) != (l.series() == "6.1") || mode == "many") {
			continue
		}
		f := faults[mode]
		r := l.ksplice(t, "apply", "--attempts", "100", "--config", l.mode(t, mode), file)
		out := r.Stdout + r.Stderr
		if r.Exit != f.exit || !strings.Contains(out, f.words) {
			t.Errorf("%s: exit code %d, want %d and the words %q:\n%s", mode, r.Exit, f.exit, f.words, out)
		}
		if what := "of the long unsigned int at 0x"; mode == "busy" && !strings.Contains(out, what) {
			t.Errorf("%s: it does not say what moved, %q:\n%s", mode, what, out)
		}
		if n := strings.Count(strings.TrimSpace(out), "\n"); n > 4 && mode != "panic" && mode != "many" { // one has a stack, the other shows how far it is
			t.Errorf("%s: the error has %d lines:\n%s", mode, n, out)
		}
		if out := l.must(t, exitOK, "", "status", "--json"); strings.Contains(out, `"applied"`) {
			t.Fatalf("%s: status says\n%s", mode, out)
		}
		if s := l.MustRun(t, "cat", "/proc/sys/kernel/random/boot_id", "/sys/kernel/ksplice/shadows"); strings.Contains(s, "mark") {
			t.Fatalf("%s: the kernel has changed: %q", mode, s)
		}
	}
	same()
	for _, mode := range []string{"marks", "settles"} {
		out := l.must(t, exitOK, "crngs of CPUs 0 1", "apply", "--attempts", "100", "--config", l.mode(t, mode), file)
		if !strings.Contains(out, "shadow fields attached") {
			t.Errorf("%s: apply says\n%s", mode, out)
		}
		// Its number in the table: each entry knows its own.
		for name, n := range map[string]int{"boot_id": 104, "uuid": 105} {
			if got := strings.TrimSpace(l.MustRun(t, "cat", "/proc/sys/kernel/random/"+name)); got != fmt.Sprintf("mark %d", n) {
				t.Errorf("%s: %s shows %q, want mark %d", mode, name, got, n)
			}
		}
		l.must(t, exitOK, "gone", "undo", "--attempts", "100", "--config", l.mode(t, mode), l.id(t, file))
		if got := l.MustRun(t, "cat", "/proc/sys/kernel/random/boot_id"); strings.Contains(got, "mark") {
			t.Errorf("%s: after undo boot_id shows %q", mode, got)
		}
		same()
	}
}
