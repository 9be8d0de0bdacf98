package kerneltest

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// projectRoot is the directory of the project's source, from that of the tests.
const projectRoot = "../../.."

// moduleVersion is the version that the project's packages have.
func moduleVersion(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(projectRoot, "kmod", "dkms.conf"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^PACKAGE_VERSION="(.+)"$`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("kmod/dkms.conf names no version:\n%s", b)
	}
	return string(m[1])
}

var packing sync.Mutex

// pack is hostRun for what writes into the source tree: one at a time.
func pack(t testing.TB, argv ...string) {
	t.Helper()
	packing.Lock()
	defer packing.Unlock()
	hostRun(t, argv...)
}

// makePackages packs the project as a version, as `make packages` does, and returns the directory of the packages.
func makePackages(t testing.TB, version string) string {
	t.Helper()
	dir := t.TempDir()
	pack(t, filepath.Join(projectRoot, ".ci", "env"), filepath.Join(projectRoot, "cmd", "ksplice", "package", "build"), version, dir)
	return filepath.Join(dir, "packages")
}

// hostRun runs a program of the host's and returns what it prints.
func hostRun(t testing.TB, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), createLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(argv, " "), err, out, errs.Bytes())
	}
	return string(out)
}

// TestPackagesContents packs twice: the packages are the same, .deb and .rpm hold the same files, which are all that make install installs, the
// programs find what the packages have, and rpm reads the scripts.
func TestPackagesContents(t *testing.T) {
	t.Parallel()
	vmtest.Need(t)
	version := moduleVersion(t)
	dir := makePackages(t, version)
	again := makePackages(t, version)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 6 {
		t.Fatalf("packages: %v, %v", files, err)
	}
	for _, f := range files {
		a, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(again, filepath.Base(f)))
		if err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s is not the same the second time (%v)", filepath.Base(f), err)
		}
	}
	var all []string
	for _, name := range []string{"ksplice", "ksplice-plugins", "ksplice-dkms"} {
		deb, rpm := only(t, dir, name+"_*.deb"), only(t, dir, name+"-[0-9]*.rpm")
		inDeb := strings.Fields(strings.ReplaceAll(hostRun(t, "sh", "-ec", `dpkg-deb --fsys-tarfile "$1" | tar -t | grep -v '/$'`, "sh", deb), "./", "/"))
		// rpm lists directories that the package owns as well.
		inRPM := strings.Fields(hostRun(t, "rpm", "-qp", "--qf", `[%{FILEMODES:perms} %{FILENAMES}\n]`, rpm))
		var plain []string
		for i := 0; i+1 < len(inRPM); i += 2 {
			if !strings.HasPrefix(inRPM[i], "d") {
				plain = append(plain, inRPM[i+1])
			}
		}
		slices.Sort(inDeb)
		slices.Sort(plain)
		if diff := cmp.Diff(inDeb, plain); diff != "" {
			t.Errorf("%s: .deb (-) and .rpm (+):\n%s", name, diff)
		}
		all = append(all, inDeb...)
		if got := hostRun(t, "dpkg-deb", "-f", deb, "Version"); !strings.HasPrefix(got, version+"-") {
			t.Errorf("%s is of version %s", deb, got)
		}
	}
	for _, want := range []string{"/usr/bin/ksplice", "/etc/ksplice/config.toml", "/usr/libexec/ksplice/plugins/arch-x86_64", "/usr/src/ksplice-" + version + "/dkms.conf"} {
		if !slices.Contains(all, want) {
			t.Errorf("no package has %s", want)
		}
	}
	stage := filepath.Join(filepath.Dir(dir), "installed")
	pack(t, "make", "-s", "-C", projectRoot, "install", "DESTDIR="+stage, "PREFIX=/usr")
	installed, err := vmtest.Tree(stage, "/")
	if err != nil {
		t.Fatal(err)
	}
	for file := range installed {
		if !slices.Contains(all, file) {
			t.Errorf("make install installs %s, which no package has", file)
		}
	}
	// dkms is asked for in both, and nothing is done to a kernel's module at rpm's installation before the old package has gone.
	if scripts := hostRun(t, "rpm", "-qp", "--scripts", only(t, dir, "ksplice-dkms-*.rpm")); !strings.Contains(scripts, "posttrans") ||
		strings.Contains(scripts, "postinstall") || strings.Contains(scripts, "@VERSION@") || !strings.Contains(scripts, "dkms remove -m ksplice -v "+version) {
		t.Errorf("ksplice-dkms's scripts for rpm:\n%s", scripts)
	}
	installRPMs(t, dir, all)
	// What the package ships as a configuration is one.
	unpacked := t.TempDir()
	for _, name := range []string{"ksplice", "ksplice-plugins"} {
		hostRun(t, "dpkg-deb", "-x", only(t, dir, name+"_*.deb"), unpacked)
	}
	var found []struct {
		Path    string `json:"path"`
		Skipped string `json:"skipped"`
	}
	out := hostRun(t, filepath.Join(unpacked, "usr/bin/ksplice"), "plugin", "list", "--json", "--config", filepath.Join(unpacked, "etc/ksplice/config.toml"))
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, file := range all {
		if strings.HasPrefix(file, "/usr/libexec/ksplice/plugins/") && !strings.Contains(out, `"`+unpacked+file+`"`) {
			t.Errorf("the installed ksplice does not find %s:\n%s", file, out)
		}
	}
	if len(found) == 0 {
		t.Errorf("the installed ksplice finds no plugin:\n%s", out)
	}
}

// installRPMs has rpm install the packages of a directory into an empty root, whose files then are those, verify them, and erase them: nothing stays.
// Scripts are not run: the root has no shell.
func installRPMs(t testing.TB, dir string, files []string) {
	t.Helper()
	packages, err := filepath.Glob(filepath.Join(dir, "*.rpm"))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	rpm := func(args ...string) {
		t.Helper()
		argv := append([]string{"rpm", "--root", root, "--dbpath", "/db"}, args...)
		if os.Geteuid() != 0 {
			argv = append([]string{"unshare", "--map-root-user"}, argv...)
		}
		hostRun(t, argv...)
	}
	there := func() []string {
		t.Helper()
		found, err := vmtest.Tree(root, "/")
		if err != nil {
			t.Fatal(err)
		}
		maps.DeleteFunc(found, func(file, _ string) bool { return strings.HasPrefix(file, "/db/") })
		return slices.Sorted(maps.Keys(found))
	}
	rpm(append([]string{"--install", "--nodeps", "--noscripts"}, packages...)...)
	if diff := cmp.Diff(slices.Sorted(slices.Values(files)), there()); diff != "" {
		t.Errorf("files of the packages (-), and that rpm has installed (+):\n%s", diff)
	}
	rpm("--verify", "--all", "--nodeps", "--noscripts")
	rpm("--erase", "--nodeps", "--noscripts", "ksplice", "ksplice-plugins", "ksplice-dkms")
	if left := there(); len(left) != 0 {
		t.Errorf("rpm leaves %v", left)
	}
	for _, gone := range []string{"etc/ksplice", "usr/libexec/ksplice", "usr/src/ksplice-" + moduleVersion(t)} {
		if _, err := os.Stat(filepath.Join(root, gone)); !os.IsNotExist(err) {
			t.Errorf("rpm leaves /%s (%v)", gone, err)
		}
	}
}

// only is the one file of a pattern in a directory.
func only(t testing.TB, dir, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) != 1 {
		t.Fatalf("%s in %s: %v, %v", pattern, dir, files, err)
	}
	return files[0]
}

// system is a machine that runs a whole Debian.
type system struct {
	*vmtest.Guest
	share string
}

// lineLimit bounds one shell line: dkms compiles the module in some, and the machine is emulated.
const lineLimit = 40 * time.Minute

// sh runs a shell line, which must succeed, and returns all that it prints.
func (s *system) sh(t testing.TB, line string) string {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), lineLimit)
	defer cancel()
	p := s.MustStart(t, "sh", "-ec", "exec 2>&1; export DEBIAN_FRONTEND=noninteractive; "+line)
	r, err := p.Wait(ctx)
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, p.Output())
	}
	if r.Exit != 0 {
		t.Fatalf("%s: exit status %d\n%s", line, r.Exit, r.Stdout)
	}
	t.Logf("%.0f s: %s", time.Since(began).Seconds(), line)
	return r.Stdout
}

// wants is sh, which must print words.
func (s *system) wants(t testing.TB, line string, words ...string) string {
	t.Helper()
	out := s.sh(t, line)
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Fatalf("%s: no %q in\n%s", line, w, out)
		}
	}
	return out
}

// sees wants /proc/uptime to be as example uptime-words says.
func (s *system) sees(t testing.TB, x examples.Effect, want string) {
	t.Helper()
	if text := s.sh(t, "cat /proc/uptime"); x.Seen(text) != want {
		t.Fatalf("/proc/uptime is %q, which is %q, want %q", text, x.Seen(text), want)
	}
}

// listFiles lists the system's files by name, but for what is of this boot, what others write by themselves, and what dkms, dpkg and apt keep for
// themselves about any package: dkms makes a key for signing when it builds first, where openssl is installed.
const listFiles = `find / -xdev \( -path /tmp -o -path /run -o -path /var/tmp -o -path /var/log -o -path /var/cache/apt -o -path /var/lib/apt/lists -o -path /var/cache/ldconfig -o ` +
	`-path /var/lib/systemd -o -path '/var/lib/dkms/mok.*' -o -path '/var/cache/debconf' -o -path '/var/lib/dpkg/*-old' \) -prune -o -print | LC_ALL=C sort`

// TestPackagesInstalled takes the packages through their life on a Debian that boots from a disk: apt installs them, dkms builds the module for
// the running kernel; an update is applied; an upgrade, whose tools speak to the older module that is loaded, and undo, and apply again;
// removal while an update is applied, which goes on to run; a purge leaves nothing.
func TestPackagesInstalled(t *testing.T) {
	t.Parallel()
	vmtest.NeedAll(t)
	const series = "6.1"
	s := &system{share: t.TempDir()}
	image := vmtest.MustBuildImage(t, vmtest.ImageSpec{Series: series})
	version := moduleVersion(t)
	newer := version + "+newer"
	for name, v := range map[string]string{"old": version, "new": newer} {
		if err := os.CopyFS(filepath.Join(s.share, name), os.DirFS(makePackages(t, v))); err != nil {
			t.Fatal(err)
		}
	}
	l := prepare(t, series)
	l.share = s.share
	e, err := examples.Get("uptime-words")
	if err != nil {
		t.Fatal(err)
	}
	effect, file := e.Show[0], l.example(t, e)

	s.Guest = vmtest.TestImage(t, vmtest.ImageOptions{Image: image, MemoryMiB: 2048, Share: s.share})
	before := s.sh(t, listFiles)
	l.Guest = s.Guest
	l.vendor(t)
	if out, err := l.hostShell(t.Context(), "ksplice sign --key acme.key "+filepath.Base(file)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// Each of the two is the newest file of its name in a directory of its own.
	s.wants(t, "apt-get install -q -y --no-install-recommends /share/old/*.deb", "Setting up ksplice ", "Setting up ksplice-dkms ")
	s.wants(t, "dkms status", "ksplice/"+version+", "+image.Kernel.Release+", x86_64: installed")
	s.wants(t, "modprobe ksplice && cat /sys/module/ksplice/version", version)
	s.sees(t, effect, "old")
	s.wants(t, "ksplice apply --attempts 100 "+file, "applied")
	s.sees(t, effect, "new")

	s.wants(t, "apt-get install -q -y --no-install-recommends /share/new/*.deb", "Setting up ksplice-dkms ("+newer)
	if out := s.wants(t, "dkms status", "ksplice/"+newer+", "+image.Kernel.Release+", x86_64: installed"); strings.Contains(out, "ksplice/"+version+",") {
		t.Errorf("dkms still has the older module:\n%s", out)
	}
	if got := s.sh(t, "cat /sys/module/ksplice/version; modinfo -F version ksplice"); got != version+"\n"+newer+"\n" {
		t.Errorf("versions of the module that is loaded, and of the one that would be: %q", got)
	}
	s.sees(t, effect, "new")
	var applied []struct {
		ID string `json:"id"`
	}
	out := s.sh(t, "ksplice status --json")
	if err := json.Unmarshal([]byte(out), &applied); err != nil || len(applied) != 1 {
		t.Fatalf("status --json: %v\n%s", err, out)
	}
	id := applied[0].ID
	s.wants(t, "ksplice undo --attempts 100 "+id, "undone")
	s.sees(t, effect, "old")
	s.wants(t, "ksplice apply --attempts 100 "+file, "applied")
	s.sees(t, effect, "new")

	s.wants(t, "apt-get remove -q -y 'ksplice*'", "update "+id+" stays applied", "the module stays in memory")
	s.sees(t, effect, "new")
	// What undo takes is kept for a ksplice that is installed again.
	s.sh(t, "apt-get install -q -y --no-install-recommends /share/new/ksplice_*.deb /share/new/ksplice-plugins_*.deb")
	s.wants(t, "ksplice undo --attempts 100 "+id, "undone")
	s.sees(t, effect, "old")
	s.sh(t, "apt-get purge -q -y 'ksplice*' && test ! -e /run/ksplice && rmmod ksplice")
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(s.sh(t, listFiles), "\n")); diff != "" {
		t.Errorf("files before installation (-) and after the purge (+):\n%s", diff)
	}
}
