package vmtest

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Image is the disk of a whole system of the distribution: systemd, apt, the kernel with its headers, a compiler and dkms.
type Image struct {
	Kernel *Kernel // what it boots; its files are the host's own copy
	Disk   string  // a raw disk with one ext4 file system and no partitions; nobody writes to it
	Initrd string  // the system's own initramfs
}

// ImageSpec says what an image is to hold.
type ImageSpec struct {
	Series string // as Fetch takes it
	// Packages are installed beside those that every image has. An image with others is another one, and takes minutes to make.
	Packages []string
}

// imagePackages are in every image, with the kernel and its headers.
var imagePackages = []string{"apt", "systemd-sysv", "udev", "dbus", "kmod", "procps", "initramfs-tools", "lz4", "dkms", "make", "gcc-12"}

// imageSize is what the file system of an image can hold, in bytes. The file is sparse.
const imageSize = 4 << 30

//go:embed image.sh
var imageScript []byte

// BuildImage makes the image, or takes it from the cache, where it is by the versions of the kernel and of the packages that are
// named here, of the recipe, and not of what those depend on. It needs root, or the rights to user namespaces that mmdebstrap(1) names.
func BuildImage(ctx context.Context, spec ImageSpec) (*Image, error) {
	i, err := buildImage(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("make a disk image with kernel %s: %w", spec.Series, err)
	}
	return i, nil
}

func buildImage(ctx context.Context, spec ImageSpec) (*Image, error) {
	k, err := fetch(ctx, spec.Series)
	if err != nil {
		return nil, err
	}
	names := append([]string{k.Package, "linux-headers-" + k.Release}, imagePackages...)
	names = append(names, spec.Packages...)
	slices.Sort(names)
	names = slices.Compact(names)
	known, err := aptShow(ctx, names...)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d\n%s\n", imageSize, imageScript)
	for _, name := range names {
		i := slices.IndexFunc(known, func(p aptPackage) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("apt knows no package %s: run apt-get update", name)
		}
		fmt.Fprintf(h, "%s %s\n", name, known[i].version)
	}
	dir, err := cached("image-"+k.Release+"-"+hex.EncodeToString(h.Sum(nil)[:8]), func(dir, _ string) error {
		return makeImage(ctx, dir, k.Release, names)
	})
	if err != nil {
		return nil, err
	}
	return &Image{Kernel: k, Disk: filepath.Join(dir, "disk"), Initrd: filepath.Join(dir, "initrd")}, nil
}

// makeImage makes disk and initrd in dir.
func makeImage(ctx context.Context, dir, release string, packages []string) error {
	sources, suite, err := debianSources(ctx)
	if err != nil {
		return err
	}
	script := filepath.Join(dir, "image.sh")
	if err := os.WriteFile(script, imageScript, 0o755); err != nil {
		return err
	}
	list := filepath.Join(dir, "sources")
	if err := os.WriteFile(list, []byte(sources), 0o644); err != nil {
		return err
	}
	tar, root := filepath.Join(dir, "root.tar"), filepath.Join(dir, "root")
	argv := []string{"mmdebstrap", "--quiet", "--variant=apt", "--include=" + strings.Join(packages, ","), "--aptopt=APT::Install-Recommends \"false\""}
	fetching, err := aptFetching(ctx)
	if err != nil {
		return err
	}
	for _, option := range fetching {
		argv = append(argv, "--aptopt="+option)
	}
	for _, path := range []string{"doc", "man", "locale", "info"} {
		argv = append(argv, "--dpkgopt=path-exclude=/usr/share/"+path+"/*")
	}
	for _, stage := range []string{"essential", "customize"} {
		argv = append(argv, "--"+stage+"-hook="+quoteShell(script)+` "$1" `+stage+" "+release)
	}
	if _, err := output(ctx, dir, append(argv, suite, tar, list)...); err != nil {
		return fmt.Errorf("%w\nit needs the packages mmdebstrap and debian-archive-keyring", err)
	}
	disk := filepath.Join(dir, "disk")
	f, err := os.Create(disk)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(imageSize), f.Close()); err != nil {
		return err
	}
	// Owners and devices are written without a mount; who is not root needs to be told that they are there.
	argv = []string{"sh", "-euc", `mkdir "$2"; tar -C "$2" -xf "$1"; cp "$2/boot/initrd.img-$4" initrd; chmod 644 initrd
		mke2fs -q -F -t ext4 -L root -m 0 -E lazy_itable_init=1 -d "$2" "$3"; rm -rf "$1" "$2"`, "sh", tar, root, disk, release}
	if os.Geteuid() != 0 {
		argv = append([]string{"fakeroot", "--"}, argv...)
	}
	if _, err := output(ctx, dir, argv...); err != nil {
		return err
	}
	return errors.Join(os.Remove(script), os.Remove(list))
}

// archiveKeys are what Debian's archive is signed with, of package debian-archive-keyring.
const archiveKeys = "/usr/share/keyrings/debian-archive-keyring.gpg"

// debianSources returns the archives of Debian that the host's apt uses, as lines of a sources.list, and the name of the first one's suite.
func debianSources(ctx context.Context) (lines, suite string, err error) {
	out, err := output(ctx, "", "apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
	if err != nil {
		return "", "", err
	}
	var b strings.Builder
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) != 5 || f[0] != "Debian" {
			continue
		}
		if suite == "" {
			suite = f[1]
		}
		fmt.Fprintf(&b, "deb [signed-by=%s] %s %s %s\n", archiveKeys, f[2], f[3], f[4])
	}
	if suite == "" {
		return "", "", errors.New("apt's sources have no archive of Debian's: add it, as `make setup` says")
	}
	return b.String(), suite, nil
}

// fetchOption are the settings by which the host's apt reaches and judges its archives: proxies, and clocks that are not the archive's.
var fetchOption = regexp.MustCompile(`^Acquire::((https?|ftp)::.*|Retries|Check-Date|Check-Valid-Until) "[^"]+";$`)

func aptFetching(ctx context.Context) ([]string, error) {
	out, err := output(ctx, "", "apt-config", "dump")
	if err != nil {
		return nil, err
	}
	var options []string
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); fetchOption.MatchString(line) {
			options = append(options, line)
		}
	}
	return options, nil
}

// NewDisk makes the disk of one machine: a file that holds what differs from the image.
func (i *Image) NewDisk(ctx context.Context, file string) error {
	if _, err := output(ctx, "", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", i.Disk, file); err != nil {
		return fmt.Errorf("make a disk on top of an image: %w\nit needs the package qemu-utils", err)
	}
	return nil
}

// ImageOptions says how to boot an image. Image and Disk have to be set.
type ImageOptions struct {
	Image *Image
	Disk  string // of NewDisk; what the machine writes stays in it, so that it can be booted again

	CPUs      int      // 0 is 2
	CPU       string   // QEMU's -cpu; empty leaves QEMU's own choice
	Append    string   // more of the kernel's command line
	MemoryMiB int      // 0 is 1024
	Share     string   // a directory of the host that the guest sees as /share and may write to
	Arguments []string // more of QEMU's arguments, for firmware say
}

// BootImage starts a machine from its disk, with the system's own init, and waits until programs can run in it; the system may still be
// starting services then: `systemctl is-system-running --wait` waits for them. Else it is as Boot's.
func BootImage(ctx context.Context, o ImageOptions) (*Guest, error) {
	if o.Image == nil || o.Disk == "" {
		return nil, errors.New("boot an image: ImageOptions needs Image and Disk: BuildImage and NewDisk make them")
	}
	g, err := bootImage(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("boot an image with %s: %w", o.Image.Kernel.Release, err)
	}
	return g, nil
}

func bootImage(ctx context.Context, o ImageOptions) (*Guest, error) {
	ctx, cancel := context.WithTimeout(ctx, systemLimit)
	defer cancel()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, fmt.Errorf("%w: install the package qemu-system-x86", err)
	}
	agent, err := guestInit(ctx)
	if err != nil {
		return nil, err
	}
	argv := append(machine(o.CPU, o.CPUs, o.MemoryMiB), "-machine", "q35")
	served := map[string]string{"agent": filepath.Dir(agent)}
	if o.Share != "" {
		served["share"] = o.Share
	}
	for tag, host := range served {
		more, err := share(tag, host, tag == "agent")
		if err != nil {
			return nil, err
		}
		argv = append(argv, more...)
	}
	// What the guest has written is the host's to keep, whose pages outlive QEMU.
	argv = append(argv, "-drive", "if=virtio,format=qcow2,cache=unsafe,file="+quoteComma(o.Disk), "-kernel", o.Image.Kernel.Vmlinuz,
		"-initrd", o.Image.Initrd, "-append", commandLine("root=/dev/vda rw fsck.mode=skip systemd.show_status=false", o.Append))
	dir, err := os.MkdirTemp("", "vmtest-")
	if err != nil {
		return nil, err
	}
	g := newGuest(o.Image.Kernel, dir)
	g.poweroffLimit = servicesLimit
	g.image = &o
	if err := g.start(qemu, append(argv, o.Arguments...)); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if err := g.up(ctx); err != nil {
		return nil, err
	}
	return g, nil
}

// Reboot ends the machine, unless it has ended, and starts it again from its disk: the machine that then runs is another Guest. What is
// wrong with the end of the old one is an error.
func (g *Guest) Reboot(ctx context.Context, more string) (*Guest, error) {
	if g.image == nil {
		return nil, errors.New("boot again: the machine has no disk: only one of BootImage's can")
	}
	if err := errors.Join(g.Close(), g.Err()); err != nil {
		return nil, err
	}
	o := *g.image
	o.Append = more
	return BootImage(ctx, o)
}

// Cut ends the machine as a power cut does. Close and Err take it for no failure.
func (g *Guest) Cut() {
	g.ends()
	g.kill()
	g.closeOnce.Do(func() {})
}

// WaitOff waits until the machine has stopped, or begun to boot again, because a program in it said so. Close and Err take it for no failure.
func (g *Guest) WaitOff(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, g.poweroffLimit, fmt.Errorf("it did not stop within %v", g.poweroffLimit))
	defer cancel()
	select {
	case <-g.exited:
		g.ends()
		g.closeOnce.Do(func() {})
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the machine to stop: %w\n%s", context.Cause(ctx), g.console.tail())
	}
}

// ends notes that the machine's end is wanted.
func (g *Guest) ends() {
	g.mu.Lock()
	g.closing = true
	g.mu.Unlock()
}

// quoteShell quotes a word for sh.
func quoteShell(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
