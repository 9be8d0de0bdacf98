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
listed with the reason, and so is an executable that is not called as plugins are. The directories are those of the
configuration, then $KSPLICE_PLUGIN_PATH, then those that belong to the installation. With -v it says where each was
found, whatever came of it, which directories there are and which are missing, and the digests, for the
configuration's pins.

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
