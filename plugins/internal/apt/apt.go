// Package apt is what backends of distributions that have apt share: they ask the machine's package lists, fetch packages and sources
// that these lists name, and read what is in packages. apt verifies the lists by their signatures; whatever is fetched is held against the
// lists' digests, by apt and here. backend-debian and backend-ubuntu use it.
package apt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// ConfigKeys are the keys that every backend with apt has; Client.Configure takes them.
var ConfigKeys = []plugin.ConfigKey{
	{Name: "debs", Description: "a directory with .deb files, looked in before anything is fetched; only files that the package lists name are taken"},
	{Name: "apt-config", Description: "a configuration file for apt (APT_CONFIG, apt.conf(5)), for package sources other than the machine's own"},
}

// Package is what the package lists say of one version of a package.
type Package struct {
	Name, Version, Architecture, Depends, SHA256 string
	// Source and SourceVersion name the source package that it was built from: Name and Version where the lists do not say.
	Source, SourceVersion string
	// Size is in bytes.
	Size int64
}

// Lists answers questions about packages. Client does; tests have lists of their own.
type Lists interface {
	// Show lists the versions of packages, of each the newest first. None is no error. One call for many is much faster: apt reads
	// all its lists each time.
	Show(ctx context.Context, names ...string) ([]Package, error)
}

// Client runs apt. The zero Client uses the machine's own package sources.
type Client struct {
	config string // path of APT_CONFIG, or empty
	debs   string // directory to look in first, or empty
}

// Configure takes the values of ConfigKeys.
func (c *Client) Configure(config map[string]string) error {
	if name := config["apt-config"]; name != "" {
		if st, err := os.Stat(name); err != nil || !st.Mode().IsRegular() || !filepath.IsAbs(name) {
			return &plugin.Diagnostic{Fault: plugin.FaultUser, Where: name, Summary: "apt-config names no file", Detail: "give the path of a configuration file of apt's, from / on"}
		}
	}
	c.config, c.debs = config["apt-config"], config["debs"]
	return nil
}

// command is a command line that runs one of apt's programs with the client's configuration, and speaks English.
func (c *Client) command(argv ...string) []string {
	env := []string{"env", "LC_ALL=C"}
	if c.config != "" {
		env = append(env, "APT_CONFIG="+c.config)
	}
	return append(env, argv...)
}

// Show implements Lists.
func (c *Client) Show(ctx context.Context, names ...string) ([]Package, error) {
	argv := c.command(append([]string{"apt-cache", "show", "--"}, names...)...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	name := strings.Join(names, ", ")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && strings.Contains(stderr.String(), "No packages found"):
		return nil, nil
	case errors.As(err, &exit):
		return nil, &plugin.Diagnostic{Fault: plugin.FaultMachine, Where: name, Summary: "apt-cache cannot show the package", Detail: strings.TrimSpace(stderr.String())}
	case err != nil:
		return nil, &plugin.Diagnostic{Fault: plugin.FaultMachine, Where: name, Summary: "apt-cache cannot be run", Detail: err.Error() + "; this backend needs a machine with apt"}
	}
	return Parse(string(out)), nil
}

// Parse reads what `apt-cache show` prints, the stanzas of Packages indices (deb822: fields a line, continuation lines begin with a blank).
func Parse(text string) []Package {
	var list []Package
	for stanza := range strings.SplitSeq(text, "\n\n") {
		var p Package
		for line := range strings.Lines(stanza) {
			name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
			if !ok || line[0] == ' ' || line[0] == '\t' {
				continue
			}
			value = strings.TrimSpace(value)
			switch name {
			case "Package":
				p.Name = value
			case "Version":
				p.Version = value
			case "Architecture":
				p.Architecture = value
			case "Depends":
				p.Depends = value
			case "Source":
				// deb-src-control(5): "linux-signed (6.8.0-45.45)", the version only where it is not the package's.
				source, version, _ := strings.Cut(value, " ")
				p.Source, p.SourceVersion = source, strings.Trim(version, " ()")
			case "SHA256":
				p.SHA256 = value
			case "Size":
				p.Size, _ = strconv.ParseInt(value, 10, 64)
			}
		}
		if p.Source == "" {
			p.Source = p.Name
		}
		if p.SourceVersion == "" {
			p.SourceVersion = p.Version
		}
		// An installed package that no list has anymore is shown without a digest: it cannot be fetched.
		if p.Name != "" && p.Version != "" && p.SHA256 != "" {
			list = append(list, p)
		}
	}
	return list
}

// Of gives the versions of one package among several.
func Of(list []Package, name string) []Package {
	return slices.DeleteFunc(slices.Clone(list), func(p Package) bool { return p.Name != name })
}

// Missing says that a package, in one version where that is not empty, cannot be had; have are the versions that there are.
func Missing(release, name, version string, have []Package) error {
	d := &plugin.Diagnostic{Fault: plugin.FaultUser, Where: release}
	d.Summary = "no package source of this machine has " + name
	if version != "" {
		d.Summary += " in version " + version
	}
	d.Detail = "run `apt-get update`; when the version has left the archive, add a snapshot of it to the package sources, or upgrade the machine to a newer kernel"
	if len(have) > 0 {
		var versions []string
		for _, p := range have {
			versions = append(versions, p.Version)
		}
		d.Detail = "there are the versions " + strings.Join(versions, ", ") + "; " + d.Detail
	}
	return d
}

// Newer compares versions of packages as dpkg does.
func Newer(a, b string) bool {
	return exec.Command("dpkg", "--compare-versions", a, "gt", b).Run() == nil
}
