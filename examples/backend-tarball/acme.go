package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/kbuild"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// defaultDir is where ACME's package puts deliveries.
const defaultDir = "/usr/src/acme"

var configKeys = []plugin.ConfigKey{{Name: "deliveries", Description: "the directory with ACME's deliveries, one below it a kernel", Default: defaultDir}}

// programs are what preparing a tree runs, with Debian's names of the packages that have them.
var programs = map[string]string{"xz": "xz-utils", "patch": "patch", "make": "make", "ld": "binutils", "gcc": "gcc", "flex": "flex", "bison": "bison", "bc": "bc"}

// Backend builds pieces of ACME's kernels. Units, Compile, Link and Facts are kbuild.Service's: they need a tree, wherever it came from.
type Backend struct {
	kbuild.Service
	dir string
}

// Info says who the plugin is.
func (b *Backend) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Name: "acme", Version: "1.0.0", Config: configKeys, Description: "ACME's kernels, from deliveries on this machine"}, nil
}

// Configure takes the directory with the deliveries.
func (b *Backend) Configure(_ context.Context, config map[string]string) error {
	if err := plugin.CheckConfig(config, configKeys); err != nil {
		return err
	}
	b.dir = defaultDir
	if d := config["deliveries"]; d != "" {
		b.dir = d
	}
	if !filepath.IsAbs(b.dir) {
		return &plugin.Diagnostic{Fault: plugin.FaultUser, Where: b.dir, Summary: "the path is not absolute", Detail: "write deliveries from / on"}
	}
	return nil
}

// Health names the packages of programs that are missing.
func (b *Backend) Health(context.Context) error { return kbuild.Programs(programs) }

// find opens the delivery of the kernel that is asked for. The error says which kernels there are.
func (b *Backend) find(release, version string) (*delivery, error) {
	d, err := openDelivery(b.dir, release)
	if errors.Is(err, errNone) {
		have, lerr := releases(b.dir)
		if lerr != nil {
			return nil, lerr
		}
		if len(have) == 0 {
			have = []string{"none"}
		}
		return nil, &plugin.Diagnostic{Fault: plugin.FaultUser, Where: release, Summary: "ACME has not delivered this kernel to this machine",
			Detail: fmt.Sprintf("in %s there is: %s; install the package with its delivery, or name another directory with the option deliveries", b.dir, strings.Join(have, ", "))}
	}
	if err != nil {
		return nil, err
	}
	if version != "" && version != d.version {
		return nil, &plugin.Diagnostic{Fault: plugin.FaultUser, Where: release, Summary: "the delivery is of another build of this kernel",
			Detail: fmt.Sprintf("the kernel's version is %q, that of %s is %q; install the delivery of that build", version, d.dir, d.version)}
	}
	return d, nil
}

// Probe says whether the kernel is delivered. What the delivery says of itself is enough for that.
func (b *Backend) Probe(_ context.Context, req *backend.ProbeRequest) (*backend.ProbeResponse, error) {
	d, err := b.find(req.Release, req.Version)
	var no *plugin.Diagnostic
	switch {
	case errors.As(err, &no):
		return &backend.ProbeResponse{Reason: no.Error()}, nil
	case err != nil:
		return nil, err
	}
	return &backend.ProbeResponse{Supported: true, Banner: d.banner()}, nil
}

func (d *delivery) banner() string { return "ACME " + d.release }

// Prepare makes the tree of a delivery, or finds it made: the key has the digests of all files, so that another delivery of the same release
// makes another tree.
func (b *Backend) Prepare(ctx context.Context, req *backend.PrepareRequest, progress plugin.ProgressFunc) (*backend.Tree, error) {
	d, err := b.find(req.Release, req.Version)
	if err != nil {
		return nil, err
	}
	t, reused, err := kbuild.NewStore(req.CacheDir).Make(ctx, d.key, progress, func(root string) (*kbuild.Info, error) {
		return d.fill(ctx, root, req.Jobs, progress)
	})
	if err != nil {
		return nil, err
	}
	return t.Describe(ctx, reused)
}

// fill makes the kernel's tree in an empty directory.
func (d *delivery) fill(ctx context.Context, root string, jobs int, progress plugin.ProgressFunc) (*kbuild.Info, error) {
	progress(plugin.Progress{Stage: "check", Message: "the delivery's digests"})
	if err := d.check(); err != nil {
		return nil, err
	}
	// Sources are large; a compiler that is missing is told before.
	config, err := kbuild.ReadConfig(filepath.Join(d.dir, configName))
	if err != nil {
		return nil, err
	}
	if _, err := kbuild.CheckCompiler(ctx, config); err != nil {
		return nil, err
	}
	if err := d.unpack(ctx, root, progress); err != nil {
		return nil, err
	}
	for i, p := range d.patches {
		progress(plugin.Progress{Stage: "patch", Message: p.name, Done: int64(i), Total: int64(len(d.patches))})
		if err := d.patch(ctx, root, p); err != nil {
			return nil, err
		}
	}
	files := map[string]string{configName: filepath.Join(root, ".config"), symversName: filepath.Join(root, "Module.symvers")}
	if d.sums[imageName] != "" {
		files[imageName] = kbuild.ImagePath(root)
	}
	for name, to := range files {
		text, err := d.read(name)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return nil, fmt.Errorf("copy %s: %w", name, err)
		}
	}
	info, err := kbuild.Configure(ctx, root, d.release, jobs, progress)
	if err != nil {
		return nil, err
	}
	info.Version, info.Banner = d.version, d.banner()
	return info, nil
}

func (d *delivery) unpack(ctx context.Context, root string, progress plugin.ProgressFunc) error {
	err := kbuild.Unpack(ctx, filepath.Join(d.dir, d.tarball), root, progress)
	if err == nil {
		_, err = os.Stat(filepath.Join(root, "Makefile"))
	}
	if err != nil && ctx.Err() == nil {
		return d.bad(d.tarball, "it is not a kernel's source", err.Error())
	}
	return err
}

// patch applies one patch as it stands: where it fits with another context only, the source is not the one that ACME built from.
func (d *delivery) patch(ctx context.Context, root string, p patch) error {
	err := kbuild.Run(ctx, root, []string{"patch", p.strip, "--batch", "--forward", "--fuzz=0", "--quiet", "--no-backup-if-mismatch", "--reject-file=-",
		"-i", filepath.Join(d.dir, p.name)})
	if err != nil && ctx.Err() == nil {
		return d.bad(p.name, "the patch does not apply to "+d.tarball+" and the patches before it", err.Error())
	}
	return err
}
