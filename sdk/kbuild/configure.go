package kbuild

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Configure makes the kernel's source at root, which has .config and Module.symvers, ready to compile single units, by `make
// modules_prepare` with the compiler that the configuration names. It is for kernels that come as source; release is their `uname -r`.
// The description that it returns wants a Version and a Banner. Refused, as a *plugin.Diagnostic, are another compiler than the one
// that the kernel was built with, a source that make cannot prepare, and a configuration that the source completes or changes: it is that of
// another kernel. Where in the diagnostic is ".config" for all that is wrong with the configuration.
func Configure(ctx context.Context, root, release string, parallel int, progress plugin.ProgressFunc) (*Info, error) {
	path := filepath.Join(root, ".config")
	config, err := ReadConfig(path)
	if err != nil {
		return nil, err
	}
	cc, err := CheckCompiler(ctx, config)
	if err != nil {
		return nil, err
	}
	arch, err := configArch(path)
	if err != nil {
		return nil, err
	}
	variables := []string{"ARCH=" + arch, "KERNELRELEASE=" + release, "CC=" + cc}
	progress(plugin.Progress{Stage: "configure", Message: "make modules_prepare"})
	argv := append([]string{"make", "-s", fmt.Sprintf("-j%d", jobs(parallel))}, variables...)
	if err := Run(ctx, root, append(argv, "modules_prepare")); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &plugin.Diagnostic{Fault: plugin.FaultToolchain, Where: release, Summary: "`make modules_prepare` fails in a copy of the source", Detail: err.Error()}
	}
	made, err := ReadConfig(path)
	if err != nil {
		return nil, err
	}
	if differ := differences(config, made); len(differ) > 0 {
		return nil, &plugin.Diagnostic{Fault: plugin.FaultUser, Where: ".config", Summary: "it is not the configuration of this source with these tools",
			Detail: firstOf(differ) + "; give the one that the kernel was built with"}
	}
	name := filepath.Join(root, "include/config/kernel.release")
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("write the tree's release: %w", err)
	}
	if err := os.WriteFile(name, []byte(release+"\n"), 0o644); err != nil {
		return nil, fmt.Errorf("write the tree's release: %w", err)
	}
	machine, err := machineOf(root)
	if err != nil {
		return nil, err
	}
	return &Info{Release: release, Machine: machine, CC: cc, Make: variables}, nil
}

// differences lists the symbols that are set otherwise in a configuration that kconfig has completed. The compiler's name, which its command
// has a say in, is not looked at.
func differences(given, made Config) []string {
	var list []string
	for name, v := range given {
		if made[name] != v && name != "CONFIG_CC_VERSION_TEXT" {
			list = append(list, fmt.Sprintf("%s=%s becomes %q", name, v, made[name]))
		}
	}
	for name, v := range made {
		if _, ok := given[name]; !ok {
			list = append(list, fmt.Sprintf("%s=%s is new", name, v))
		}
	}
	slices.Sort(list)
	return list
}

// firstOf joins the first few.
func firstOf(list []string) string {
	const most = 5
	if len(list) > most {
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", len(list)-most)
	}
	return strings.Join(list, ", ")
}

// archForm is the first comment of a configuration (scripts/kconfig: mainmenu, "Linux/$(ARCH) $(KERNELVERSION) Kernel Configuration").
var archForm = regexp.MustCompile(`(?m)^# Linux/(\S+) \S+ Kernel Configuration`)

func configArch(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read configuration: %w", err)
	}
	m := archForm.FindSubmatch(text)
	if m == nil {
		return "", &plugin.Diagnostic{Fault: plugin.FaultUser, Where: ".config", Summary: "it is not a kernel's configuration",
			Detail: `it lacks the comment "Linux/ARCH VERSION Kernel Configuration" that kconfig writes`}
	}
	return string(m[1]), nil
}

// machineOf reads the ELF machine number off an object that modules_prepare makes (scripts/mod/Makefile: elfconfig.h).
func machineOf(root string) (uint16, error) {
	f, err := elf.Open(filepath.Join(root, "scripts/mod/empty.o"))
	if err != nil {
		return 0, fmt.Errorf("look which machine the kernel is for: %w", err)
	}
	defer f.Close()
	return uint16(f.Machine), nil
}
