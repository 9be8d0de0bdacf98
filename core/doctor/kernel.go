package doctor

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

func user(_ context.Context, m *Machine) []Finding {
	if m.UID != 0 {
		return warning(fmt.Sprintf("user %d", m.UID), "apply and undo need root; run ksplice doctor as root, too, to have everything looked at")
	}
	return good("root")
}

// The kernels that the kernel module is made for and tested on: kmod/dkms.conf has the first as BUILD_EXCLUSIVE_KERNEL_MIN.
var (
	oldest = [2]int{6, 1}
	tested = [][2]int{{6, 1}, {6, 12}}
)

func release(_ context.Context, m *Machine) []Finding {
	v, ok := series(m.Release)
	switch {
	case !ok:
		return warning(m.Release, "the release names no version: whether it is one of those that ksplice is made for is not known")
	case v[0] < oldest[0] || v[0] == oldest[0] && v[1] < oldest[1]:
		return wrong(m.Release, fmt.Sprintf("the kernel module is made for %d.%d and later: boot such a kernel", oldest[0], oldest[1]))
	case !slices.Contains(tested, v):
		var names []string
		for _, t := range tested {
			names = append(names, fmt.Sprintf("%d.%d", t[0], t[1]))
		}
		return warning(m.Release, "ksplice is tested on "+strings.Join(names, " and ")+": try an update on a machine that may fall first")
	}
	return good(m.Release)
}

// series is the first two numbers of a release.
func series(release string) (v [2]int, ok bool) {
	f := strings.FieldsFunc(release, func(r rune) bool { return r < '0' || r > '9' })
	if len(f) < 2 || !strings.HasPrefix(release, f[0]+"."+f[1]) {
		return v, false
	}
	var errs [2]error
	v[0], errs[0] = strconv.Atoi(f[0])
	v[1], errs[1] = strconv.Atoi(f[1])
	return v, errors.Join(errs[:]...) == nil
}

// configPaths are where a kernel's configuration may be, with the release in place of %s: its own word first, then where distributions put it.
var configPaths = []string{"/proc/config.gz", "/boot/config-%s", "/lib/modules/%s/config", "/usr/lib/modules/%s/config", "/lib/modules/%s/build/.config"}

// config reads the configuration of the running kernel. A nil one means that there is none.
func (m *Machine) config() (config map[string]string, from string, err error) {
	for _, p := range configPaths {
		from = strings.ReplaceAll(p, "%s", m.Release)
		f, err := os.Open(m.path(from))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, from, err
		}
		defer f.Close()
		var r io.Reader = f
		if strings.HasSuffix(from, ".gz") {
			if r, err = gzip.NewReader(f); err != nil {
				return nil, from, fmt.Errorf("%s: %w", from, err)
			}
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, from, fmt.Errorf("%s: %w", from, err)
		}
		config = map[string]string{}
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(name, "CONFIG_") {
				config[strings.TrimPrefix(name, "CONFIG_")] = strings.Trim(value, `"`)
			}
		}
		return config, from, nil
	}
	return nil, "", nil
}

// option is something that a kernel's configuration should have, or should not.
type option struct {
	// names are alternatives: one of them is enough.
	names   []string
	without bool // should not be set
	verdict Verdict
	why     string
}

// options: what the sources say that they need (kmod/compat.h, kmod/ftrace.c, kmod/arrive.c; core/kernel; plugins/internal/kbuild).
var options = []option{
	{[]string{"MODULES"}, false, Wrong, "parts of updates are modules"},
	{[]string{"MODULE_UNLOAD"}, false, Wrong, "the kernel module holds the modules that it patches"},
	{[]string{"KALLSYMS"}, false, Wrong, "matching starts from the kernel's symbols"},
	{[]string{"KALLSYMS_ALL"}, false, Wrong, "static variables are found by their symbols"},
	{[]string{"SYSFS"}, false, Wrong, "the kernel module shows updates there"},
	{[]string{"SMP"}, false, Wrong, "the kernel module is written for it"},
	{[]string{"THREAD_INFO_IN_TASK"}, false, Wrong, "stacks are read by it"},
	{[]string{"UNWINDER_ORC"}, false, Wrong, "stacks are judged with it"},
	{[]string{"HAVE_ARCH_PREL32_RELOCATIONS"}, false, Wrong, "symbols are lent as 32-bit offsets"},
	{[]string{"LTO_CLANG", "LTO_GCC"}, true, Wrong, "code is made at the final link, and no object can be compared with it"},
	{[]string{"FUNCTION_TRACER"}, false, Warning, "functions in whose first bytes a jump label lies cannot be replaced"},
	{[]string{"DYNAMIC_FTRACE_WITH_ARGS", "DYNAMIC_FTRACE_WITH_REGS"}, false, Warning, "functions in whose first bytes a jump label lies cannot be replaced"},
	{[]string{"STATIC_USERMODEHELPER"}, true, Warning, "the kernel module cannot run ksplice when a module comes that an update waits for, unless that helper does"},
	{[]string{"PROC_KCORE"}, false, Warning, "ksplice check works with the kernel module only"},
}

func configuration(_ context.Context, m *Machine) []Finding {
	config, from, err := m.config()
	if err != nil {
		return unknown(err)
	}
	if config == nil {
		return warning("not found", "none of "+strings.ReplaceAll(strings.Join(configPaths, ", "), "%s", m.Release)+" is there: install the package that has it")
	}
	var out []Finding
	for _, o := range options {
		set := ""
		for _, n := range o.names {
			if v := config[n]; v != "" && v != "n" {
				set = "CONFIG_" + n
			}
		}
		switch {
		case o.without && set != "":
			out = append(out, Finding{o.verdict, set + " is set", o.why})
		case !o.without && set == "":
			out = append(out, Finding{o.verdict, "CONFIG_" + strings.Join(o.names, " or CONFIG_") + " is not set", o.why})
		}
	}
	if len(out) == 0 {
		return good(from)
	}
	for i := range out {
		if out[i].Verdict == Wrong {
			out[i].Do += ": boot a kernel that is built otherwise"
		}
	}
	return out
}

// addresses: /proc/kallsyms has no addresses where kernel.kptr_restrict says so (lib/vsprintf.c: restricted_pointer).
func addresses(_ context.Context, m *Machine) []Finding {
	text, ok, err := m.read("/proc/sys/kernel/kptr_restrict")
	switch {
	case err != nil:
		return unknown(err)
	case ok && text == "2":
		return wrong("hidden from everybody", "sysctl kernel.kptr_restrict=1")
	}
	return good("shown to root")
}

// loading: two switches that nobody can turn back before the next boot.
func loading(_ context.Context, m *Machine) []Finding {
	text, ok, err := m.read("/proc/sys/kernel/modules_disabled")
	switch {
	case err != nil:
		return unknown(err)
	case !ok:
		return wrong("the kernel has no modules", "parts of updates are modules: boot a kernel with CONFIG_MODULES")
	case text == "1":
		return wrong("forbidden until the next boot", "the sysctl kernel.modules_disabled is 1: find out who sets it, and load the ksplice module and updates before that")
	}
	return good("allowed")
}

// livepatches: a function that livepatch has redirected is refused.
func livepatches(_ context.Context, m *Machine) []Finding {
	entries, err := os.ReadDir(m.path("/sys/kernel/livepatch"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unknown(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if len(names) > 0 {
		return warning(strings.Join(names, ", "), "functions that these have replaced cannot be replaced a second time")
	}
	return good("none")
}
