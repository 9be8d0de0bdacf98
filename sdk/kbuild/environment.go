package kbuild

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// environmentName is the file in the state directory with the captured environment.
const environmentName = "environment.json"

// rootMark stands for the tree's root in a captured environment, which serves work trees in other places.
const rootMark = "@ROOT@"

// environment is what the kernel's top Makefile exports to the makes below it: flags, tools, versions. With it,
// scripts/Makefile.build runs by itself and the top Makefile, which takes most of a second to find out what the
// compiler can do, is needed once a tree.
type environment map[string]string

// dropped are variables that describe one run of make, or the user's session.
var dropped = []string{"MAKEFLAGS", "MAKEFILES", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "PWD", "OLDPWD", "SHLVL", "_", "PATH", "HOME", "TMPDIR", captureVariable}

// captureVariable is the make variable that says where the environment goes.
const captureVariable = "KSPLICE_ENVIRONMENT"

// captureMakefile is read by make before the kernel's own.
const captureMakefile = `.PHONY: ksplice-environment
ksplice-environment:
	@env -0 > $(` + captureVariable + `)
`

// capture runs the kernel's top Makefile once to learn its environment.
func capture(ctx context.Context, root string, variables []string) (environment, error) {
	dir, err := os.MkdirTemp("", "ksplice-environment-*")
	if err != nil {
		return nil, fmt.Errorf("make a directory to work in: %w", err)
	}
	defer os.RemoveAll(dir)
	mk, file := filepath.Join(dir, "capture.mk"), filepath.Join(dir, "environment")
	if err := os.WriteFile(mk, []byte(captureMakefile), 0o644); err != nil {
		return nil, fmt.Errorf("capture the make environment: %w", err)
	}
	// may-sync-config and need-compiler (Makefile): the configuration is ready as it is, and the flags are wanted.
	argv := append([]string{"make", "-s", "--no-print-directory", "may-sync-config=", "need-compiler=1", captureVariable + "=" + file}, variables...)
	env := append(session(), "MAKEFILES="+mk)
	out, err := run(ctx, command{dir: root, env: env, argv: append(argv, "ksplice-environment")})
	if err != nil {
		return nil, failure("capture the make environment", out, err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("capture the make environment: %w", err)
	}
	e := environment{}
	for v := range bytes.SplitSeq(b, []byte{0}) {
		name, value, ok := strings.Cut(string(v), "=")
		if ok && !slices.Contains(dropped, name) {
			e[name] = strings.ReplaceAll(value, root, rootMark)
		}
	}
	if e["KBUILD_CFLAGS"] == "" || e["SRCARCH"] == "" {
		return nil, fmt.Errorf("capture the make environment: %s exports no KBUILD_CFLAGS; it is not a kernel's Makefile", filepath.Join(root, "Makefile"))
	}
	return e, nil
}

func readEnvironment(path string) (environment, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the make environment: %w", err)
	}
	var e environment
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("read the make environment %s: %w", path, err)
	}
	return e, nil
}

func (e environment) write(path string) error {
	b, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return fmt.Errorf("write the make environment: %w", err)
	}
	return writeFile(path, b)
}

// session is what programs need of this process's own environment. Messages are wanted in English: they are parsed.
func session() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// makeFlags has make try the compiler's options (scripts/Makefile.compiler, try-run) outside of the tree that it runs in,
// which other runs share. Make halves the number of $ on its way from here to the shell twice.
func makeFlags() string {
	return "MAKEFLAGS=rR -- TMPOUT=" + filepath.Join(os.TempDir(), "ksplice-try-$$$$$$$$")
}

// at gives the environment for programs that run in dir, a tree or a work tree; extra variables win.
func (e environment) at(dir string, extra map[string]string) []string {
	env := append(session(), makeFlags(), "PWD="+dir)
	for name, value := range e {
		if _, ok := extra[name]; !ok {
			env = append(env, name+"="+strings.ReplaceAll(value, rootMark, dir))
		}
	}
	for name, value := range extra {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}
