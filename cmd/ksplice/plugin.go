package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/conformance"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

// pluginFlags say what plugin check asks a plugin about.
type pluginFlags struct {
	options map[string]string
	// of an architecture plugin
	objects []string
	update  string
	facts   map[string]int64
	// of a backend
	release, source, header, cache string
}

func (p *pluginFlags) flags(fs *pflag.FlagSet) {
	fs.StringToStringVar(&p.options, "option", nil, "check: `KEY=VALUE` of the plugin's own configuration (may be repeated)")
	fs.StringArrayVar(&p.objects, "object", nil, "check, of an architecture plugin: a relocatable `FILE` to ask about (may be repeated)")
	fs.StringVar(&p.update, "update", "", "check, of an architecture plugin: an update `FILE` whose pre objects to ask about")
	fs.StringToInt64Var(&p.facts, "fact", nil, "check, of an architecture plugin: `NAME=NUMBER` of the kernel that the objects are of")
	fs.StringVar(&p.release, "release", "", "check, of a backend: the `RELEASE` of a kernel to prepare and to compile units of")
	fs.StringVar(&p.source, "source", "", "check, of a backend: a source `FILE` of that kernel that is a unit of its own")
	fs.StringVar(&p.header, "header", "", "check, of a backend: a `HEADER` of that kernel which some unit includes")
	fs.StringVar(&p.cache, "cache", "", "check, of a backend: the `DIRECTORY` for its trees (default: one that goes with the check)")
}

func pluginCommand() *command {
	var flags pluginFlags
	return &command{
		name: "plugin", args: "list | check BINARY", summary: "list the plugins that ksplice finds; check a finished one",
		help: `list looks through the directories for plugins and asks each who it is. A plugin that would not be used is
listed with the reason. The directories are those of the configuration, then $KSPLICE_PLUGIN_PATH, then those that
belong to the installation. With -v the digests are shown too, for the configuration's pins.

check launches a plugin's binary as ksplice does and goes through what ksplice relies on in a plugin of its kind, a
row each: the same suite that the SDK has for tests (sdk/sdktest). Of an architecture plugin it needs objects (--object,
or --update), of a backend it does more with a kernel (--release, --source, --header). Exit code 3: something is
not as it must be.`,
		example: "ksplice plugin list",
		flags:   flags.flags,
		run: func(ctx context.Context, e *env, args []string) error {
			switch {
			case len(args) == 1 && args[0] == "list":
				return listPlugins(ctx, e)
			case len(args) == 2 && args[0] == "check":
				return checkPlugin(ctx, e, args[1], &flags)
			}
			return usagef("write `ksplice plugin list`, or `ksplice plugin check BINARY`")
		},
	}
}

func listPlugins(ctx context.Context, e *env) error {
	found := e.host.List(ctx)
	return e.result(found, func(w io.Writer) {
		if len(found) == 0 {
			fmt.Fprintln(w, "no plugins; install them, or name their directory in $KSPLICE_PLUGIN_PATH")
			return
		}
		fmt.Fprintln(w, "KIND\tNAME\tVERSION\tPROTOCOLS\tPATH\tDESCRIPTION")
		for _, f := range found {
			if f.Skipped != "" {
				fmt.Fprintf(w, "-\t-\t-\t-\t%s\tskipped: %s\n", f.Path, f.Skipped)
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%s\t%s\n", f.Info.Kind, f.Info.Name, f.Info.Version, f.Info.Protocols, f.Path, f.Info.Description)
			if e.verbose > 0 {
				fmt.Fprintf(w, "\t\t\t\tsha256 %s\t\n", f.SHA256)
			}
		}
	})
}

// conformanceError says that a plugin is not what ksplice relies on.
type conformanceError struct {
	plugin      string
	failed, all int
}

func (e *conformanceError) Error() string {
	return fmt.Sprintf("%s does not meet %d of %d requirements", e.plugin, e.failed, e.all)
}

// verdict is what came of one requirement.
type verdict struct {
	Check string `json:"check"`
	// Wrong says what is; empty: nothing.
	Wrong string `json:"wrong,omitempty"`
}

func checkPlugin(ctx context.Context, e *env, path string, flags *pluginFlags) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	info, err := conformance.Describe(ctx, path)
	if err != nil {
		return usagef("%v", err)
	}
	dir, err := os.MkdirTemp("", "ksplice-check-*")
	if err != nil {
		return fmt.Errorf("make a directory for the checks: %w", err)
	}
	defer os.RemoveAll(dir)
	conn, end, err := conformance.Launch(ctx, info.Kind, path)
	if err != nil {
		return &conformanceError{fmt.Sprintf("%s: %v: it", path, err), 1, 1}
	}
	defer end()
	var list []conformance.Check
	switch info.Kind {
	case plugin.KindArch:
		fix, err := flags.arch(dir)
		if err != nil {
			return err
		}
		if list, err = conformance.Arch(arch.NewClient(conn, path), fix, dir); err != nil {
			return usagef("%v", err)
		}
	case plugin.KindBackend:
		list = conformance.Backend(backend.NewClient(conn, path), conformance.BackendFixtures{Release: flags.release, CacheDir: flags.cache,
			Source: flags.source, Header: flags.header, Config: flags.options}, dir)
	case plugin.KindTransform:
		list = conformance.Transform(transform.NewClient(conn, path), conformance.TransformFixtures{Config: flags.options}, dir)
	default:
		return usagef("%s says that it is a plugin of the kind %q: there are %s, %s and %s", path, info.Kind, plugin.KindArch, plugin.KindBackend, plugin.KindTransform)
	}
	return e.verdicts(ctx, path, list)
}

// verdicts goes through checks and prints what came of each.
func (e *env) verdicts(ctx context.Context, path string, list []conformance.Check) error {
	failed := 0
	out := make([]verdict, 0, len(list))
	for i := range list {
		v := verdict{Check: list[i].Name}
		if err := list[i].Run(ctx); err != nil {
			failed++
			v.Wrong = err.Error()
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		out = append(out, v)
	}
	if err := e.result(out, func(w io.Writer) {
		for _, v := range out {
			if v.Wrong == "" {
				fmt.Fprintf(w, "%s\tgood\n", v.Check)
				continue
			}
			fmt.Fprintf(w, "%s\tWRONG\t%s\n", v.Check, v.Wrong)
		}
	}); err != nil {
		return err
	}
	if failed > 0 {
		return &conformanceError{path, failed, len(list)}
	}
	return nil
}

// arch are the fixtures of an architecture plugin. An update's objects are unpacked to dir.
func (p *pluginFlags) arch(dir string) (conformance.ArchFixtures, error) {
	fix := conformance.ArchFixtures{Objects: p.objects, Config: p.options, Target: arch.Target{Facts: p.facts}}
	if p.update != "" {
		t := target{update: p.update}
		paths, _, err := t.objects(dir)
		if err != nil {
			return fix, err
		}
		u, err := readUpdate(p.update)
		if err != nil {
			return fix, err
		}
		fix.Objects = append(fix.Objects, paths...)
		fix.Target.Facts, fix.Target.Config = u.Manifest.Facts, u.Manifest.Config
	}
	if len(fix.Objects) == 0 {
		return fix, usagef("an architecture plugin is asked about objects: name some with --object, or an update with --update")
	}
	f, err := objfile.ReadFile(fix.Objects[0])
	if err != nil {
		return fix, usagef("%v", err)
	}
	fix.Target.Machine = uint16(f.Header.Machine)
	return fix, nil
}
