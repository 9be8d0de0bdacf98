package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// misbehave is the built test plugin.
var misbehave string

// hostVariable makes the test binary a host that starts the plugin in the directory that it names and then sleeps.
const hostVariable = "KSPLICE_TEST_HOST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(hostVariable); dir != "" {
		sleepingHost(dir)
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pluginhost")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	misbehave = filepath.Join(dir, "misbehave")
	if out, err := exec.Command("go", "build", "-o", misbehave, "./testdata/misbehave").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the misbehaving plugin: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// install puts plugins with these file names into a new directory.
func install(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	// Root runs nothing that others may change, and some systems leave test directories to the group.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Link(misbehave, filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// newHost returns a host with these plugins. Its timeouts are short for the calls of a kind only: what must succeed before a
// plugin can hang in them may take its time on a busy machine.
func newHost(t *testing.T, files ...string) *Host {
	t.Helper()
	return newHostWith(t, Timeouts{Cancel: time.Second}, files...)
}

func newHostWith(t *testing.T, timeouts Timeouts, files ...string) *Host {
	t.Helper()
	h := New(Config{Dirs: []string{install(t, files...)}, Timeouts: timeouts})
	t.Cleanup(func() {
		begun := time.Now()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if d := time.Since(begun); d > 30*time.Second {
			t.Errorf("Close took %s", d)
		}
	})
	return h
}

// bounded returns a context that ends before the test would be killed.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// describeOne asks the only plugin of h to describe a file, which is returned.
func describeOne(ctx context.Context, t *testing.T, h *Host) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "object")
	a, _, err := h.Arch(ctx, 62)
	if err != nil {
		return file, err
	}
	_, err = a.Describe(ctx, &arch.DescribeRequest{Objects: []plugin.File{{Path: file}}})
	return file, err
}

func TestGood(t *testing.T) {
	h := newHost(t, "arch-good", "backend-good", "transform-nothing")
	ctx := bounded(t)
	if _, err := describeOne(ctx, t, h); err != nil {
		t.Fatal(err)
	}
	a, info, err := h.Arch(ctx, 62)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Health(ctx); err != nil {
		t.Error(err)
	}
	want := plugin.Info{Kind: plugin.KindArch, Name: "good", Version: "1.0", Protocols: []int{1}, Machines: []uint16{62}}
	if diff := cmp.Diff(want, info); diff != "" {
		t.Errorf("Info (-want +got):\n%s", diff)
	}
	facts, err := a.(arch.FactSource).FactExpressions(ctx)
	if facts != nil || err != nil {
		t.Errorf("FactExpressions of a plugin without = %v, %v", facts, err)
	}
	if _, err := a.Match(ctx, &arch.MatchRequest{}); !strings.Contains(fmt.Sprint(err), "does not implement Match") {
		t.Errorf("Match of a plugin without: %v", err)
	}

	b, _, err := h.Backend(ctx, "good")
	if err != nil {
		t.Fatal(err)
	}
	var events []plugin.Progress
	tree, err := b.Prepare(ctx, &backend.PrepareRequest{Release: "6.1.0"}, func(p plugin.Progress) { events = append(events, p) })
	if err != nil {
		t.Fatal(err)
	}
	if tree.Release != "6.1.0" || tree.Machine != 62 {
		t.Errorf("Prepare = %+v", tree)
	}
	wantEvents := []plugin.Progress{{Stage: "unpack", Message: "one of two", Done: 1, Total: 2}, {Stage: "unpack", Message: "bytes \uFFFD", Done: 2, Total: 2}}
	if diff := cmp.Diff(wantEvents, events); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	if _, err := b.Prepare(ctx, &backend.PrepareRequest{Release: "6.1.0"}, nil); err != nil {
		t.Errorf("Prepare without progress: %v", err)
	}

	times := h.CallTime()
	if times["arch-good"] <= 0 || times["backend-good"] <= 0 || len(times) != 2 {
		t.Errorf("CallTime = %v", times)
	}
	if names, err := h.Backends(ctx); err != nil || !cmp.Equal(names, []string{"good"}) {
		t.Errorf("Backends = %v, %v", names, err)
	}
}

// TestVersions: one version in common is enough, whatever else a plugin speaks; without, it is listed with the reason.
func TestVersions(t *testing.T) {
	h := newHost(t, "arch-old-and-new", "arch-later-protocol")
	if _, err := describeOne(bounded(t), t, h); err != nil {
		t.Fatal(err)
	}
	_, info, err := h.Arch(bounded(t), 62)
	if err != nil || info.Name != "old-and-new" || !cmp.Equal(info.Protocols, []int{1, 99}) {
		t.Errorf("Arch = %+v, %v", info, err)
	}
	for _, f := range h.List(bounded(t)) {
		if skipped := strings.Contains(f.Skipped, "speaks protocol version 99, this Ksplice speaks 1"); skipped != (f.Info.Name == "later-protocol") {
			t.Errorf("%s: skipped: %q", f.File, f.Skipped)
		}
	}
}

// TestMisbehaviour has one row for everything that may go wrong with a plugin: one error, with its name and path.
func TestMisbehaviour(t *testing.T) {
	const short = time.Second
	timeouts := map[string]Timeouts{
		"describe-hangs": {Describe: short},
		"hang-handshake": {Start: short},
		"hang-connect":   {Start: short},
		"hang-call":      {Call: short, Cancel: short},
		"deaf":           {Call: short, Cancel: short},
		"frozen":         {Call: short, Cancel: short},
	}
	for _, tc := range []struct {
		mode   string
		reason error    // nil: a diagnostic of the plugin or about its reply
		words  []string // of the error
	}{
		{"describe-fails", ErrNotFound, []string{"exit status 5", "no such luck"}},
		{"describe-garbage", ErrNotFound, []string{`did not print a description in JSON but "Hello, world`}},
		{"describe-hangs", ErrNotFound, []string{"did not end within 1s"}},
		{"describe-floods", ErrNotFound, []string{"did not print a description"}},
		{"other-name", ErrNotFound, []string{`says that it is the arch plugin "somebody"`}},
		{"no-machine", ErrNotFound, []string{"serves no ELF machine"}},
		{"new-protocol", ErrNotFound, []string{"speaks protocol version 7, 8, this Ksplice speaks 1"}},
		{"later-protocol", ErrNotFound, []string{"speaks protocol version 99, this Ksplice speaks 1"}},
		{"empty-protocol", ErrNotFound, []string{"speaks protocol version none, this Ksplice speaks 1"}},
		{"no-protocol", ErrNotFound, []string{"speaks protocol version none, this Ksplice speaks 1"}},

		{"exit-start", ErrExited, []string{"exit status 3 before the handshake", "cannot find my data"}},
		{"hang-handshake", ErrTimeout, []string{"did not shake hands within 1s"}},
		{"hang-connect", ErrTimeout, []string{"did not shake hands within 1s"}},
		{"garbage-line", ErrNonsense, []string{"no handshake", "usage: garbage-line"}},
		{"garbage-flood", ErrNonsense, []string{"no handshake", "bytes more"}},
		{"lies-protocol", ErrProtocol, []string{"speaks protocol version 9, this Ksplice speaks 1"}},
		{"text-protocol", ErrProtocol, []string{"speaks protocol version one, this Ksplice speaks 1"}},
		{"other-protocol", ErrProtocol, []string{"speaks protocol version 99, this Ksplice speaks 1"}},
		{"later-core", ErrNonsense, []string{"no handshake", "2|1|unix"}},
		{"netrpc", ErrProtocol, []string{`"netrpc", only gRPC is allowed`}},
		{"no-certificate", ErrProtocol, []string{"no certificate"}},
		{"bad-certificate", ErrNonsense, []string{"can be started but not spoken to", "certificate"}},
		{"wants-key", nil, []string{"configuration key colour is missing"}},

		{"exit-call", ErrExited, []string{"exit status 4 during Describe", "I have had enough"}},
		{"hang-call", ErrTimeout, []string{"did not answer Describe within 1s"}},
		{"deaf", ErrTimeout, []string{"did not answer Describe within 1s"}},
		{"frozen", ErrTimeout, []string{"did not answer Describe within 1s"}},
		{"panics", nil, []string{"panicked in Describe", "nil pointer", "misbehave/main.go"}},
		{"panics-aside", ErrExited, []string{"exit status 2 during Describe", "panic: aside"}},
		{"returns-nothing", nil, []string{"neither a response nor an error"}},
		{"plain-error", nil, []string{"open \uFFFD: no such file"}},
		{"diagnostic", nil, []string{"net/core/dev.o: describe: the section .text is odd: expected 1, found 2"}},
		{"wrong-count", nil, []string{"makes no sense: 2 descriptions for 1 objects"}},
		{"wrong-index", nil, []string{"key 12 of 0 references"}},
		{"unsorted", nil, []string{"functions are not sorted"}},
		{"huge", ErrNonsense, []string{"cannot be used", "larger than max"}},
	} {
		t.Run(tc.mode, func(t *testing.T) {
			t.Parallel()
			h := newHostWith(t, timeouts[tc.mode], "arch-"+tc.mode)
			begun := time.Now()
			_, err := describeOne(bounded(t), t, h)
			if err == nil {
				t.Fatal("no error")
			}
			if d := time.Since(begun); d > 45*time.Second {
				t.Errorf("the error took %s", d)
			}
			if tc.reason != nil && !errors.Is(err, tc.reason) {
				t.Errorf("the error is not %v: %v", tc.reason, err)
			}
			var d *plugin.Diagnostic
			if !errors.As(err, &d) || d.Fault == "" {
				t.Errorf("no diagnostic in %T %v", err, err)
			}
			for _, w := range tc.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not say %q: %v", w, err)
				}
			}
			var ours *Error
			if errors.As(err, &ours) && !strings.Contains(err.Error(), "/arch-"+tc.mode) {
				t.Errorf("the error does not name the plugin's path: %v", err)
			}
		})
	}
}

// TestRestart: a plugin that died is started again for whoever asks next.
func TestRestart(t *testing.T) {
	h := newHost(t, "arch-exit-call")
	for range 2 {
		if _, err := describeOne(bounded(t), t, h); !errors.Is(err, ErrExited) {
			t.Fatalf("err = %v", err)
		}
	}
}

// TestCancel: when a cancelled call returns, the plugin does nothing more for it; one that does not obey is killed.
func TestCancel(t *testing.T) {
	t.Run("obeys", func(t *testing.T) {
		h := newHost(t, "arch-obeys", "backend-obeys")
		ctx, cancel := context.WithCancel(bounded(t))
		defer cancel()
		a, _, err := h.Arch(ctx, 62)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "object")
		go func() { // cancels once the call runs in the plugin
			for ctx.Err() == nil {
				if _, err := os.Stat(file); err == nil {
					cancel()
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		if _, err := a.Describe(ctx, &arch.DescribeRequest{Objects: []plugin.File{{Path: file}}}); !errors.Is(err, context.Canceled) {
			t.Errorf("Describe: %v", err)
		}
		if got, err := os.ReadFile(file); string(got) != "cleaned up" {
			t.Errorf("the plugin was not waited for: %q, %v", got, err)
		}

		b, _, err := h.Backend(bounded(t), "obeys")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		ctx, cancel = context.WithCancel(bounded(t))
		defer cancel()
		_, err = b.Prepare(ctx, &backend.PrepareRequest{Release: "6.1.0", CacheDir: dir}, func(p plugin.Progress) { cancel() })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Prepare: %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "cleaned")); err != nil {
			t.Errorf("the plugin was not waited for: %v", err)
		}
		if err := b.Health(bounded(t)); err != nil {
			t.Errorf("a plugin that obeyed is not well: %v", err)
		}
	})
	t.Run("deaf", func(t *testing.T) {
		h := newHost(t, "backend-deaf")
		b, _, err := h.Backend(bounded(t), "deaf")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(bounded(t), 500*time.Millisecond)
		defer cancel()
		begun := time.Now()
		_, err = b.Prepare(ctx, &backend.PrepareRequest{Release: "6.1.0"}, nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Prepare: %v", err)
		}
		if d := time.Since(begun); d > 30*time.Second {
			t.Errorf("Prepare returned after %s", d)
		}
		if err := b.Health(bounded(t)); !errors.Is(err, ErrExited) {
			t.Errorf("the plugin was not killed: %v", err)
		}
	})
}

func TestBackendMisbehaviour(t *testing.T) {
	for mode, words := range map[string]string{
		"exit-call":  "exit status 4 during Prepare",
		"other-tree": `the source directory is "/etc", which is not below the root /t`,
		"deaf":       "did not answer Prepare within 5s",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			h := newHostWith(t, Timeouts{Build: 5 * time.Second, Cancel: time.Second}, "backend-"+mode)
			b, _, err := h.Backend(bounded(t), mode)
			if err != nil {
				t.Fatal(err)
			}
			_, err = b.Prepare(bounded(t), &backend.PrepareRequest{Release: "6.1.0"}, nil)
			if !strings.Contains(fmt.Sprint(err), words) {
				t.Errorf("Prepare: %v, want %q", err, words)
			}
		})
	}
	t.Run("talks-after", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, "backend-talks-after")
		b, _, err := h.Backend(bounded(t), "talks-after")
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if _, err := b.Prepare(bounded(t), &backend.PrepareRequest{Release: "6.1.0"}, nil); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestNoise: what a plugin writes to its stdout and stderr disturbs nobody, and logs arrive under its name.
func TestNoise(t *testing.T) {
	var buf lockedBuffer
	log := hclog.New(&hclog.LoggerOptions{Output: &buf, Level: hclog.Debug})
	h := New(Config{Dirs: []string{install(t, "arch-noisy")}, Logger: log})
	for range 3 {
		if _, err := describeOne(bounded(t), t, h); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"[WARN]  arch.noisy: a warning of mine: answer=42", `arch.noisy: stderr: line="{\"@message\":5`, "arch.noisy: stdout: "} {
		if !strings.Contains(buf.String(), want) {
			t.Errorf("the log has no %q", want)
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestNothingLeft: no process, thread or directory of a plugin outlives the host.
func TestNothingLeft(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	h := newHost(t, "arch-child", "arch-exit-start", "backend-deaf")
	file, err := describeOne(bounded(t), t, h)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Backend(bounded(t), "deaf"); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	waitGone(t, file)
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "plugin*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if n := runtime.NumGoroutine(); n >= before {
		t.Errorf("%d goroutines before Close, %d after", before, n)
	}
}

// TestHostDies: a host that is killed takes the plugin, and whom it started, along.
func TestHostDies(t *testing.T) {
	dir := install(t, "arch-child")
	tmp := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), hostVariable+"="+dir, "TMPDIR="+tmp)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(time.Minute, func() { cmd.Process.Kill() }).Stop()
	ready := make([]byte, 64)
	n, err := out.Read(ready)
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil || string(ready[:n]) != "ready\n" {
		t.Fatalf("the host said %q, %v", ready[:n], err)
	}
	waitGone(t, filepath.Join(dir, "pids"))
	if left, _ := filepath.Glob(filepath.Join(tmp, "plugin*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// sleepingHost is the process that TestHostDies kills.
func sleepingHost(dir string) {
	h := New(Config{Dirs: []string{dir}})
	ctx := context.Background()
	a, _, err := h.Arch(ctx, 62)
	if err == nil {
		_, err = a.Describe(ctx, &arch.DescribeRequest{Objects: []plugin.File{{Path: filepath.Join(dir, "pids")}}})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	time.Sleep(time.Minute)
}

// waitGone waits until the processes whose numbers file holds have ended.
func waitGone(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range strings.Fields(string(text)) {
		deadline := time.Now().Add(30 * time.Second)
		for running(pid) {
			if time.Now().After(deadline) {
				t.Errorf("process %s is still there", pid)
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// running says whether a process exists and is no zombie that waits for its parent, which may be anybody.
func running(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

// TestListTellsWhere: every executable is listed with the directory it is in, and with what comes before it.
func TestListTellsWhere(t *testing.T) {
	first, second := install(t, "arch-good", "notes"), install(t, "arch-good", "backend-good")
	if err := os.WriteFile(filepath.Join(first, "README"), []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := New(Config{Dirs: []string{first, second, first + "/"}})
	defer h.Close()
	type row struct{ Path, Directory, ShadowedBy, Words string }
	want := []row{
		{filepath.Join(first, "arch-good"), first, "", ""},
		{filepath.Join(first, "notes"), first, "", "its name is none of arch-NAME"},
		{filepath.Join(second, "arch-good"), second, filepath.Join(first, "arch-good"), "comes before it"},
		{filepath.Join(second, "backend-good"), second, "", ""},
	}
	found := h.List(bounded(t))
	var got []row
	for i, f := range found {
		r := row{f.Path, f.Directory, f.ShadowedBy, f.Skipped}
		if i < len(want) && want[i].Words != "" && strings.Contains(r.Words, want[i].Words) {
			r.Words = want[i].Words
		}
		got = append(got, r)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

func TestDefaultSource(t *testing.T) {
	t.Setenv(PathVariable, "/opt/acme/:/opt/other")
	dirs := DefaultDirs()
	want := []Source{SourceEnvironment, SourceEnvironment, SourceInstallation, SourceInstallation}
	for i, s := range want {
		if got := DefaultSource(dirs[i]); got != s {
			t.Errorf("DefaultSource(%s) = %s, want %s", dirs[i], got, s)
		}
	}
}

// TestNamed: a plugin is found by its kind and name, described without being started, and started as the client of its kind.
func TestNamed(t *testing.T) {
	h := newHost(t, "arch-good", "backend-good", "arch-describe-fails")
	ctx := bounded(t)
	info, err := h.Describe(ctx, plugin.KindBackend, "good")
	if err != nil || info.Kind != plugin.KindBackend || info.Name != "good" {
		t.Errorf("Describe = %+v, %v", info, err)
	}
	if times := h.CallTime(); len(times) > 0 {
		t.Errorf("a plugin that is described is called: %v", times)
	}
	p, err := h.Named(ctx, plugin.KindBackend, "good")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := p.(backend.Backend); !ok {
		t.Errorf("Named = %T, no backend", p)
	}
	if _, err := h.Describe(ctx, plugin.KindArch, "describe-fails"); !errors.Is(err, ErrExited) || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("Describe of a plugin that fails: %v", err)
	}
	for _, kind := range []plugin.Kind{plugin.KindTransform, plugin.KindArch} {
		if _, err := h.Describe(ctx, kind, "nobody"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Describe of a plugin that is not there: %v", err)
		}
		if _, err := h.Named(ctx, kind, "nobody"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Named of a plugin that is not there: %v", err)
		}
	}
}

func TestSplitName(t *testing.T) {
	for file, want := range map[string]string{
		"arch-x86_64": "arch x86_64 true", "backend-a-b.c+d": "backend a-b.c+d true", "transform-2": "transform 2 true",
		"": "  false", "arch": "  false", "arch-": "  false", "arch-.x": "  false", "engine-x": "  false", "arch-a/b": "  false", "xarch-a": "  false", "arch-a\n": "  false",
	} {
		kind, name, ok := SplitName(file)
		if got := fmt.Sprint(kind, " ", name, " ", ok); got != want {
			t.Errorf("SplitName(%q) = %q, want %q", file, got, want)
		}
	}
}
