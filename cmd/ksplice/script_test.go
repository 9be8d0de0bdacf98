package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/trust"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ksplice": main})
}

// TestScripts runs testdata/script/*.txtar: each is a page of the manual that is true. Besides the usual commands there are
//
//	exits CODE PROGRAM ARG...   runs the program and wants the exit code
//	makeupdate FILE [LINE [PATCH]]  writes a small update, described by the line, with the text of a file for its patch
//	alter FILE OFFSET           flips a bit of a file
//	append FILE LINE            adds a line to a file
//	graft FROM TO               gives an update the signatures of another
//	detach KEY FILE             signs a file in FILE.minisig, as minisign -Sm does
//
// trust.toml is a configuration that trusts the keys in keys.d, allow.toml one that takes what is not signed.
func TestScripts(t *testing.T) {
	plugins, tools := t.TempDir(), t.TempDir()
	for _, dir := range []string{plugins, tools} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "build", "-o", plugins, "../../plugins/arch-x86_64").CombinedOutput(); err != nil {
		t.Fatalf("build the architecture plugin: %v\n%s", err, out)
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(tools, "backend-good"), "../../core/pluginhost/testdata/misbehave").CombinedOutput(); err != nil {
		t.Fatalf("build the backend: %v\n%s", err, out)
	}
	sdk, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	// Scripts that build projects find what was built, and was downloaded, already.
	caches, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	goes := strings.Fields(string(caches))
	scriptsNeed(t, "testdata/script")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("KSPLICE_PLUGIN_PATH", plugins)
			e.Setenv("PLUGINS", plugins)
			e.Setenv("TOOLS", tools)
			e.Setenv("SDK", sdk)
			e.Setenv("GOCACHE", goes[0])
			e.Setenv("GOMODCACHE", goes[1])
			e.Setenv("PATH", filepath.Join(goes[2], "bin")+string(filepath.ListSeparator)+e.Getenv("PATH"))
			e.Setenv("GOTOOLCHAIN", "local")
			e.Setenv("GOPROXY", "off")
			e.Setenv("GOFLAGS", "-buildvcs=false")
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, "cache"))
			keys := filepath.Join(e.WorkDir, "keys.d")
			return errors.Join(os.MkdirAll(keys, 0o755),
				os.WriteFile(filepath.Join(e.WorkDir, "trust.toml"), fmt.Appendf(nil, "[trust]\nkeys = [%q]\n", keys), 0o644),
				os.WriteFile(filepath.Join(e.WorkDir, "allow.toml"), []byte("[trust]\nallow_unsigned = true\n"), 0o644))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "makeupdate": makeUpdate, "alter": alter,
			"append": appendLine, "graft": graft, "detach": detach},
	})
}

// programForm finds the programs that scripts have conditions on: [exec:gcc].
var programForm = regexp.MustCompile(`(?m)^\[!?exec:([^]]+)\]`)

// scriptsNeed has a test for each of the programs without which the scripts in dir leave things out.
func scriptsNeed(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]bool{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range programForm.FindAllStringSubmatch(string(text), -1) {
			programs[m[1]] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		t.Run("needs "+name, func(t *testing.T) { need.Program(t, name) })
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func alter(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: alter FILE OFFSET")
	}
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	b[at] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}

func appendLine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: append FILE LINE")
	}
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY|os.O_APPEND, 0)
	ts.Check(err)
	_, err = fmt.Fprintln(f, args[1])
	ts.Check(errors.Join(err, f.Close()))
}

func graft(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: graft FROM TO")
	}
	from, err := update.ReadSealedFile(ts.MkAbs(args[0]))
	ts.Check(err)
	to, err := update.ReadSealedFile(ts.MkAbs(args[1]))
	ts.Check(err)
	to.Signatures = from.Signatures
	ts.Check(to.WriteFile(ts.MkAbs(args[1])))
}

func detach(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: detach KEY FILE")
	}
	secret, err := trust.ReadSecret(ts.MkAbs(args[0]), nil)
	ts.Check(err)
	path := ts.MkAbs(args[1])
	b, err := os.ReadFile(path)
	ts.Check(err)
	s, err := secret.Sign(b, "in a file of its own")
	ts.Check(err)
	ts.Check(os.WriteFile(path+trust.DetachedSuffix, s.Text(), 0o644))
}

// makeUpdate writes an update whose part has one replaced function and one hook. Its code is never run.
func makeUpdate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 3 {
		ts.Fatalf("usage: makeupdate FILE [LINE [PATCH]]")
	}
	line := append(args[1:], "fs: rename a")[0]
	module, err := samplePart()
	ts.Check(err)
	pre, patch := []byte("a pre object"), []byte("--- a/fs/a.c\n+++ b/fs/a.c\n@@ -1 +1 @@\n-int a;\n+int b;\n")
	if len(args) > 2 {
		patch, err = os.ReadFile(ts.MkAbs(args[2]))
		ts.Check(err)
	}
	u := &update.Update{
		Manifest: update.Manifest{
			ID: update.ID(module, pre, patch), Description: line, Effective: "6.1.1-test",
			Kernel:    update.Kernel{Release: "6.1.0-test", Version: "#1 SMP Test", Banner: "Test 6.1", Machine: uint16(elf.EM_X86_64)},
			Toolchain: update.Toolchain{Backend: "test", Arch: "x86_64", CompilerVersion: "gcc 12"},
			Patch:     update.Patch{File: "patch.diff", SHA256: update.Digest(patch), Files: []update.PatchFile{{Path: "fs/a.c", Added: 1, Removed: 1}}},
			Base:      []string{"0badcafe"},
			Units:     []update.Unit{{Source: "fs/a.c", Object: "fs/a.o", Module: "afs", Pre: "pre/a.o", SHA256: update.Digest(pre)}},
			Parts: []update.Part{{
				Target: "afs", Name: "ksplice_test_afs", File: "parts/afs.ko", SHA256: update.Digest(module), Size: int64(len(module)),
				Functions: []update.Function{{Name: "a_read", Symbol: 1, Size: 48, Redirect: arch.Redirect{Kind: arch.RedirectJump, Window: arch.Range{Offset: 5, Length: 5}, Template: []byte{0xe9, 0, 0, 0, 0}, Field: 1}, Why: "size 40 -> 48"}},
				New:       []string{"a_help"}, Escapes: []string{"a_ops"},
				Slots: []update.Slot{{Kind: update.SlotSymbol, Name: "jiffies", Unit: 0, Symbol: 2}},
			}},
		},
		Files: map[string][]byte{"parts/afs.ko": module, "pre/a.o": pre, "patch.diff": patch},
	}
	ts.Check(u.WriteFile(ts.MkAbs(args[0])))
}

// samplePart is a module with a description that names one hook, as kmod/ksplice_part.h has it.
func samplePart() ([]byte, error) {
	f := objfile.New(elf.EM_X86_64)
	text := &objfile.Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 16, Data: []byte{0xc3}}
	description := &objfile.Section{Name: ".ksplice", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 8, Data: make([]byte, 128+16)}
	f.AddSection(text)
	f.AddSection(description)
	hook := &objfile.Symbol{Name: "carry_over", Type: elf.STT_FUNC, Bind: elf.STB_LOCAL, Section: text, Size: 1}
	self := &objfile.Symbol{Type: elf.STT_SECTION, Bind: elf.STB_LOCAL, Section: description}
	f.AddSymbol(hook)
	f.AddSymbol(self)
	f.AddSymbol(&objfile.Symbol{Name: "ksplice_part", Type: elf.STT_OBJECT, Bind: elf.STB_GLOBAL, Section: description, Size: 128})
	binary.LittleEndian.PutUint64(description.Data[80:], 1)  // nr_hooks
	binary.LittleEndian.PutUint64(description.Data[128:], 3) // KSPLICE_HOOK_POST_APPLY
	description.Relocs = []*objfile.Reloc{
		{Offset: 72, Type: uint32(elf.R_X86_64_64), Symbol: self, Addend: 128},
		{Offset: 136, Type: uint32(elf.R_X86_64_64), Symbol: hook},
	}
	var b bytes.Buffer
	if err := f.Write(&b); err != nil {
		return nil, fmt.Errorf("write the part: %w", err)
	}
	return b.Bytes(), nil
}
