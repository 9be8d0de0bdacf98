package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/sdktest"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// backendHere is a backend with a directory of its own. Without the programs that it needs the test is skipped.
func backendHere(t *testing.T) *Backend {
	t.Helper()
	b := &Backend{}
	need.OK(t, b.Health(t.Context()))
	if err := b.Configure(t.Context(), map[string]string{"deliveries": t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestConformance runs the suite against the finished binary, as far as it needs no kernel; real_test.go has the rest.
func TestConformance(t *testing.T) {
	backendHere(t) // or skip
	acme := sdktest.LaunchBackend(t, build(t, ".", ".", "backend-acme"))
	sdktest.Backend(t, acme, sdktest.BackendFixtures{Config: map[string]string{"deliveries": t.TempDir()}})
}

const release = "6.1.99-acme1"

// deliver makes a delivery of files, with the digests that they have. What they hold is no kernel: it is refused on the way.
func (b *Backend) deliver(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(b.dir, release)
	var sums []string
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		sums = append(sums, fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(text)), name))
	}
	slices.Sort(sums)
	if err := os.WriteFile(filepath.Join(dir, sumsName), []byte(strings.Join(sums, "")), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// whole are the files of a delivery, as far as this backend itself looks at them: the compiler is this machine's.
func whole(t *testing.T) map[string]string {
	t.Helper()
	out, err := exec.Command("gcc", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	gcc, _, _ := strings.Cut(string(out), "\n")
	return map[string]string{
		"linux-6.1.99.tar.xz":  tarball(t, map[string]string{"linux-6.1.99/Makefile": "all:\n", "linux-6.1.99/fs/a.c": "int a;\nint b;\nint c;\n"}),
		versionName:            "#1 SMP ACME 6.1.99-1\n",
		configName:             fmt.Sprintf("CONFIG_CC_VERSION_TEXT=%q\nCONFIG_MODULES=y\n", gcc),
		symversName:            "",
		seriesName:             "# ACME's\nfirst.patch\n\nsecond.patch -p0 # as it came\n",
		"patches/first.patch":  "--- a/fs/a.c\n+++ b/fs/a.c\n@@ -1,3 +1,3 @@\n int a;\n-int b;\n+int d;\n int c;\n",
		"patches/second.patch": "--- fs/a.c\n+++ fs/a.c\n@@ -1,3 +1,3 @@\n int a;\n-int d;\n+int e;\n int c;\n",
	}
}

func tarball(t *testing.T, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(files[name])), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("xz", "-c")
	cmd.Stdin = &b
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// left lists what a refused Prepare has left in the cache, but for locks.
func left(t *testing.T, cache string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != cache && path != filepath.Join(cache, "trees") && filepath.Ext(path) != ".lock" {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestRefusals: each thing that may be wrong with a delivery is told with its file, and leaves nothing behind.
func TestRefusals(t *testing.T) {
	backendHere(t) // or skip
	remove := func(name string) func(map[string]string) { return func(f map[string]string) { delete(f, name) } }
	set := func(name, text string) func(map[string]string) { return func(f map[string]string) { f[name] = text } }
	for _, tt := range []struct {
		name   string
		change func(files map[string]string)
		after  func(dir string) error // once the digests are written
		where  string
		want   string
	}{
		{name: "no source", change: remove("linux-6.1.99.tar.xz"), where: sumsName, want: "not complete"},
		{name: "no config", change: remove(configName), where: sumsName, want: "not complete"},
		{name: "two sources", change: set("linux-6.2.tar.xz", "x"), where: sumsName, want: "linux-6.2.tar.xz"},
		{name: "digests of nothing", after: put(sumsName, "no digests\n"), where: sumsName, want: "no digests"},
		{name: "digests of elsewhere", after: put(sumsName, strings.Repeat("0", 64)+"  ../../etc/passwd\n"), where: sumsName, want: "passwd"},
		{name: "series without digest", change: remove(seriesName), after: put(seriesName, "first.patch\n"), where: sumsName, want: "patches/series"},
		{name: "image without digest", after: put(imageName, "x"), where: sumsName, want: "vmlinuz"},
		{name: "version changed", after: put(versionName, "#2"), where: versionName, want: "not the file that ACME delivered"},
		{name: "source changed", after: put("linux-6.1.99.tar.xz", "x"), where: "linux-6.1.99.tar.xz", want: "not the file that ACME delivered"},
		{name: "patch changed", after: put("patches/first.patch", "x"), where: "patches/first.patch", want: "not the file that ACME delivered"},
		{name: "source missing", after: func(dir string) error { return os.Remove(filepath.Join(dir, "linux-6.1.99.tar.xz")) }, where: "linux-6.1.99.tar.xz", want: "cannot be read"},
		{name: "patch without digest", change: remove("patches/second.patch"), where: sumsName, want: "patches/second.patch"},
		{name: "patch of elsewhere", change: set(seriesName, "../../passwd\n"), where: seriesName, want: "passwd"},
		{name: "option of a patch", change: set(seriesName, "first.patch --merge\n"), where: seriesName, want: "--merge"},
		{name: "patch that does not apply", change: set("patches/second.patch", "--- fs/a.c\n+++ fs/a.c\n@@ -1,3 +1,3 @@\n int a;\n-int z;\n+int e;\n int c;\n"), where: "patches/second.patch", want: "does not apply"},
		{name: "patch with another context", change: set("patches/second.patch", "--- fs/a.c\n+++ fs/a.c\n@@ -1,3 +1,3 @@\n int z;\n-int d;\n+int e;\n int c;\n"), where: "patches/second.patch", want: "does not apply"},
		{name: "patch of the machine's files", change: set("patches/second.patch", "--- ../../../x\n+++ ../../../x\n@@ -0,0 +1 @@\n+x\n"), where: "patches/second.patch", want: "does not apply"},
		{name: "source that leads out", change: set("linux-6.1.99.tar.xz", tarball(t, map[string]string{"linux-6.1.99/../../x": "x"})), where: "linux-6.1.99.tar.xz", want: "leads out"},
		{name: "source of something else", change: set("linux-6.1.99.tar.xz", tarball(t, map[string]string{"linux-6.1.99/README": "x"})), where: "linux-6.1.99.tar.xz", want: "not a kernel's source"},
		{name: "another compiler", change: set(configName, "CONFIG_CC_VERSION_TEXT=\"gcc (ACME) 1.0\"\n"), where: "gcc", want: "not the one that built the kernel"},
		{name: "no kernel's configuration", where: ".config", want: "not a kernel's configuration"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := backendHere(t)
			files := whole(t)
			if tt.change != nil {
				tt.change(files)
			}
			dir := b.deliver(t, files)
			if tt.after != nil {
				if err := tt.after(dir); err != nil {
					t.Fatal(err)
				}
			}
			cache := t.TempDir()
			_, err := sdktest.ServeBackend(t, b).Prepare(t.Context(), &backend.PrepareRequest{Release: release, CacheDir: cache}, nil)
			var d *plugin.Diagnostic
			if !errors.As(err, &d) || !strings.HasSuffix(d.Where, tt.where) || !strings.Contains(err.Error(), tt.want) || d.Detail == "" {
				t.Errorf("Prepare = %v, want %q about %s and what to do", err, tt.want, tt.where)
			}
			if list := left(t, cache); len(list) > 0 {
				t.Errorf("it leaves %q", list)
			}
		})
	}
}

func put(name, text string) func(string) error {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
}

// TestPatches: the series is applied in its order, before anything else is made of the source.
func TestPatches(t *testing.T) {
	b := backendHere(t)
	b.deliver(t, whole(t))
	d, err := openDelivery(b.dir, release)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	// The configuration is none of a kernel's: filling ends with it.
	if _, err := d.fill(t.Context(), root, 1, func(plugin.Progress) {}); err == nil || !strings.Contains(err.Error(), "configuration") {
		t.Fatalf("fill = %v", err)
	}
	got, err := os.ReadFile(filepath.Join(root, "fs/a.c"))
	if err != nil || string(got) != "int a;\nint e;\nint c;\n" {
		t.Errorf("fs/a.c is %q, %v", got, err)
	}
}

// TestCancel: a Prepare that is given up while it unpacks leaves nothing.
func TestCancel(t *testing.T) {
	b := backendHere(t)
	b.deliver(t, whole(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cache := t.TempDir()
	unpacked := false
	_, err := b.Prepare(ctx, &backend.PrepareRequest{Release: release, CacheDir: cache}, func(p plugin.Progress) {
		if p.Stage == "unpack" {
			unpacked = true
			cancel()
		}
	})
	if !unpacked || !errors.Is(err, context.Canceled) {
		t.Errorf("Prepare that is given up while it unpacks (%t) = %v", unpacked, err)
	}
	if list := left(t, cache); len(list) > 0 {
		t.Errorf("it leaves %q", list)
	}
}

// TestProbe: what is delivered is supported, and what is not is told with what there is.
func TestProbe(t *testing.T) {
	b := backendHere(t)
	dir := b.deliver(t, whole(t))
	for _, tt := range []struct{ release, version, want string }{
		{release, "", ""},
		{release, "#1 SMP ACME 6.1.99-1", ""},
		{release, "#1 SMP ACME 6.1.99-2", "another build"},
		{"6.1.99-acme2", "", release},
		{"..", "", "not delivered"},
		{release + "/.", "", "not delivered"},
	} {
		resp, err := b.Probe(t.Context(), &backend.ProbeRequest{Release: tt.release, Version: tt.version})
		if err != nil || resp.Supported != (tt.want == "") || !strings.Contains(resp.Reason, tt.want) {
			t.Errorf("Probe(%q, %q) = %+v, %v, want %q", tt.release, tt.version, resp, err, tt.want)
		}
	}
	before, err := openDelivery(b.dir, release)
	if err != nil {
		t.Fatal(err)
	}
	files := whole(t)
	files[symversName] = "0x0\tacme\tvmlinux\tEXPORT_SYMBOL\t\n"
	if b.deliver(t, files) != dir {
		t.Fatal("the delivery is another")
	}
	if after, err := openDelivery(b.dir, release); err != nil || after.key == before.key {
		t.Errorf("with another Module.symvers the key is %s, before %s, %v", after.key, before.key, err)
	}
}
