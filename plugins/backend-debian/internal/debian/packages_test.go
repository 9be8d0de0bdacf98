package debian

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/plugin"
)

func TestParseShow(t *testing.T) {
	text := "Package: linux-kbuild-6.1\nVersion: 6.1.192-2\nArchitecture: amd64\nDepends: a,\n b: c\nSize: 12\nSHA256: ab\n\n" +
		"Package: linux-kbuild-6.1\nVersion: 6.1.1-1\nStatus: installed, in no list\n\n"
	want := []packageInfo{{Name: "linux-kbuild-6.1", Version: "6.1.192-2", Architecture: "amd64", Depends: "a,", SHA256: "ab", Size: 12}}
	if diff := cmp.Diff(want, parseShow(text)); diff != "" {
		t.Errorf("parseShow: (-want +got)\n%s", diff)
	}
}

// lists is an archive: versions by package, the newest first.
type lists map[string][]string

func (l lists) show(_ context.Context, names ...string) ([]packageInfo, error) {
	var out []packageInfo
	for _, name := range names {
		for _, v := range l[name] {
			p := packageInfo{Name: name, Version: v, SHA256: name + v}
			if strings.HasPrefix(name, "linux-headers-") {
				p.Depends = "linux-headers-6.1.0-56-common (= " + v + "), linux-kbuild-6.1 (>= " + v + "), gcc-12"
			}
			out = append(out, p)
		}
	}
	return out, nil
}

func TestFind(t *testing.T) {
	archive := lists{
		"linux-headers-6.1.0-56-amd64":  {"6.1.192-2", "6.1.192-1"},
		"linux-headers-6.1.0-54-amd64":  {"6.1.190-1"},
		"linux-headers-6.1.0-50-amd64":  {"6.1.180-1"},
		"linux-headers-6.1.0-56-common": {"6.1.192-2", "6.1.192-1", "6.1.190-1"},
		"linux-source-6.1":              {"6.1.192-2", "6.1.192-1", "6.1.190-1"},
		"linux-kbuild-6.1":              {"6.1.192-2", "6.1.192-1"},
		"linux-image-6.1.0-56-amd64":    {"6.1.192-2"},
	}
	uname := func(v string) string { return "#1 SMP PREEMPT_DYNAMIC Debian " + v + " (2026-11-16)" }
	for _, tt := range []struct {
		release, uname, version, kbuild, wrong string
	}{
		{"6.1.0-56-amd64", "", "6.1.192-2", "6.1.192-2", ""},
		{"6.1.0-56-amd64", uname("6.1.192-1"), "6.1.192-1", "6.1.192-1", ""},
		{"6.1.0-54-amd64", uname("6.1.190-1"), "6.1.190-1", "6.1.192-2", ""}, // tools stand in
		{"6.1.0-56-amd64", uname("6.1.191-1"), "", "", "6.1.191-1"},
		{"6.1.0-56-amd64", "#1 SMP somebody's own", "", "", "not one of Debian's"},
		{"6.1.0-50-amd64", "", "", "", "linux-source-6.1 in version 6.1.180-1"},
		{"6.1.0-40-amd64", "", "", "", "linux-headers-6.1.0-40-amd64"},
		{"5.10.0-1-amd64", "", "", "", "series 5.10"},
		{"6.1.192", "", "", "", "not a release of a Debian kernel"},
		{"6.1.0-56-amd64; rm", "", "", "", "not a release"},
	} {
		p, err := find(t.Context(), archive, tt.release, tt.uname)
		if tt.wrong != "" {
			var d *plugin.Diagnostic
			if !errors.As(err, &d) || d.Fault != plugin.FaultUser || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("find(%s, %q) = %v, want a refusal with %q", tt.release, tt.uname, err, tt.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("find(%s, %q) = %v", tt.release, tt.uname, err)
			continue
		}
		if p.version != tt.version || p.source.Version != tt.version || p.headers.Version != tt.version || p.kbuild.Version != tt.kbuild || p.tools != (tt.kbuild != tt.version) {
			t.Errorf("find(%s, %q) = %+v, want version %s with tools %s", tt.release, tt.uname, p, tt.version, tt.kbuild)
		}
		// An image of another version would give the wrong build id.
		if want := tt.version == "6.1.192-2"; (p.image.Name != "") != want || want && p.image.Version != tt.version {
			t.Errorf("find(%s, %q): image %+v, want one: %v", tt.release, tt.uname, p.image, want)
		}
	}
}

// FuzzParseShow wants every package that parseShow gives to be one that can be fetched and checked.
func FuzzParseShow(f *testing.F) {
	f.Add("Package: a\nVersion: 1\nSHA256: ab\nSize: 5\n\nPackage: b\n")
	f.Add("Package: a\n b: c\nVersion:\nSize: -1\nSHA256: ab")
	f.Fuzz(func(t *testing.T, text string) {
		for _, p := range parseShow(text) {
			if p.Name == "" || p.Version == "" || p.SHA256 == "" || strings.ContainsAny(p.Name+p.Version, "\n") {
				t.Errorf("parseShow(%q) gives %+v", text, p)
			}
		}
	})
}

// TestKey: a tree is made anew when any of the packages it is made of is another one.
func TestKey(t *testing.T) {
	base := plan{release: "6.1.0-56-amd64", headers: packageInfo{SHA256: "h"}, kbuild: packageInfo{SHA256: "k"}, source: packageInfo{SHA256: "s"}, image: packageInfo{SHA256: "i"}}
	seen := map[string]string{base.key(): "nothing changed"}
	for name, change := range map[string]func(*plan){
		"the source": func(p *plan) { p.source.SHA256 = "x" },
		"the configuration and generated headers": func(p *plan) { p.headers.SHA256 = "x" },
		"objtool":     func(p *plan) { p.kbuild.SHA256 = "x" },
		"the kernel":  func(p *plan) { p.image.SHA256 = "x" },
		"the release": func(p *plan) { p.release = "6.1.0-57-amd64" },
		"one package's digest where another's was, and so on": func(p *plan) { p.source, p.headers = p.headers, p.source },
	} {
		p := base
		change(&p)
		if other, ok := seen[p.key()]; ok {
			t.Errorf("%s is another: the key is as with %s", name, other)
		}
		seen[p.key()] = name
	}
}
