package kerneltest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
)

// TestConstructsData has what a patch may do to data, files and whole functions at work in replaced functions of a guest's kernel: as programs see it
// before, while the update is in, and after undo.
func TestConstructsData(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		files := l.construct(t, "new-files")
		l.boot(t, vmtest.Options{})
		l.MustRun(t, "sh", "-c", "echo 1 > /proc/sys/kernel/printk") // the kernel log alone has the warning that is wanted
		t.Run("new files", func(t *testing.T) { l.newFiles(t, files) })
	})
}

// construct makes an update of a patch of testdata/constructs: that for the series where there is one.
func (l *lab) construct(t testing.TB, name string, args ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "constructs", l.series(), name+".patch"))
	if os.IsNotExist(err) {
		text, err = os.ReadFile(filepath.Join("testdata", "constructs", name+".patch"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return l.create(t, name, text, args...)
}

// newFiles adds sources in C and assembly. They bring functions, data of every kind, and what is done once; static variables of the kernel's
// own go on from where they were, in both directions.
func (l *lab) newFiles(t *testing.T, file string) {
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
		got := l.MustRun(t, guestUser, "do", "file", "/proc/uptime")
		form := fmt.Sprintf(`^\d+\.\d\d \d+\.\d\d\n%s\nLinux version [^\n]*\nshown %d of 3\n$`, want, i+1)
		if !regexp.MustCompile(form).MatchString(got) {
			t.Errorf("read %d: %q, want %q", i+1, got, form)
		}
	}
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
	l.undo(t, id)
	if got := deprecated(); got != said {
		t.Errorf("after undo: %q", got)
	}
	odd := false
	for range 4 {
		last := l.inode(t)
		odd = odd || last%2 != 0
		if last <= third {
			t.Errorf("inode numbers are %d with the update, %d after undo: want them to go on", third, last)
		}
		third = last
	}
	if !odd {
		t.Error("inode numbers are even after undo, too")
	}
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
