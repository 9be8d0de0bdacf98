package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kept"
	"github.com/ksplice/ksplice/core/persist"
	"github.com/ksplice/ksplice/core/pluginhost"
)

// arriveCommand is what the kernel module runs when a module comes that an update waits for (kmod/arrive.c). It is set up as apply was, and
// reports to the kernel module, as nobody reads what it prints.
func arriveCommand() *command {
	return &command{
		name: "arrive", args: "ID MODULE", summary: "apply an armed update's part to a module that has come", hidden: true,
		help: `The kernel module runs this when a module is loaded that an applied update waits for. ksplice status shows how it went.`,
		run: func(ctx context.Context, e *env, args []string) error {
			if len(args) != 2 {
				return usagef("arrive wants an update ID and a module")
			}
			id, module := args[0], args[1]
			e.event = &event{operation: "arrive"}
			e.event.add(fieldID, id)
			e.event.add(fieldModule, module)
			settings, err := kept.Default().ReadSettings(id)
			if err != nil {
				return e.cannotArrive(id, module, err)
			}
			// Early in a boot there may be no other place to write to.
			if err := os.Setenv("TMPDIR", kept.Default().Dir(id)); err != nil {
				return e.cannotArrive(id, module, err)
			}
			host := pluginhost.New(pluginhost.Config{Dirs: settings.Dirs, Pins: settings.Pins, PluginConfig: settings.PluginConfig, Logger: e.log})
			defer host.Close()
			u, err := kept.Default().ReadUpdate(id)
			if err != nil {
				return e.cannotArrive(id, module, err)
			}
			e.event.add(fieldDescription, u.Manifest.Description)
			a, _, err := host.Arch(ctx, u.Manifest.Kernel.Machine)
			if err != nil {
				return e.cannotArrive(id, module, err)
			}
			guarded, err := guardArrival(persist.Default(), id)
			if err != nil {
				e.log.Warn("a death of this machine now would not be known for the update's", "error", err)
			}
			r, err := apply.Arrive(ctx, id, module, apply.Options{Arch: a, Transform: transforms(host), Log: e.log, Attempts: settings.Attempts, Interval: settings.Interval, Freeze: settings.Freeze})
			if guarded {
				if err := settleLater(); err != nil {
					e.log.Warn("that this machine lives is known only when ksplice.service ends", "error", err)
				}
			}
			if err != nil {
				return err
			}
			e.event.applied(r)
			return e.result(r, func(w io.Writer) {
				fmt.Fprintf(w, "applied\t%s to module %s\n", changed(len(r.Functions), len(r.Sets)), module)
			})
		},
	}
}

// cannotArrive tells the kernel module why nothing came of it, and returns the cause.
func (e *env) cannotArrive(id, module string, cause error) error {
	d, err := engine.Open()
	if err != nil {
		return cause
	}
	defer d.Close()
	if err := d.Arrived(id, module, cause); err != nil {
		e.log.Error("the kernel module does not take the report", "error", err)
	}
	return cause
}
