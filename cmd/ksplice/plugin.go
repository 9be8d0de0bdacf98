package main

import (
	"context"
	"fmt"
	"io"
)

func pluginCommand() *command {
	return &command{
		name: "plugin", args: "list", summary: "list the plugins that ksplice finds",
		help: `Looks through the directories for plugins and asks each who it is. A plugin that would not be used is
listed with the reason. The directories are those of the configuration, then $KSPLICE_PLUGIN_PATH, then those that
belong to the installation. With -v the digests are shown too, for the configuration's pins.`,
		example: "ksplice plugin list",
		run: func(ctx context.Context, e *env, args []string) error {
			if len(args) != 1 || args[0] != "list" {
				return usagef("the only thing to do with plugins is `ksplice plugin list`")
			}
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
		},
	}
}
