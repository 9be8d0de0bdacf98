package apt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/plugin"
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

// TestNoSources: a machine without deb-src is told from one whose package sources do not have the version.
func TestNoSources(t *testing.T) {
	if err := Programs(map[string]string{"apt-get": "apt"}); err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "apt.conf")
	for name, text := range map[string]string{
		"apt.conf": "Dir \"" + dir + "\";\nDir::Etc::parts \"/nonexistent\";\nDir::State::status \"" + dir + "/status\";\n",
		"status":   "", "etc/apt/sources.list": "",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	c := &Client{}
	if err := c.Configure(map[string]string{"apt-config": config}); err != nil {
		t.Fatal(err)
	}
	if s, err := c.Source(t.Context(), "linux", "6.8.0-45.45"); !errors.Is(err, ErrNoSources) {
		t.Errorf("Source without deb-src = %+v, %v, want %v", s, err, ErrNoSources)
	}
	list, err := c.Show(t.Context(), "linux-image-6.8.0-45-generic")
	if err != nil || len(list) != 0 {
		t.Errorf("Show without package sources = %+v, %v, want none", list, err)
	}
	for _, name := range []string{"apt.conf", dir, filepath.Join(dir, "none")} {
		var d *plugin.Diagnostic
		if err := c.Configure(map[string]string{"apt-config": name}); !errors.As(err, &d) || d.Fault != plugin.FaultUser {
			t.Errorf("Configure(apt-config=%s) = %v, want the user's fault", name, err)
		}
	}
}
