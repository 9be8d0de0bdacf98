// Package ubuntu is the build backend for Ubuntu's own kernels for amd64: the releases' own, HWE kernels and those of clouds, of 22.04 and
// later. A tree is made of packages of one version: what a build made of the kernel (linux-headers), the kernel itself (linux-image, which
// tells `uname -v` and the build id), and the source package that both come from in the end, with Ubuntu's patches. Nothing is configured
// or compiled to prepare it. backend-ubuntu serves it.
//
// What is particular about Ubuntu's kernels, and where it is looked up:
//
//   - A flavour's packages come from several source packages: linux-image-6.8.0-45-generic from linux-signed, which only signs the kernel of
//     linux-image-unsigned-6.8.0-45-generic. The headers' Source field names the one that has the kernel's source: linux, linux-hwe-6.8,
//     linux-aws.
//   - The release, 6.8.0-45-generic, names neither the upload (6.8.0-45.45) nor the upstream version (6.8.12): the package's version is the
//     release with the number of the upload, which is what `uname -v` begins with (#45-Ubuntu, #45~22.04.1-Ubuntu), and
//     /proc/version_signature has it whole.
//   - The source package's format, 1.0, can neither remove files nor make them executable: the packaging's script `reconstruct` does
//     (debian.master/reconstruct, which debian/rules runs as well).
//   - The kernel is built with variables of make that are in no configuration and change its code (CONFIG_DEBUG_SECTION_MISMATCH, by
//     -fno-inline-functions-called-once): they are read from the packaging, debian/rules.d/0-common-vars.mk.
//   - The configuration is that of linux-headers, which is the file that linux-modules has in /boot, and beside it are the generated headers
//     that were made of it. The annotations in the source (debian.master/config/annotations), which it was made of, are not evaluated.
//   - What the compiler must call itself is CONFIG_CC_VERSION_TEXT, as for every kernel: gcc-13 on 24.04, gcc-12 for HWE kernels on 22.04.
//
// What was tried: reading Packages and Sources, `uname -v`, version signatures and packaging as Ubuntu has published them; and, from an archive that
// TestUbuntu (`make ubuntu`) makes of Debian's source of 6.12, laid out, built and packed as Ubuntu does: fetching and unpacking with apt, the
// conformance suite, and an update from create to the booted kernel and back. What was not: Ubuntu's archive itself, its compilers, its whole
// configuration, and kernels of the series 5.15, 6.5, 6.8 and 6.11; whether an update fits a running kernel is proved when it is applied.
package ubuntu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/ksplice/ksplice/plugins/internal/apt"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/kbuild"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Version is the plugin's version.
const Version = "0.1.0"

// vendor is what the trees' banners begin with.
const vendor = "Ubuntu"

// programs are what the backend runs, with the package that has each.
var programs = map[string]string{"apt-cache": "apt", "apt-get": "apt", "dpkg-deb": "dpkg", "dpkg-source": "dpkg-dev", "make": "make", "ld": "binutils", "gcc": "gcc", "patch": "patch"}

// Backend implements backend.Backend.
type Backend struct {
	kbuild.Service
	apt   apt.Client
	plans apt.Plans[plan]

	archive archive // where packages are looked up, instead of apt
	proc    string  // the running kernel's /proc; empty means that
}

// Info says who the plugin is.
func (b *Backend) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Kind: plugin.KindBackend, Name: "ubuntu", Version: Version, Config: apt.ConfigKeys,
		Description: "Ubuntu's kernels for amd64, HWE and cloud flavours included, from the machine's package sources"}, nil
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

// find makes the plan for a kernel, once.
func (b *Backend) find(ctx context.Context, release, version string) (*plan, error) {
	return b.plans.Find(release, version, func() (*plan, error) {
		a := b.archive
		if a == nil {
			a = &b.apt
		}
		k, err := identify(release, version)
		if err != nil {
			return nil, err
		}
		if k.version == "" {
			if k.version, err = b.running(release); err != nil {
				return nil, err
			}
		}
		return find(ctx, a, k)
	})
}

// running gives the version of the package that the running kernel is of, when that is of the release; else nothing.
func (b *Backend) running(release string) (string, error) {
	proc := b.proc
	if proc == "" {
		proc = "/proc"
	}
	own, err := os.ReadFile(filepath.Join(proc, "sys/kernel/osrelease"))
	if err != nil || strings.TrimSpace(string(own)) != release {
		return "", nil
	}
	text, err := os.ReadFile(filepath.Join(proc, "version_signature"))
	if errors.Is(err, os.ErrNotExist) {
		return "", &plugin.Diagnostic{Fault: plugin.FaultUser, Where: release, Summary: "the running kernel is not one of Ubuntu's",
			Detail: "it has no /proc/version_signature, which Ubuntu's kernels have"}
	}
	if err != nil {
		return "", err
	}
	return signed(release, string(text))
}

// Probe looks for a tree that is ready, and then into the package lists.
func (b *Backend) Probe(ctx context.Context, req *backend.ProbeRequest) (*backend.ProbeResponse, error) {
	return apt.Probe(req, vendor, func() (string, error) {
		p, err := b.find(ctx, req.Release, req.Version)
		if err != nil {
			return "", err
		}
		return p.headers.Version, nil
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
	packages := filepath.Join(req.CacheDir, "packages")
	t, reused, err := store.Make(ctx, p.key(), progress, func(root string) (*kbuild.Info, error) {
		return b.fill(ctx, p, packages, root, req.Version, progress)
	})
	if err != nil {
		return nil, err
	}
	apt.Sweep(packages)
	return apt.Describe(ctx, t, reused)
}
