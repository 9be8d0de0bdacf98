package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/build"
	"github.com/ksplice/ksplice/core/create"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// builderFlags say which kernel to build for, and by what.
type builderFlags struct {
	kernel, version, backend, cache string
	options                         map[string]string
}

func (f *builderFlags) flags(fs *pflag.FlagSet) {
	fs.StringVar(&f.backend, "backend", "", "the `NAME` of the build backend to use (default: the first that can build that kernel)")
	fs.StringToStringVar(&f.options, "backend-option", nil, "`KEY=VALUE` for the backend")
	fs.StringVar(&f.cache, "cache", "", "the `DIRECTORY` where prepared trees and objects are kept (default: ~/.cache/ksplice)")
}

// builder starts the backend. The caller closes the builder.
func (e *env) builder(ctx context.Context, f *builderFlags) (*build.Builder, plugin.Info, error) {
	if f.cache == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, plugin.Info{}, usagef("no place for a cache: %v; name one with --cache", err)
		}
		f.cache = filepath.Join(cache, "ksplice")
	}
	b, info, err := e.backend(ctx, f)
	if err != nil {
		return nil, info, err
	}
	return build.New(b, f.cache, e.log.Named("build")), info, nil
}

// createFlags are the flags of create.
type createFlags struct {
	builderFlags
	patch, output, description string
	effective                  string
	reverse                    bool
	on, units                  []string
	moduleSource, moduleBuilt  string
	accept, because            []string
	report                     bool
	jobs                       int
	signing                    signingFlags
	sign                       signer
}

func createCommand() *command {
	var f createFlags
	return &command{
		name: "create", summary: "make an update from a source patch",
		help: `Fetches and prepares the source of the kernel once (then it is cached), compiles the units that the patch touches
before and after it, compares the object code and writes what changed, with all that apply needs to prove it fits, into
one file. The kernel itself is not built, and the machine that create runs on is not changed.

The patch must apply exactly (-p1). A patch that changes the layout of a structure or the initial value of data that
exists in the running kernel is refused, by name, unless a transform plugin carries that, or --accept says that it does
no harm. --report tells what there is of this, and makes no update.

A module that was built outside of the kernel's source (by dkms, say) is patched with --module-source; the patch's paths are relative to
that directory, which must hold what the running module was built from.

Under Secure Boot kernels load modules that are signed by a key they trust. --module-key and --module-cert sign the update's parts so; for
keys that no file holds, --module-signer runs a command of yours. Machines take update files of those only whose keys they trust: sign the file (--sign, or ksplice sign later).`,
		example: "ksplice create --patch fix.patch -o fix.ksplice\nksplice create --patch fix.patch --kernel 6.1.0-56-amd64 -o fix.ksplice",
		flags: func(fs *pflag.FlagSet) {
			fs.StringVarP(&f.patch, "patch", "p", "", "the source patch, a unified diff `FILE`")
			fs.BoolVarP(&f.reverse, "reverse", "R", false, "take the patch backwards")
			fs.StringVarP(&f.output, "output", "o", "", "the update `FILE` to write (default: the patch's name with .ksplice)")
			fs.StringVarP(&f.kernel, "kernel", "k", "", "the kernel's `RELEASE`, as uname -r prints it there (default: the running one)")
			fs.StringVar(&f.version, "kernel-version", "", "the kernel's `VERSION`, as uname -v prints it there (default: whatever that release has)")
			fs.StringVar(&f.description, "description", "", "one `LINE` for people (default: the patch's subject)")
			fs.StringVar(&f.effective, "effective", "", "the `VERSION` that a kernel with this update has in effect, for `ksplice uname` there: that of the package which has all that this update and those below it mend")
			fs.StringArrayVar(&f.on, "on", nil, "an update `FILE` on which the new one stands; lowest first where there are several")
			fs.StringArrayVar(&f.units, "unit", nil, "a further source `FILE` to compile and match, because new code names its symbols")
			f.builderFlags.flags(fs)
			fs.StringVar(&f.moduleSource, "module-source", "", "the patch is for a module that is not the kernel's own: the `DIRECTORY` of its source, the one that make's M= names")
			fs.StringVar(&f.moduleBuilt, "module-built", "", "the `DIRECTORY` in which the running module was built (default: that of --module-source)")
			fs.BoolVar(&f.report, "report", false, "tell what the patch changes of what existing data mean, and who carries it; make no update")
			fs.StringArrayVar(&f.accept, "accept", nil, "take an `ITEM` of the report upon yourself: data that exist stay as they are")
			fs.StringArrayVar(&f.because, "because", nil, "the `TEXT` that says why that does no harm, one for each --accept; it travels with the update")
			f.signing.flags(fs)
			fs.IntVarP(&f.jobs, "jobs", "j", 0, "parallel compilers (default: one a processor)")
			f.sign.flags(fs, "sign", "sign-password-file")
		},
		run: func(ctx context.Context, e *env, args []string) error {
			if len(args) > 0 {
				return usagef("create takes flags only, not %q", args[0])
			}
			return e.create(ctx, &f)
		},
	}
}

func (e *env) create(ctx context.Context, f *createFlags) (err error) {
	if f.patch == "" {
		return usagef("name the patch with --patch")
	}
	text, err := os.ReadFile(f.patch)
	if err != nil {
		return usagef("%v", err)
	}
	if f.output == "" {
		base := filepath.Base(f.patch)
		f.output = base[:len(base)-len(filepath.Ext(base))] + ".ksplice"
	}
	if d, err := os.Stat(filepath.Dir(f.output)); err != nil || !d.IsDir() {
		return usagef("the update cannot be written to %s: %s is no directory", f.output, filepath.Dir(f.output))
	}
	if err := update.CanReplace(f.output); err != nil {
		return usagef("-o: %v", err)
	}
	if f.kernel == "" {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return fmt.Errorf("which kernel is running: %w", err)
		}
		f.kernel = unix.ByteSliceToString(u.Release[:])
		if f.version == "" {
			f.version = unix.ByteSliceToString(u.Version[:])
		}
	}
	if !update.ValidVersion(f.effective) {
		return usagef("--effective %q is no version: give one word of printable ASCII", f.effective)
	}
	if !update.ValidLine(f.description) {
		return usagef("--description %q is no line: leave out line ends, tabs and what else cannot be printed", f.description)
	}
	accept, err := f.accepted()
	if err != nil {
		return err
	}
	signer, notes, err := f.signing.signer(time.Now())
	if err != nil {
		return err
	}
	if f.moduleSource == "" && f.moduleBuilt != "" {
		return usagef("--module-built goes with --module-source only")
	}
	if f.moduleSource != "" {
		if f.moduleSource, err = filepath.Abs(f.moduleSource); err != nil {
			return usagef("%v", err)
		}
		if d, err := os.Stat(f.moduleSource); err != nil || !d.IsDir() {
			return usagef("--module-source %s is no directory", f.moduleSource)
		}
		f.moduleBuilt = cmp.Or(f.moduleBuilt, f.moduleSource)
	}
	secret, err := f.sign.secret(ctx)
	if err != nil {
		return err
	}
	var base []*update.Update
	for _, path := range f.on {
		u, err := readUpdate(ctx, path)
		if err != nil {
			return err
		}
		base = append(base, u)
	}
	builder, info, err := e.builder(ctx, &f.builderFlags)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := builder.Close(); err == nil {
			err = closeErr
		}
	}()
	p := newProgress(e.err, e.json, patience)
	defer p.close()
	u, report, err := create.Create(ctx, create.Options{
		Patch: text, Reverse: f.reverse, Release: f.kernel, Version: f.version, Description: f.description, Effective: f.effective, Base: base, Units: f.units,
		ModuleSource: f.moduleSource, ModuleBuilt: f.moduleBuilt, Accept: accept, ReportOnly: f.report, Signer: signer,
		BackendName: info.Name, Builder: builder, Jobs: f.jobs, Log: e.log, Progress: p.event,
		Arch:       func(machine uint16) (arch.Arch, plugin.Info, error) { return e.host.Arch(ctx, machine) },
		Transforms: e.transforms,
		Say: func(key, text string) {
			p.clear()
			if !e.json {
				fmt.Fprintf(e.out, "%-9s %s\n", key, text)
			}
		},
	})
	p.close()
	if err != nil {
		return err
	}
	report.Notes = append(report.Notes, notes...)
	if f.report {
		return e.result(report, func(w io.Writer) { printItems(w, report) })
	}
	sealed, err := u.Seal()
	if err != nil {
		return err
	}
	signedWith := ""
	if secret != nil {
		if err := sign(sealed, u, secret); err != nil {
			return err
		}
		signedWith = secret.ID()
	}
	if err := sealed.WriteFile(f.output); err != nil {
		return err
	}
	info2, err := os.Stat(f.output)
	if err != nil {
		return fmt.Errorf("write update: %w", err)
	}
	shown := struct {
		*create.Report
		File       string `json:"file"`
		Size       int64  `json:"size"`
		SignedWith string `json:"signed_with,omitempty"` // the key's ID
	}{report, f.output, info2.Size(), signedWith}
	return e.result(shown, func(w io.Writer) {
		for _, n := range report.Notes {
			fmt.Fprintf(w, "note      %s\n", n)
		}
		fmt.Fprintf(w, "update    %s %s, id %s\n", f.output, size(info2.Size()), report.ID)
		if signedWith != "" {
			fmt.Fprintf(w, "signed    with key %s\n", signedWith)
		}
		if e.verbose > 0 {
			for _, s := range report.Stages {
				fmt.Fprintf(w, "          %s %s\n", s.Name, s.Time.Round(time.Millisecond))
			}
		}
	})
}

// accepted pairs --accept with --because.
func (f *createFlags) accepted() (map[string]string, error) {
	if len(f.accept) != len(f.because) {
		return nil, usagef("%d times --accept and %d times --because: say why for each", len(f.accept), len(f.because))
	}
	out := map[string]string{}
	for i, id := range f.accept {
		if strings.TrimSpace(f.because[i]) == "" {
			return nil, usagef("--accept %s: --because says nothing", id)
		}
		if !update.ValidLine(f.because[i]) {
			return nil, usagef("--because %q is no line: leave out line ends, tabs and what else cannot be printed", f.because[i])
		}
		if _, twice := out[id]; twice {
			return nil, usagef("--accept %s is there twice", id)
		}
		out[id] = f.because[i]
	}
	return out, nil
}

// printItems prints what a patch changes of what existing data mean.
func printItems(w io.Writer, report *create.Report) {
	for _, n := range report.Notes {
		fmt.Fprintf(w, "note\t%s\n", n)
	}
	for _, it := range report.Items {
		by := "nobody carries it"
		switch c := it.Claim; {
		case c != nil && c.Hook:
			by = "carried by the patch: " + c.Because
		case c != nil && c.Plugin == "":
			by = "accepted: " + c.Because
		case c != nil:
			by = "carried by " + c.Plugin + ": " + c.Because
		}
		fmt.Fprintf(w, "item\t%s\n\t%s\n\t%s\n", it.ID, it.Detail, by)
	}
	for _, r := range report.Refusals {
		fmt.Fprintf(w, "refused\t%s\n", r.Text)
	}
	if len(report.Items)+len(report.Refusals) == 0 {
		fmt.Fprintf(w, "nothing\tit changes nothing of what existing data mean\n")
	}
}

// transforms returns all transform plugins.
func (e *env) transforms(ctx context.Context) ([]create.Transform, error) {
	var out []create.Transform
	for _, name := range e.host.Transforms(ctx) {
		t, _, err := e.host.Transform(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, create.Transform{Name: name, Transform: t})
	}
	return out, nil
}

// backend returns the backend that was asked for, or the first that can build the kernel.
func (e *env) backend(ctx context.Context, f *builderFlags) (backend.Backend, plugin.Info, error) {
	if f.backend != "" {
		e.host.Configure(string(plugin.KindBackend)+"-"+f.backend, f.options)
		return e.host.Backend(ctx, f.backend)
	}
	if len(f.options) > 0 {
		return nil, plugin.Info{}, usagef("--backend-option wants --backend")
	}
	var reasons error
	for _, found := range e.host.List(ctx) {
		if found.Skipped != "" || found.Info.Kind != plugin.KindBackend {
			continue
		}
		b, info, err := e.host.Backend(ctx, found.Info.Name)
		if err != nil {
			reasons = errors.Join(reasons, err)
			continue
		}
		req := &backend.ProbeRequest{Release: f.kernel, Version: f.version}
		if req.CacheDir, err = filepath.Abs(build.BackendDir(f.cache, info.Name)); err != nil {
			return nil, info, fmt.Errorf("the cache directory: %w", err)
		}
		resp, err := b.Probe(ctx, req)
		switch {
		case err != nil:
			reasons = errors.Join(reasons, fmt.Errorf("backend %s: %w", info.Name, err))
		case resp.Supported:
			return b, info, nil
		default:
			reasons = errors.Join(reasons, fmt.Errorf("backend %s: %s", info.Name, resp.Reason))
		}
	}
	if reasons == nil {
		return nil, plugin.Info{}, &plugin.Diagnostic{Fault: plugin.FaultMachine, Summary: "there is no build backend",
			Detail: "`ksplice plugin list` shows what is found and where it is looked for"}
	}
	return nil, plugin.Info{}, &create.RefusedError{Reasons: []create.Reason{{Kind: create.ReasonKernel,
		Text: fmt.Sprintf("no backend can build kernel %s:\n%v", f.kernel, reasons)}}}
}
