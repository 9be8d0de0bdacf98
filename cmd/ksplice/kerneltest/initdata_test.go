package kerneltest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
)

// rateHunk sets how often callers of printk_ratelimit may speak, in seconds.
func rateHunk(seconds int) string {
	return edit("kernel/printk/printk.c", fmt.Sprintf("-DEFINE_RATELIMIT_STATE(printk_ratelimit_state, 5 * HZ, 10);\n+DEFINE_RATELIMIT_STATE(printk_ratelimit_state, %d * HZ, 10);\n \n int __printk_ratelimit(const char *func)\n", seconds))
}

// initdataHunks change initialisers of the kernel proper's data: a number, a string's address, a function's, and one that is read-only by now.
func initdataHunks(seconds int) string {
	return rateHunk(seconds) +
		edit("kernel/power/qos.c", " \t.minor = MISC_DYNAMIC_MINOR,\n-\t.name = \"cpu_dma_latency\",\n+\t.name = \"cpu_dma_patience\",\n \t.fops = &cpu_latency_qos_fops,\n") +
		edit("fs/ramfs/inode.c", "+static int ramfs_is_closed(struct fs_context *fc)\n+{\n+\treturn -ENOTBLK;\n+}\n+\n static struct file_system_type ramfs_fs_type = {\n \t.name\t\t= \"ramfs\",\n"+
			"-\t.init_fs_context = ramfs_init_fs_context,\n+\t.init_fs_context = ramfs_is_closed,\n \t.parameters\t= ramfs_fs_parameters,\n") +
		edit("fs/debugfs/inode.c", " static bool debugfs_registered;\n-static unsigned int debugfs_allow __ro_after_init = DEFAULT_DEBUGFS_ALLOW_BITS;\n+static unsigned int debugfs_allow __ro_after_init = DEBUGFS_ALLOW_MOUNT;\n \n")
}

// otherHunk is for one of the same files, and none of the same fields.
var otherHunk = edit("fs/ramfs/inode.c", " \t.kill_sb\t= ramfs_kill_sb,\n-\t.fs_flags\t= FS_USERNS_MOUNT,\n+\t.fs_flags\t= FS_USERNS_MOUNT | FS_DISALLOW_NOTIFY_PERM,\n };\n")

// plugHunk is for a module alone: of its functions none changes.
var plugHunk = edit("net/sched/sch_plug.c", " \t.dequeue     =       plug_dequeue,\n-\t.peek        =       qdisc_peek_dequeued,\n+\t.peek        =       qdisc_peek_head,\n \t.init        =       plug_init,\n")

// TestInitdata has the stock plugin carry changed initialisers of data that a guest's kernel initialised long ago.
func TestInitdata(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		file := l.create(t, "initdata", []byte(initdataHunks(7)))
		all := l.create(t, "initdata-all", []byte(initdataHunks(8)))
		low := l.create(t, "initdata-low", []byte(rateHunk(7)))
		upper := []byte(strings.ReplaceAll(rateHunk(9), "-DEFINE_RATELIMIT_STATE(printk_ratelimit_state, 5", "-DEFINE_RATELIMIT_STATE(printk_ratelimit_state, 7"))
		on := l.create(t, "initdata-on", upper, "--on", filepath.Join(l.share, "initdata.ksplice"))
		up := l.create(t, "initdata-up", upper, "--on", filepath.Join(l.share, "initdata-low.ksplice"))
		other := l.create(t, "initdata-other", []byte(otherHunk))
		plug := l.create(t, "initdata-plug", []byte(plugHunk))
		l.boot(t, vmtest.Options{})
		l.initdata(t, file, all, on)
		if l.turn("6.12") {
			l.initdataStack(t, low, up, other)
		}
		l.initdataModule(t, plug)
		l.initdataLocked(t, low)
	})
}

// rate wants printk_ratelimit's interval to be a number of seconds.
func (l *lab) rate(t testing.TB, seconds string) {
	t.Helper()
	l.wants(t, "/proc/sys/kernel/printk_ratelimit", "^"+seconds+"\n$")
}

// mounts says whether a ramfs can be mounted.
func (l *lab) mounts(t testing.TB) bool {
	t.Helper()
	r, err := l.Run(t.Context(), "sh", "-c", "mkdir -p /tmp/ram && mount -t ramfs none /tmp/ram && umount /tmp/ram")
	if err != nil {
		t.Fatal(err)
	}
	return r.Exit == 0
}

// old wants everything to be as it was before any update.
func (l *lab) old(t testing.TB) {
	t.Helper()
	l.rate(t, "5")
	l.wants(t, "/proc/misc", ` cpu_dma_latency\n`)
	if !l.mounts(t) {
		t.Error("a ramfs cannot be mounted")
	}
	if !l.debugs(t) {
		t.Error("a driver has no debugfs directory")
	}
}

// debugs says whether a driver that comes gets a directory of debugfs.
func (l *lab) debugs(t testing.TB) bool {
	t.Helper()
	r, err := l.Run(t.Context(), "sh", "-c", "mount -t debugfs none /sys/kernel/debug 2>/dev/null; modprobe brd rd_nr=1; test -d /sys/kernel/debug/ramdisk_pages; n=$?; rmmod brd; exit $n")
	if err != nil {
		t.Fatal(err)
	}
	return r.Exit == 0
}

func (l *lab) initdata(t *testing.T, file, all, on string) {
	same := l.saveText(t)
	l.old(t)
	set := func(seconds string) { l.MustRun(t, "sh", "-c", "echo "+seconds+" > /proc/sys/kernel/printk_ratelimit") }
	set("6")
	for _, c := range []string{"check", "apply"} {
		l.must(t, exitRefused, "printk_ratelimit_state.interval: the running kernel has 0x5dc, the update was made for 0x4e2: somebody has set it", c, file)
	}
	l.rate(t, "6")
	set("5")
	l.apply(t, file)
	id := l.id(t, file)
	updated := func(seconds string) {
		t.Helper()
		l.rate(t, seconds)
		l.wants(t, "/proc/misc", ` cpu_dma_patience\n`)
		if l.mounts(t) {
			t.Error("a ramfs can be mounted")
		}
		if l.debugs(t) {
			t.Error("a driver has a debugfs directory")
		}
	}
	updated("7")
	l.must(t, exitOK, "sets", "status")
	l.apply(t, on)
	l.rate(t, "9")
	l.must(t, exitRefused, "has set printk_ratelimit_state.interval since", "undo", id)
	l.undo(t, l.id(t, on))
	updated("7")
	set("3")
	l.must(t, exitRefused, "printk_ratelimit_state.interval: has ee020000, expected d6060000; somebody set it after the update did", "undo", id)
	l.logged(t, "update "+id+` not undone: changed: printk_ratelimit_state\.interval`)
	l.MustRun(t, "sh", "-c", "cd /sys/kernel/ksplice/"+id+" && grep -q 'has ee020000' abort_cause && test $(stat -c %a abort_cause) = 400")
	l.rate(t, "3")
	set("7")
	l.must(t, exitOK, "applied", "apply", "--attempts", "100", "--replace", id, all)
	updated("8")
	l.undo(t, l.id(t, all))
	l.old(t)
	same()
	l.clean(t)
}

// initdataStack has two updates, of which one set a field after the other, go in one stop for a third that leaves the field alone: it gets
// the value that it had before both.
func (l *lab) initdataStack(t *testing.T, low, up, other string) {
	l.apply(t, low)
	l.apply(t, up)
	l.rate(t, "9")
	l.must(t, exitOK, "applied", "apply", "--attempts", "100", "--replace", l.id(t, low), "--replace", l.id(t, up), other)
	l.rate(t, "5")
	l.must(t, exitOK, "ramfs_fs_type.fs_flags", "status")
	l.undo(t, l.id(t, other))
	l.old(t)
	l.clean(t)
}

// initdataModule changes data of a module: of one that is there, and of one that comes.
func (l *lab) initdataModule(t *testing.T, file string) {
	id := l.id(t, file)
	l.must(t, exitOK, "sch_plug", "apply", file)
	l.MustRun(t, "modprobe", "sch_plug")
	poll(t, "the update of sch_plug", func() bool { return strings.Contains(l.ksplice(t, "status").Stdout, "plug_qdisc_ops.peek") })
	l.undo(t, id)
	l.clean(t)
}

// initdataLocked locks the kernel down while a field is set: it still gets back what it had.
func (l *lab) initdataLocked(t *testing.T, low string) {
	l.apply(t, low)
	l.MustRun(t, "sh", "-c", "echo integrity > /sys/kernel/security/lockdown")
	l.undo(t, l.id(t, low))
	l.rate(t, "5")
	l.clean(t)
}
