// Package plain is the build backend for kernels whose source tree is on this machine, whoever made it. It needs the source as
// it was when the kernel was built, the configuration and the Module.symvers of that build. Everything is copied; the user's
// directories are only read. backend-kbuild serves it.
package plain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/kbuild"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Version is the plugin's version.
const Version = "0.1.0"

var configKeys = []plugin.ConfigKey{
	{Name: "source", Description: "the kernel's source directory, as it was when the kernel was built", Required: true},
	{Name: "build", Description: "the directory that the kernel was built in (make O=), where that is another", Default: "source"},
	{Name: "config", Description: "the kernel's configuration", Default: "build/.config"},
	{Name: "symvers", Description: "the Module.symvers of the kernel's build", Default: "build/Module.symvers"},
}

// programs are what preparing a tree runs, with Debian's names of the packages that have them.
var programs = map[string]string{"make": "make", "ld": "binutils", "gcc": "gcc", "flex": "flex", "bison": "bison", "bc": "bc"}

// Backend implements backend.Backend.
type Backend struct {
	kbuild.Service
	source, build, config, symvers string
}

// Info says who the plugin is.
func (b *Backend) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Kind: plugin.KindBackend, Name: "kbuild", Version: Version, Config: configKeys,
		Description: "any kernel whose source, configuration and Module.symvers are on this machine"}, nil
}

// Configure takes the places of the kernel's files. Without any the plugin can be asked who it is, and builds nothing.
func (b *Backend) Configure(_ context.Context, config map[string]string) error {
	if len(config) == 0 {
		return nil
	}
	if err := plugin.CheckConfig(config, configKeys); err != nil {
		return err
	}
	or := func(key, other string) string {
		if v := config[key]; v != "" {
			return v
		}
		return other
	}
	source := config["source"]
	build := or("build", source)
	places := []struct {
		to   *string
		path string
	}{{&b.source, source}, {&b.build, build}, {&b.config, or("config", filepath.Join(build, ".config"))},
		{&b.symvers, or("symvers", filepath.Join(build, "Module.symvers"))}}
	for _, p := range places {
		if !filepath.IsAbs(p.path) {
			return &plugin.Diagnostic{Fault: plugin.FaultUser, Where: p.path, Summary: "the path is not absolute", Detail: "write it from / on"}
		}
		*p.to = filepath.Clean(p.path)
	}
	return nil
}

// Health names the packages of programs that are missing.
func (b *Backend) Health(context.Context) error { return kbuild.Programs(programs) }

// kernel is what the user's files say.
type kernel struct {
	release string // what is built as; of the request when the build does not say
	version string // `uname -v`, empty when the build does not say
	number  string // of the source, "6.1.192"
}

func refuse(where, summary, detail string) error {
	return &plugin.Diagnostic{Fault: plugin.FaultUser, Where: where, Summary: summary, Detail: detail}
}

// look reads the user's files and says whether they are of the kernel that is asked for.
func (b *Backend) look(ctx context.Context, release, version string) (*kernel, error) {
	if b.source == "" {
		return nil, refuse("kbuild", "it is not told where the kernel's source is", "give --backend kbuild --backend-option source=DIR")
	}
	k := &kernel{}
	var err error
	if k.number, err = sourceVersion(filepath.Join(b.source, "Makefile")); err != nil {
		return nil, err
	}
	for what, path := range map[string]string{"config": b.config, "symvers": b.symvers} {
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
			return nil, refuse(path, "there is no such file", fmt.Sprintf("the kernel's build has it; say where it is with the option %s", what))
		}
	}
	if k.release, err = b.buildRelease(); err != nil {
		return nil, err
	}
	switch {
	case k.release != "" && k.release != release:
		return nil, refuse(b.build, fmt.Sprintf("it was built as kernel %s, not %s", k.release, release), "name the directory of that kernel's build with the option build")
	case k.release == "" && !strings.HasPrefix(release, k.number):
		return nil, refuse(b.source, fmt.Sprintf("it is the source of kernel %s, not of %s", k.number, release),
			"name that kernel's source, or the directory it was built in with the option build: its include/config/kernel.release says what it is")
	}
	k.release = release
	if k.version, err = b.buildVersion(); err != nil {
		return nil, err
	}
	if k.version != "" && version != "" && k.version != version {
		return nil, refuse(b.build, "it is another build of the kernel", fmt.Sprintf("its version is %q, that of the kernel asked for is %q", k.version, version))
	}
	config, err := kbuild.ReadConfig(b.config)
	if err != nil {
		return nil, err
	}
	if _, err := kbuild.CheckCompiler(ctx, config); err != nil {
		return nil, err
	}
	return k, nil
}

var numberForm = regexp.MustCompile(`(?m)^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(\S*)[ \t]*$`)

// sourceVersion reads the kernel's number from its top Makefile.
func sourceVersion(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", refuse(path, "it cannot be read", "the option source wants the top directory of a kernel's source: "+err.Error())
	}
	v := map[string]string{}
	for _, m := range numberForm.FindAllStringSubmatch(string(text), -1) {
		if _, ok := v[m[1]]; !ok {
			v[m[1]] = m[2]
		}
	}
	if v["VERSION"] == "" || v["PATCHLEVEL"] == "" || v["SUBLEVEL"] == "" {
		return "", refuse(path, "it is not the top Makefile of a kernel", "the option source wants the top directory of a kernel's source")
	}
	return v["VERSION"] + "." + v["PATCHLEVEL"] + "." + v["SUBLEVEL"] + v["EXTRAVERSION"], nil
}

var releaseForm = regexp.MustCompile(`(?m)^#define UTS_RELEASE "(.*)"$`)

// buildRelease is what the build directory says it was built as; empty when nothing was built there. What uname says is compiled in
// from utsrelease.h; kernel.release can differ where a distribution packs the build (Debian's headers).
func (b *Backend) buildRelease() (string, error) {
	header, err := os.ReadFile(filepath.Join(b.build, "include/generated/utsrelease.h"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the build's release: %w", err)
	}
	if m := releaseForm.FindSubmatch(header); m != nil {
		return string(m[1]), nil
	}
	text, err := os.ReadFile(filepath.Join(b.build, "include/config/kernel.release"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the build's release: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// versionHeaders have UTS_VERSION; which, depends on the kernel (init/Makefile).
var versionHeaders = []string{"include/generated/utsversion.h", "include/generated/compile.h"}

var versionForm = regexp.MustCompile(`(?m)^#define UTS_VERSION "(.*)"$`)

// buildVersion is the `uname -v` of what was built; empty when the build does not say.
func (b *Backend) buildVersion() (string, error) {
	for _, name := range versionHeaders {
		text, err := os.ReadFile(filepath.Join(b.build, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read the build's version: %w", err)
		}
		if m := versionForm.FindSubmatch(text); m != nil {
			return string(m[1]), nil
		}
	}
	return "", nil
}

// Probe looks whether the configured source is that of the kernel.
func (b *Backend) Probe(ctx context.Context, req *backend.ProbeRequest) (*backend.ProbeResponse, error) {
	k, err := b.look(ctx, req.Release, req.Version)
	var d *plugin.Diagnostic
	switch {
	case errors.As(err, &d):
		return &backend.ProbeResponse{Reason: d.Error()}, nil
	case err != nil:
		return nil, err
	}
	return &backend.ProbeResponse{Supported: true, Banner: b.banner(k)}, nil
}

func (b *Backend) banner(k *kernel) string { return "Linux " + k.number + " in " + b.source }

// Prepare makes the tree of the kernel, or finds it made from the same files.
func (b *Backend) Prepare(ctx context.Context, req *backend.PrepareRequest, progress plugin.ProgressFunc) (*backend.Tree, error) {
	k, err := b.look(ctx, req.Release, req.Version)
	if err != nil {
		return nil, err
	}
	files, err := listSource(ctx, b.source)
	if err != nil {
		return nil, err
	}
	key, err := b.key(k, files)
	if err != nil {
		return nil, err
	}
	store := kbuild.NewStore(req.CacheDir)
	t, reused, err := store.Make(ctx, key, progress, func(root string) (*kbuild.Info, error) {
		return b.fill(ctx, k, files, root, req.Jobs, progress)
	})
	if err != nil {
		return nil, err
	}
	tree, err := t.Describe(ctx, reused)
	if err != nil {
		return nil, err
	}
	if tree.Version == "" {
		tree.Version = req.Version // nothing says otherwise; whether the code is the kernel's is proved before it is applied
	}
	if image := filepath.Join(b.build, "vmlinux"); exists(image) {
		tree.Image = image
	}
	return tree, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// fill copies the source and makes it ready to compile units.
func (b *Backend) fill(ctx context.Context, k *kernel, files []sourceFile, root string, jobs int, progress plugin.ProgressFunc) (*kbuild.Info, error) {
	if err := copySource(ctx, b.source, root, files, progress); err != nil {
		return nil, err
	}
	again, err := listSource(ctx, b.source)
	if err != nil {
		return nil, err
	}
	if fingerprint(files) != fingerprint(again) {
		return nil, refuse(b.source, "the source changed while it was copied", "try again when nobody works in it")
	}
	for from, to := range map[string]string{b.config: ".config", b.symvers: "Module.symvers"} {
		if err := replaceFile(from, filepath.Join(root, to)); err != nil {
			return nil, fmt.Errorf("copy %s: %w", from, err)
		}
	}
	info, err := kbuild.Configure(ctx, root, k.release, jobs, progress)
	var d *plugin.Diagnostic
	if errors.As(err, &d) && d.Where == ".config" {
		d.Where = b.config
	}
	if err != nil {
		return nil, err
	}
	for _, name := range versionHeaders {
		from := filepath.Join(b.build, name)
		if _, err := os.Stat(from); err != nil {
			continue
		}
		if err := replaceFile(from, filepath.Join(root, name)); err != nil {
			return nil, fmt.Errorf("copy %s: %w", from, err)
		}
	}
	info.Version, info.Banner = k.version, b.banner(k)
	return info, nil
}
