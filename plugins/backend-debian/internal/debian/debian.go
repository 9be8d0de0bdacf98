// Package debian is the build backend for Debian's own kernels. A tree is made of packages of one version: the sources
// as patched by Debian (linux-source), what a build made of them (linux-headers), the build tools (linux-kbuild), and the kernel
// itself (linux-image), which tells the build id. Nothing is configured or compiled to prepare it. backend-debian serves it.
package debian

import (
	"context"
	"debug/elf"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/ksplice/ksplice/plugins/internal/apt"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/kbuild"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Version is the plugin's version.
const Version = "0.1.0"

// vendor is what the trees' banners begin with.
const vendor = "Debian"

// programs are what the backend runs, with the package that has each.
var programs = map[string]string{"apt-cache": "apt", "apt-get": "apt", "dpkg-deb": "dpkg", "xz": "xz-utils", "make": "make", "ld": "binutils", "gcc": "gcc", "patch": "patch"}

// Backend implements backend.Backend.
type Backend struct {
	kbuild.Service
	apt   apt.Client
	lists apt.Lists // where packages are looked up, instead of apt
	plans apt.Plans[plan]
}

// Info says who the plugin is.
func (b *Backend) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Kind: plugin.KindBackend, Name: "debian", Version: Version, Config: apt.ConfigKeys,
		Description: "Debian's kernels of the series 6.1 and 6.12 for amd64, from the machine's package sources"}, nil
}

// Configure takes the keys that all backends with apt have.
func (b *Backend) Configure(_ context.Context, config map[string]string) error {
	if err := plugin.CheckConfig(config, apt.ConfigKeys); err != nil {
		return err
	}
	return b.apt.Configure(config)
}

// Health names the packages of programs that are missing.
func (b *Backend) Health(context.Context) error {
	return kbuild.Programs(programs)
}

func (b *Backend) packages() apt.Lists {
	if b.lists != nil {
		return b.lists
	}
	return &b.apt
}

// find makes the plan for a kernel, once.
func (b *Backend) find(ctx context.Context, release, version string) (*plan, error) {
	return b.plans.Find(release, version, func() (*plan, error) { return find(ctx, b.packages(), release, version) })
}

// Probe looks for a tree that is ready, and then into the package lists.
func (b *Backend) Probe(ctx context.Context, req *backend.ProbeRequest) (*backend.ProbeResponse, error) {
	return apt.Probe(req, vendor, func() (string, error) {
		p, err := b.find(ctx, req.Release, req.Version)
		if err != nil {
			return "", err
		}
		return p.version, nil
	})
}

// Prepare makes the tree of one kernel, or finds it made.
func (b *Backend) Prepare(ctx context.Context, req *backend.PrepareRequest, progress plugin.ProgressFunc) (*backend.Tree, error) {
	store := kbuild.NewStore(req.CacheDir)
	if t, err := apt.Ready(store, req.Release, req.Version); t != nil || err != nil {
		if err != nil {
			return nil, err
		}
		kbuild.Used(t)
		return apt.Describe(ctx, t, true)
	}
	progress(plugin.Progress{Stage: "find", Message: "packages of " + req.Release})
	p, err := b.find(ctx, req.Release, req.Version)
	if err != nil {
		return nil, err
	}
	if p.tools {
		progress(plugin.Progress{Stage: "find", Message: fmt.Sprintf("%s %s stands in for version %s, which has left the archive", p.kbuild.Name, p.kbuild.Version, p.version)})
	}
	if p.image.Name == "" {
		progress(plugin.Progress{Stage: "find", Message: fmt.Sprintf("no package source has linux-image-%s in version %s: updates will name no build id", p.release, p.version)})
	}
	t, reused, err := store.Make(ctx, p.key(), progress, func(root string) (*kbuild.Info, error) {
		return b.fill(ctx, p, filepath.Join(req.CacheDir, "packages"), root, req, progress)
	})
	if err != nil {
		return nil, err
	}
	apt.Sweep(filepath.Join(req.CacheDir, "packages"))
	return apt.Describe(ctx, t, reused)
}

// fill brings the packages together in root.
func (b *Backend) fill(ctx context.Context, p *plan, debs, root string, req *backend.PrepareRequest, progress plugin.ProgressFunc) (*kbuild.Info, error) {
	list := []apt.Package{p.headers, p.kbuild, p.source}
	realtime := strings.Contains(p.release, "-rt-")
	if realtime {
		list = append(list, p.common)
	}
	if p.image.Name != "" {
		list = append(list, p.image)
	}
	paths, err := b.apt.Fetch(ctx, debs, list, progress)
	if err != nil {
		return nil, err
	}
	headers, tools, source := paths[0], paths[1], paths[2]
	// The headers say whether this machine can build for the kernel at all; the sources are large.
	variables, err := unpackHeaders(ctx, headers, p.release, root)
	if err != nil {
		return nil, err
	}
	info, err := identify(ctx, p, root, variables)
	if err != nil {
		return nil, err
	}
	if req.Version != "" && info.Version != req.Version {
		return nil, &plugin.Diagnostic{Fault: plugin.FaultUser, Where: p.release, Summary: "the kernel is not the one that the packages are of",
			Detail: fmt.Sprintf("its version is %q, that of %s is %q", req.Version, p.headers.Name, info.Version)}
	}
	if err := apt.Put(root, "include/config/kernel.release", 0, strings.NewReader(p.release+"\n")); err != nil {
		return nil, fmt.Errorf("write the tree's release: %w", err)
	}
	var patch []byte
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return unpackTools(gctx, tools, root) })
	if p.image.Name != "" {
		g.Go(func() error { return apt.UnpackImage(gctx, paths[len(paths)-1], p.release, kbuild.ImagePath(root)) })
	}
	g.Go(func() (err error) {
		patch, err = unpackSource(gctx, source, root, progress)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if realtime {
		if err := makeRealtime(ctx, p, patch, paths[3], root); err != nil {
			return nil, err
		}
	}
	return info, nil
}

// archVariable is how the headers' make variables name the architecture.
var archVariable = regexp.MustCompile(`(?m)^override ARCH = (\S+)$`)

// identify reads the headers: which kernel they are of, and whether it can be built for here.
func identify(ctx context.Context, p *plan, root, variables string) (*kbuild.Info, error) {
	config, err := kbuild.ReadConfig(filepath.Join(root, ".config"))
	if err != nil {
		return nil, err
	}
	cc, err := kbuild.CheckCompiler(ctx, config)
	if err != nil {
		return nil, err
	}
	release, err := apt.Generated(root, "utsrelease.h", "UTS_RELEASE")
	if err != nil {
		return nil, err
	}
	if release != p.release {
		return nil, plugin.Errorf(plugin.FaultToolchain, p.headers.Name, "the package is of release %q, not %q", release, p.release)
	}
	version, err := apt.Generated(root, "utsversion.h", "UTS_VERSION")
	if err != nil {
		return nil, err
	}
	m := archVariable.FindStringSubmatch(variables)
	if m == nil {
		return nil, plugin.Errorf(plugin.FaultToolchain, p.headers.Name, "the package does not say which architecture it is of")
	}
	return &kbuild.Info{Release: release, Version: version, Banner: apt.Banner(vendor, p.version), Arch: m[1], Machine: uint16(elf.EM_X86_64), CC: cc,
		Make: []string{"ARCH=" + m[1], "KERNELRELEASE=" + release, "CC=" + cc}}, nil
}
