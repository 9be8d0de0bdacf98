package kbuild

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// wrapperName is the program that runs objtool on one object the way the final link would (in the tree, so that commands do
// not depend on where the tree lies).
const wrapperName = "tools/objtool/objtool-once"

// hostTool is a program of the kernel's scripts that rules elsewhere in the tree use without knowing how to make it.
type hostTool struct {
	dir, name, config string
}

// hostTools: %.asn1.c (scripts/Makefile.build), security/selinux/Makefile; security/tomoyo/Makefile, drivers/tty/vt/Makefile in 6.1.
var hostTools = []hostTool{
	{"scripts", "asn1_compiler", "CONFIG_ASN1"},
	{"scripts", "bin2c", "CONFIG_BUILD_BIN2C"},
	{"scripts", "conmakehash", "CONFIG_CONSOLE_TRANSLATIONS"},
	{"scripts/selinux/genheaders", "genheaders", "CONFIG_SECURITY_SELINUX"},
}

// finish makes a complete tree of dir, whose root has sources, .config, Module.symvers, include/config/auto.conf, generated
// headers, fixdep, modpost and objtool. Nobody else may know dir yet: the caller renames it into place afterwards.
func finish(ctx context.Context, dir string, info Info, progress plugin.ProgressFunc) error {
	root := filepath.Join(dir, rootName)
	config, err := ReadConfig(filepath.Join(root, ".config"))
	if err != nil {
		return err
	}
	if err := checkConfig(config); err != nil {
		return err
	}
	info.Layout = Layout
	t := &Tree{Info: info, Dir: dir}
	if err := os.MkdirAll(t.state("commands"), 0o755); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	if err := writeWrapper(root, config); err != nil {
		return err
	}
	progress(plugin.Progress{Stage: "configure", Message: "ask the kernel's makefiles for its flags"})
	if t.env, err = capture(ctx, root, info.Make); err != nil {
		return err
	}
	if err := t.env.write(t.state(environmentName)); err != nil {
		return err
	}
	if t.Arch == "" {
		t.Arch = t.env["SRCARCH"]
	}
	for _, tool := range hostTools {
		if err := t.makeHostTool(ctx, config, tool); err != nil {
			return err
		}
	}
	if err := t.index(progress); err != nil {
		return err
	}
	if err := protect(root); err != nil {
		return err
	}
	b, err := json.MarshalIndent(t.Info, "", " ")
	if err != nil {
		return fmt.Errorf("write %s: %w", treeName, err)
	}
	return writeFile(filepath.Join(dir, treeName), b)
}

// checkConfig refuses kernels whose code cannot be had by compiling units one by one.
func checkConfig(c Config) error {
	switch {
	case c.IsSet("CONFIG_LTO_CLANG"):
		return &plugin.Diagnostic{Fault: plugin.FaultPatch, Where: ".config", Summary: "the kernel is built with link time optimisation",
			Detail: "CONFIG_LTO_CLANG is set: its code is made at the final link, not unit by unit, and cannot be compared with single objects"}
	case !c.IsSet("CONFIG_MODULES"):
		return &plugin.Diagnostic{Fault: plugin.FaultPatch, Where: ".config", Summary: "the kernel cannot load modules",
			Detail: "CONFIG_MODULES is not set"}
	}
	return nil
}

// writeWrapper writes the objtool wrapper. objtool accepts --ibt together with --link only
// (tools/objtool/builtin-check.c:link_opts_valid).
func writeWrapper(root string, c Config) error {
	link := ""
	if c.IsSet("CONFIG_X86_KERNEL_IBT") {
		link = " --link"
	}
	path := filepath.Join(root, wrapperName)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write the objtool wrapper: %w", err)
	}
	script := "#!/bin/sh\nexec ./tools/objtool/objtool" + link + " \"$@\"\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		return fmt.Errorf("write the objtool wrapper: %w", err)
	}
	return nil
}

func (t *Tree) makeHostTool(ctx context.Context, config Config, tool hostTool) error {
	target := tool.dir + "/" + tool.name
	if !config.IsSet(tool.config) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(t.Root(), target+".c")); err != nil {
		return nil // a kernel of another version: nothing of it wants the tool
	}
	if _, err := os.Stat(filepath.Join(t.Root(), target)); err == nil {
		return nil
	}
	out, err := run(ctx, command{dir: t.Root(), env: t.env.at(t.Root(), nil), argv: []string{"make", "-s", "-f", "scripts/Makefile.build", "obj=" + tool.dir, target}})
	if err != nil {
		return failure("make "+target, out, err)
	}
	return nil
}

// protect takes the right to write from every file: work trees share them by hard links.
func protect(root string) error {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o222 == 0 {
			return nil
		}
		return os.Chmod(path, st.Mode().Perm()&^0o222)
	})
	if err != nil {
		return fmt.Errorf("protect the tree: %w", err)
	}
	return nil
}
