package debian

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/ksplice/ksplice/plugins/internal/apt"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// plan is the packages that make one kernel's tree.
type plan struct {
	release, version                string // `uname -r`; Debian's version
	headers, common, kbuild, source apt.Package
	// image has the kernel itself, of which the build id is wanted; without a name: the archive does not have it.
	image apt.Package
	// tools says that the build tools are of another version than the kernel.
	tools bool
}

// key names what the tree is made of: the source, the configuration, generated headers and symbol versions (headers), objtool and the other
// tools (kbuild), and the kernel.
func (p *plan) key() string {
	return strings.Join([]string{p.release, p.source.SHA256, p.headers.SHA256, p.kbuild.SHA256, p.image.SHA256}, " ")
}

// releaseForm is a release of Debian's: "6.1.0-56-amd64", "6.12.117+deb12-cloud-amd64", "6.1.0-56-rt-amd64".
var releaseForm = regexp.MustCompile(`^(\d+)\.(\d+)\.\d+[-+~.a-z0-9]*-amd64$`)

// supported are the kernel series this backend was tried with.
var supported = map[string]bool{"6.1": true, "6.12": true}

// versionText finds Debian's version in `uname -v`: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)".
var versionText = regexp.MustCompile(`\bDebian (\S+)`)

// series gives the kernel series of a release, "6.1".
func series(release string) (string, error) {
	m := releaseForm.FindStringSubmatch(release)
	if m == nil {
		return "", &plugin.Diagnostic{Fault: plugin.FaultUser, Where: release, Summary: "not a release of a Debian kernel for amd64",
			Detail: "expected what uname -r prints there, for example 6.1.0-56-amd64"}
	}
	s := m[1] + "." + m[2]
	if !supported[s] {
		return "", &plugin.Diagnostic{Fault: plugin.FaultUser, Where: release, Summary: "kernels of the series " + s + " are not supported",
			Detail: "this backend builds for 6.1 and 6.12"}
	}
	return s, nil
}

// find makes the plan for a kernel. uname is its `uname -v`, empty when not known: then it is the newest kernel of that
// release whose packages are all there.
func find(ctx context.Context, a apt.Lists, release, uname string) (*plan, error) {
	s, err := series(release)
	if err != nil {
		return nil, err
	}
	name, image, source := "linux-headers-"+release, "linux-image-"+release, "linux-source-"+s
	known, err := a.Show(ctx, name, image, source)
	if err != nil {
		return nil, err
	}
	headers, images, sources := apt.Of(known, name), apt.Of(known, image), apt.Of(known, source)
	if len(headers) == 0 {
		return nil, apt.Missing(release, name, "", nil)
	}
	if m := versionText.FindStringSubmatch(uname); m != nil {
		var wanted []apt.Package
		for _, h := range headers {
			if h.Version == m[1] {
				wanted = append(wanted, h)
			}
		}
		if len(wanted) == 0 {
			return nil, apt.Missing(release, name, m[1], headers)
		}
		headers = wanted
	} else if uname != "" {
		return nil, &plugin.Diagnostic{Fault: plugin.FaultUser, Where: release, Summary: "the kernel is not one of Debian's", Detail: fmt.Sprintf("its version is %q", uname)}
	}
	for _, h := range headers {
		for _, src := range sources {
			if src.Version != h.Version {
				continue
			}
			p := &plan{release: release, version: h.Version, headers: h, source: src}
			for _, i := range images {
				if i.Version == h.Version {
					p.image = i
				}
			}
			return complete(ctx, a, p)
		}
	}
	return nil, apt.Missing(release, source, headers[0].Version, sources)
}

// dependency finds packages in a Depends field.
var dependency = regexp.MustCompile(`\b(linux-kbuild-[^\s,|]+|linux-headers-[^\s,|]+-common(?:-rt)?)`)

// complete adds the packages that the headers depend on.
func complete(ctx context.Context, a apt.Lists, p *plan) (*plan, error) {
	names := dependency.FindAllString(p.headers.Depends, -1)
	noTools := &plugin.Diagnostic{Fault: plugin.FaultToolchain, Where: p.headers.Name, Summary: "the package depends on no linux-kbuild package", Detail: "its dependencies: " + p.headers.Depends}
	if len(names) == 0 {
		return nil, noTools
	}
	known, err := a.Show(ctx, names...)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		list := apt.Of(known, name)
		kbuild := strings.HasPrefix(name, "linux-kbuild-")
		var found *apt.Package
		for i, candidate := range list {
			if candidate.Version == p.version {
				found = &list[i]
			}
		}
		if found == nil && kbuild && len(list) > 0 {
			// The headers ask for this version or a later one, and the archive keeps fewer versions of the tools.
			found, p.tools = &list[0], true
		}
		if found == nil {
			return nil, apt.Missing(p.release, name, p.version, list)
		}
		if kbuild {
			p.kbuild = *found
		} else {
			p.common = *found
		}
	}
	if p.kbuild.Name == "" {
		return nil, noTools
	}
	return p, nil
}
