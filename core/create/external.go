package create

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/ksplice/ksplice/core/patch"
)

// externalDir is where the source tree of a module that is not the kernel's own is put in the tree for compiling.
const externalDir = "extmod"

// maxExternal bounds such a source tree, in bytes.
const maxExternal = 256 << 20

// isExternal says that a file is of such a module.
func isExternal(file string) bool { return strings.HasPrefix(file, externalDir+"/") }

// readExternal reads the source tree of a module of its own: what an earlier build left in it is not taken. kbuild then makes it like any
// directory of the kernel's: the flags are the same, but for names in messages.
func readExternal(dir string) (map[string][]byte, error) {
	if _, err := os.Stat(filepath.Join(dir, "Kbuild")); errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, "Makefile")); err != nil {
			return nil, fmt.Errorf("the module's source %s has neither a Kbuild nor a Makefile: name the directory that make's M= names", dir)
		}
	}
	files, total := map[string][]byte{}, int64(0)
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(e.Name(), ".") && name != dir {
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if e.IsDir() || product(e.Name()) {
			return nil
		}
		st, err := os.Stat(name) // of what a link names
		if err != nil || !st.Mode().IsRegular() {
			return err
		}
		if total += st.Size(); total > maxExternal {
			return fmt.Errorf("it has more than %d MiB", maxExternal>>20)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		files[path.Join(externalDir, filepath.ToSlash(rel))] = b
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the module's source %s: %w", dir, err)
	}
	return files, nil
}

// product says that a file is what kbuild makes of a module.
func product(name string) bool {
	switch path.Ext(name) {
	case ".o", ".ko", ".a", ".mod", ".order", ".symvers", ".cmd":
		return true
	}
	return strings.HasSuffix(name, ".mod.c")
}

// addExternal puts the module into the tree, before and after the patch.
func (r *run) addExternal() error {
	if r.o.ModuleSource == "" {
		return nil
	}
	files, err := readExternal(r.o.ModuleSource)
	if err != nil {
		return err
	}
	// kbuild begins at the top, with this file (scripts/Makefile.build, kbuild-file).
	top, err := os.ReadFile(filepath.Join(r.tree.Source, "Kbuild"))
	if err != nil {
		return fmt.Errorf("add the module to the kernel's source: %w", err)
	}
	files["Kbuild"] = fmt.Appendf(top, "\nobj-m += %s/\n", externalDir)
	r.external = files
	r.flags = append(r.flags, "-fmacro-prefix-map="+externalDir+"/="+strings.TrimSuffix(r.o.ModuleBuilt, "/")+"/")
	return nil
}

// original reads a file as it is before all patches.
func (r *run) original(name string) ([]byte, error) {
	if b, ok := r.external[name]; ok {
		return b, nil
	}
	return os.ReadFile(filepath.Join(r.tree.Source, name))
}

// externalSources are the module's own sources. Which of them include what is not known: all are compiled, and those that do not change drop out.
func (r *run) externalSources() []string {
	var out []string
	for name := range maps.Keys(r.external) {
		if c := patch.Classify(name).Class; c == patch.Source {
			out = append(out, name)
		}
	}
	return out
}
