package kernel

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/engine"
)

// LiveOptions say how to see the running kernel.
type LiveOptions struct {
	// Memory is the kernel's memory; nil: /proc/kcore.
	Memory Memory
	// Through are IDs of applied updates that are looked through: the kernel is shown as if they had redirected nothing.
	Through []string
	// Coming is a module that counts although it is not live yet: its init waits for us.
	Coming string
}

// Live opens the running kernel. The symbols and modules are those of this moment.
func Live(options LiveOptions) (*Kernel, error) { return liveAt("", options) }

func liveAt(root string, options LiveOptions) (*Kernel, error) {
	k := &Kernel{Booted: true, live: true, root: root, Memory: options.Memory, order: binary.NativeEndian, through: options.Through, Coming: options.Coming}
	read := func(name string) (string, error) {
		b, err := os.ReadFile(k.path(name))
		if err != nil {
			return "", fmt.Errorf("read the running kernel: %w", err)
		}
		return string(b), nil
	}
	text, err := read("/proc/kallsyms")
	if err != nil {
		return nil, err
	}
	if k.Symbols, err = parseKallsyms(text); err != nil {
		return nil, err
	}
	if text, err = read("/proc/modules"); errors.Is(err, os.ErrNotExist) {
		text = "" // a kernel without CONFIG_MODULES
	} else if err != nil {
		return nil, err
	}
	if k.Modules, err = parseModules(text, options.Coming); err != nil {
		return nil, err
	}
	if k.Identity.Release, err = read("/proc/sys/kernel/osrelease"); err != nil {
		return nil, err
	}
	if k.Identity.Version, err = read("/proc/sys/kernel/version"); err != nil {
		return nil, err
	}
	k.Identity.Release, k.Identity.Version = strings.TrimSpace(k.Identity.Release), strings.TrimSpace(k.Identity.Version)
	b, err := os.ReadFile(k.path("/sys/kernel/notes"))
	if err == nil {
		list, err := notes(b, k.order)
		if err != nil {
			return nil, fmt.Errorf("/sys/kernel/notes: %w", err)
		}
		k.Identity.BuildID = buildID(list)
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the running kernel's build id: %w", err)
	}
	if err := k.openKcore(); err != nil {
		return nil, err
	}
	k.findRanges()
	k.setRanges()
	if len(k.through) > 0 {
		updates, err := engine.Updates()
		if err != nil {
			return nil, fmt.Errorf("look through applied updates: %w", err)
		}
		if k.Memory, err = lookThrough(k.Memory, updates, k.through); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// openKcore opens /proc/kcore where no other memory was given, and takes the machine from it, or from ourselves.
func (k *Kernel) openKcore() error {
	if k.Memory != nil {
		f, err := elf.Open(k.path("/proc/self/exe"))
		if err == nil {
			k.Identity.Machine = uint16(f.Machine)
			f.Close()
		}
		return k.readable()
	}
	path := k.path("/proc/kcore")
	f, err := os.Open(path)
	switch {
	case errors.Is(err, os.ErrPermission) && os.Geteuid() == 0:
		return fmt.Errorf("read the running kernel's memory: %w; the kernel's lockdown forbids it, as lockdown=confidentiality does: "+
			"with lockdown=integrity, or with none, it can be read", err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("read the running kernel's memory: %w; run as root", err)
	case err != nil:
		return fmt.Errorf("read the running kernel's memory: %w; load the ksplice module, or use a kernel "+
			"with CONFIG_PROC_KCORE", err)
	}
	c, err := readCore(f)
	if err != nil {
		f.Close()
		return fmt.Errorf("read %s: %w", path, err)
	}
	k.closers = append(k.closers, f)
	k.Memory, k.Identity.Machine = c.virtual, c.machine
	return nil
}

// readable returns an error where nobody may read the memory that was given: matching would only find that nothing is there.
func (k *Kernel) readable() error {
	s := k.Symbols.LookupIn("", "_stext")
	if len(s) != 1 {
		return nil
	}
	if err := k.Memory.ReadMemory(make([]byte, 1), s[0].Address); errors.Is(err, unix.EPERM) {
		return err
	}
	return nil
}

func (k *Kernel) path(name string) string { return filepath.Join("/", k.root, name) }

// findRanges replaces each module's range with what its struct module says, where that can be read.
func (k *Kernel) findRanges() {
	for name, m := range k.Modules {
		address, err := k.thisModule(name)
		if err != nil {
			continue
		}
		p, err := structModule(k.Memory, address)
		if err != nil {
			continue
		}
		if r := moduleRanges(p, k.order, m.Base, m.Size); r != nil {
			m.Ranges = r
			k.Modules[name] = m
		}
	}
}

// thisModule returns the address of a module's struct module.
func (k *Kernel) thisModule(module string) (uint64, error) {
	if s := k.Symbols.LookupIn(module, "__this_module"); len(s) == 1 {
		return s[0].Address, nil
	}
	a, ok, err := k.section(module, ".gnu.linkonce.this_module")
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, fmt.Errorf("module %s: its struct module is not to be found", module)
	}
	return a, nil
}

// section returns the address of a module's section; ok is false when the module has no such section. Sources:
// /sys/module/NAME/sections (kernel/module/sysfs.c: add_sect_attrs).
func (k *Kernel) section(module, name string) (address uint64, ok bool, err error) {
	if !k.live {
		return 0, false, fmt.Errorf("module %s: sections of modules are known of the running kernel only", module)
	}
	dir := k.path("/sys/module/" + module + "/sections")
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		if _, e := os.Stat(dir); e != nil {
			return 0, false, fmt.Errorf("find the sections of module %s: %w; has it been unloaded?", module, e)
		}
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("find section %s of module %s: %w", name, module, hint(err))
	}
	digits, found := strings.CutPrefix(strings.TrimSpace(string(b)), "0x")
	v, rest, isHex := cutHex(digits)
	if !found || !isHex || rest != "" {
		return 0, false, fmt.Errorf("find section %s of module %s: %q is no address: %w", name, module, b, ErrFormat)
	}
	if v == 0 {
		return 0, false, fmt.Errorf("find section %s of module %s: %w", name, module, ErrHidden)
	}
	return v, true, nil
}

// hint adds what to do to an error of a file that only root may read.
func hint(err error) error {
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w; run as root", err)
	}
	return err
}
