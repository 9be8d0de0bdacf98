package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ksplice/ksplice/plugins/internal/apt"
	"github.com/ksplice/ksplice/sdk/kbuild"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// makeRealtime makes the sources those of the real-time kernel: by the patch, where the source package has it. Whether they
// are is then judged by the headers, which were made from the patched sources.
func makeRealtime(ctx context.Context, p *plan, patch []byte, common, root string) error {
	if len(patch) > 0 {
		name := filepath.Join(filepath.Dir(root), "rt.patch")
		if err := os.WriteFile(name, patch, 0o644); err != nil {
			return fmt.Errorf("patch the sources: %w", err)
		}
		defer os.Remove(name)
		if err := kbuild.Run(ctx, root, []string{"patch", "-p1", "--batch", "--fuzz=0", "--quiet", "-i", name}); err != nil {
			return fmt.Errorf("patch the sources: %w", err)
		}
	}
	return apt.EachFile(ctx, common, func(h *tar.Header, name string, r io.Reader) error {
		parts := strings.SplitN(name, "/", 4)
		if len(parts) != 4 || !strings.HasPrefix(parts[3], "include/linux/") || h.Typeflag != tar.TypeReg {
			return nil
		}
		want, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		have, err := os.ReadFile(filepath.Join(root, parts[3]))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if !bytes.Equal(want, have) {
			return &plugin.Diagnostic{Fault: plugin.FaultUser, Where: p.release, Summary: "the sources of the real-time kernel are not to be had",
				Detail: fmt.Sprintf("%s in %s is not that of the kernel's headers, and the package has no patch for real-time kernels; build a tree from Debian's source package and use the backend kbuild", parts[3], p.source.Name)}
		}
		return nil
	})
}
