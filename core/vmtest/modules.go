package vmtest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ownModules are what the agent's port and the shared directories need.
var ownModules = []string{"virtio_pci", "virtio_console", "9pnet_virtio", "9p"}

// moduleOrder returns the files, below k.ModulesDir, of the named modules and of what they depend on, each after what it
// depends on. Modules that are built in are left out.
func (k *Kernel) moduleOrder(names []string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(k.ModulesDir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	depends := make(map[string][]string) // by file
	file := make(map[string]string)      // by module name
	for line := range strings.Lines(string(b)) {
		name, deps, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("%s/modules.dep: line %q has no colon", k.ModulesDir, line)
		}
		depends[name] = strings.Fields(deps)
		file[moduleName(name)] = name
	}
	if b, err = os.ReadFile(filepath.Join(k.ModulesDir, "modules.builtin")); err != nil {
		return nil, err
	}
	builtin := make(map[string]bool)
	for _, name := range strings.Fields(string(b)) {
		builtin[moduleName(name)] = true
	}
	var order []string
	var add func(string)
	add = func(path string) {
		if slices.Contains(order, path) {
			return
		}
		for _, d := range slices.Backward(depends[path]) { // modules.dep lists the direct ones first
			add(d)
		}
		if !slices.Contains(order, path) {
			order = append(order, path)
		}
	}
	for _, name := range names {
		path, ok := file[moduleName(name)]
		switch {
		case ok:
			add(path)
		case !builtin[moduleName(name)]:
			return nil, fmt.Errorf("kernel %s has no module %s", k.Release, name)
		}
	}
	return order, nil
}

// moduleName is a module's name in the kernel, from its file's name.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// ReadModule returns a module of the kernel, uncompressed.
func (k *Kernel) ReadModule(name string) ([]byte, error) {
	order, err := k.moduleOrder([]string{name})
	if err != nil {
		return nil, err
	}
	if len(order) == 0 {
		return nil, fmt.Errorf("kernel %s has %s built in, not as a module", k.Release, name)
	}
	return readModule(filepath.Join(k.ModulesDir, order[len(order)-1]))
}

func readModule(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r io.Reader
	switch filepath.Ext(path) {
	case ".xz":
		r, err = xz.NewReader(bytes.NewReader(b))
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(bytes.NewReader(b)); err == nil {
			defer d.Close()
			r = d
		}
	default:
		return b, nil
	}
	if err == nil {
		b, err = io.ReadAll(r)
	}
	if err != nil {
		return nil, fmt.Errorf("decompress %s: %w", path, err)
	}
	return b, nil
}
