package apt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/kbuild"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

func TestParse(t *testing.T) {
	text := "Package: linux-kbuild-6.1\nVersion: 6.1.192-2\nArchitecture: amd64\nDepends: a,\n b: c\nSize: 12\nSHA256: ab\n\n" +
		"Package: linux-kbuild-6.1\nVersion: 6.1.1-1\nStatus: installed, in no list\n\n" +
		"Package: linux-image-6.8.0-1024-aws\nVersion: 6.8.0-1024.26\nSource: linux-signed-aws (6.8.0-1024.26+1)\nSHA256: cd\n"
	want := []Package{
		{Name: "linux-kbuild-6.1", Version: "6.1.192-2", Source: "linux-kbuild-6.1", SourceVersion: "6.1.192-2", Architecture: "amd64", Depends: "a,", SHA256: "ab", Size: 12},
		{Name: "linux-image-6.8.0-1024-aws", Version: "6.8.0-1024.26", Source: "linux-signed-aws", SourceVersion: "6.8.0-1024.26+1", SHA256: "cd"},
	}
	if diff := cmp.Diff(want, Parse(text)); diff != "" {
		t.Errorf("Parse: (-want +got)\n%s", diff)
	}
}

// FuzzParse wants every package that Parse gives to be one that can be fetched and checked.
func FuzzParse(f *testing.F) {
	f.Add("Package: a\nVersion: 1\nSHA256: ab\nSize: 5\n\nPackage: b\n")
	f.Add("Package: a\n b: c\nVersion:\nSize: -1\nSHA256: ab")
	f.Fuzz(func(t *testing.T, text string) {
		for _, p := range Parse(text) {
			if p.Name == "" || p.Version == "" || p.SHA256 == "" || strings.ContainsAny(p.Name+p.Version, "\n") {
				t.Errorf("Parse(%q) gives %+v", text, p)
			}
		}
	})
}

// TestSourceURIs: the lines are what apt-get prints for linux 6.8.0-79.79 on Ubuntu 24.04, digests shortened.
func TestSourceURIs(t *testing.T) {
	text := "'http://archive.ubuntu.com/ubuntu/pool/main/l/linux/linux_6.8.0-79.79.dsc' linux_6.8.0-79.79.dsc 9342 SHA512:4f5da01f\n" +
		"'http://archive.ubuntu.com/ubuntu/pool/main/l/linux/linux_6.8.0.orig.tar.gz' linux_6.8.0.orig.tar.gz 230060117 SHA512:296f93b2\n" +
		"'http://archive.ubuntu.com/ubuntu/pool/main/l/linux/linux_6.8.0-79.79.diff.gz' linux_6.8.0-79.79.diff.gz 5740641 SHA512:117c0bed\n"
	want := &Source{Name: "linux", Version: "6.8.0-79.79", Files: []SourceFile{
		{"linux_6.8.0-79.79.dsc", "SHA512:4f5da01f", 9342}, {"linux_6.8.0.orig.tar.gz", "SHA512:296f93b2", 230060117}, {"linux_6.8.0-79.79.diff.gz", "SHA512:117c0bed", 5740641}}}
	got := parseURIs("linux", "6.8.0-79.79", text)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parseURIs: (-want +got)\n%s", diff)
	}
	if got.control() != "linux_6.8.0-79.79.dsc" {
		t.Errorf("the package's .dsc is %q", got.control())
	}
	for _, text := range []string{"", "'file:/x' ../linux.dsc 1 SHA256:ab\n", "'file:/x' linux_1.orig.tar.gz 1 SHA256:ab\n"} {
		if got := parseURIs("linux", "1", text); got != nil {
			t.Errorf("parseURIs(%q) = %+v, want nothing", text, got)
		}
	}
}

// root makes a configuration of apt's in a directory of its own, with package sources (sources.list(5)), and gives a client that uses it.
func root(t *testing.T, sources string) *Client {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"apt.conf": "Dir \"" + dir + "\";\nDir::Etc::parts \"/nonexistent\";\nDir::State::status \"" + dir + "/status\";\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n",
		"status":   "", "etc/apt/sources.list": sources, "etc/apt/preferences.d/none": "", "var/lib/apt/lists/partial/none": "", "var/cache/apt/archives/partial/none": "",
	} {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	c := &Client{}
	if err := c.Configure(map[string]string{"apt-config": filepath.Join(dir, "apt.conf")}); err != nil {
		t.Fatal(err)
	}
	if sources != "" {
		run(t, "", c.command("apt-get", "-q", "update")...)
	}
	return c
}

// run runs a program in dir.
func run(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// needed are what these tests run.
var needed = map[string]string{"apt-get": "apt", "dpkg-source": "dpkg-dev", "dpkg-scansources": "dpkg-dev", "patch": "patch"}

// TestSourcePackage fetches and unpacks a source package of the format that Ubuntu's kernels have, from an archive made for it.
func TestSourcePackage(t *testing.T) {
	need.OK(t, kbuild.Programs(needed))
	archive := t.TempDir()
	tree := filepath.Join(archive, "linux-6.8.0")
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(archive, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("linux-6.8.0/Makefile", "VERSION = 6\n")
	run(t, archive, "tar", "-czf", "linux_6.8.0.orig.tar.gz", "linux-6.8.0")
	write("linux-6.8.0/Makefile", "VERSION = 6\nEXTRAVERSION = patched\n")
	write("linux-6.8.0/debian/source/format", "1.0\n")
	write("linux-6.8.0/debian/control", "Source: linux\nMaintainer: a <a@example.org>\n\nPackage: linux-doc\nArchitecture: all\nDescription: a\n")
	write("linux-6.8.0/debian/changelog", "linux (6.8.0-45.45) noble; urgency=medium\n\n  * a\n\n -- a <a@example.org>  Fri, 30 Aug 2024 12:02:04 +0000\n")
	run(t, archive, "dpkg-source", "--build", "linux-6.8.0")
	if err := os.RemoveAll(tree); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dpkg-scansources", ".")
	cmd.Dir = archive
	index, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	write("Sources", string(index))
	write("Release", fmt.Sprintf("Date: Fri, 30 Aug 2024 12:02:04 UTC\nSHA256:\n %x %d Sources\n", sha256.Sum256(index), len(index)))
	altered := false
	files := http.FileServer(http.Dir(archive))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case altered && strings.HasSuffix(r.URL.Path, ".diff.gz"):
			http.Error(w, "it is another one", http.StatusNotFound)
		case altered && strings.HasSuffix(r.URL.Path, ".orig.tar.gz"):
			_, _ = w.Write([]byte("another file"))
		default:
			files.ServeHTTP(w, r)
		}
	}))
	defer server.Close()
	c := root(t, "deb-src [trusted=yes] "+server.URL+" ./\n")

	if s, err := c.Source(t.Context(), "linux", "6.8.0-46.46"); s != nil || err != nil {
		t.Errorf("Source of a version that is not there = %+v, %v, want none", s, err)
	}
	if s, err := c.Source(t.Context(), "linux-hwe-6.8", "6.8.0-45.45"); s != nil || err != nil {
		t.Errorf("Source of a package that is not there = %+v, %v, want none", s, err)
	}
	s, err := c.Source(t.Context(), "linux", "6.8.0-45.45")
	if err != nil || s == nil || len(s.Files) != 3 {
		t.Fatalf("Source = %+v, %v, want three files", s, err)
	}
	unpack := func(dir string) error {
		t.Helper()
		place := t.TempDir()
		root := filepath.Join(place, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		err := c.Unpack(t.Context(), dir, s, root, func(plugin.Progress) {})
		if left, gerr := filepath.Glob(filepath.Join(place, ".source-*")); gerr != nil || len(left) > 0 {
			t.Errorf("Unpack leaves %v, %v", left, gerr)
		}
		if left, gerr := filepath.Glob(filepath.Join(dir, ".source-*")); gerr != nil || len(left) > 0 {
			t.Errorf("Unpack leaves %v, %v", left, gerr)
		}
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(root, "Makefile"))
		if err == nil && !strings.Contains(string(b), "patched") {
			t.Errorf("the source is not patched: %q", b)
		}
		return err
	}
	dir := t.TempDir()
	if err := unpack(dir); err != nil {
		t.Fatal(err)
	}
	altered = true
	if err := unpack(dir); err != nil {
		t.Errorf("what was fetched before is not used: %v", err)
	}
	var d *plugin.Diagnostic
	if err := unpack(t.TempDir()); !errors.As(err, &d) || d.Fault != plugin.FaultMachine {
		t.Errorf("Unpack of files that are not those of the lists = %v, want a diagnostic", err)
	}
	kept, err := filepath.Glob(filepath.Join(dir, "*.src"))
	if err != nil || len(kept) != 3 {
		t.Fatalf("kept are %v, %v, want three files", kept, err)
	}
	if err := errors.Join(os.Remove(kept[0]), os.WriteFile(kept[0], []byte("damaged"), 0o644)); err != nil {
		t.Fatal(err)
	}
	altered = false
	if err := unpack(dir); err != nil {
		t.Errorf("what is kept is damaged, and not fetched again: %v", err)
	}
}

// TestNoSources: a machine without deb-src is told from one whose package sources do not have the version.
func TestNoSources(t *testing.T) {
	need.Program(t, "apt-get")
	c := root(t, "")
	if s, err := c.Source(t.Context(), "linux", "6.8.0-45.45"); !errors.Is(err, ErrNoSources) {
		t.Errorf("Source without deb-src = %+v, %v, want %v", s, err, ErrNoSources)
	}
	list, err := c.Show(t.Context(), "linux-image-6.8.0-45-generic")
	if err != nil || len(list) != 0 {
		t.Errorf("Show without package sources = %+v, %v, want none", list, err)
	}
	dir := t.TempDir()
	for _, name := range []string{"apt.conf", dir, filepath.Join(dir, "none")} {
		var d *plugin.Diagnostic
		if err := c.Configure(map[string]string{"apt-config": name}); !errors.As(err, &d) || d.Fault != plugin.FaultUser {
			t.Errorf("Configure(apt-config=%s) = %v, want the user's fault", name, err)
		}
	}
}
