package vmtest

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// guestInit builds the guest's init, or takes it from the cache.
func guestInit(ctx context.Context) (string, error) {
	dir, err := built(ctx, "guest", func(root, dir string) error {
		return goBuild(ctx, root, filepath.Join(dir, "init"), "./core/vmtest/guest")
	})
	return filepath.Join(dir, "init"), err
}

// Program builds a program of the project, or of one of its examples that is a module of its own, statically, or takes it from the cache, and returns its path.
func Program(ctx context.Context, pkg string) (string, error) {
	name := filepath.Base(pkg)
	dir, err := built(ctx, name, func(root, dir string) error { return goBuild(ctx, root, filepath.Join(dir, name), pkg) })
	return filepath.Join(dir, name), err
}

// Tools builds the ksplice command and the stock plugins as static programs and returns the directory that they are in,
// as an installation below a prefix has them: bin/ksplice, libexec/ksplice/plugins/*. With Tree they go to a guest.
func Tools(ctx context.Context) (string, error) {
	return built(ctx, "tools", func(root, dir string) error {
		if err := goBuild(ctx, root, filepath.Join(dir, "bin", "ksplice"), "./cmd/ksplice"); err != nil {
			return err
		}
		plugins := filepath.Join(dir, "libexec", "ksplice", "plugins")
		out, err := output(ctx, root, "go", "list", "-f", `{{if eq .Name "main"}}{{.ImportPath}}{{end}}`, "./plugins/...")
		if err != nil {
			return err
		}
		names := make(map[string]bool)
		for _, pkg := range strings.Fields(out) {
			if !strings.Contains(pkg, "/internal/") {
				names[filepath.Base(pkg)] = true
				if err := goBuild(ctx, root, filepath.Join(plugins, filepath.Base(pkg)), pkg); err != nil {
					return err
				}
			}
		}
		return eachFile(plugins, func(name string) bool { return !names[name] }, func(_, path string) error {
			return os.Remove(path) // a plugin that the source does not have any more
		})
	})
}

// built builds Go programs in a directory that is kept, so that the go command links only what has changed, and returns
// a copy that nobody changes any more, named by its contents.
func built(ctx context.Context, name string, build func(root, dir string) error) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	base, err := CacheDir()
	if err != nil {
		return "", err
	}
	at := sha256.Sum256([]byte(root))
	work := name + "-work-" + hex.EncodeToString(at[:4])
	unlock, err := lock(work)
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := build(root, filepath.Join(base, work)); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	sum, err := digest(filepath.Join(base, work), nil)
	if err != nil {
		return "", err
	}
	return cached(name+"-"+sum, func(dir, _ string) error {
		return os.CopyFS(dir, os.DirFS(filepath.Join(base, work)))
	})
}

func goBuild(ctx context.Context, root, file, pkg string) error {
	if _, err := os.Stat(filepath.Join(root, pkg, "go.mod")); err == nil {
		root, pkg = filepath.Join(root, pkg), "."
	}
	_, err := output(ctx, root, "env", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w",
		"-o", file, pkg)
	return err
}

// BuildKmod builds the kernel module for a kernel, or takes it from the cache, and returns ksplice.ko's path.
func BuildKmod(ctx context.Context, k *Kernel) (string, error) {
	return BuildModule(ctx, k, "kmod", "ksplice")
}

// BuildModule builds the module of a name whose source is in a directory of the project, and returns the path of NAME.ko.
func BuildModule(ctx context.Context, k *Kernel, from, name string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	source := filepath.Join(root, from)
	wanted := func(name string) bool {
		switch filepath.Ext(name) {
		case ".c", ".h", ".S":
			return !strings.HasSuffix(name, ".mod.c")
		}
		return name == "Kbuild" || name == "Makefile"
	}
	sum, err := digest(source, wanted)
	if err != nil {
		return "", fmt.Errorf("build the module %s: %w", name, err)
	}
	// The kernel that is built for tests of Ubuntu's packages keeps its version when its configuration changes.
	against, err := digest(k.KDir, func(name string) bool { return name == ".config" || name == "Module.symvers" })
	if err != nil {
		return "", fmt.Errorf("build the module %s for %s: %w", name, k.Release, err)
	}
	dir, err := cached(name+"-"+k.Release+"_"+fileName(k.Version)+"-"+against+"-"+sum, func(dir, _ string) error {
		tree := filepath.Join(dir, "source")
		err := eachFile(source, wanted, func(rel, path string) error {
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.MkdirAll(filepath.Dir(filepath.Join(tree, rel)), 0o755)
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(tree, rel), b, 0o644)
			}
			return err
		})
		if err != nil {
			return err
		}
		if _, err := output(ctx, "", "make", "-j2", "-C", k.KDir, "M="+tree, "modules"); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(tree, name+".ko"), filepath.Join(dir, name+".ko")); err != nil {
			return err
		}
		return os.RemoveAll(tree)
	})
	if err != nil {
		return "", fmt.Errorf("build the module %s for %s: %w", name, k.Release, err)
	}
	return filepath.Join(dir, name+".ko"), nil
}

// eachFile calls do for the regular files below dir, in order; wanted chooses by base name, and nil takes all.
func eachFile(dir string, wanted func(string) bool, do func(rel, path string) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || wanted != nil && !wanted(d.Name()) {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return do(rel, path)
	})
}

// digest is a name for the contents of a directory: 16 hex digits.
func digest(dir string, wanted func(string) bool) (string, error) {
	h := sha256.New()
	err := eachFile(dir, wanted, func(rel, path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s\x00%d\x00", rel, len(b))
		h.Write(b)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)[:8]), err
}

// isStatic tells whether the file is a program that needs no dynamic linker.
func isStatic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}
