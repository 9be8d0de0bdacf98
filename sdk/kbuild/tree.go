package kbuild

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ksplice/ksplice/sdk/backend"
)

// Layout is the version of the directory's layout and of the way objects are compiled. It is part of every tree's identity, so that trees and
// objects of another version of this package are made again: whoever changes the package raises it where old ones would be wrong.
const Layout = "7"

const (
	rootName  = "root"
	stateName = "state"
	treeName  = "tree.json"
	imageName = "vmlinuz"
)

// Info is what a backend says of a tree that it has filled, as tree.json holds it.
type Info struct {
	// Layout is the layout's version; Store.Make fills it in.
	Layout string `json:"layout"`
	// Key names the inputs the tree was made of; Store.Make fills it in.
	Key string `json:"key"`
	// Release and Version are the kernel's `uname -r` and `uname -v`.
	Release string `json:"release"`
	Version string `json:"version"`
	// Banner names the kernel for people.
	Banner string `json:"banner"`
	// Arch is the kernel's name of the architecture (SRCARCH), asked of the kernel's makefiles where it is empty; Machine the ELF machine number.
	Arch    string `json:"arch"`
	Machine uint16 `json:"machine"`
	// CC is the compiler's command, as CheckCompiler gives it.
	CC string `json:"cc"`
	// Make are the variables given to every make of the kernel's top Makefile: "ARCH=x86", "KERNELRELEASE=6.1.0-1".
	Make []string `json:"make"`
}

// Tree is a complete tree.
type Tree struct {
	Info
	// Dir is the directory with everything of the tree.
	Dir string
	env environment
}

// Root is the kernel's source and build directory. Nobody writes in it: hosts make work trees of it, by links.
func (t *Tree) Root() string { return filepath.Join(t.Dir, rootName) }

// ImagePath is where a backend puts the image (vmlinuz, or an ELF file) of the kernel whose tree is at root; it may have none.
func ImagePath(root string) string { return filepath.Join(filepath.Dir(root), imageName) }

func (t *Tree) state(name ...string) string {
	return filepath.Join(append([]string{t.Dir, stateName}, name...)...)
}

// open opens the tree in dir. The error is os.ErrNotExist when there is none, when it is not complete or of another layout.
func open(dir string) (*Tree, error) {
	b, err := os.ReadFile(filepath.Join(dir, treeName))
	if err != nil {
		return nil, err
	}
	t := &Tree{Dir: dir}
	if err := json.Unmarshal(b, &t.Info); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, treeName), err)
	}
	if t.Layout != Layout {
		return nil, fmt.Errorf("the tree in %s is of layout %q, this is %q: %w", dir, t.Layout, Layout, os.ErrNotExist)
	}
	if t.env, err = readEnvironment(t.state(environmentName)); err != nil {
		return nil, err
	}
	return t, nil
}

// openFor opens the tree that a request names.
func openFor(t *backend.Tree) (*Tree, error) {
	if t == nil || filepath.Base(t.Root) != rootName {
		return nil, errors.New("the request names no tree of this backend")
	}
	tree, err := open(filepath.Dir(t.Root))
	if err != nil {
		return nil, fmt.Errorf("open tree: %w", err)
	}
	return tree, nil
}

// Describe makes the tree's description for the host. The identity covers what the tree was made of and the tools that
// compile it, so it changes when the compiler is upgraded in place.
func (t *Tree) Describe(ctx context.Context, reused bool) (*backend.Tree, error) {
	tools, err := t.toolchain(ctx)
	if err != nil {
		return nil, err
	}
	root := t.Root()
	image := ImagePath(root)
	if _, err := os.Stat(image); errors.Is(err, os.ErrNotExist) {
		image = ""
	}
	return &backend.Tree{
		ID:   digest(append([]string{Layout, t.Key}, tools.digests...)...),
		Root: root, Source: root, Build: root,
		Release: t.Release, Version: t.Version, Banner: t.Banner, Arch: t.Arch, Machine: t.Machine,
		Config: filepath.Join(root, ".config"), Symvers: filepath.Join(root, "Module.symvers"),
		Compiler: t.CC, CompilerVersion: tools.version, CompilerSHA256: tools.compiler,
		Image: image, Reused: reused,
	}, nil
}

// digest is a digest of strings, no matter what they contain.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s,", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// makefile gives the path of a makefile with the given content, which make reads before the kernel's own.
func (t *Tree) makefile(content string) (string, error) {
	file := t.state("makefiles", digest(content)+".mk")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	return file, writeFile(file, []byte(content))
}

// writeFile writes a file so that nobody ever sees half of it.
func writeFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(content); err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Config holds the symbols of a kernel configuration that are set, with their values as in .config, unquoted.
type Config map[string]string

// ReadConfig reads a kernel configuration.
func ReadConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	c := Config{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		name, value, ok := strings.Cut(s.Text(), "=")
		if ok && strings.HasPrefix(name, "CONFIG_") {
			c[name] = strings.Trim(value, `"`)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return c, nil
}

// IsSet says whether a symbol, by its full name ("CONFIG_MODULES"), is y or m.
func (c Config) IsSet(name string) bool { return c[name] == "y" || c[name] == "m" }
