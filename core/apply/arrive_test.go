package apply

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestHelper: what the kernel runs as root nobody else can change.
func TestHelper(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can have files of two users")
	}
	file := filepath.Join(t.TempDir(), "ksplice")
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	link := file + "-link"
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		if err := rootsOwn(path); err != nil {
			t.Errorf("root's own: %v", err)
		}
	}
	if err := os.Chown(file, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	var refused *HelperError
	for _, path := range []string{file, link, file + "-none"} {
		if err := rootsOwn(path); !errors.As(err, &refused) || refused.Path != path {
			t.Errorf("%s: %v", path, err)
		}
	}
}
