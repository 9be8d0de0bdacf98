package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/sdktest"
)

// Both variables ask for the test with a real kernel: it wants Debian's package sources, 5 GB of disk and minutes.
const (
	kernelVariable = "KSPLICE_TEST_KERNEL"
	allVariable    = "KSPLICE_TEST_ALL"
)

// TestRealDelivery delivers a real kernel, Debian's of the series 6.1 with a patch of ACME's, runs the conformance suite against the finished
// binary with it, and compares objects with those that Debian's own backend makes: what the patch leaves alone is the same code.
func TestRealDelivery(t *testing.T) {
	if os.Getenv(kernelVariable) != "1" || os.Getenv(allVariable) != "1" {
		t.Skipf("SKIPPED: it prepares a kernel tree from nothing; set %s=1 and %s=1", kernelVariable, allVariable)
	}
	debian := sdktest.LaunchBackend(t, build(t, "../..", "./plugins/backend-debian", "backend-debian"))
	cache := cacheDir(t)
	theirs, err := debian.Prepare(t.Context(), &backend.PrepareRequest{Release: newest(t), CacheDir: filepath.Join(cache, "debian")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	release := "6.1.0-acme1"
	config := map[string]string{"deliveries": deliverDebian(t, theirs, release)}
	binary := build(t, ".", ".", "backend-acme")
	acme := sdktest.LaunchBackend(t, binary)
	sdktest.Backend(t, acme, sdktest.BackendFixtures{Release: release, Source: changed, Header: "fs/proc/internal.h", Config: config,
		CacheDir: filepath.Join(cache, "acme")})
	ours, err := acme.Prepare(t.Context(), &backend.PrepareRequest{Release: release, CacheDir: filepath.Join(cache, "acme")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ours.Version != theirs.Version || ours.Machine != theirs.Machine || ours.Arch != theirs.Arch || ours.Image == "" {
		t.Errorf("the tree of the delivery is %+v, Debian's %+v", ours, theirs)
	}
	for source, same := range map[string]bool{changed: false, "net/sched/sch_qfq.c": true, "lib/string_helpers.c": true} {
		if a, b := object(t, acme, ours, source), object(t, debian, theirs, source); bytes.Equal(a, b) != same {
			t.Errorf("%s: the objects of ACME's tree and Debian's are equal: %t, want %t", source, !same, same)
		}
	}
}

// changed is what the patch changes.
const changed = "fs/proc/uptime.c"

// build builds a program of a module.
func build(t *testing.T, module, pkg, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	run(t, module, "go", "build", "-o", path, pkg)
	return path
}

func run(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s%s", argv, err, out, stderr.Bytes())
	}
	return string(out)
}

// cacheDir is where trees stay between runs: that of the other kernel tests.
func cacheDir(t *testing.T) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "ksplice", "backends")
}

// newest is the newest kernel of the series that the package sources have.
func newest(t *testing.T) string {
	t.Helper()
	var newest string
	out := run(t, ".", "apt-cache", "--names-only", "search", `^linux-headers-6\.1\.0-[0-9]+-amd64$`)
	for _, m := range regexp.MustCompile(`(?m)^linux-headers-(\S+) `).FindAllStringSubmatch(out, -1) {
		if len(m[1]) > len(newest) || len(m[1]) == len(newest) && m[1] > newest {
			newest = m[1]
		}
	}
	if newest == "" {
		t.Fatal("the package sources have no linux-headers of 6.1: run `apt-get update`")
	}
	return newest
}

// deliverDebian makes a delivery of the source that Debian's kernel was built from, and of what its build left.
func deliverDebian(t *testing.T, tree *backend.Tree, release string) string {
	t.Helper()
	dir := t.TempDir()
	to := filepath.Join(dir, release)
	if err := os.MkdirAll(filepath.Join(to, "patches"), 0o755); err != nil {
		t.Fatal(err)
	}
	packages := t.TempDir()
	run(t, packages, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "download", "linux-source-6.1="+strings.TrimPrefix(tree.Banner, "Debian "))
	run(t, packages, "sh", "-c", `dpkg-deb --fsys-tarfile *.deb | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' >"$1"`, "sh", filepath.Join(to, "linux-6.1.tar.xz"))
	for name, from := range map[string]string{configName: tree.Config, symversName: tree.Symvers, imageName: tree.Image, "patches/uptime-words.patch": "../patches/uptime-words.patch"} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{versionName: tree.Version + "\n", seriesName: "uptime-words.patch\n"} {
		if err := os.WriteFile(filepath.Join(to, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// As README has it.
	run(t, to, "sh", "-c", `find . -type f ! -name SHA256SUMS -printf '%P\0' | sort -z | xargs -0 sha256sum >SHA256SUMS`)
	return dir
}

// object compiles a source in a work tree and gives the object.
func object(t *testing.T, b backend.Backend, tree *backend.Tree, source string) []byte {
	t.Helper()
	units, err := b.Units(t.Context(), &backend.UnitsRequest{Tree: tree, Sources: []string{source}})
	if err != nil || len(units.Units) != 1 {
		t.Fatalf("units of %s: %v, %v", source, units, err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(tree.Root), ".test-*") // where links can be made
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	work := filepath.Join(dir, "root")
	run(t, ".", "cp", "-al", tree.Root, work)
	resp, err := b.Compile(t.Context(), &backend.CompileRequest{Tree: tree, WorkDir: work, Units: units.Units, ExtraFlags: []string{"-ffunction-sections", "-fdata-sections"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(resp.Results, func(r backend.CompileResult) bool { return r.Object == "" }); i >= 0 {
		t.Fatalf("%s does not compile: %+v", source, resp.Results[i].Diagnostics)
	}
	content, err := os.ReadFile(resp.Results[0].Object)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
