package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/conformance"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

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
	// NotAsked says why it was not asked; empty: it was.
	NotAsked string `json:"not_asked,omitempty"`
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
	needs := "--object FILE, or --update FILE" // what gives the fixtures that are missing
	switch info.Kind {
	case plugin.KindArch:
		fix, err := flags.arch(ctx, dir)
		if err != nil {
			return err
		}
		if fix.Target.Machine == 0 && len(info.Machines) > 0 {
			fix.Target.Machine = info.Machines[0]
		}
		if list, err = conformance.Arch(arch.NewClient(conn, path), fix, dir); err != nil {
			return usagef("%v", err)
		}
	case plugin.KindBackend:
		needs = "--release RELEASE, with --source FILE"
		list = conformance.Backend(backend.NewClient(conn, path), conformance.BackendFixtures{Release: flags.release, CacheDir: flags.cache,
			Source: flags.source, Header: flags.header, Config: flags.options}, dir)
	case plugin.KindTransform:
		list = conformance.Transform(transform.NewClient(conn, path), conformance.TransformFixtures{Config: flags.options}, dir)
	default:
		return usagef("%s says that it is a plugin of the kind %q: there are %s, %s and %s", path, info.Kind, plugin.KindArch, plugin.KindBackend, plugin.KindTransform)
	}
	return e.verdicts(ctx, path, append(conformance.Process(info.Kind, path), list...), needs)
}

// verdicts goes through checks and prints what came of each. What gives the fixtures that some need is said of those that cannot be asked.
func (e *env) verdicts(ctx context.Context, path string, list []conformance.Check, needs string) error {
	failed, asked := 0, 0
	out := make([]verdict, 0, len(list))
	for i := range list {
		v := verdict{Check: list[i].Name}
		if list[i].Needs != "" {
			v.NotAsked = fmt.Sprintf("it needs %s: %s", list[i].Needs, needs)
			out = append(out, v)
			continue
		}
		asked++
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
			switch {
			case v.NotAsked != "":
				fmt.Fprintf(w, "%s\tnot asked\t%s\n", v.Check, v.NotAsked)
			case v.Wrong != "":
				fmt.Fprintf(w, "%s\tWRONG\t%s\n", v.Check, v.Wrong)
			default:
				fmt.Fprintf(w, "%s\tgood\n", v.Check)
			}
		}
	}); err != nil {
		return err
	}
	if failed > 0 {
		return &conformanceError{path, failed, asked}
	}
	return nil
}

// arch are the fixtures of an architecture plugin. An update's objects are unpacked to dir.
func (p *pluginFlags) arch(ctx context.Context, dir string) (conformance.ArchFixtures, error) {
	fix := conformance.ArchFixtures{Objects: p.objects, Config: p.options, Target: arch.Target{Facts: p.facts}}
	if p.update != "" {
		t := target{update: p.update}
		paths, _, err := t.objects(ctx, dir)
		if err != nil {
			return fix, err
		}
		u, err := readUpdate(ctx, p.update)
		if err != nil {
			return fix, err
		}
		fix.Objects = append(fix.Objects, paths...)
		fix.Target.Facts, fix.Target.Config = u.Manifest.Facts, u.Manifest.Config
	}
	if len(fix.Objects) == 0 {
		return fix, nil
	}
	f, err := objfile.ReadFile(fix.Objects[0])
	if err != nil {
		return fix, usagef("%v", err)
	}
	fix.Target.Machine = uint16(f.Header.Machine)
	return fix, nil
}
