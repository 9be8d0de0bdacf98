package apt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/kbuild"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Banner names a kernel for people: "Debian 6.1.192-2". Vendor is one word.
func Banner(vendor, version string) string { return vendor + " " + version }

// Ready looks for a tree that is ready, of a release and, where it is not empty, a `uname -v`; with several the one of the newest package
// counts. The trees' banners are Banner's. It is nil when there is none.
func Ready(store *kbuild.Store, release, version string) (*kbuild.Tree, error) {
	trees, err := store.List()
	if err != nil {
		return nil, err
	}
	var found *kbuild.Tree
	for _, t := range trees {
		if t.Release != release || version != "" && t.Version != version {
			continue
		}
		if found == nil || Newer(packaged(t), packaged(found)) {
			found = t
		}
	}
	return found, nil
}

// packaged is the version of the package that a tree was made of.
func packaged(t *kbuild.Tree) string {
	_, version, _ := strings.Cut(t.Banner, " ")
	return version
}

// Generated is the value of a string that the kernel's build has defined in a header below include/generated of the tree at root.
func Generated(root, file, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, "include/generated", file))
	if err != nil {
		return "", fmt.Errorf("identify the kernel: %w", err)
	}
	m := regexp.MustCompile(`(?m)^#define ` + name + ` "(.*)"$`).FindSubmatch(b)
	if m == nil {
		return "", fmt.Errorf("identify the kernel: %s does not define %s", file, name)
	}
	return string(m[1]), nil
}

// Describe checks that the tree's compiler is still there, and describes the tree.
func Describe(ctx context.Context, t *kbuild.Tree, reused bool) (*backend.Tree, error) {
	config, err := kbuild.ReadConfig(filepath.Join(t.Root(), ".config"))
	if err != nil {
		return nil, err
	}
	if _, err := kbuild.CheckCompiler(ctx, config); err != nil {
		return nil, err
	}
	return t.Describe(ctx, reused)
}

// Probe answers backend.Backend's Probe: it looks for a tree that is ready, and only then has find look into the package lists, which takes
// apt seconds. find gives the version of the package.
func Probe(req *backend.ProbeRequest, vendor string, find func() (version string, err error)) (*backend.ProbeResponse, error) {
	if req.CacheDir != "" {
		t, err := Ready(kbuild.NewStore(req.CacheDir), req.Release, req.Version)
		if err != nil {
			return nil, err
		}
		if t != nil {
			return &backend.ProbeResponse{Supported: true, Banner: t.Banner}, nil
		}
	}
	version, err := find()
	var d *plugin.Diagnostic
	switch {
	case errors.As(err, &d) && d.Fault == plugin.FaultUser:
		return &backend.ProbeResponse{Reason: d.Error()}, nil
	case err != nil:
		return nil, err
	}
	return &backend.ProbeResponse{Supported: true, Banner: Banner(vendor, version)}, nil
}

// Plans remembers what was found for a kernel, by its release and `uname -v`: Prepare asks what Probe has asked before.
type Plans[P any] struct {
	mu    sync.Mutex
	plans map[[2]string]*P
}

// Find gives what was found before, or finds it.
func (p *Plans[P]) Find(release, version string, find func() (*P, error)) (*P, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := [2]string{release, version}
	if known := p.plans[key]; known != nil {
		return known, nil
	}
	found, err := find()
	if err != nil {
		return nil, err
	}
	if p.plans == nil {
		p.plans = map[[2]string]*P{}
	}
	p.plans[key] = found
	return found, nil
}
