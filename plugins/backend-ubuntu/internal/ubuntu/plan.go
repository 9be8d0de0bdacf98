package ubuntu

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/ksplice/ksplice/plugins/internal/apt"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// archive answers questions about packages; apt.Client does.
type archive interface {
	apt.Lists
	Source(ctx context.Context, name, version string) (*apt.Source, error)
}

// kernel is what is asked for.
type kernel struct {
	release string // "6.8.0-45-generic"
	abi     string // "6.8.0-45"
	flavour string // "generic"
	version string // of the packages, "6.8.0-45.45"; empty when not known
}

// releaseForm is a release of Ubuntu's (debian/rules.d/0-common-vars.mk: abi_release, with the flavour): "6.8.0-45-generic",
// "6.8.0-1024-aws", "5.15.0-1030-intel-iotg".
var releaseForm = regexp.MustCompile(`^(\d+\.\d+\.\d+-\d+)-([a-z][a-z0-9]*(?:[.-][a-z0-9]+)*)$`)

// unameForm is how `uname -v` begins (KBUILD_BUILD_VERSION in debian/rules.d/0-common-vars.mk: uploadnum): "#45-Ubuntu SMP ...",
// "#45~22.04.1-Ubuntu SMP ...".
var unameForm = regexp.MustCompile(`^#(\d[\w.~+]*)-Ubuntu(?: |$)`)

// identify reads a release and a `uname -v`, which may be empty.
func identify(release, uname string) (*kernel, error) {
	m := releaseForm.FindStringSubmatch(release)
	if m == nil || strings.HasSuffix(release, "amd64") { // as Debian's end
		return nil, &plugin.Diagnostic{Fault: plugin.FaultUser, Where: release, Summary: "not a release of an Ubuntu kernel",
			Detail: "expected what uname -r prints there, for example 6.8.0-45-generic or 6.8.0-1024-aws"}
	}
	k := &kernel{release: release, abi: m[1], flavour: m[2]}
	if uname == "" {
		return k, nil
	}
	u := unameForm.FindStringSubmatch(uname)
	if u == nil {
		return nil, &plugin.Diagnostic{Fault: plugin.FaultUser, Where: release, Summary: "the kernel is not one of Ubuntu's", Detail: fmt.Sprintf("its version is %q", uname)}
	}
	k.version = k.abi + "." + u[1]
	return k, nil
}

// signatureForm is what /proc/version_signature says (debian/rules.d/2-binary-arch.mk: CONFIG_VERSION_SIGNATURE): the version of the package
// with the flavour, and that of the upstream kernel.
var signatureForm = regexp.MustCompile(`^Ubuntu (\S+) \S+\s*$`)

// signed gives the version of the package that a version signature names.
func signed(release, signature string) (string, error) {
	wrong := &plugin.Diagnostic{Fault: plugin.FaultUser, Where: "/proc/version_signature", Summary: "the running kernel's version signature is not one of Ubuntu's",
		Detail: fmt.Sprintf("it is %q", strings.TrimSpace(signature))}
	k, err := identify(release, "")
	if err != nil {
		return "", err
	}
	m := signatureForm.FindStringSubmatch(signature)
	if m == nil {
		return "", wrong
	}
	version, ok := strings.CutSuffix(m[1], "-"+k.flavour)
	if !ok || !strings.HasPrefix(version, k.abi+".") {
		return "", wrong
	}
	return version, nil
}

// plan is the packages that make one kernel's tree.
type plan struct {
	kernel
	headers, image apt.Package
	source         *apt.Source
}

// key names what the tree is made of: the source, the configuration, generated headers, symbol versions and tools (headers), and the kernel.
func (p *plan) key() string {
	return strings.Join([]string{p.release, p.headers.SHA256, p.image.SHA256, p.source.Key()}, " ")
}

// find makes the plan for a kernel. Where its version is not known, it is the newest whose packages are all there.
func find(ctx context.Context, a archive, k *kernel) (*plan, error) {
	headersName, signedName, unsignedName := "linux-headers-"+k.release, "linux-image-"+k.release, "linux-image-unsigned-"+k.release
	known, err := a.Show(ctx, headersName, signedName, unsignedName)
	if err != nil {
		return nil, err
	}
	all := apt.Of(known, headersName)
	var missing error
	for _, h := range all {
		if k.version != "" && h.Version != k.version {
			continue
		}
		if !strings.HasPrefix(h.Version, k.abi+".") {
			return nil, &plugin.Diagnostic{Fault: plugin.FaultUser, Where: k.release, Summary: "the kernel is not one of Ubuntu's",
				Detail: fmt.Sprintf("the package %s is of version %q, where Ubuntu's begins with %s", h.Name, h.Version, k.abi)}
		}
		p := &plan{kernel: *k, headers: h}
		p.version = h.Version
		// What runs is the signed one; without a signature it is the same kernel.
		images := apt.Of(known, signedName)
		for _, i := range append(images, apt.Of(known, unsignedName)...) {
			if i.Version == h.Version && p.image.Name == "" {
				p.image = i
			}
		}
		if p.image.Name == "" {
			missing = first(missing, apt.Missing(k.release, signedName, h.Version, images))
			continue
		}
		p.source, err = a.Source(ctx, h.Source, h.SourceVersion)
		if errors.Is(err, apt.ErrNoSources) {
			return nil, noSource(k.release, "the package sources of this machine have no source packages")
		}
		if err != nil {
			return nil, err
		}
		if p.source != nil {
			return p, nil
		}
		missing = first(missing, noSource(k.release, fmt.Sprintf("no package source has the source of %s in version %s", h.Source, h.SourceVersion)))
	}
	return nil, first(missing, apt.Missing(k.release, headersName, k.version, all))
}

// first is the first error of two: of several versions the newest tells what is missing.
func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// noSource says how source packages are had.
func noSource(release, summary string) error {
	return &plugin.Diagnostic{Fault: plugin.FaultUser, Where: release, Summary: summary,
		Detail: "on 24.04 and later make `Types: deb` to `Types: deb deb-src` in /etc/apt/sources.list.d/ubuntu.sources; on 22.04 take the # from the lines " +
			"`# deb-src` in /etc/apt/sources.list, those of -updates and -security too; then run `apt-get update`. " +
			"Debug symbols (ddebs) are not needed; the source of a kernel from Ubuntu Pro is at the same address as its packages"}
}
