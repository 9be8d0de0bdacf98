package kerneltest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/ksplice/ksplice/examples"
)

// otherABI has a ksplice that speaks another ABI than the loaded module, as after an upgrade with updates applied, tell what is applied and
// undo it. It does not apply, and says what to do.
func (l *lab) otherABI(t *testing.T, file, other string) {
	l.apply(t, file)
	id := l.id(t, file)
	e, err := examples.Get("uptime-words")
	if err != nil {
		t.Fatal(err)
	}
	x := e.Show[0]
	l.sees(t, &x, "new")
	cli := l.otherTool(t)
	run := func(exit int, words string, args ...string) {
		t.Helper()
		r, err := l.Run(t.Context(), append([]string{"env", "KSPLICE_PLUGIN_PATH=" + guestTools + "/libexec/ksplice/plugins", cli}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		if all := r.Stdout + r.Stderr; r.Exit != exit || !regexp.MustCompile(words).MatchString(all) {
			t.Fatalf("%v by a ksplice of another ABI: exit code %d, want %d and %s\n%s", args, r.Exit, exit, words, all)
		}
	}
	run(exitOK, id, "status")
	run(exitRefused, "speaks ABI [0-9]+, this ksplice [0-9]+: .*undone.*rmmod ksplice && modprobe ksplice", "apply", other)
	run(exitOK, "undone", "undo", "--attempts", "100", id)
	l.sees(t, &x, "old")
}

// otherTool builds the ksplice command from the source as it is, with another number for the ABI.
func (l *lab) otherTool(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(projectRoot)
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(root, "core", "engine", "device.go")
	b, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	number := regexp.MustCompile(`(?m)^const abi = ([0-9]+)$`)
	m := number.FindSubmatch(b)
	if m == nil {
		t.Fatalf("%s does not say which ABI it speaks", source)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, "device.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(changed, number.ReplaceAll(b, []byte("const abi = "+strconv.Itoa(n+1))), 0o644); err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(map[string]any{"Replace": map[string]string{source: changed}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, j, 0o644); err != nil {
		t.Fatal(err)
	}
	hostRun(t, "env", "CGO_ENABLED=0", "go", "build", "-C", root, "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-overlay", overlay,
		"-o", filepath.Join(l.share, "ksplice-other"), "./cmd/ksplice")
	return "/share/ksplice-other"
}
