package kerneltest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// TestFixes applies real fixes that change what existing data mean, each to the older kernel that does not have it, with objects in use that
// were made before: they work before, under and after the update. `make road` runs it; Debian's archive keeps those kernels for some time only.
func TestFixes(t *testing.T) {
	lines := map[int]int{}
	for _, f := range examples.Fixes {
		lines[f.Lines]++
	}
	t.Logf("%d fixes, by the lines of code that their authors wrote: %v", len(examples.Fixes), lines)
	takeFixes(t, examples.Fixes)
}

// TestCorpus does the same with fixes of vulnerabilities backwards that need hooks or claims.
func TestCorpus(t *testing.T) { takeFixes(t, examples.Corpus) }

func takeFixes(t *testing.T, all []examples.Fix) {
	t.Helper()
	vmtest.Need(t)
	if os.Getenv(allVariable) != "1" {
		t.Skipf("SKIPPED: %s is not 1: kernels are downloaded and prepared", allVariable)
	}
	of := map[string][]examples.Fix{}
	for _, f := range all {
		of[f.Release] = append(of[f.Release], f)
	}
	for release, fixes := range of {
		t.Run(release, func(t *testing.T) {
			l := prepare(t, release)
			files := make([]string, len(fixes))
			for i, f := range fixes {
				text, err := f.Patch()
				if err != nil {
					t.Fatal(err)
				}
				files[i] = l.create(t, f.Name, text)
			}
			l.image(t)
			l.boot(t, vmtest.Options{})
			for i, f := range fixes {
				t.Run(f.Name, func(t *testing.T) { l.fix(t, f, files[i]) })
			}
		})
	}
}

func (l *lab) fix(t *testing.T, f examples.Fix, file string) {
	for _, m := range f.Modules {
		l.MustRun(t, "modprobe", m)
	}
	for _, args := range f.Setup {
		l.MustRun(t, append([]string{guestUser}, args...)...)
	}
	same := l.saveText(t)
	shows := func(when string) {
		t.Helper()
		for _, e := range f.Show {
			if got := l.MustRun(t, append([]string{guestUser, "do"}, e.Action...)...); e.Seen(got) != when {
				t.Errorf("%s: %q shows %q, want what is %s", f.Name, e.Action, got, when)
			}
		}
	}
	use, end := l.holds(t, f.Hold)
	shows("old")
	use()
	l.apply(t, file)
	shows("new")
	use()
	useLater, endLater := l.holds(t, f.HoldLater)
	use()
	useLater()
	l.undo(t, l.id(t, file))
	shows("old")
	use()
	useLater()
	end()
	endLater()
	// A part that stays mapped keeps its field, of no object.
	for line := range strings.Lines(l.shadows(t)) {
		if !strings.HasSuffix(line, " 0\n") {
			t.Errorf("objects have a shadow field still: %s", line)
		}
	}
	same()
}

// holds starts a program that keeps objects; use has it use them, end ends it.
func (l *lab) holds(t *testing.T, args []string) (use, end func()) {
	t.Helper()
	if len(args) == 0 {
		return func() {}, func() {}
	}
	p := l.MustStart(t, append([]string{guestUser, "hold"}, args...)...)
	want := "ready\n"
	said := func() {
		t.Helper()
		poll(t, strings.Join(args, " "), func() bool {
			select {
			case <-p.Done():
				return true
			default:
				return p.Output() == want
			}
		})
		if p.Output() != want {
			r, err := p.Wait(t.Context())
			t.Fatalf("hold %q says %q, want %q: %v, %+v", args, p.Output(), want, err, r)
		}
	}
	said()
	return func() {
			t.Helper()
			if err := p.Signal(syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			want += "used\n"
			said()
		}, func() {
			if err := p.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if r, err := p.Wait(t.Context()); err != nil || r.Exit != 0 {
				t.Errorf("hold %q: %v, %+v", args, err, r)
			}
		}
}

// image makes an image of a CD with symbolic links so long that their entries continue elsewhere.
func (l *lab) image(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		if err := os.Symlink(strings.Repeat(fmt.Sprintf("a-long-name-%d/", i), 12)+"end", filepath.Join(dir, fmt.Sprintf("link-with-a-long-name-so-that-there-is-no-room-%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "genisoimage", "-quiet", "-R", "-o", filepath.Join(l.share, "links.iso"), dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}
