package ubuntu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/plugins/internal/apt"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// index is an excerpt of Packages indices, with the fields and the order that Ubuntu's have (as `apt-cache show` printed them for
// linux-image-5.4.0-144-generic of 18.04, Source linux-signed-hwe-5.4, and for linux-modules-extra-5.4.0-139-generic, Source linux-hwe-5.4),
// digests shortened. The names and versions are those of kernels of 22.04 and 24.04; Source has a version where it is not the package's own.
const index = `Package: linux-image-6.8.0-45-generic
Architecture: amd64
Version: 6.8.0-45.45
Built-Using: linux (= 6.8.0-45.45)
Priority: optional
Section: kernel
Source: linux-signed
Origin: Ubuntu
Maintainer: Canonical Kernel Team <kernel-team@lists.ubuntu.com>
Bugs: https://bugs.launchpad.net/ubuntu/+filebug
Installed-Size: 14484
Provides: fuse-module, linux-image, spl-dkms, spl-modules, v4l2loopback-modules (= 0.12.7), wireguard-modules (= 1.0.0), zfs-dkms, zfs-modules
Depends: kmod, linux-base (>= 4.5ubuntu1~16.04.1), linux-modules-6.8.0-45-generic
Conflicts: linux-image-unsigned-6.8.0-45-generic
Filename: pool/main/l/linux-signed/linux-image-6.8.0-45-generic_6.8.0-45.45_amd64.deb
Size: 14825472
MD5sum: abfd
SHA1: c6c7
SHA256: 5b9c01
SHA512: c170
Description-en: Signed kernel image generic
 A kernel image for generic.  This version of it is signed with
 Canonical's signing key.
Description-md5: b0fd

Package: linux-image-unsigned-6.8.0-45-generic
Architecture: amd64
Version: 6.8.0-45.45
Source: linux
Size: 14784512
SHA256: 5b9c02

Package: linux-headers-6.8.0-45-generic
Architecture: amd64
Version: 6.8.0-45.45
Priority: optional
Section: devel
Source: linux
Depends: linux-headers-6.8.0-45, libc6 (>= 2.38), libelf1t64 (>= 0.144), libssl3t64 (>= 3.0.0), zlib1g (>= 1:1.2.3.3)
Provides: linux-headers, linux-headers-3.0
Filename: pool/main/l/linux/linux-headers-6.8.0-45-generic_6.8.0-45.45_amd64.deb
Size: 3795912
SHA256: 5b9c03

Package: linux-image-6.8.0-45-generic
Architecture: amd64
Version: 6.8.0-45.45~22.04.1
Source: linux-signed-hwe-6.8
Size: 14825000
SHA256: 5b9c04

Package: linux-headers-6.8.0-45-generic
Architecture: amd64
Version: 6.8.0-45.45~22.04.1
Source: linux-hwe-6.8
Depends: linux-hwe-6.8-headers-6.8.0-45, libc6 (>= 2.34), libelf1 (>= 0.144), libssl3 (>= 3.0.0~~alpha1), zlib1g (>= 1:1.2.3.3)
Size: 3795000
SHA256: 5b9c05

Package: linux-image-6.8.0-1024-aws
Architecture: amd64
Version: 6.8.0-1024.26
Source: linux-signed-aws (6.8.0-1024.26)
Size: 14000000
SHA256: 5b9c06

Package: linux-headers-6.8.0-1024-aws
Architecture: amd64
Version: 6.8.0-1024.26
Source: linux-aws
Depends: linux-aws-headers-6.8.0-1024, libc6 (>= 2.38)
Size: 3700000
SHA256: 5b9c07

Package: linux-image-unsigned-6.5.0-1020-oem
Architecture: amd64
Version: 6.5.0-1020.21
Source: linux-oem-6.5
Size: 14000000
SHA256: 5b9c08

Package: linux-headers-6.5.0-1020-oem
Architecture: amd64
Version: 6.5.0-1020.21
Source: linux-oem-6.5
Size: 3700000
SHA256: 5b9c09

Package: linux-headers-5.15.0-91-generic
Architecture: amd64
Version: 5.15.0-91.101
Source: linux
Size: 3000000
SHA256: 5b9c10

Package: linux-headers-6.1.192-1-own
Architecture: amd64
Version: 1.0
Size: 3000000
SHA256: 5b9c11
`

// lists is an archive of index and of the source packages named.
type lists struct {
	sources []string // "linux 6.8.0-45.45"
	none    bool     // the machine has no deb-src
	asked   []string
}

func (l *lists) Show(_ context.Context, names ...string) ([]apt.Package, error) {
	var out []apt.Package
	for _, name := range names {
		out = append(out, apt.Of(apt.Parse(index), name)...)
	}
	return out, nil
}

func (l *lists) Source(_ context.Context, name, version string) (*apt.Source, error) {
	l.asked = append(l.asked, name+" "+version)
	if l.none {
		return nil, apt.ErrNoSources
	}
	for _, s := range l.sources {
		if s == name+" "+version {
			return &apt.Source{Name: name, Version: version, Files: []apt.SourceFile{{Name: name + ".dsc", Digest: "SHA512:" + version}}}, nil
		}
	}
	return nil, nil
}

func TestFind(t *testing.T) {
	all := []string{"linux 6.8.0-45.45", "linux-hwe-6.8 6.8.0-45.45~22.04.1", "linux-aws 6.8.0-1024.26", "linux-oem-6.5 6.5.0-1020.21", "linux 5.15.0-91.101"}
	const generic = "6.8.0-45-generic"
	for _, tt := range []struct {
		release, uname string
		sources        []string
		none           bool
		source, image  string // "linux 6.8.0-45.45", "linux-image-..."
		wrong          string
	}{
		{generic, "#45-Ubuntu SMP PREEMPT_DYNAMIC Fri Aug 30 12:02:04 UTC 2024", all, false, "linux 6.8.0-45.45", "linux-image-6.8.0-45-generic 5b9c01", ""},
		{generic, "", all, false, "linux 6.8.0-45.45", "linux-image-6.8.0-45-generic 5b9c01", ""},
		// Where `uname -v` is longer than 64 characters the kernel's build cuts it.
		{generic, "#45~22.04.1-Ubuntu SMP PREEMPT_DYNAMIC Wed Sep 11 15:25:05 UTC 2", all, false, "linux-hwe-6.8 6.8.0-45.45~22.04.1", "linux-image-6.8.0-45-generic 5b9c04", ""},
		// Nothing says which, and only one can be had whole.
		{generic, "", all[1:], false, "linux-hwe-6.8 6.8.0-45.45~22.04.1", "linux-image-6.8.0-45-generic 5b9c04", ""},
		{"6.8.0-1024-aws", "#26-Ubuntu SMP Tue Feb 18 17:22:37 UTC 2025", all, false, "linux-aws 6.8.0-1024.26", "linux-image-6.8.0-1024-aws 5b9c06", ""},
		{"6.5.0-1020-oem", "", all, false, "linux-oem-6.5 6.5.0-1020.21", "linux-image-unsigned-6.5.0-1020-oem 5b9c08", ""},
		{generic, "#46-Ubuntu SMP x", all, false, "", "", "linux-headers-6.8.0-45-generic in version 6.8.0-45.46"},
		{generic, "#45 SMP somebody's own", all, false, "", "", "not one of Ubuntu's"},
		{generic, "#1 SMP PREEMPT_DYNAMIC Debian 6.1.1-1 (2023-01-01)", all, false, "", "", "not one of Ubuntu's"},
		{generic, "", nil, false, "", "", "the source of linux in version 6.8.0-45.45"},
		{generic, "", nil, true, "", "", "ubuntu.sources"},
		{generic, "", nil, true, "", "", "/etc/apt/sources.list"},
		{"5.15.0-91-generic", "#101-Ubuntu SMP Tue Nov 14 13:30:08 UTC 2023", all, false, "", "", "linux-image-5.15.0-91-generic in version 5.15.0-91.101"},
		{"6.8.0-99-generic", "", all, false, "", "", "no package source of this machine has linux-headers-6.8.0-99-generic"},
		{"6.1.192-1-own", "", all, false, "", "", "not one of Ubuntu's"},
		{"6.1.0-56-amd64", "", all, false, "", "", "not a release of an Ubuntu kernel"},
		{"6.1.0-56-cloud-amd64", "", all, false, "", "", "not a release of an Ubuntu kernel"},
		{"6.8.0-45-generic; rm", "", all, false, "", "", "not a release"},
		{"6.8.0", "", all, false, "", "", "not a release"},
	} {
		a := &lists{sources: tt.sources, none: tt.none}
		k, err := identify(tt.release, tt.uname)
		var p *plan
		if err == nil {
			p, err = find(t.Context(), a, k)
		}
		if tt.wrong != "" {
			var d *plugin.Diagnostic
			if !errors.As(err, &d) || d.Fault != plugin.FaultUser || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("find(%s, %q) = %v, want a refusal with %q", tt.release, tt.uname, err, tt.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("find(%s, %q) = %v", tt.release, tt.uname, err)
			continue
		}
		if source, image := p.source.Name+" "+p.source.Version, p.image.Name+" "+p.image.SHA256; source != tt.source || image != tt.image || p.version != p.headers.Version || p.image.Version != p.version {
			t.Errorf("find(%s, %q) = source %s, image %s, version %s; want %s, %s", tt.release, tt.uname, source, image, p.version, tt.source, tt.image)
		}
	}
}

func TestSigned(t *testing.T) {
	for _, tt := range []struct{ release, signature, version string }{
		{"6.8.0-45-generic", "Ubuntu 6.8.0-45.45-generic 6.8.12\n", "6.8.0-45.45"},
		{"6.8.0-101-generic", "Ubuntu 6.8.0-101.101~22.04.1-generic 6.8.12\n", "6.8.0-101.101~22.04.1"},
		{"5.15.0-1030-intel-iotg", "Ubuntu 5.15.0-1030.35-intel-iotg 5.15.98\n", "5.15.0-1030.35"},
		{"6.8.0-45-generic", "Ubuntu 6.8.0-45.45-lowlatency 6.8.12\n", ""},
		{"6.8.0-45-generic", "Ubuntu 6.8.0-44.44-generic 6.8.12\n", ""},
		{"6.8.0-45-generic", "", ""},
	} {
		version, err := signed(tt.release, tt.signature)
		if version != tt.version || (err != nil) != (tt.version == "") {
			t.Errorf("signed(%s, %q) = %q, %v, want %q", tt.release, tt.signature, version, err, tt.version)
		}
	}
}

// TestProbe: of the running kernel, whose version nobody gave, the signature tells which one it is; of others the lists do.
func TestProbe(t *testing.T) {
	const release = "6.8.0-45-generic"
	proc := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		name = filepath.Join(proc, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	probe := func(release string) *backend.ProbeResponse {
		t.Helper()
		a := &lists{sources: []string{"linux 6.8.0-45.45", "linux-hwe-6.8 6.8.0-45.45~22.04.1", "linux-aws 6.8.0-1024.26"}}
		resp, err := (&Backend{archive: a, proc: proc}).Probe(t.Context(), &backend.ProbeRequest{Release: release, CacheDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	put("sys/kernel/osrelease", release+"\n")
	if resp := probe(release); resp.Supported || !strings.Contains(resp.Reason, "not one of Ubuntu's") {
		t.Errorf("a running kernel without a signature: %+v", resp)
	}
	put("version_signature", "Ubuntu 6.8.0-45.45~22.04.1-generic 6.8.12\n")
	if resp := probe(release); !resp.Supported || resp.Banner != "Ubuntu 6.8.0-45.45~22.04.1" {
		t.Errorf("the running kernel: %+v", resp)
	}
	if resp := probe("6.8.0-1024-aws"); !resp.Supported || resp.Banner != "Ubuntu 6.8.0-1024.26" {
		t.Errorf("another kernel: %+v", resp)
	}
	put("sys/kernel/osrelease", "6.8.0-1024-aws\n")
	if resp := probe(release); !resp.Supported || resp.Banner != "Ubuntu 6.8.0-45.45" {
		t.Errorf("a kernel that does not run: %+v", resp)
	}
}

// TestKey: a tree is made anew when anything that it is made of is another one.
func TestKey(t *testing.T) {
	base := func() *plan {
		return &plan{kernel: kernel{release: "6.8.0-45-generic"}, headers: apt.Package{SHA256: "h"}, image: apt.Package{SHA256: "i"},
			source: &apt.Source{Files: []apt.SourceFile{{Digest: "SHA512:a"}, {Digest: "SHA512:b"}}}}
	}
	seen := map[string]string{base().key(): "nothing changed"}
	for name, change := range map[string]func(*plan){
		"the release":          func(p *plan) { p.release = "6.8.0-46-generic" },
		"the headers":          func(p *plan) { p.headers.SHA256 = "x" },
		"the kernel":           func(p *plan) { p.image.SHA256 = "x" },
		"upstream's source":    func(p *plan) { p.source.Files[0].Digest = "SHA512:x" },
		"the patches":          func(p *plan) { p.source.Files[1].Digest = "SHA512:x" },
		"headers and kernel":   func(p *plan) { p.headers, p.image = p.image, p.headers },
		"a file of the source": func(p *plan) { p.source.Files = p.source.Files[:1] },
	} {
		p := base()
		change(p)
		if other, ok := seen[p.key()]; ok {
			t.Errorf("%s is another: the key is as with %s", name, other)
		}
		seen[p.key()] = name
	}
}
