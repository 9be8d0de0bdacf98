package kbuild

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// archive makes a source's archive of headers; what a file holds is its Linkname.
func archive(t *testing.T, headers ...tar.Header) string {
	t.Helper()
	need.Program(t, "xz")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname, h.Size = h.Linkname, "", int64(len(h.Linkname))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "linux-1.tar.xz")
	cmd := exec.Command("xz", "-c")
	cmd.Stdin = &b
	out, err := cmd.Output()
	if err == nil {
		err = os.WriteFile(name, out, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func entry(kind byte, name, content string) tar.Header {
	return tar.Header{Typeflag: kind, Name: name, Linkname: content, Mode: 0o755}
}

func quiet(plugin.Progress) {}

func TestUnpack(t *testing.T) {
	root := t.TempDir()
	file := archive(t,
		entry(tar.TypeDir, "linux-1/", ""),
		entry(tar.TypeReg, "linux-1/Makefile", "all:\n"),
		entry(tar.TypeReg, "./linux-1/a/b/c.c", "int c;\n"), // no entry for its directories
		entry(tar.TypeSymlink, "linux-1/a/up", "../Makefile"),
		entry(tar.TypeSymlink, "linux-1/a/nowhere", "generated/later.h"),
		entry(tar.TypeLink, "linux-1/a/hard.c", "linux-1/a/b/c.c"),
	)
	if err := Unpack(t.Context(), file, root, quiet); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.Type() == fs.ModeSymlink {
			got[rel], err = os.Readlink(p)
			return err
		}
		b, err := os.ReadFile(p)
		got[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"Makefile": "all:\n", "a/b/c.c": "int c;\n", "a/up": "../Makefile", "a/nowhere": "generated/later.h", "a/hard.c": "int c;\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what is unpacked: (-want +got)\n%s", diff)
	}
}

// TestUnpackRefuses: nothing is written outside of the root, whatever an archive says.
func TestUnpackRefuses(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	for _, tt := range []struct {
		name    string
		entries []tar.Header
		unsafe  bool
	}{
		{"above", []tar.Header{entry(tar.TypeReg, "linux-1/../../outside", "x")}, true},
		{"absolute", []tar.Header{entry(tar.TypeReg, outside, "x")}, true},
		{"link to above", []tar.Header{entry(tar.TypeReg, "linux-1/a", "x"), entry(tar.TypeSymlink, "linux-1/b", "../outside")}, true},
		{"absolute link", []tar.Header{entry(tar.TypeSymlink, "linux-1/b", "/etc/passwd")}, true},
		{"link through a link", []tar.Header{entry(tar.TypeReg, "linux-1/a/b/c", "x"), entry(tar.TypeSymlink, "linux-1/l", "a/b"), entry(tar.TypeSymlink, "linux-1/m", "l/../../../outside")}, true},
		{"file through a link", []tar.Header{entry(tar.TypeSymlink, "linux-1/l", dir), entry(tar.TypeReg, "linux-1/l/outside", "x")}, false},
		{"hard link to above", []tar.Header{entry(tar.TypeLink, "linux-1/l", "../outside")}, true},
		{"the same twice", []tar.Header{entry(tar.TypeReg, "linux-1/a", "x"), entry(tar.TypeReg, "linux-1/a", "y")}, false},
		{"two tops", []tar.Header{entry(tar.TypeReg, "linux-1/a", "x"), entry(tar.TypeReg, "linux-2/a", "y")}, false},
		{"device", []tar.Header{entry(tar.TypeChar, "linux-1/null", "")}, false},
	} {
		root := filepath.Join(dir, strings.ReplaceAll(tt.name, " ", "-"))
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		err := Unpack(t.Context(), archive(t, tt.entries...), root, quiet)
		if err == nil || errors.Is(err, ErrUnsafe) != tt.unsafe || !strings.Contains(err.Error(), "linux-1.tar.xz") {
			t.Errorf("%s: Unpack = %v, unsafe: want %t", tt.name, err, tt.unsafe)
		}
		if _, err := os.Lstat(outside); err == nil {
			t.Fatalf("%s: a file lies outside", tt.name)
		}
	}
}

// TestUnpackDamaged: half an archive is not taken for a whole one, and one that is given up ends at once.
func TestUnpackDamaged(t *testing.T) {
	file := archive(t, entry(tar.TypeReg, "linux-1/a", strings.Repeat("content ", 1000)))
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b[:len(b)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(t.Context(), file, t.TempDir(), quiet); err == nil {
		t.Error("half an archive is unpacked")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Unpack(ctx, file, t.TempDir(), quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled Unpack = %v", err)
	}
}
