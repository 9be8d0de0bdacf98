package debian

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/plugins/internal/apt"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// lists is an archive: versions by package, the newest first.
type lists map[string][]string

func (l lists) Show(_ context.Context, names ...string) ([]apt.Package, error) {
	var out []apt.Package
	for _, name := range names {
		for _, v := range l[name] {
			p := apt.Package{Name: name, Version: v, SHA256: name + v}
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

// TestKey: a tree is made anew when any of the packages it is made of is another one.
func TestKey(t *testing.T) {
	base := plan{release: "6.1.0-56-amd64", headers: apt.Package{SHA256: "h"}, kbuild: apt.Package{SHA256: "k"}, source: apt.Package{SHA256: "s"}, image: apt.Package{SHA256: "i"}}
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
