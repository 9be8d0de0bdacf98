package kerneltest

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/cmd/ksplice/kerneltest/internal/manual"
	"github.com/ksplice/ksplice/core/vmtest"
)

// Where the manual is, and README, from the directory of this package.
const (
	manualDir  = "../docs"
	readmeFile = "../../../README.md"
)

// What a page's first line says of the machine whose commands it has, where that is not one on which somebody has put the command and the kernel module:
// one with the packages and a service manager, or one that gets them by the page itself.
const (
	onPlain     = ""
	onInstalled = "<!-- machine: installed -->\n"
	onFresh     = "<!-- machine: fresh -->\n"
)

// pages returns the paths of the manual's pages for a machine, README's among them.
func pages(t *testing.T, machine string) []string {
	t.Helper()
	list := []string{}
	take := func(path string) error {
		b, err := os.ReadFile(path)
		of := onPlain
		for _, m := range []string{onInstalled, onFresh} {
			if strings.HasPrefix(string(b), m) {
				of = m
			}
		}
		if err == nil && of == machine {
			list = append(list, path)
		}
		return err
	}
	err := filepath.WalkDir(manualDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		return take(path)
	})
	if err == nil {
		err = take(readmeFile)
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestManual runs every command of the manual's pages, in the order in which they stand there, and compares what they print.
func TestManual(t *testing.T) {
	t.Parallel()
	vmtest.Need(t)
	l := prepare(t, "6.1")
	delete(l.files, guestSettings) // the manual's machine trusts those whose keys it has
	l.boot(t, vmtest.Options{})
	l.vendor(t)
	l.acme(t)
	for _, path := range pages(t, onPlain) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".md"), func(t *testing.T) { l.follow(t, path) })
	}
}

// vendor gives the pages what they take for granted: the key of a vendor acme, which the machine trusts, and a patch.
func (l *lab) vendor(t *testing.T) {
	t.Helper()
	root, err := filepath.Abs(projectRoot)
	if err != nil {
		t.Fatal(err)
	}
	l.env = append(l.env, "KSPLICE_SOURCE="+root)
	if out, err := l.hostShell(t.Context(), "ksplice keygen --no-password acme && cp \"$KSPLICE_SOURCE/examples/patches/proc-version.patch\" fix.patch"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l.MustRun(t, "sh", "-c", "mkdir -p /etc/ksplice/keys.d && cp /share/acme.pub /etc/ksplice/keys.d/")
}

// acme gives the pages about other kernels theirs: a tree in which the kernel can have been built, and a module from outside of it.
func (l *lab) acme(t *testing.T) {
	t.Helper()
	var tree struct{ Source string }
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	request, err := json.Marshal(map[string]string{"Release": l.kernel.Release, "CacheDir": filepath.Join(cache, "ksplice/backends/debian")})
	if err != nil {
		t.Fatal(err)
	}
	out, errs, exit := l.host(t, "plugin", "run", filepath.Join(l.tools, "libexec/ksplice/plugins/backend-debian"), "Prepare", string(request))
	if err := json.Unmarshal([]byte(out), &tree); err != nil || exit != exitOK || tree.Source == "" {
		t.Fatalf("plugin run: exit code %d, %v\n%s%s", exit, err, out, errs)
	}
	l.env = append(l.env, "KERNEL_SOURCE="+tree.Source, "KERNEL_HEADERS="+l.kernel.KDir)
	module := filepath.Join(l.share, "acme-1.2")
	if err := os.CopyFS(module, os.DirFS("testdata/tally")); err != nil {
		t.Fatal(err)
	}
	hostRun(t, "make", "-C", l.kernel.KDir, "M="+module, "modules")
}

// TestManualInstalled does the same with the pages for a machine on which the packages are installed, a Debian that boots from a disk; the kernel
// module is the host's build, since a compiler takes long in an emulated machine.
func TestManualInstalled(t *testing.T) {
	t.Parallel()
	l := debian(t)
	if err := os.CopyFS(l.share, os.DirFS(makePackages(t, moduleVersion(t)))); err != nil {
		t.Fatal(err)
	}
	module, err := os.ReadFile(l.kmod)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.share, "ksplice.ko"), module, 0o644); err != nil {
		t.Fatal(err)
	}
	l.MustRun(t, "sh", "-ec", "exec 2>&1; dpkg -i /share/ksplice_*.deb /share/ksplice-plugins_*.deb; install -D -m 644 /share/ksplice.ko /lib/modules/"+l.kernel.Release+"/updates/ksplice.ko; depmod; modprobe ksplice")
	for _, path := range pages(t, onInstalled) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".md"), func(t *testing.T) { l.follow(t, path) })
	}
}

// TestManualFresh does so on a Debian that has nothing of ksplice; dkms builds the kernel module there. It is alone: the page packs in the source tree.
func TestManualFresh(t *testing.T) {
	l := debian(t)
	for _, path := range pages(t, onFresh) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".md"), func(t *testing.T) { l.follow(t, path) })
	}
}

// debian boots a Debian from a disk.
func debian(t *testing.T) *lab {
	t.Helper()
	vmtest.NeedAll(t)
	l := prepare(t, "6.1")
	image := vmtest.MustBuildImage(t, vmtest.ImageSpec{Series: "6.1"})
	l.Guest = vmtest.TestImage(t, vmtest.ImageOptions{Image: image, MemoryMiB: 2048, Share: l.share})
	l.vendor(t)
	return l
}

// progressLine is what a slow machine says now and then of a stage (cmd/ksplice/meter.go: text), which is on no page.
var progressLine = regexp.MustCompile(`(?m)^\S.*  (\d+/\d+, )?(\d+%, )?(\d+ (s|min \d+ s|h \d+ min))(, about .* left)?\n`)

// follow does what a page says, the host's part in a directory that the guest shares.
func (l *lab) follow(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := manual.Read(string(text))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	names := manual.Names{}
	for _, s := range steps {
		where := fmt.Sprintf("%s:%d", path, s.Line)
		switch {
		case s.File != "" && s.Target:
			if _, err := l.shell(t.Context(), fmt.Sprintf("mkdir -p %s && cat >%s <<'END_OF_FILE'\n%sEND_OF_FILE\n", filepath.Dir(s.File), s.File, s.Content)); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			continue
		case s.File != "":
			file := filepath.Join(l.share, s.File)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(s.Content), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if s.Target && s.Command == "reboot" {
			l.Guest = l.MustReboot(t, "")
			l.MustRun(t, "sh", "-c", "systemctl is-system-running --wait || :")
			continue
		}
		run := l.hostShell
		if s.Target {
			run = l.shell
		}
		out, err := run(t.Context(), names.Here(s.Command, l.kernel.Release))
		if err != nil {
			t.Fatalf("%s: %s: %v\n%s", where, s.Command, err, out)
		}
		if err := names.Compare(s.Prints, progressLine.ReplaceAllString(out, "")); err != nil {
			t.Fatalf("%s: %s: %v", where, s.Command, err)
		}
	}
}

// shell runs a line on the machine that is updated, in the shared directory, and returns all that it prints.
func (l *lab) shell(ctx context.Context, line string) (string, error) {
	p, err := l.Start(ctx, "sh", "-c", "exec 2>&1; cd /share && PATH="+guestTools+"/bin:$PATH && "+line)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, lineLimit)
	defer cancel()
	r, err := p.Wait(ctx)
	if err != nil {
		return p.Output(), err
	}
	if r.Exit != 0 {
		err = fmt.Errorf("exit status %d", r.Exit)
	}
	return r.Stdout, err
}

// hostShell runs a line where updates are made.
func (l *lab) hostShell(ctx context.Context, line string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, createLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir, cmd.Env = l.share, append(append(os.Environ(), "PATH="+filepath.Join(l.tools, "bin")+":"+os.Getenv("PATH")), l.env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestProgressLine: of a slow machine's output only that is taken away which says how far it is.
func TestProgressLine(t *testing.T) {
	const said = "tree      ready in 43 s\napplied  1 function, machine stopped for 0.31 ms\n"
	slow := "wait another run prepares the same kernel  10 s\ncompile net/core/dev.c  112/500, 22%, 1 min 40 s, about 6 min left\nread  1 h 10 min\n" + said
	if got := progressLine.ReplaceAllString(slow, ""); got != said {
		t.Errorf("what is left is\n%s\nwant\n%s", got, said)
	}
}
