package kbuild

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ksplice/ksplice/sdk/backend"
)

// TestRememberedCommand: a command is known for its unit and flags, and not when any byte of its file is another one.
func TestRememberedCommand(t *testing.T) {
	tree := &Tree{Dir: t.TempDir()}
	if err := os.MkdirAll(tree.state("commands"), 0o755); err != nil {
		t.Fatal(err)
	}
	u, flags := backend.Unit{Source: "a/b.c", Object: "a/b.o"}, []string{"-ffunction-sections"}
	const text = "gcc-12 -O2 -c -o a/b.o a/b.c; ./tools/objtool/objtool-once a/b.o"
	if err := tree.rememberCommand(u, flags, text); err != nil {
		t.Fatal(err)
	}
	if got := tree.knownCommand(u, flags); got != text {
		t.Fatalf("the command is %q", got)
	}
	if got := tree.knownCommand(u, nil); got != "" {
		t.Errorf("with other flags it is %q", got)
	}
	files, err := filepath.Glob(tree.state("commands", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the commands are in %v, %v", files, err)
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		b := append([]byte(nil), whole...)
		b[i] ^= 1
		if err := os.WriteFile(files[0], b, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := tree.knownCommand(u, flags); got != "" {
			t.Errorf("byte %d damaged: the command is %q", i, got)
		}
	}
	if err := os.WriteFile(files[0], whole[:len(whole)-5], 0o644); err != nil {
		t.Fatal(err)
	}
	if got := tree.knownCommand(u, flags); got != "" {
		t.Errorf("cut short it is %q", got)
	}
}
