package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/build"
	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// target are the flags that say what kernel plain objects were built for.
type target struct {
	builderFlags
	update string
	config string
	module string
	facts  map[string]int64
}

func (t *target) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&t.kernel, "kernel", "k", "", "the `RELEASE` of the kernel that the objects were built for; its tree is prepared as by create")
	fs.StringVar(&t.update, "update", "", "an update `FILE` for the kernel that the objects were built for, instead of --kernel")
	fs.StringVar(&t.module, "module", "", "the `MODULE` that the objects are part of (default: the kernel proper)")
	fs.StringVar(&t.config, "kernel-config", "", "the kernel's configuration `FILE`, for example /boot/config-RELEASE, where neither is at hand")
	fs.StringToInt64Var(&t.facts, "fact", nil, "`NAME=NUMBER` of the kernel, likewise; ksplice inspect --json shows those of an update")
	t.builderFlags.flags(fs)
}

// read gives what the architecture plugin is told of the kernel.
func (t *target) read(ctx context.Context, e *env, machine uint16, a arch.Arch) (out arch.Target, err error) {
	out = arch.Target{Machine: machine}
	switch {
	case t.kernel != "" && t.update != "":
		return out, usagef("--kernel and --update say the same: give one")
	case t.update != "":
		u, err := readUpdate(ctx, t.update)
		if err != nil {
			return out, err
		}
		out.Facts, out.Config = u.Manifest.Facts, u.Manifest.Config
	case t.kernel != "":
		builder, _, err := e.builder(ctx, &t.builderFlags)
		if err != nil {
			return out, err
		}
		defer builder.Close()
		p := newProgress(e.err, e.json, patience)
		defer p.close()
		tree, err := builder.Prepare(ctx, t.kernel, "", p.event)
		if err != nil {
			return out, err
		}
		if out, err = builder.Target(ctx, tree, a); err != nil {
			return out, err
		}
	}
	if t.config != "" {
		if out.Config, err = build.ReadConfig(t.config); err != nil {
			return out, usagef("--kernel-config: %v", err)
		}
	}
	if len(t.facts) > 0 {
		out.Facts = t.facts
	}
	out.Module = t.module != ""
	return out, nil
}

// objects unpacks the pre objects of the update into a directory, and says which unit each path is.
func (t *target) objects(ctx context.Context, dir string) (paths []string, units map[string]update.Unit, err error) {
	u, err := readUpdate(ctx, t.update)
	if err != nil {
		return nil, nil, err
	}
	units = map[string]update.Unit{}
	for i, x := range u.Manifest.Units {
		path := filepath.Join(dir, fmt.Sprintf("%04d.o", i))
		if err := os.WriteFile(path, u.Files[x.Pre], 0o600); err != nil {
			return nil, nil, fmt.Errorf("unpack objects: %w", err)
		}
		paths = append(paths, path)
		units[path] = x
	}
	return paths, units, nil
}

// units reads and describes objects. of says which units of an update they are, as far as they are such.
func (t *target) units(ctx context.Context, e *env, paths []string, of map[string]update.Unit) ([]*match.Unit, arch.Arch, error) {
	var units []*match.Unit
	var machine uint16
	for _, p := range paths {
		path, err := filepath.Abs(p)
		if err != nil {
			return nil, nil, err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, usagef("%v", err)
		}
		f, err := objfile.ReadFile(path)
		if err != nil {
			return nil, nil, usagef("%v", err)
		}
		machine = uint16(f.Header.Machine)
		u := &match.Unit{Name: p, Module: t.module, File: f, Object: plugin.File{Path: path, SHA256: update.Digest(b)}}
		if x, ok := of[p]; ok {
			u.Name, u.Module = x.Object, x.Module
		}
		units = append(units, u)
	}
	a, _, err := e.host.Arch(ctx, machine)
	if err != nil {
		return nil, nil, err
	}
	told, err := t.read(ctx, e, machine, a)
	if err != nil {
		return nil, nil, err
	}
	for _, u := range units {
		u.Target = told
		u.Target.Module = u.Module != ""
	}
	err = apply.Describe(ctx, a, units)
	if err != nil && len(told.Facts) == 0 {
		err = usagef("%v\n  these are a kernel's objects: say which kernel's, with --kernel RELEASE or --update FILE", err)
	}
	return units, a, err
}

func diffCommand() *command {
	var t target
	return &command{
		name: "diff", args: "PRE.o POST.o", summary: "pre-post differencing of two objects",
		help: `Compares two objects, compiled with -ffunction-sections -fdata-sections from the source before and after a
change, and lists changed, new and removed functions and data, each with the first reason. Of objects of a kernel it
wants to know which kernel's: how large the entries of their tables are, differs.`,
		example: "ksplice diff --kernel 6.1.0-56-amd64 pre/sch_qfq.o post/sch_qfq.o",
		flags:   t.flags,
		run: func(ctx context.Context, e *env, args []string) error {
			if len(args) != 2 {
				return usagef("give two objects, not %d", len(args))
			}
			units, _, err := t.units(ctx, e, args, nil)
			if err != nil {
				return err
			}
			var objects [2]*diff.Object
			for i, u := range units {
				objects[i] = &diff.Object{Name: u.Name, File: u.File, Desc: u.Desc}
				if objects[i].Statics, err = semantic.Statics(args[i]); err != nil && !errors.Is(err, semantic.ErrNoTypes) {
					return err
				}
			}
			r, err := diff.Compare(objects[0], objects[1])
			if err != nil {
				return err
			}
			return e.result(diffRows(r), func(w io.Writer) {
				rows := diffRows(r)
				if len(rows) == 0 {
					fmt.Fprintln(w, "no difference")
				}
				for _, row := range rows {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", row.Change, row.What, row.Name, row.Why)
				}
			})
		},
	}
}

// diffRow is one line of the result.
type diffRow struct {
	Change string `json:"change"` // changed, new, removed, refused
	What   string `json:"what"`   // function, data, section
	Name   string `json:"name"`
	Why    string `json:"why,omitempty"`
}

func diffRows(r *diff.Result) []diffRow {
	rows := []diffRow{}
	for _, f := range r.Functions {
		rows = append(rows, diffRow{string(f.Kind), "function", f.Name, f.Why})
	}
	for _, d := range r.Data {
		rows = append(rows, diffRow{string(d.Kind), "data", d.Name, d.Why})
	}
	for _, x := range r.Refusals {
		rows = append(rows, diffRow{"refused", "section", x.Where, x.Reason})
	}
	return rows
}

func matchCommand() *command {
	var t target
	var against string
	return &command{
		name: "match", args: "[OBJECT...]", summary: "run-pre matching of plain objects, or of an update's",
		help: `Compares every function of the objects with a kernel and prints a row each: matched and at which address, or the
first mismatch with both instructions. The kernel is the running one (live), a kernel image (vmlinux or vmlinuz, read
through the kallsyms tables inside it), or an ELF core of a machine. Without objects, those that the update was made
from (--update) are matched.`,
		example: "ksplice match --kernel 6.1.0-56-amd64 --against /boot/vmlinuz-6.1.0-56-amd64 fs/exec.o\nksplice match --update fix.ksplice fs/exec.o",
		flags: func(fs *pflag.FlagSet) {
			fs.StringVar(&against, "against", "live", "the `KERNEL`: live, or the path of a kernel image or of a core")
			t.flags(fs)
		},
		run: func(ctx context.Context, e *env, args []string) error {
			var of map[string]update.Unit
			if len(args) == 0 && t.update == "" {
				return usagef("give at least one object, or an update with --update")
			}
			if len(args) == 0 {
				dir, err := os.MkdirTemp("", "ksplice-match-*")
				if err != nil {
					return fmt.Errorf("make a directory to work in: %w", err)
				}
				defer os.RemoveAll(dir)
				if args, of, err = t.objects(ctx, dir); err != nil {
					return err
				}
			}
			k, done, err := openKernel(against)
			if err != nil {
				return err
			}
			defer done()
			units, a, err := t.units(ctx, e, args, of)
			if err != nil {
				return err
			}
			p := newProgress(e.err, e.json, patience)
			p.begin("match")
			sol, err := match.Run(ctx, k, a, units)
			p.close()
			if err != nil {
				return err
			}
			if err := e.result(struct {
				Functions []match.Function `json:"functions"`
				Stats     match.Stats      `json:"stats"`
			}{sol.Functions, sol.Stats}, func(w io.Writer) {
				for _, f := range sol.Functions {
					where := f.Reason
					if f.Status == match.StatusMatched {
						where = fmt.Sprintf("%#x", f.Address)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Status, f.Object, f.Name, where)
				}
			}); err != nil {
				return err
			}
			fmt.Fprintf(e.err, "%s, %s, %s in %s, %s of it in the architecture plugin\n", counted(sol.Stats.Functions, "function"),
				counted(sol.Stats.Relocations, "relocation"), size(int64(sol.Stats.Bytes)), milliseconds(sol.Stats.Time), milliseconds(sol.Stats.Plugin))
			return sol.Err()
		},
	}
}

// openKernel opens the kernel to match against.
func openKernel(against string) (k *kernel.Kernel, done func(), err error) {
	done = func() {}
	if against == "live" {
		var memory kernel.Memory
		if d, err := engine.Open(); err == nil {
			memory, done = d, func() { d.Close() }
		}
		k, err = kernel.Live(kernel.LiveOptions{Memory: memory})
		return k, done, err
	}
	core, err := kernel.IsCore(against)
	if err != nil {
		return nil, done, usagef("--against: %v", err)
	}
	if core {
		k, err = kernel.Core(against)
	} else {
		k, err = kernel.Image(against)
	}
	return k, done, err
}
