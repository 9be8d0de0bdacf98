package apt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/ksplice/ksplice/sdk/kbuild"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Source is one version of a source package.
type Source struct {
	Name, Version string
	// Files are the package's: the .dsc, and what that names.
	Files []SourceFile
}

// SourceFile is a file of a source package. Digest is the strongest that the lists have of it, with its kind: "SHA512:...".
type SourceFile struct {
	Name, Digest string
	Size         int64
}

// Key names the package's contents.
func (s *Source) Key() string {
	var parts []string
	for _, f := range s.Files {
		parts = append(parts, f.Digest)
	}
	return strings.Join(parts, " ")
}

// ErrNoSources says that no package source of the machine offers source packages at all (deb-src in sources.list(5)).
var ErrNoSources = errors.New("no package source has source packages")

// uriForm is a line of `apt-get source --print-uris`: 'URI' NAME SIZE DIGEST.
var uriForm = regexp.MustCompile(`(?m)^'[^']*' (\S+) (\d+) ([A-Z0-9]+:[0-9a-f]+)$`)

// Source looks for a version of a source package; nil when no package source has it.
func (c *Client) Source(ctx context.Context, name, version string) (*Source, error) {
	argv := c.command("apt-get", "-qq", "source", "--print-uris", "--only-source", "--", name+"="+version)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	said := stderr.String()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && strings.Contains(said, "You must put some"):
		return nil, ErrNoSources
	case errors.As(err, &exit) && (strings.Contains(said, "Unable to find a source package") || strings.Contains(said, "Can not find")):
		return nil, nil
	case errors.As(err, &exit):
		return nil, &plugin.Diagnostic{Fault: plugin.FaultMachine, Where: name, Summary: "apt-get cannot say where the source package is", Detail: strings.TrimSpace(said)}
	case err != nil:
		return nil, &plugin.Diagnostic{Fault: plugin.FaultMachine, Where: name, Summary: "apt-get cannot be run", Detail: err.Error() + "; this backend needs a machine with apt"}
	}
	return parseURIs(name, version, string(out)), nil
}

// parseURIs reads what `apt-get source --print-uris` prints; nil where that names no .dsc.
func parseURIs(name, version, text string) *Source {
	s := &Source{Name: name, Version: version}
	for _, m := range uriForm.FindAllStringSubmatch(text, -1) {
		size, err := strconv.ParseInt(m[2], 10, 64)
		if err != nil || filepath.Base(m[1]) != m[1] {
			continue
		}
		s.Files = append(s.Files, SourceFile{Name: m[1], Digest: m[3], Size: size})
	}
	if s.control() == "" {
		return nil
	}
	return s
}

// control is the name of the package's .dsc.
func (s *Source) control() string {
	for _, f := range s.Files {
		if strings.HasSuffix(f.Name, ".dsc") {
			return f.Name
		}
	}
	return ""
}

// reuse puts a file that was kept where apt looks for what it need not fetch. One that is damaged is removed: apt would take a short one for the
// beginning of what it fetches, and go on behind it.
func (f *SourceFile) reuse(kept, to string) error {
	b, err := os.Open(kept)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer b.Close()
	kind, want, _ := strings.Cut(f.Digest, ":")
	var h hash.Hash
	switch kind {
	case "SHA512":
		h = sha512.New()
	case "SHA256":
		h = sha256.New()
	default: // of no other are we sure
		return os.Remove(kept)
	}
	if _, err := io.Copy(h, b); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != want {
		return os.Remove(kept)
	}
	return os.Link(kept, to)
}

// Unpack fetches a source package and unpacks it, with its patches applied, to the empty directory root. Files are kept in dir: several
// versions share the upstream source.
func (c *Client) Unpack(ctx context.Context, dir string, s *Source, root string, progress plugin.ProgressFunc) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("fetch the source: %w", err)
	}
	tmp, err := os.MkdirTemp(dir, ".source-*")
	if err != nil {
		return fmt.Errorf("fetch the source: %w", err)
	}
	defer os.RemoveAll(tmp)
	kept := func(f SourceFile) string {
		return filepath.Join(dir, strings.ReplaceAll(f.Digest, ":", "-")+".src")
	}
	var total int64
	for _, f := range s.Files {
		if err := f.reuse(kept(f), filepath.Join(tmp, f.Name)); err != nil {
			return fmt.Errorf("fetch the source: %w", err)
		}
		total += f.Size
	}
	stop := watch(tmp, total, progress)
	err = kbuild.Run(ctx, tmp, c.command("apt-get", "-q", "-o", "APT::Sandbox::User=root", "source", "--download-only", "--only-source", "--", s.Name+"="+s.Version))
	stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return &plugin.Diagnostic{Fault: plugin.FaultMachine, Where: "apt-get source " + s.Name, Summary: "the source package cannot be fetched", Detail: err.Error()}
	}
	for _, f := range s.Files {
		st, err := os.Lstat(filepath.Join(tmp, f.Name))
		if err != nil {
			return fmt.Errorf("keep the source: %w", err)
		}
		if !st.Mode().IsRegular() {
			continue // of an archive on this machine, apt makes a link
		}
		if err := os.Link(filepath.Join(tmp, f.Name), kept(f)); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("keep the source: %w", err)
		}
	}
	progress(plugin.Progress{Stage: "unpack", Message: "sources"})
	// dpkg-source makes its directory itself. It lies beside root, so that it can be renamed to that.
	aside, err := os.MkdirTemp(filepath.Dir(root), ".source-*")
	if err != nil {
		return fmt.Errorf("unpack the source: %w", err)
	}
	defer os.RemoveAll(aside)
	tree := filepath.Join(aside, "source")
	if err := kbuild.Run(ctx, tmp, []string{"dpkg-source", "--no-copy", "-x", s.control(), tree}); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &plugin.Diagnostic{Fault: plugin.FaultMachine, Where: s.control(), Summary: "the source package cannot be unpacked", Detail: err.Error()}
	}
	// Only an empty directory can be removed so.
	if err := os.Remove(root); err != nil {
		return fmt.Errorf("unpack the source: %w", err)
	}
	if err := os.Rename(tree, root); err != nil {
		return fmt.Errorf("unpack the source: %w", err)
	}
	return nil
}
