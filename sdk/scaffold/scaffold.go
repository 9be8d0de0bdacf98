// Package scaffold writes the project of a new plugin: one that builds, passes its tests and says honestly what it cannot do yet. `ksplice plugin
// new` calls it.
package scaffold

import (
	"bytes"
	"debug/elf"
	"embed"
	"errors"
	"fmt"
	"go/format"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"golang.org/x/mod/module"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// Project says what to write.
type Project struct {
	// Kind and Name are the plugin's. Its binary is called KIND-NAME.
	Kind plugin.Kind
	Name string
	// Module is the Go module path of the project; empty: example.org/KIND-NAME.
	Module string
	// Machine is the ELF machine number that an architecture plugin serves; 0: the one that Name is known for.
	Machine uint16
	// SDK is a checkout of Ksplice to build against by a replace line, absolute or relative to the working directory; Version is the version of
	// Ksplice to require where there is none.
	SDK, Version string
}

// File is the name of the plugin's binary.
func (p *Project) File() string { return string(p.Kind) + "-" + p.Name }

// nameMax bounds a plugin's name in bytes: it is part of file names, and of a line in every table.
const nameMax = 64

// pluginName is how new plugins may be called. Hosts know more: these are fit for module paths and for typing.
var pluginName = regexp.MustCompile(`^[a-z0-9]([a-z0-9_.-]*[a-z0-9])?$`)

// machines are the ELF machine numbers of what kernels call their architectures, and Go and Debian.
var machines = map[string]elf.Machine{
	"aarch64": elf.EM_AARCH64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM, "armhf": elf.EM_ARM,
	"loongarch64": elf.EM_LOONGARCH, "mips64": elf.EM_MIPS, "mips64el": elf.EM_MIPS,
	"ppc64": elf.EM_PPC64, "ppc64el": elf.EM_PPC64, "ppc64le": elf.EM_PPC64,
	"riscv64": elf.EM_RISCV, "s390x": elf.EM_S390, "x86_64": elf.EM_X86_64, "amd64": elf.EM_X86_64,
}

// machineName is what debug/elf calls a machine that it knows; of others it says how far they are from one ("EM_ALPHA + 3").
var machineName = regexp.MustCompile(`^EM_[A-Z0-9_]+$`)

// wrong is a mistake of the caller.
func wrong(detail, format string, args ...any) error {
	d := plugin.Errorf(plugin.FaultUser, "", format, args...)
	d.Detail = detail
	return d
}

// complete checks p and fills in what follows from the rest.
func (p *Project) complete() error {
	if !slices.Contains([]plugin.Kind{plugin.KindArch, plugin.KindBackend, plugin.KindTransform}, p.Kind) {
		return wrong(fmt.Sprintf("there are %s (an instruction set), %s (a distribution's kernels) and %s (data structures)", plugin.KindArch, plugin.KindBackend, plugin.KindTransform),
			"there is no kind of plugin %q", p.Kind)
	}
	if !pluginName.MatchString(p.Name) || len(p.Name) > nameMax || strings.Contains(p.Name, "..") {
		return wrong(fmt.Sprintf("use up to %d small letters, digits, dots, hyphens and underscores, with a letter or digit at both ends", nameMax), "a plugin cannot be called %q", p.Name)
	}
	if p.Module == "" {
		p.Module = "example.org/" + p.File()
	}
	if err := module.CheckImportPath(p.Module); err != nil {
		return wrong("give a path such as example.org/"+p.File(), "the Go module cannot be called %q: %v", p.Module, err)
	}
	if p.Kind != plugin.KindArch {
		if p.Machine != 0 {
			return wrong("leave it out", "a plugin of the kind %s serves no ELF machine", p.Kind)
		}
		return nil
	}
	if p.Machine == 0 {
		p.Machine = uint16(machines[p.Name])
	}
	if p.Machine == 0 {
		return wrong("give its number, e_machine in the header of its objects (readelf -h); known by name are "+strings.Join(slices.Sorted(maps.Keys(machines)), ", "),
			"which ELF machine the architecture %q is nobody knows", p.Name)
	}
	return nil
}

//go:embed templates
var templates embed.FS

// values is what the templates know.
type values struct {
	Project
	File, SDKModule, Repository string
	Replace                     bool   // the SDK is a checkout
	MachineName                 string // of debug/elf
}

// common are the files that all kinds have, by the template that each is made of.
var common = map[string]string{
	"Makefile": "Makefile.tmpl", ".gitignore": "gitignore.tmpl", ".github/workflows/ci.yml": "ci.yml.tmpl", "main.go": "main.go.tmpl",
}

// Write writes the project into dir, which must not exist yet, in a directory that does, or be empty. It returns the files, relative to dir and
// sorted. What cannot be written as asked is a *plugin.Diagnostic; then, and after any other error, nothing is left behind.
func Write(dir string, p Project) ([]string, error) {
	if err := p.complete(); err != nil {
		return nil, err
	}
	files, err := p.render(dir)
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(files))
	return names, writeAll(dir, names, files)
}

// render makes the content of every file, by its path relative to dir.
func (p *Project) render(dir string) (map[string][]byte, error) {
	files := make(map[string][]byte)
	if p.SDK != "" {
		mod, sum, err := p.fromCheckout(dir)
		if err != nil {
			return nil, err
		}
		files["go.mod"], files["go.sum"] = mod, sum
	} else {
		mod, err := p.fromVersion()
		if err != nil {
			return nil, err
		}
		files["go.mod"] = mod
	}
	v := values{Project: *p, File: p.File(), SDKModule: sdkModule, Repository: strings.TrimPrefix(sdkModule, "github.com/"), Replace: p.SDK != ""}
	if name := elf.Machine(p.Machine).String(); machineName.MatchString(name) {
		v.MachineName = name
	}
	from := make(map[string]string)
	for name, t := range common {
		from[name] = "templates/common/" + t
	}
	own, err := fs.Glob(templates, "templates/"+string(p.Kind)+"/*.tmpl")
	if err != nil {
		return nil, err
	}
	for _, t := range own {
		from[strings.TrimSuffix(path.Base(t), ".tmpl")] = t
	}
	for name, t := range from {
		if files[name], err = execute(t, v); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// execute fills one template in. Go source is formatted, since names are of any length.
func execute(name string, v values) ([]byte, error) {
	t, err := template.New(path.Base(name)).Delims("[[", "]]").Option("missingkey=error").ParseFS(templates, name)
	if err != nil {
		return nil, fmt.Errorf("read template: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, v); err != nil {
		return nil, fmt.Errorf("fill in template: %w", err)
	}
	if !strings.HasSuffix(name, ".go.tmpl") {
		return b.Bytes(), nil
	}
	source, err := format.Source(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("format %s: %w", name, err)
	}
	return source, nil
}

// writeAll makes dir, where it is not there, and the files. After an error what it has made is gone again.
func writeAll(dir string, names []string, files map[string][]byte) (err error) {
	var made []string
	defer func() {
		if err == nil {
			return
		}
		for _, path := range slices.Backward(made) {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	mkdir := func(path string) error {
		err := os.Mkdir(path, 0o755)
		if err == nil {
			made = append(made, path)
		}
		return err
	}
	if err := mkdir(dir); errors.Is(err, fs.ErrExist) {
		if err := empty(dir); err != nil {
			return err
		}
	} else if errors.Is(err, fs.ErrNotExist) {
		return wrong("make it first, or name another place", "%s cannot be made: there is no directory %s", dir, filepath.Dir(dir))
	} else if err != nil {
		return fmt.Errorf("make the project: %w", err)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		for i, c := range name {
			if c != '/' {
				continue
			}
			if err := mkdir(filepath.Join(dir, name[:i])); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make the project: %w", err)
			}
		}
		if err := writeNew(path, files[name], &made); err != nil {
			return fmt.Errorf("make the project: %w", err)
		}
	}
	return nil
}

// writeNew writes a file that is not there yet, and notes it in made.
func writeNew(path string, data []byte, made *[]string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	*made = append(*made, path)
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// empty returns an error unless dir is an empty directory.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return wrong("name another place", "%s is there and is no directory to write to: %v", dir, err)
	}
	if len(entries) > 0 {
		return wrong("name another place, or empty it", "the directory %s is not empty: it has %s", dir, entries[0].Name())
	}
	return nil
}
