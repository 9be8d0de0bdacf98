package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// TestShown: a plugin's diagnostic is shown whole, and its fault is the exit code.
func TestShown(t *testing.T) {
	for fault, want := range map[plugin.Fault]int{
		plugin.FaultUser: exitUsage, plugin.FaultPatch: exitRefused, plugin.FaultMachine: exitRefused, plugin.FaultToolchain: exitBuild, plugin.FaultInternal: exitInternal,
	} {
		err := shown("Prepare", fmt.Errorf("by the way: %w", &plugin.Diagnostic{Fault: fault, Where: "fs/a.c", Summary: "it fails", Detail: "first\nsecond\n"}))
		if got := exitCode(err); got != want {
			t.Errorf("the exit code of a fault of the %s is %d, want %d", fault, got, want)
		}
		if got, want := err.Error(), "Prepare: it fails (fault: "+string(fault)+")\n  where: fs/a.c\n  first\n  second"; got != want {
			t.Errorf("it is shown as %q, want %q", got, want)
		}
	}
	other := errors.New("another error")
	if err := shown("Prepare", other); !errors.Is(err, other) || err.Error() != other.Error() {
		t.Errorf("an error without a diagnostic is shown as %q", err)
	}
}

// TestEveryCall: each call is there once, and can be made or says why not.
func TestEveryCall(t *testing.T) {
	for _, kind := range []plugin.Kind{plugin.KindArch, plugin.KindBackend, plugin.KindTransform} {
		seen := map[string]bool{}
		for _, c := range callsOf(kind) {
			if seen[c.name] || c.what == "" {
				t.Errorf("%s: the call %q is there twice, or nothing is said of it", kind, c.name)
			}
			seen[c.name] = true
			if (c.call == nil) != (c.refused != nil) {
				t.Errorf("%s: %s can be made and is refused, or neither", kind, c.name)
			}
		}
		for _, name := range []string{"Info", "Configure", "Health"} {
			if !seen[name] {
				t.Errorf("%s has no call %s", kind, name)
			}
		}
	}
}

// TestFillDigests gives files that lie in lists and in structures their digests, and leaves those alone that have one.
func TestFillDigests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.o")
	if err := os.WriteFile(path, []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	whole, err := plugin.NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	given := plugin.File{Path: path, SHA256: strings.Repeat("0", 64)}
	describe := arch.DescribeRequest{Objects: []plugin.File{{Path: path}, given, {}}}
	if err := fillDigests(&describe); err != nil || describe.Objects[0] != whole || describe.Objects[1] != given || describe.Objects[2] != (plugin.File{}) {
		t.Errorf("%+v, %v", describe.Objects, err)
	}
	match := arch.MatchRequest{Run: plugin.File{Path: path}}
	if err := fillDigests(&match); err != nil || match.Run != whole {
		t.Errorf("%+v, %v", match.Run, err)
	}
	if err := fillDigests(&arch.MatchRequest{Run: plugin.File{Path: path + "x"}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestOwnVersion(t *testing.T) {
	build := func(version string) *debug.BuildInfo { return &debug.BuildInfo{Main: debug.Module{Version: version}} }
	for _, version := range []string{"v1.2.3", "v0.0.0-20260101120000-0123456789ab"} {
		if got, err := ownVersion(build(version)); got != version || err != nil {
			t.Errorf("%s: %q, %v", version, got, err)
		}
	}
	for _, b := range []*debug.BuildInfo{nil, build(""), build("(devel)"), build("v1.2.3+dirty"), build("1.2.3")} {
		if got, err := ownVersion(b); exitCode(err) != exitUsage || !strings.Contains(fmt.Sprint(err), "--sdk") {
			t.Errorf("%+v: %q, %v", b, got, err)
		}
	}
}
