package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// The tests in this file build real kernels' units through real plugins: KSPLICE_TEST_KERNEL=1 asks for them.
// KSPLICE_TEST_CACHE is where trees are kept between runs, KSPLICE_TEST_RELEASES the kernels to take instead of the newest.

const sliceFlags = "-ffunction-sections -fdata-sections"

func needKernel(t *testing.T) {
	t.Helper()
	if os.Getenv("KSPLICE_TEST_KERNEL") != "1" {
		t.Skip("SKIPPED: needs Debian's package sources and a compiler; set KSPLICE_TEST_KERNEL=1")
	}
}

func testCache(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("KSPLICE_TEST_CACHE"); dir != "" {
		return dir
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cache, "ksplice")
}

// release is the newest 6.1 kernel, or the first that was asked for.
func testRelease(t *testing.T) string {
	t.Helper()
	if f := strings.Fields(os.Getenv("KSPLICE_TEST_RELEASES")); len(f) > 0 {
		return f[0]
	}
	out, err := exec.Command("apt-cache", "--names-only", "search", `^linux-headers-6\.1\.0-[0-9]+-amd64$`).Output()
	if err != nil {
		t.Fatalf("apt-cache search: %v", err)
	}
	var newest string
	for _, m := range regexp.MustCompile(`(?m)^linux-headers-(\S+) `).FindAllStringSubmatch(string(out), -1) {
		if newest == "" || len(m[1]) > len(newest) || len(m[1]) == len(newest) && m[1] > newest {
			newest = m[1]
		}
	}
	if newest == "" {
		t.Fatal("the package sources have no linux-headers of 6.1: run `apt-get update`")
	}
	return newest
}

// plugins builds the backend plugins and returns where they are.
func buildPlugins(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"backend-debian", "backend-kbuild"} {
		out, err := exec.Command("go", "build", "-o", filepath.Join(dir, name), "../../plugins/"+name).CombinedOutput()
		if err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return dir
}

func start(t *testing.T, plugins, name string, config map[string]string) backend.Backend {
	t.Helper()
	level := hclog.Warn
	if testing.Verbose() {
		level = hclog.Debug
	}
	h := pluginhost.New(pluginhost.Config{Dirs: []string{plugins}, PluginConfig: map[string]map[string]string{"backend-" + name: config},
		Logger: hclog.New(&hclog.LoggerOptions{Level: level, Output: os.Stderr})})
	t.Cleanup(func() { h.Close() })
	b, _, err := h.Backend(t.Context(), name)
	if err != nil {
		t.Fatalf("start backend %s: %v", name, err)
	}
	return b
}

func realTree(t *testing.T, b *Builder, release string) *backend.Tree {
	t.Helper()
	begin := time.Now()
	tree, err := b.Prepare(t.Context(), release, "", func(p plugin.Progress) {})
	if err != nil {
		t.Fatalf("Prepare(%s) = %v", release, err)
	}
	t.Logf("%s ready in %s (reused: %t)", tree.Banner, time.Since(begin).Round(time.Millisecond), tree.Reused)
	return tree
}

func realUnits(t *testing.T, b *Builder, tree *backend.Tree, paths ...string) []backend.Unit {
	t.Helper()
	units, err := b.Affected(t.Context(), tree, paths)
	if err != nil || len(units) == 0 {
		t.Fatalf("Affected(%v) = %v, %v", paths, units, err)
	}
	return units
}

// edit replaces a text in a file of the source.
func edit(t *testing.T, tree *backend.Tree, path, from, to string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(tree.Source, path))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(from)) {
		t.Fatalf("%s has no %q", path, from)
	}
	return map[string][]byte{path: bytes.Replace(text, []byte(from), []byte(to), 1)}
}

// treeState gives modes, sizes, inode numbers and times of writing of all files below a directory, a line a file.
func treeState(t *testing.T, root string) string {
	t.Helper()
	b := &strings.Builder{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		fmt.Fprintf(b, "%s %s %d %d", rel, st.Mode(), st.Size(), st.ModTime().UnixNano())
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			fmt.Fprintf(b, " %d", sys.Ino)
		}
		b.WriteString("\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// stateDiff lists the lines that two states do not share.
func stateDiff(before, after string) string {
	b := &strings.Builder{}
	for _, side := range []struct{ mark, have, other string }{{"-", before, after}, {"+", after, before}} {
		other := map[string]bool{}
		for line := range strings.Lines(side.other) {
			other[line] = true
		}
		for line := range strings.Lines(side.have) {
			if !other[line] {
				b.WriteString(side.mark + line)
			}
		}
	}
	return b.String()
}

func TestRealCompile(t *testing.T) {
	needKernel(t)
	b := New(start(t, buildPlugins(t), "debian", nil), testCache(t), hclog.NewNullLogger())
	defer b.Close()
	tree := realTree(t, b, testRelease(t))
	before := treeState(t, tree.Root)
	units := realUnits(t, b, tree, "net/sched/sch_qfq.c")
	compile := func(files map[string][]byte) ([]Object, error) {
		return b.Compile(t.Context(), tree, CompileInput{Files: files, Units: units, Flags: strings.Fields(sliceFlags)}, nil)
	}
	pre, err := compile(nil)
	if err != nil {
		t.Fatalf("compile pre: %v", err)
	}
	post, err := compile(edit(t, tree, units[0].Source, "#include", "int ksplice_test_datum = 5;\n#include"))
	if err != nil {
		t.Fatalf("compile post: %v", err)
	}
	if pre[0].SHA256 == post[0].SHA256 {
		t.Errorf("a changed source gives the same object")
	}
	begin := time.Now()
	again, err := compile(nil)
	if err != nil || !again[0].Cached || again[0].SHA256 != pre[0].SHA256 {
		t.Errorf("the second compile of pre: %+v, %v; want it from the cache", again, err)
	}
	t.Logf("from the cache in %s", time.Since(begin).Round(time.Microsecond))

	_, err = compile(edit(t, tree, units[0].Source, "#include", "this is no C\n#include"))
	var d *plugin.Diagnostic
	if !errors.As(err, &d) || d.Fault != plugin.FaultToolchain || !strings.HasPrefix(d.Where, "net/sched/sch_qfq.c:") || strings.Contains(d.Error(), "\n") {
		t.Errorf("compile of an error = %v, want one line with the file", err)
	}
	t.Logf("an error is: %v", err)

	header := map[string][]byte{"net/sched/ksplice_new.h": []byte("#define KSPLICE_NEW 7\n")}
	maps.Copy(header, edit(t, tree, units[0].Source, "#include", "#include \"ksplice_new.h\"\nint ksplice_test_datum = KSPLICE_NEW;\n#include"))
	if _, err := compile(header); err != nil {
		t.Errorf("compile with a new header: %v", err)
	}
	if after := treeState(t, tree.Root); after != before {
		t.Errorf("the tree is not as it was:\n%s", stateDiff(before, after))
	}
}

// TestRealKill kills a compile at several points, with the plugin and all, and looks whether the tree and the next run suffer.
func TestRealKill(t *testing.T) {
	needKernel(t)
	if os.Getenv("KSPLICE_TEST_CHILD") != "" {
		killedChild(t)
		return
	}
	plugins := buildPlugins(t)
	b := New(start(t, plugins, "debian", nil), testCache(t), hclog.NewNullLogger())
	defer b.Close()
	tree := realTree(t, b, testRelease(t))
	before := treeState(t, tree.Root)
	cache := filepath.Join(filepath.Dir(testCache(t)), "kill-"+filepath.Base(t.TempDir()))
	t.Cleanup(func() { os.RemoveAll(cache) })
	for i, after := range []time.Duration{200, 700, 1500, 2500, 4000} {
		child := exec.Command(os.Args[0], "-test.run=^TestRealKill$", "-test.v")
		child.Env = append(os.Environ(), "KSPLICE_TEST_CHILD="+plugins, "KSPLICE_TEST_CACHE="+testCache(t), "KSPLICE_TEST_CHILD_CACHE="+cache)
		child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after * time.Millisecond)
		_ = child.Process.Kill()
		_ = child.Wait()
		if got := treeState(t, tree.Root); got != before {
			t.Fatalf("round %d: the tree is not as it was:\n%s", i, stateDiff(before, got))
		}
	}
	k := New(start(t, plugins, "debian", nil), cache, hclog.NewNullLogger())
	defer k.Close()
	objects, err := k.Compile(t.Context(), tree, CompileInput{Units: realUnits(t, b, tree, "net/sched/sch_qfq.c"), Flags: strings.Fields(sliceFlags)}, nil)
	if err != nil {
		t.Fatalf("compile after killed ones: %v", err)
	}
	want, err := b.Compile(t.Context(), tree, CompileInput{Units: realUnits(t, b, tree, "net/sched/sch_qfq.c"), Flags: strings.Fields(sliceFlags)}, nil)
	if err != nil || want[0].SHA256 != objects[0].SHA256 {
		t.Errorf("another cache gives another object: %v, %v, %v", objects, want, err)
	}
}

// killedChild compiles with changed files until it is killed.
func killedChild(t *testing.T) {
	back := start(t, os.Getenv("KSPLICE_TEST_CHILD"), "debian", nil)
	tree := realTree(t, New(back, testCache(t), nil), testRelease(t))
	b := New(back, os.Getenv("KSPLICE_TEST_CHILD_CACHE"), nil)
	units := realUnits(t, b, tree, "net/sched/sch_qfq.c", "fs/namei.c")
	for i := 0; ; i++ {
		files := edit(t, tree, "net/sched/sch_qfq.c", "#include", "int ksplice_test_datum = "+strings.Repeat("1", i%8+1)+";\n#include")
		maps.Copy(files, edit(t, tree, "include/linux/list.h", "#include", "extern int ksplice_test_datum;\n#include"))
		if _, err := b.Compile(context.Background(), tree, CompileInput{Files: files, Units: units, Flags: strings.Fields(sliceFlags)}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRealPlainTree has backend-kbuild build from a copy of Debian's tree: the objects are the same, and the copied tree is
// not written into.
func TestRealPlainTree(t *testing.T) {
	needKernel(t)
	plugins := buildPlugins(t)
	b := New(start(t, plugins, "debian", nil), testCache(t), hclog.NewNullLogger())
	defer b.Close()
	tree := realTree(t, b, testRelease(t))
	before := treeState(t, tree.Root)
	p := New(start(t, plugins, "kbuild", map[string]string{"source": tree.Source}), testCache(t), hclog.NewNullLogger())
	defer p.Close()
	plain := realTree(t, p, tree.Release)
	if again := realTree(t, p, tree.Release); !again.Reused || again.ID != plain.ID {
		t.Errorf("the second Prepare makes the tree again")
	}
	if plain.Version != tree.Version || plain.Machine != tree.Machine || plain.Arch != tree.Arch {
		t.Errorf("backend kbuild says %q, %d, %q; debian %q, %d, %q", plain.Version, plain.Machine, plain.Arch, tree.Version, tree.Machine, tree.Arch)
	}
	in := CompileInput{Units: realUnits(t, b, tree, "net/sched/sch_qfq.c", "lib/string_helpers.c"), Flags: strings.Fields(sliceFlags)}
	if units := realUnits(t, p, plain, "net/sched/sch_qfq.c", "lib/string_helpers.c"); !slices.Equal(units, in.Units) {
		t.Errorf("backend kbuild finds the units %v, debian %v", units, in.Units)
	}
	want, err := b.Compile(t.Context(), tree, in, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Compile(t.Context(), plain, in, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i].SHA256 != want[i].SHA256 {
			t.Errorf("%s: backend kbuild makes another object (%s) than debian (%s)", got[i].Unit.Source, got[i].Path, want[i].Path)
		}
	}
	if after := treeState(t, tree.Root); after != before {
		t.Errorf("the source that backend kbuild was given is not as it was:\n%s", stateDiff(before, after))
	}
}

// TestRealUnaffected changes an inline function of a header: the units that it proves to need no new code compile, all the same, to the
// same code; those that use the function are not among them.
func TestRealUnaffected(t *testing.T) {
	needKernel(t)
	b := New(start(t, buildPlugins(t), "debian", nil), testCache(t), hclog.NewNullLogger())
	defer b.Close()
	tree := realTree(t, b, testRelease(t))
	after := edit(t, tree, "include/linux/jbd2.h", "long free = journal->j_free - 32;", "long free = journal->j_free - 33;")
	uses := map[string]bool{"fs/jbd2/checkpoint.c": true}
	in := CompileInput{Flags: strings.Fields(sliceFlags),
		Units: realUnits(t, b, tree, "fs/jbd2/checkpoint.c", "fs/jbd2/recovery.c", "fs/ext4/symlink.c")}
	same, err := b.Unaffected(t.Context(), tree, in, CompileInput{Files: after}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := in
	out.Files = after
	both, err := b.CompileAll(t.Context(), tree, []CompileInput{in, out}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, u := range in.Units {
		if same[i] == uses[u.Source] {
			t.Errorf("%s uses the function: %t; is proved to need no new code: %t", u.Source, uses[u.Source], same[i])
		}
		if equal := bytes.Equal(stripped(t, both[0][i].Path), stripped(t, both[1][i].Path)); equal == uses[u.Source] {
			t.Errorf("%s uses the function: %t; its code is the same: %t", u.Source, uses[u.Source], equal)
		}
	}
}

// stripped is an object without its debug information.
func stripped(t *testing.T, path string) []byte {
	t.Helper()
	f, err := objfile.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f.StripDebug()
	out := filepath.Join(t.TempDir(), "object")
	if err := f.WriteFile(out); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
