package main

import (
	"context"

	"github.com/spf13/pflag"
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
	fs.StringToStringVar(&p.options, "option", nil, "check, run: `KEY=VALUE` of the plugin's own configuration (may be repeated)")
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
	var fresh newFlags
	return &command{
		name: "plugin", args: "list | new KIND NAME | check BINARY | run BINARY [CALL [REQUEST]]",
		summary: "list the plugins that ksplice finds; begin one, check it, drive it by hand",
		help: `list looks through the directories for plugins and asks each who it is. A plugin that would not be used is
listed with the reason, and so is an executable that is not called as plugins are. The directories are those of the
configuration, then $KSPLICE_PLUGIN_PATH, then those that belong to the installation. With -v it says where each was
found, whatever came of it, which directories there are and which are missing, and the digests, for the
configuration's pins.

new writes the project of a plugin into the directory KIND-NAME (or --dir): go.mod, the plugin, a first test that runs
the conformance suite of its kind, Makefile, a CI workflow, README. KIND is arch (an instruction set), backend (a
distribution's kernels) or transform (data structures). It builds and passes, and refuses with what is to be written
what it cannot do yet. It requires the version of the SDK that this ksplice is of, or with --sdk a checkout.

check launches a plugin's binary as ksplice does and goes through what ksplice relies on in a plugin of its kind, a
row each: the same suite that the SDK has for tests (sdk/sdktest). What needs objects (--object, or --update, of an
architecture plugin) or a kernel (--release, --source, --header, of a backend) is "not asked" without. Exit code 3:
something is not as it must be.

run launches a binary as ksplice does and makes one call, whose request is JSON: the argument, @FILE, or - for standard
input; none is {}. The answer is JSON on standard output; progress and what the plugin complains of go to standard
error, and the exit code is by whose fault a refusal is. Without a call it lists those of the plugin's kind, with -v
what each takes. Bytes are in base64, as JSON has them; a file may be named without its digest.`,
		example: `ksplice plugin new backend acme --sdk ../ksplice
ksplice plugin run backend-acme/backend-acme Probe '{"Release": "6.1.0-acme"}'`,
		flags: func(fs *pflag.FlagSet) {
			flags.flags(fs)
			fresh.flags(fs)
		},
		run: func(ctx context.Context, e *env, args []string) error {
			switch {
			case len(args) == 1 && args[0] == "list":
				return listPlugins(ctx, e)
			case len(args) == 3 && args[0] == "new":
				return newPlugin(e, args[1], args[2], &fresh)
			case len(args) == 2 && args[0] == "check":
				return checkPlugin(ctx, e, args[1], &flags)
			case len(args) >= 2 && len(args) <= 4 && args[0] == "run":
				return runPlugin(ctx, e, args[1], args[2:], flags.options)
			}
			return usagef("write `ksplice plugin list`, `new KIND NAME`, `check BINARY` or `run BINARY [CALL [REQUEST]]`")
		},
	}
}
