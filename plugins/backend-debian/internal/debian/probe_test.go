package debian

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ksplice/ksplice/plugins/internal/apt"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/kbuild"
)

// counting counts how often the package lists are asked.
type counting struct {
	lists
	asked int
}

func (c *counting) Show(ctx context.Context, names ...string) ([]apt.Package, error) {
	c.asked++
	return c.lists.Show(ctx, names...)
}

// TestProbe: the package lists, which apt may take seconds to read, are asked once, and not at all where a tree is ready.
func TestProbe(t *testing.T) {
	const release, other = "6.1.0-56-amd64", "6.1.0-54-amd64"
	a := &counting{lists: lists{
		"linux-headers-" + other:        {"6.1.190-1"},
		"linux-headers-6.1.0-56-common": {"6.1.190-1"},
		"linux-source-6.1":              {"6.1.190-1"},
		"linux-kbuild-6.1":              {"6.1.190-1"},
	}}
	b := &Backend{lists: a}
	cache := t.TempDir()
	probe := func(release, version string) *backend.ProbeResponse {
		t.Helper()
		resp, err := b.Probe(t.Context(), &backend.ProbeRequest{Release: release, Version: version, CacheDir: cache})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if resp := probe(release, ""); resp.Supported || a.asked == 0 {
		t.Errorf("nothing has %s: %+v", release, resp)
	}
	tree := filepath.Join(cache, "trees", "x")
	for name, text := range map[string]string{
		"tree.json":              `{"layout":"` + kbuild.Layout + `","release":"` + release + `","version":"#1 one","banner":"Debian 6.1.192-2"}`,
		"state/environment.json": "{}",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755), os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	a.asked = 0
	for _, version := range []string{"", "#1 one"} {
		if resp := probe(release, version); !resp.Supported || resp.Banner != "Debian 6.1.192-2" || a.asked != 0 {
			t.Errorf("the tree is ready: %+v, the lists were asked %d times", resp, a.asked)
		}
	}
	if resp := probe(release, "#1 Debian 6.1.190-1 (2026-01-01)"); resp.Supported || a.asked == 0 {
		t.Errorf("the tree is of another version: %+v, the lists were asked %d times", resp, a.asked)
	}
	if resp := probe(other, ""); !resp.Supported {
		t.Fatalf("%s: %+v", other, resp)
	}
	a.asked = 0
	if resp := probe(other, ""); !resp.Supported || a.asked != 0 {
		t.Errorf("the second time: %+v, the lists were asked %d times", resp, a.asked)
	}
}
