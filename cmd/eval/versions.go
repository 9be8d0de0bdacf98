package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// writeVersions fills the corpus with the differences between two versions of linux-source in the archive, "FROM:TO", a patch a file that
// both have: hundreds of patches that nobody chose. They apply to the older version's own kernel.
func writeVersions(ctx context.Context, versions, corpus string) (n int, err error) {
	from, to, ok := strings.Cut(versions, ":")
	if !ok || corpus == "" {
		return 0, errors.New("say -versions FROM:TO, for example 6.1.176-1:6.1.192-2, and with -corpus where the patches go")
	}
	dir, err := os.MkdirTemp("", "ksplice-versions-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	for name, version := range map[string]string{"a": from, "b": to} {
		if err := unpackSource(ctx, filepath.Join(dir, name), version); err != nil {
			return 0, err
		}
	}
	if err := os.MkdirAll(corpus, 0o755); err != nil {
		return 0, err
	}
	a := filepath.Join(dir, "a", "source")
	err = filepath.WalkDir(a, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(a, file)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if foreign(rel) {
				return fs.SkipDir
			}
			return nil
		}
		if ext := filepath.Ext(rel); !d.Type().IsRegular() || ext != ".c" && ext != ".h" && ext != ".S" {
			return nil
		}
		wrote, err := writePatch(ctx, dir, rel, filepath.Join(corpus, strings.ReplaceAll(rel, "/", "_")+".patch"))
		if wrote {
			n++
		}
		return err
	})
	return n, err
}

// foreign says that nothing in a directory of the source is built into an x86 kernel.
func foreign(dir string) bool {
	switch dir {
	case "Documentation", "tools", "samples", "scripts":
		return true
	}
	return filepath.Dir(dir) == "arch" && filepath.Base(dir) != "x86"
}

// unpackSource unpacks the sources of a version of the Debian package into dir/source.
func unpackSource(ctx context.Context, dir, version string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	series := strings.Join(strings.SplitN(version, ".", 3)[:2], ".")
	for _, script := range []string{
		"apt-get -q -o APT::Sandbox::User=root download linux-source-" + series + "=" + version,
		"dpkg-deb --fsys-tarfile *.deb | tar -x --wildcards './usr/src/linux-source-*.tar.xz'",
		"mkdir source && tar -xJf usr/src/linux-source-*.tar.xz -C source --strip-components=1",
	} {
		cmd := exec.CommandContext(ctx, "sh", "-c", script)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("unpack linux-source %s: %s: %w\n%s", version, script, err, out)
		}
	}
	return nil
}

// writePatch writes how a file of a/source becomes that of b/source, where both are there and differ.
func writePatch(ctx context.Context, dir, file, patch string) (bool, error) {
	x, err := os.ReadFile(filepath.Join(dir, "a", "source", file))
	if err != nil {
		return false, err
	}
	y, err := os.ReadFile(filepath.Join(dir, "b", "source", file))
	if errors.Is(err, fs.ErrNotExist) || err == nil && bytes.Equal(x, y) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	cmd := exec.CommandContext(ctx, "diff", "-u", "-p", "--label", "a/"+file, "--label", "b/"+file, "a/source/"+file, "b/source/"+file)
	cmd.Dir = dir
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		return false, fmt.Errorf("diff %s: %w", file, err)
	}
	return true, os.WriteFile(patch, out, 0o644)
}
