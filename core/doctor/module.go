package doctor

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/ksplice/ksplice/core/engine"
)

// headersPackages says what the headers are called where.
const headersPackages = "install linux-headers-%[1]s (Fedora, RHEL: kernel-devel-%[1]s)"

func headers(_ context.Context, m *Machine) []Finding {
	if m.exists("/lib/modules/" + m.Release + "/build/Makefile") {
		return good("/lib/modules/" + m.Release + "/build")
	}
	do := fmt.Sprintf(headersPackages, m.Release)
	if m.loaded() || m.moduleFile() != "" {
		return warning("missing", do+" before the ksplice module has to be built again")
	}
	return wrong("missing", do+": the ksplice module is built with them")
}

func (m *Machine) loaded() bool { return m.exists(engine.SysfsPath) }

// moduleInfo is what a module's file says of itself.
type moduleInfo struct {
	vermagic, version string
	signed            bool
}

// ours is the module's line in modules.dep, compressed or not.
var ours = regexp.MustCompile(`(?m)^([^:\n]*/ksplice\.ko(?:\.gz|\.xz|\.zst)?):`)

// moduleFile is where modprobe finds the module for the running kernel: in modules.dep, which depmod writes. Empty: nowhere.
func (m *Machine) moduleFile() string {
	dir := "/lib/modules/" + m.Release
	text, _, err := m.read(dir + "/modules.dep")
	found := ours.FindStringSubmatch(text)
	if err != nil || found == nil {
		return ""
	}
	if path.IsAbs(found[1]) {
		return found[1]
	}
	return path.Join(dir, found[1])
}

// signatureMark ends a signed module (include/linux/module_signature.h, MODULE_SIG_STRING).
const signatureMark = "~Module signature appended~\n"

// largestModule bounds what is read of a module, in bytes.
const largestModule = 64 << 20

func (m *Machine) moduleInfo(file string) (*moduleInfo, error) {
	f, err := os.Open(m.path(file))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch path.Ext(file) {
	case ".gz":
		r, err = gzip.NewReader(f)
	case ".xz":
		r, err = xz.NewReader(f)
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(f); err == nil {
			defer d.Close()
			r = d
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	b, err := io.ReadAll(io.LimitReader(r, largestModule))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	info := &moduleInfo{signed: bytes.HasSuffix(b, []byte(signatureMark))}
	text, err := modinfo(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for field := range bytes.SplitSeq(text, []byte{0}) {
		switch key, value, _ := strings.Cut(string(field), "="); key {
		case "vermagic":
			info.vermagic = value
		case "version":
			info.version = value
		}
	}
	return info, nil
}

// modinfo is the section .modinfo of a module: KEY=VALUE, each with a NUL behind it. debug/elf may panic on what is no ELF file.
func modinfo(b []byte) (text []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("no module: %v", r)
		}
	}()
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no module: it has no section .modinfo")
	}
	return s.Data()
}

func module(_ context.Context, m *Machine) []Finding {
	if m.loaded() {
		version, _, err := m.read("/sys/module/ksplice/version")
		if err != nil {
			return unknown(err)
		}
		if m.UID != 0 {
			return good("loaded, version " + version)
		}
		if err := m.Device(); err != nil {
			return wrong("loaded, version "+version, err.Error())
		}
		return good("loaded, version " + version + ", and speaks with this ksplice")
	}
	file := m.moduleFile()
	if file == "" {
		return wrong("not built for this kernel", "build it: dkms install ksplice/VERSION, or make kmod and insmod kmod/ksplice.ko, in the sources of ksplice")
	}
	info, err := m.moduleInfo(file)
	if err != nil {
		return wrong(err.Error(), "build it again: dkms install --force ksplice/VERSION")
	}
	if built, _, _ := strings.Cut(info.vermagic, " "); built != m.Release {
		return wrong(fmt.Sprintf("%s is for %s", file, built), "build it for the running kernel: dkms install ksplice/VERSION")
	}
	return wrong("not loaded; "+file+" has version "+info.version, "modprobe ksplice")
}

// lockdownMode is the kernel's: none, integrity or confidentiality; empty where it has no lockdown, or securityfs is not mounted.
func (m *Machine) lockdownMode() (string, error) {
	text, _, err := m.read("/sys/kernel/security/lockdown")
	if err != nil {
		return "", err
	}
	for word := range strings.FieldsSeq(text) {
		if strings.HasPrefix(word, "[") {
			return strings.Trim(word, "[]"), nil
		}
	}
	return "", nil
}

// lockdown: from integrity on modules must be signed, and neither state transfers nor changed initialisers are written; under confidentiality nobody
// may read the kernel's memory (kmod/device.c, security/lockdown).
func lockdown(_ context.Context, m *Machine) []Finding {
	switch mode, err := m.lockdownMode(); {
	case err != nil:
		return unknown(err)
	case mode == "confidentiality":
		return wrong(mode, "the kernel's memory cannot be read, so that no update can be matched: boot with lockdown=integrity")
	case mode == "integrity":
		return warning(mode, "only updates whose parts are signed by a key that the kernel trusts can be applied, and none that transfers state or changes initial values of data")
	case mode == "":
		return good("none")
	default:
		return good(mode)
	}
}

// secureVariable is the firmware's: four bytes of attributes, then 1 where Secure Boot is on (UEFI specification, section 3.3).
const secureVariable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

func secureBoot(_ context.Context, m *Machine) []Finding {
	b, err := os.ReadFile(m.path(secureVariable))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return good("no")
	case err != nil:
		return unknown(err)
	case len(b) != 5 || b[4] != 1:
		return good("off")
	}
	return good("on")
}

// enforced says why the kernel takes signed modules only; empty where it takes others.
func (m *Machine) enforced() (string, error) {
	mode, err := m.lockdownMode()
	if err != nil {
		return "", err
	}
	if mode == "integrity" || mode == "confidentiality" {
		return "lockdown", nil
	}
	text, _, err := m.read("/sys/module/module/parameters/sig_enforce")
	if err != nil {
		return "", err
	}
	if text == "Y" {
		return "module.sig_enforce", nil
	}
	return "", nil
}

func signature(_ context.Context, m *Machine) []Finding {
	why, err := m.enforced()
	if err != nil {
		return unknown(err)
	}
	if why == "" {
		return good("not asked for")
	}
	file := m.moduleFile()
	switch {
	case m.loaded():
		return good("asked for by " + why + ", and the ksplice module is loaded")
	case file == "":
		return nil // which is told
	}
	info, err := m.moduleInfo(file)
	if err != nil {
		return nil // which is told
	}
	if !info.signed {
		return wrong("asked for by "+why+"; "+file+" has none", "have dkms sign what it builds (mok_signing_key in /etc/dkms/framework.conf), and enrol that key: mokutil --import")
	}
	return good("asked for by " + why + "; " + file + " has one")
}
