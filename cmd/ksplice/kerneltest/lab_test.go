// Package kerneltest tests the stock command line on real distribution kernels, booted in QEMU: from a source patch to a
// patched running kernel and back. KSPLICE_TEST_KERNEL=1 runs it; `make test` sets that and installs what it needs.
package kerneltest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// Where things are in the guest.
const (
	guestTools = "/opt/ksplice"
	guestCLI   = guestTools + "/bin/ksplice"
	guestKmod  = "/lib/ksplice.ko"
	guestTool  = "/bin/labtool"
	guestUser  = "/bin/exercise" // uses, traces and measures what the examples patch
	// guestSettings is the guest's configuration file, and what every other begins with: updates of tests are not signed.
	guestSettings = "/etc/ksplice/config.toml"
	takeAll       = "[trust]\nallow_unsigned = true\n"
)

// The exit codes of the command line, as README lists them.
const (
	exitOK       = 0
	exitInternal = 1
	exitUsage    = 2
	exitRefused  = 3
	exitConflict = 4
)

// createLimit bounds one create with a cold cache: packages are downloaded and a tree is prepared.
const createLimit = 15 * time.Minute

// lab is one booted kernel with the ksplice tools in it, and the tools on the host.
type lab struct {
	*vmtest.Guest
	kernel *vmtest.Kernel
	tools  string
	kmod   string
	share  string // seen as /share by the guest
	files  map[string]string
	env    []string // of hostShell, beside the process's own
}

// prepare builds what a guest needs.
func prepare(t testing.TB, series string) *lab {
	t.Helper()
	return prepareFor(t, vmtest.MustFetch(t, series))
}

// prepareFor builds what a guest with a kernel needs.
func prepareFor(t testing.TB, kernel *vmtest.Kernel) *lab {
	t.Helper()
	l := &lab{kernel: kernel, share: t.TempDir()}
	var err error
	if l.tools, err = vmtest.Tools(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l.kmod, err = vmtest.BuildKmod(t.Context(), l.kernel); err != nil {
		t.Fatal(err)
	}
	if l.files, err = vmtest.Tree(l.tools, guestTools); err != nil {
		t.Fatal(err)
	}
	l.files[guestKmod] = l.kmod
	l.files[guestSettings] = filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(l.files[guestSettings], []byte(takeAll), 0o644); err != nil {
		t.Fatal(err)
	}
	for to, pkg := range map[string]string{guestUser: "./examples/exercise", guestTool: "./cmd/ksplice/kerneltest/labtool"} {
		if l.files[to], err = vmtest.Program(t.Context(), pkg); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// boot boots the kernel and loads the ksplice module.
func (l *lab) boot(t testing.TB, o vmtest.Options) {
	t.Helper()
	files := maps.Clone(l.files)
	maps.Copy(files, o.Files)
	o.Kernel, o.Files, o.Share = l.kernel, files, l.share
	l.Guest = vmtest.Test(t, o)
	l.MustRun(t, "insmod", guestKmod)
}

// configure writes a configuration file in the guest.
func (l *lab) configure(t testing.TB, path, text string) {
	t.Helper()
	if err := l.WriteFile(path, []byte(takeAll+text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// host runs the ksplice command on the host.
func (l *lab) host(t testing.TB, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), createLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(l.tools, "bin", "ksplice"), args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("ksplice %s on the host: %v\n%s%s", strings.Join(args, " "), ctx.Err(), out.String(), errs.String())
	}
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// create makes an update of a patch and returns its path in the guest.
func (l *lab) create(t testing.TB, name string, patch []byte, args ...string) string {
	t.Helper()
	file := filepath.Join(l.share, name+".ksplice")
	source := filepath.Join(l.share, name+".patch")
	if err := os.WriteFile(source, patch, 0o644); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"create", "--patch", source, "--kernel", l.kernel.Release, "-o", file}, args...)
	out, errs, exit := l.host(t, args...)
	if exit != exitOK {
		t.Fatalf("ksplice %s: exit code %d\n%s%s", strings.Join(args, " "), exit, out, errs)
	}
	t.Logf("%s", out)
	return "/share/" + name + ".ksplice"
}

// example makes the update of an example, and first that of the one it stands on, and returns its path in the guest.
func (l *lab) example(t testing.TB, e examples.Example) string {
	t.Helper()
	var args []string
	if e.Base != "" {
		base, err := examples.Get(e.Base)
		if err != nil {
			t.Fatal(err)
		}
		args = []string{"--on", filepath.Join(l.share, filepath.Base(l.example(t, base)))}
	}
	for _, u := range e.Units {
		args = append(args, "--unit", u)
	}
	patch, err := e.Patch(l.series())
	if err != nil {
		t.Fatal(err)
	}
	return l.create(t, e.Name, patch, args...)
}

// series is the kernel's: "6.1", "6.12".
func (l *lab) series() string { return strings.Join(strings.SplitN(l.kernel.Release, ".", 3)[:2], ".") }

// ksplice runs the command in the guest.
func (l *lab) ksplice(t testing.TB, args ...string) *vmtest.Result {
	t.Helper()
	r, err := l.Run(t.Context(), append([]string{guestCLI}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// must runs the command in the guest and wants an exit code, and words in what it prints.
func (l *lab) must(t testing.TB, exit int, words string, args ...string) string {
	t.Helper()
	r := l.ksplice(t, args...)
	all := r.Stdout + r.Stderr
	if r.Exit != exit || !strings.Contains(all, words) {
		t.Fatalf("ksplice %s: exit code %d, want %d and the words %q\n%s", strings.Join(args, " "), r.Exit, exit, words, all)
	}
	return all
}

// id returns an update's ID.
func (l *lab) id(t testing.TB, file string) string {
	t.Helper()
	var m struct {
		ID string `json:"id"`
	}
	out := l.must(t, exitOK, "", "inspect", "--json", file)
	if err := json.Unmarshal([]byte(out), &m); err != nil || m.ID == "" {
		t.Fatalf("inspect --json gives no ID (%v):\n%s", err, out)
	}
	return m.ID
}

// apply applies an update. Threads that are in the functions by chance are waited out.
func (l *lab) apply(t testing.TB, file string) string {
	t.Helper()
	return l.must(t, exitOK, "applied", "apply", "--attempts", "100", file)
}

// undo reverses an update.
func (l *lab) undo(t testing.TB, id string) string {
	t.Helper()
	return l.must(t, exitOK, "undone", "undo", "--attempts", "100", id)
}

// do uses patched code once and returns what a program sees.
func (l *lab) do(t testing.TB, x *examples.Effect) string {
	t.Helper()
	return l.MustRun(t, append([]string{guestUser, "do"}, x.Action...)...)
}

// sees wants one effect of an example's to be the old or the new one.
func (l *lab) sees(t testing.TB, x *examples.Effect, want string) {
	t.Helper()
	if text := l.do(t, x); x.Seen(text) != want {
		t.Fatalf("%s shows %q, which is %q, want %q", strings.Join(x.Action, " "), text, x.Seen(text), want)
	}
}

// saveText keeps kernel text; the returned function wants it to be the same again.
func (l *lab) saveText(t testing.TB, modules ...string) (same func()) {
	t.Helper()
	file := fmt.Sprintf("/tmp/text-%d", time.Now().UnixNano())
	l.MustRun(t, append([]string{guestTool, "text", "save", file}, modules...)...)
	return func() {
		t.Helper()
		l.MustRun(t, guestTool, "text", "compare", file)
	}
}

// wantedSeries are the series to test on: all, or those in KSPLICE_TEST_SERIES.
func wantedSeries() []string {
	if s := os.Getenv("KSPLICE_TEST_SERIES"); s != "" {
		return strings.Fields(s)
	}
	return []string{"6.1", "6.12"}
}

// turn says whether a part of a test is this kernel's: `make test` takes those that are long, and that show the same of ksplice whatever the kernel, with
// the kernel of one series only; `make road` with each.
func (l *lab) turn(whose string) bool { return turn(l.series(), whose) }

func turn(series, whose string) bool {
	return series == whose || len(wantedSeries()) == 1 || os.Getenv(allVariable) == "1"
}

// often is how many times something is done: once, or n times when everything is asked for.
func often(n int) int {
	if os.Getenv(allVariable) == "1" {
		return n
	}
	return 1
}

// eachSeries runs a test on the newest kernel of every wanted series.
func eachSeries(t *testing.T, f func(t *testing.T, series string)) {
	t.Parallel()
	vmtest.Need(t)
	for _, s := range wantedSeries() {
		t.Run(s, func(t *testing.T) {
			t.Parallel()
			f(t, s)
		})
	}
}

// poll waits, within a bound, until f is satisfied.
func poll(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}
