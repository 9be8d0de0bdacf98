package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Archive is an apt repository with one kernel, as a distribution's has it.
type Archive struct {
	// Dir is the repository's directory, with dists and pool.
	Dir string
	// Kernel is the kernel in it.
	Kernel *Kernel
}

// ubuntuSource is the package whose source the kernel of Ubuntu's archive is built of, and ubuntuBuild the directory, in this module, of what
// builds it.
const (
	ubuntuSource = "linux-source-6.12"
	ubuntuBuild  = "core/vmtest/ubuntu"
)

// Ubuntu returns an archive laid out as Ubuntu's, with a small kernel that is built and packed as Ubuntu does: core/vmtest/ubuntu/build says
// how. It takes minutes when the cache does not have it.
func Ubuntu(ctx context.Context) (*Archive, error) {
	a, err := ubuntu(ctx)
	if err != nil {
		return nil, fmt.Errorf("make an archive like Ubuntu's: %w", err)
	}
	return a, nil
}

func ubuntu(ctx context.Context) (*Archive, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	source, err := aptShow(ctx, ubuntuSource)
	if err != nil {
		return nil, err
	}
	if len(source) != 1 {
		return nil, fmt.Errorf("apt knows no %s: run apt-get update", ubuntuSource)
	}
	sum, err := digest(filepath.Join(root, ubuntuBuild), nil)
	if err != nil {
		return nil, err
	}
	dir, err := cached("ubuntu-"+fileName(source[0].version)+"-"+sum, func(dir, _ string) error {
		debs := filepath.Join(dir, ".debs")
		if err := os.Mkdir(debs, 0o755); err != nil {
			return err
		}
		if _, err := output(ctx, debs, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "download", "--", ubuntuSource+"="+source[0].version); err != nil {
			return err
		}
		found, err := filepath.Glob(filepath.Join(debs, "*.deb"))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("apt-get download left %v (%v), want one package", found, err)
		}
		if _, err := output(ctx, "", "dpkg-deb", "-x", found[0], debs); err != nil {
			return err
		}
		tarball := filepath.Join(debs, "usr/src", ubuntuSource+".tar.xz")
		if _, err := output(ctx, "", filepath.Join(root, ubuntuBuild, "build"), tarball, dir, strconv.Itoa(runtime.NumCPU())); err != nil {
			return err
		}
		return os.RemoveAll(debs)
	})
	if err != nil {
		return nil, err
	}
	said := func(name string) string {
		b, rerr := os.ReadFile(filepath.Join(dir, name))
		err = errors.Join(err, rerr)
		return strings.TrimSpace(string(b))
	}
	release, version, installed := said("release"), said("version"), filepath.Join(dir, "installed")
	return &Archive{Dir: dir, Kernel: &Kernel{
		Release: release, Package: "linux-image-" + release, Version: version,
		Vmlinuz:    filepath.Join(installed, "boot", "vmlinuz-"+release),
		Config:     filepath.Join(installed, "boot", "config-"+release),
		ModulesDir: filepath.Join(installed, "lib", "modules", release),
		KDir:       filepath.Join(installed, "usr", "src", "linux-headers-"+release),
	}}, err
}

// aptConfig is a configuration of apt's that knows nothing of the machine's own (apt.conf(5)).
const aptConfig = `Dir "%s";
Dir::State::status "var/lib/dpkg/status";
Dir::Etc::parts "apt.conf.d";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
`

// aptSources are package sources as Ubuntu 24.04 has them (ubuntu.sources). The archive has no key: that its files are those of its lists is
// checked all the same.
const aptSources = `Types: %s
URIs: %s
Suites: noble
Components: main
Trusted: yes
`

// AptRoot makes a configuration of apt's below dir, an empty directory, whose only package source is an archive like Ubuntu's at an address. types
// are "deb" and "deb-src". It fetches the lists, and returns the configuration file's path, for APT_CONFIG.
func AptRoot(ctx context.Context, dir, address string, types ...string) (string, error) {
	for _, name := range []string{"etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/trusted.gpg.d", "etc/apt/sources.list.d", "var/lib/dpkg",
		"var/lib/apt/lists/partial", "var/cache/apt/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return "", err
		}
	}
	config := filepath.Join(dir, "apt.conf")
	for name, text := range map[string]string{
		config: fmt.Sprintf(aptConfig, dir),
		filepath.Join(dir, "var/lib/dpkg/status"):                      "",
		filepath.Join(dir, "etc/apt/sources.list.d", "ubuntu.sources"): fmt.Sprintf(aptSources, strings.Join(types, " "), address),
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	if _, err := output(ctx, "", "env", "APT_CONFIG="+config, "apt-get", "-q", "--error-on=any", "update"); err != nil {
		return "", err
	}
	return config, nil
}
