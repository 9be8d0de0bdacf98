package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Kernel is a distribution's kernel, unpacked in the cache. Nothing of it is installed.
type Kernel struct {
	Release    string // as uname -r says it: "6.1.0-56-amd64"
	Package    string // "linux-image-6.1.0-56-amd64"
	Version    string // the package's: "6.1.192-2"
	Vmlinuz    string // the image to boot
	Config     string // its configuration
	ModulesDir string // holds kernel/, modules.dep and so on
	KDir       string // the headers: make -C KDIR M=... modules
}

// seriesForm and releaseForm tell "6.1" from "6.1.0-56-amd64".
var (
	seriesForm  = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)
	releaseForm = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+[A-Za-z0-9.+~-]*$`)
)

// Fetch returns the newest kernel of a series ("6.1") that apt knows, or the one of an exact release
// ("6.1.0-56-amd64"), with the headers for it. It downloads what the cache does not have.
func Fetch(ctx context.Context, series string) (*Kernel, error) {
	k, err := fetch(ctx, series)
	if err != nil {
		return nil, fmt.Errorf("fetch kernel %s: %w", series, err)
	}
	return k, nil
}

func fetch(ctx context.Context, series string) (*Kernel, error) {
	image, err := newestImage(ctx, series)
	if err != nil {
		return nil, err
	}
	release := strings.TrimPrefix(image.name, "linux-image-")
	packages := []aptPackage{image}
	headers, err := aptShow(ctx, "linux-headers-"+release)
	if err != nil {
		return nil, err
	}
	if len(headers) != 1 || headers[0].version != image.version {
		return nil, fmt.Errorf("apt knows no linux-headers-%s of version %s: run apt-get update", release, image.version)
	}
	packages = append(packages, headers...)
	var more []string
	for _, name := range headers[0].depends {
		if strings.HasPrefix(name, "linux-headers-") || strings.HasPrefix(name, "linux-kbuild-") {
			more = append(more, name)
		}
	}
	if len(more) == 0 {
		return nil, fmt.Errorf("linux-headers-%s depends on no linux-headers-*-common: it is packaged in a way unknown here", release)
	}
	rest, err := aptShow(ctx, more...)
	if err != nil {
		return nil, err
	}
	packages = append(packages, rest...)
	root, err := cached(image.name+"_"+fileName(image.version), func(dir, final string) error {
		return unpackKernel(ctx, packages, release, dir, final)
	})
	if err != nil {
		return nil, err
	}
	k := &Kernel{
		Release: release, Package: image.name, Version: image.version,
		Vmlinuz:    filepath.Join(root, "boot", "vmlinuz-"+release),
		Config:     filepath.Join(root, "boot", "config-"+release),
		ModulesDir: filepath.Join(root, "lib", "modules", release),
		KDir:       filepath.Join(root, "usr", "src", "linux-headers-"+release),
	}
	for _, path := range []string{k.Vmlinuz, k.Config, filepath.Join(k.ModulesDir, "modules.dep"), filepath.Join(k.KDir, "Makefile")} {
		if !exists(path) {
			return nil, fmt.Errorf("%s is not there: delete %s, and it is fetched again", path, root)
		}
	}
	return k, nil
}

// newestImage returns the package of the kernel, newest version first.
func newestImage(ctx context.Context, series string) (aptPackage, error) {
	var names []string
	switch {
	case seriesForm.MatchString(series):
		options, err := aptOptions()
		if err != nil {
			return aptPackage{}, err
		}
		out, err := output(ctx, "", append(append([]string{"apt-cache"}, options...), "pkgnames", "linux-image-"+series+".")...)
		if err != nil {
			return aptPackage{}, err
		}
		for _, name := range strings.Fields(out) {
			release := strings.TrimPrefix(name, "linux-image-")
			flavour, ok := strings.CutSuffix(release, "-amd64")
			if ok && releaseForm.MatchString(release) && !strings.Contains(flavour, "cloud") && !strings.Contains(flavour, "-rt") {
				names = append(names, name)
			}
		}
	case releaseForm.MatchString(series):
		names = []string{"linux-image-" + series}
	default:
		return aptPackage{}, errors.New(`this is neither a series like "6.1" nor a release like "6.1.0-56-amd64"`)
	}
	var found []aptPackage
	if len(names) > 0 {
		var err error
		if found, err = aptShow(ctx, names...); err != nil {
			return aptPackage{}, err
		}
	}
	if len(found) == 0 {
		return aptPackage{}, fmt.Errorf("apt knows no such kernel: run apt-get update; on another distribution than Debian 12 add " +
			"Debian's archive to apt's sources, as `make setup` says")
	}
	return slices.MaxFunc(found, func(a, b aptPackage) int {
		if a.version == b.version {
			return strings.Compare(a.name, b.name)
		}
		if exec.CommandContext(ctx, "dpkg", "--compare-versions", a.version, "gt", b.version).Run() == nil {
			return 1
		}
		return -1
	}), nil
}

// unpackKernel fetches the packages and unpacks them into dir, which is to become final.
func unpackKernel(ctx context.Context, packages []aptPackage, release, dir, final string) error {
	debs := filepath.Join(dir, ".debs")
	if err := os.Mkdir(debs, 0o755); err != nil {
		return err
	}
	// As root apt would fetch as the user _apt, who may not write here.
	argv := []string{"apt-get", "-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "download", "--"}
	for _, p := range packages {
		argv = append(argv, p.name+"="+p.version)
	}
	if _, err := output(ctx, debs, argv...); err != nil {
		return fmt.Errorf("%w\nrun apt-get update if the archive has moved on", err)
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	if len(files) != len(packages) {
		return fmt.Errorf("apt-get download left %d packages, not %d: %v", len(files), len(packages), files)
	}
	for _, file := range files {
		if _, err := output(ctx, "", "dpkg-deb", "-x", file, dir); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(debs); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(dir, "usr", "share")); err != nil {
		return err
	}
	// The kernel's own links point outside, and 9p would follow them.
	for _, link := range []string{"build", "source"} {
		if err := os.Remove(filepath.Join(dir, "lib", "modules", release, link)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if _, err := output(ctx, "", "depmod", "-b", dir, release); err != nil {
		return err
	}
	// Debian's headers include the common ones by their installed path; everything else in them is relative.
	makefile := filepath.Join(dir, "usr", "src", "linux-headers-"+release, "Makefile")
	b, err := os.ReadFile(makefile)
	if err != nil {
		return err
	}
	installed := []byte("include /usr/src/")
	if !bytes.Contains(b, installed) {
		return fmt.Errorf("usr/src/linux-headers-%s/Makefile has no line `%s...`: the headers are laid out in a way unknown here", release, installed)
	}
	b = bytes.ReplaceAll(b, installed, []byte("include "+filepath.Join(final, "usr", "src")+"/"))
	return os.WriteFile(makefile, b, 0o644)
}

// aptPackage is what apt says of a package's candidate version.
type aptPackage struct {
	name, version string
	depends       []string // names only, the first of each alternative
}

// aptOptions has apt keep what it makes of the package lists. Elsewhere only root's apt can, and in images of containers
// not even that: each question would cost seconds.
func aptOptions() ([]string, error) {
	base, err := CacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(base, "apt")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return []string{"-o", "Dir::Cache::pkgcache=" + filepath.Join(dir, "pkgcache.bin"),
		"-o", "Dir::Cache::srcpkgcache=" + filepath.Join(dir, "srcpkgcache.bin")}, nil
}

// aptShow returns what apt knows of the packages, leaving out those that it does not know.
func aptShow(ctx context.Context, names ...string) ([]aptPackage, error) {
	options, err := aptOptions()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "apt-cache", append(append(options, "show", "--no-all-versions", "--"), names...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 100) { // 100: some of them are not known
		return nil, fmt.Errorf("run apt-cache: %w", err)
	}
	var found []aptPackage
	for paragraph := range strings.SplitSeq(string(out), "\n\n") {
		var p aptPackage
		for line := range strings.SplitSeq(paragraph, "\n") {
			if v, ok := strings.CutPrefix(line, "Package: "); ok {
				p.name = v
			} else if v, ok := strings.CutPrefix(line, "Version: "); ok {
				p.version = v
			} else if v, ok := strings.CutPrefix(line, "Depends: "); ok {
				for clause := range strings.SplitSeq(v, ",") {
					if f := strings.Fields(clause); len(f) > 0 {
						p.depends = append(p.depends, f[0])
					}
				}
			}
		}
		if p.name != "" && p.version != "" && slices.Contains(names, p.name) {
			found = append(found, p)
		}
	}
	return found, nil
}

// output runs a program and returns what it prints, or an error with its last words.
func output(ctx context.Context, dir string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out, all bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &all
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return "", fmt.Errorf("run %s: %w\n%s", strings.Join(argv, " "), err, lastLines(all.String()+out.String(), 30))
	}
	return out.String(), nil
}

// fileName makes a package version fit for a file's name.
func fileName(s string) string {
	return strings.NewReplacer("/", "%2f", ":", "%3a", "~", "%7e").Replace(s)
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
