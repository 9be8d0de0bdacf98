package kerneltest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/core/vmtest"
)

// TestConstructsData has what a patch may do to data, files and whole functions at work in replaced functions of a guest's kernel: as programs see it
// before, while the update is in, and after undo.
func TestConstructsData(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		module := l.construct(t, "module-file")
		pending := l.construct(t, "pending")
		overridden := l.construct(t, "overridden-FAIL")
		t.Run("refused", func(t *testing.T) { l.refusedConstructs(t) })
		l.compileUser(t)
		l.boot(t, vmtest.Options{})
		l.MustRun(t, "sh", "-c", "echo 1 > /proc/sys/kernel/printk") // the kernel log alone has the warning that is wanted
		if l.turn("6.1") {
			t.Run("new files", func(t *testing.T) { l.newFiles(t) })
		}
		t.Run("module", func(t *testing.T) { l.moduleFile(t, module) })
		t.Run("pending", func(t *testing.T) { l.pending(t, pending) })
		t.Run("overridden", func(t *testing.T) {
			l.must(t, exitRefused, "arch_vma_name: the function is not matched: the running kernel has another unit's in its place", "apply", overridden)
		})
	})
}

// constructText reads a patch of testdata/constructs: that for the series where there is one.
func (l *lab) constructText(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "constructs", l.series(), name+".patch"))
	if os.IsNotExist(err) {
		text, err = os.ReadFile(filepath.Join("testdata", "constructs", name+".patch"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// construct makes an update of one, of which nothing is left to prove.
func (l *lab) construct(t testing.TB, name string, args ...string) string {
	t.Helper()
	file := l.create(t, name, l.constructText(t, name), args...)
	u, err := update.ReadFile(filepath.Join(l.share, filepath.Base(file)))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range u.Manifest.Parts {
		t.Logf("%s: new %q, escaping %q", p.Target, p.New, p.Escapes)
	}
	return file
}

// replaced names the functions that an update replaces.
func (l *lab) replaced(t testing.TB, file string) (names []string) {
	t.Helper()
	u, err := update.ReadFile(filepath.Join(l.share, filepath.Base(file)))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range u.Manifest.Parts {
		for _, f := range p.Functions {
			names = append(names, f.Name)
		}
	}
	return names
}

// read returns what a file of the guest has.
func (l *lab) read(t testing.TB, file string) string {
	t.Helper()
	return l.MustRun(t, guestUser, "do", "file", file)
}

// wants wants a file of the guest to match a form.
func (l *lab) wants(t testing.TB, file, form string) {
	t.Helper()
	if got := l.read(t, file); !regexp.MustCompile(form).MatchString(got) {
		t.Errorf("%s has %q, want %q", file, got, form)
	}
}

// newFiles adds sources in C and assembly. They bring functions, data of every kind, and what is done once; static variables of the kernel's
// own go on from where they were, in both directions.
func (l *lab) newFiles(t *testing.T) {
	file := l.construct(t, "new-files")
	base := filepath.Join(l.share, filepath.Base(file))
	on := l.construct(t, "on-new-files", "--on", base)
	uses := l.construct(t, "uses-new-files", "--on", base)
	goes := l.create(t, "files-go", l.constructText(t, "new-files"), "--reverse", "--on", base)
	same := l.saveText(t)
	deprecated := func() string {
		l.MustRun(t, "sh", "-c", "echo 0 > /proc/self/oom_adj")
		return l.MustRun(t, guestUser, "do", "log", "oom_adj is deprecated")
	}
	said := deprecated()
	if strings.Count(said, "\n") != 1 || !strings.Contains(said, "oom_adj") {
		t.Fatalf("before: %q, want a line", said)
	}
	first := l.inode(t)
	l.apply(t, file)
	id := l.id(t, file)
	for i, want := range []string{`one 1 1 lines 1 said`, `two 4 2 lines 1 said`, `three 9 3 lines 1 quiet`, `many 16 4 lines 2 quiet`, `many 16 5 lines 2 quiet`} {
		l.wants(t, "/proc/uptime", words(want, i+1))
	}
	l.wants(t, "/proc/tty/drivers", `(?m)^serial has \d+$`) // a function is gone, its caller does without
	for words, want := range map[string]string{"words are shown": `^words are shown\n$`, "words were shown": `^words were shown 3 times\n$`} {
		if got := l.MustRun(t, guestUser, "do", "log", words); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("the log has %q, want %q", got, want)
		}
	}
	if got := deprecated(); got != said {
		t.Errorf("the replaced function says again what is said once: %q", got)
	}
	second, third := l.inode(t), l.inode(t)
	if second%2 != 0 || third%2 != 0 || second <= first || third <= second {
		t.Errorf("inode numbers are %d before, then %d and %d: want them to go on with even ones", first, second, third)
	}
	// An update on this one uses static variables that this one brought, and replaces a function of its.
	l.apply(t, on)
	l.wants(t, "/proc/uptime", words("one 1 6 lines 5 hushed", 6))
	l.undo(t, l.id(t, on))
	l.wants(t, "/proc/uptime", words("many 16 7 lines 6 quiet", 7))
	// One in which another file uses what this one brought.
	l.apply(t, uses)
	l.wants(t, "/proc/loadavg", `\nwords 7 of 3\n?$`)
	l.undo(t, l.id(t, uses))
	l.wants(t, "/proc/loadavg", `^[\d. ]+ \d+/\d+ \d+\n?$`)
	// One that takes its files away again.
	l.apply(t, goes)
	l.wants(t, "/proc/uptime", plainUptime)
	l.undo(t, l.id(t, goes))
	l.wants(t, "/proc/uptime", words("many 16 8 lines 6 quiet", 8))
	l.undo(t, id)
	l.wants(t, "/proc/uptime", plainUptime)
	l.wants(t, "/proc/tty/drivers", `(?m)^serial +/dev/ttyS +4 +64-\d+ serial$`)
	if got := deprecated(); got != said {
		t.Errorf("after undo: %q", got)
	}
	odd := false
	for i := 0; !odd && i < 64; i++ { // whatever else takes numbers may leave the even ones for a while: an odd count of pipes, then an even one
		last := l.inode(t)
		odd = last%2 != 0
		if last <= third {
			t.Errorf("inode numbers are %d with the update, %d after undo: want them to go on", third, last)
		}
		third = last
		if i%2 == 0 {
			l.MustRun(t, "taskset", "1", "sh", "-c", "true | true")
		}
	}
	if !odd {
		t.Error("inode numbers are even after undo, too")
	}
	same()
	l.clean(t)
}

const plainUptime = `^\d+\.\d\d \d+\.\d\d\n?$`

// words is the form of /proc/uptime with the patch new-files.
func words(line string, shown int) string {
	return fmt.Sprintf(`^\d+\.\d\d \d+\.\d\d\n%s\nLinux version [^\n]*\nshown %d of 3\n?$`, line, shown)
}

// moduleFile adds a source to a module. A function moves there, which the rest of the module goes on calling where it was; the module is itself
// in code of both.
func (l *lab) moduleFile(t *testing.T, file string) {
	const config, old = "/proc/net/vlan/config", `^VLAN Dev name\t \| VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\n`
	l.MustRun(t, "modprobe", "8021q")
	l.MustRun(t, "modprobe", "dummy")
	leave := func(id string) {
		l.MustRun(t, guestUser, "vlan", "dummy0", id)
		l.MustRun(t, "ip", "link", "del", "dummy0."+id)
	}
	same := l.saveText(t, "8021q")
	leave("5")
	l.wants(t, config, old+`$`)
	l.apply(t, file)
	for i, id := range []string{"5", "6"} {
		l.wants(t, config, old+fmt.Sprintf(`8021q, used \d+\n%d left 8021q\n$`, i))
		leave(id)
	}
	l.wants(t, config, old+`8021q, used \d+\n2 left 8021q\n$`)
	l.undo(t, l.id(t, file))
	leave("7")
	l.wants(t, config, old+`$`)
	same()
	l.clean(t)
}

// inode makes a pipe and returns its inode number, which get_next_ino of fs/inode.c gave, from those of the first CPU.
func (l *lab) inode(t testing.TB) int {
	t.Helper()
	out := l.MustRun(t, "sh", "-c", "taskset 1 sh -c 'echo | readlink /proc/self/fd/0'")
	n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(out), "pipe:["), "]"))
	if err != nil {
		t.Fatalf("readlink of a pipe: %q", out)
	}
	return n
}
