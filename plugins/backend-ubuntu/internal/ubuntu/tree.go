package ubuntu

import (
	"archive/tar"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/plugins/internal/apt"
	"github.com/ksplice/ksplice/sdk/kbuild"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// fill brings source and packages together in root. version is the `uname -v` that is wanted, may be empty.
func (b *Backend) fill(ctx context.Context, p *plan, packages, root, version string, progress plugin.ProgressFunc) (*kbuild.Info, error) {
	paths, err := b.apt.Fetch(ctx, packages, []apt.Package{p.headers, p.image}, progress)
	if err != nil {
		return nil, err
	}
	// The small packages say whether this machine can build for the kernel at all; the source is large.
	image := kbuild.ImagePath(root)
	if err := apt.UnpackImage(ctx, paths[1], p.release, image); err != nil {
		return nil, err
	}
	uname, err := imageVersion(image, p.release)
	if err != nil {
		return nil, err
	}
	if version != "" && version != uname {
		return nil, &plugin.Diagnostic{Fault: plugin.FaultUser, Where: p.release, Summary: "the kernel is not the one that the packages are of",
			Detail: fmt.Sprintf("its version is %q, that of %s is %q", version, p.image.Name, uname)}
	}
	built, err := os.MkdirTemp(filepath.Dir(root), "headers-*")
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", p.headers.Name, err)
	}
	defer os.RemoveAll(built)
	if err := unpackHeaders(ctx, paths[0], p.release, built); err != nil {
		return nil, err
	}
	if release, err := apt.Generated(built, "utsrelease.h", "UTS_RELEASE"); err != nil {
		return nil, err
	} else if release != p.release {
		return nil, plugin.Errorf(plugin.FaultToolchain, p.headers.Name, "the package is of release %q, not %q", release, p.release)
	}
	config, err := kbuild.ReadConfig(filepath.Join(built, ".config"))
	if err != nil {
		return nil, err
	}
	cc, err := kbuild.CheckCompiler(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := b.apt.Unpack(ctx, packages, p.source, root, progress); err != nil {
		return nil, err
	}
	pack, err := readPackaging(root, p.abi)
	if err != nil {
		return nil, err
	}
	if err := pack.reconstruct(ctx, root); err != nil {
		return nil, err
	}
	if err := overlay(built, root); err != nil {
		return nil, fmt.Errorf("put %s over the source: %w", p.headers.Name, err)
	}
	// The release of the packages' build is given on make's command line; the file has the upstream version.
	for name, text := range map[string]string{
		"include/config/kernel.release":  p.release + "\n",
		"include/generated/utsversion.h": "#define UTS_VERSION \"" + uname + "\"\n",
	} {
		if err := apt.Put(root, name, 0, strings.NewReader(text)); err != nil {
			return nil, fmt.Errorf("write the tree's release: %w", err)
		}
	}
	return &kbuild.Info{Release: p.release, Version: uname, Banner: apt.Banner(vendor, p.version), Arch: pack.arch, Machine: uint16(elf.EM_X86_64), CC: cc,
		Make: append([]string{"ARCH=" + pack.arch, "KERNELRELEASE=" + p.release, "CC=" + cc}, pack.variables...)}, nil
}

// rubbish are ends of names of what a build leaves beside the tools of the headers.
var rubbish = []string{".o", ".a", ".cmd", ".d"}

// unpackHeaders puts what a build made of the kernel below dir: configuration, symbol versions, generated headers, the module linker script and
// the build's tools, objtool among them. Files of the source are links to linux-headers-ABI there and left out, as is the makefile, which is
// the source's but for the compiler's name.
func unpackHeaders(ctx context.Context, deb, release, dir string) error {
	prefix := "usr/src/linux-headers-" + release + "/"
	err := apt.EachFile(ctx, deb, func(h *tar.Header, name string, r io.Reader) error {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok || h.Typeflag != tar.TypeReg || slices.Contains(rubbish, path.Ext(rest)) {
			return nil
		}
		top, _, _ := strings.Cut(rest, "/")
		switch {
		case rest == ".config", rest == "Module.symvers", rest == "include/config/auto.conf",
			strings.HasPrefix(rest, "include/generated/"), slices.Contains([]string{"arch", "scripts", "tools"}, top):
			return apt.Put(dir, rest, h.Mode, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range []string{".config", "Module.symvers", "include/config/auto.conf", "include/generated/autoconf.h", "scripts/basic/fixdep", "scripts/mod/modpost", "tools/objtool/objtool"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("unpack %s: there is no %s%s in it", filepath.Base(deb), prefix, name)
		}
	}
	return nil
}

// imageForm is the version string of an image (arch/x86/boot/version.c): release, who built it, `uname -v`.
var imageForm = regexp.MustCompile(`^(\S+) \([^)]*\) (#.*)$`)

// imageVersion reads `uname -v` from the setup header of a kernel's image (Documentation/arch/x86/boot.rst: header and kernel_version). No other
// package has it: the headers' build is a later one.
func imageVersion(name, release string) (string, error) {
	const magicAt, versionAt, base, longest = 0x202, 0x20e, 0x200, 256
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("read the kernel's image: %w", err)
	}
	defer f.Close()
	header := make([]byte, versionAt+2)
	if _, err := f.ReadAt(header, 0); err != nil || string(header[magicAt:magicAt+4]) != "HdrS" {
		return "", plugin.Errorf(plugin.FaultToolchain, "vmlinuz-"+release, "the kernel's image has no setup header")
	}
	text := make([]byte, longest)
	n, err := f.ReadAt(text, base+int64(binary.LittleEndian.Uint16(header[versionAt:])))
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the kernel's image: %w", err)
	}
	said, _, _ := strings.Cut(string(text[:n]), "\x00")
	m := imageForm.FindStringSubmatch(said)
	if m == nil || m[1] != release {
		return "", plugin.Errorf(plugin.FaultToolchain, "vmlinuz-"+release, "the kernel's image says that it is %q", said)
	}
	return strings.TrimSpace(m[2]), nil // as everybody who reads /proc/sys/kernel/version does
}

// overlay moves the files below from over those below to.
func overlay(from, to string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		return os.Rename(name, filepath.Join(to, rel))
	})
}

// packaging is what the source package's debian/ says of how the kernel is built.
type packaging struct {
	directory string // of the flavour's own packaging: "debian.master", "debian.aws", "debian.hwe-6.8"
	arch      string // the kernel's name of the architecture
	variables []string
}

var (
	// directoryForm is the line of debian/debian.env.
	directoryForm = regexp.MustCompile(`(?m)^DEBIAN=(\S+)$`)
	// archForm is the line of the architecture's makefile, DIRECTORY/rules.d/amd64.mk.
	archForm = regexp.MustCompile(`(?m)^build_arch\s*:?=\s*(\S+)\s*$`)
	// makeForm is the definition of the command that builds the kernel (debian/rules.d/0-common-vars.mk: kmake).
	makeForm = regexp.MustCompile(`(?m)^kmake\s*:?=\s*((?:.*\\\n)*.*)$`)
	// variableForm is a variable of the kernel's configuration that the command sets.
	variableForm = regexp.MustCompile(`^CONFIG_[A-Z0-9_]+=\w+$`)
)

// readPackaging reads the packaging of the source at root.
func readPackaging(root, abi string) (*packaging, error) {
	const rules = "debian/rules.d/0-common-vars.mk"
	look := func(name string, form *regexp.Regexp, what string) (string, error) {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read the packaging: %w", err)
		}
		m := form.FindSubmatch(text)
		if m == nil {
			return "", plugin.Errorf(plugin.FaultToolchain, name, "the kernel is packaged in a way unknown here: the file does not say %s", what)
		}
		return string(m[1]), nil
	}
	p := &packaging{}
	var err error
	if p.directory, err = look("debian/debian.env", directoryForm, "which directory has the packaging (DEBIAN)"); err != nil {
		return nil, err
	}
	if !filepath.IsLocal(p.directory) {
		return nil, plugin.Errorf(plugin.FaultToolchain, "debian/debian.env", "the directory %q lies outside of the source", p.directory)
	}
	if p.arch, err = look(path.Join(p.directory, "rules.d/amd64.mk"), archForm, "the architecture (build_arch)"); err != nil {
		return nil, err
	}
	command, err := look(rules, makeForm, "how the kernel is made (kmake)")
	if err != nil {
		return nil, err
	}
	number := abi[strings.LastIndexByte(abi, '-')+1:]
	for _, word := range strings.Fields(command) {
		switch {
		case variableForm.MatchString(word):
			p.variables = append(p.variables, word)
		case strings.HasPrefix(word, `CFLAGS_MODULE="-DPKG_ABI=`):
			p.variables = append(p.variables, "CFLAGS_MODULE=-DPKG_ABI="+number)
		}
	}
	return p, nil
}

// reconstruct does what the format of the source package cannot say. A packaging without the script needs nothing of it.
func (p *packaging) reconstruct(ctx context.Context, root string) error {
	script := path.Join(p.directory, "reconstruct")
	if _, err := os.Stat(filepath.Join(root, script)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := kbuild.Run(ctx, root, []string{"sh", script}); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &plugin.Diagnostic{Fault: plugin.FaultToolchain, Where: script, Summary: "the packaging's script fails", Detail: err.Error()}
	}
	return nil
}
