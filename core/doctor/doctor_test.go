package doctor

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/machine"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/sdk/plugin"
)

const testRelease = "6.1.0-57-amd64"

// testConfig is what a distribution's kernel has of what is asked for.
const testConfig = `CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
CONFIG_MODULES=y
CONFIG_MODULE_UNLOAD=y
CONFIG_KALLSYMS=y
CONFIG_KALLSYMS_ALL=y
CONFIG_SYSFS=y
CONFIG_SMP=y
CONFIG_THREAD_INFO_IN_TASK=y
CONFIG_UNWINDER_ORC=y
CONFIG_HAVE_ARCH_PREL32_RELOCATIONS=y
CONFIG_FUNCTION_TRACER=y
CONFIG_DYNAMIC_FTRACE_WITH_ARGS=y
CONFIG_PROC_KCORE=y
# CONFIG_LTO_CLANG is not set
CONFIG_STATIC_USERMODEHELPER=n
`

// patient is a machine that is ready, which a test then changes.
type patient struct {
	*Machine
	t *testing.T
}

func (p patient) write(name, text string) {
	p.t.Helper()
	file := filepath.Join(p.Root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p patient) remove(name string) {
	p.t.Helper()
	if err := os.RemoveAll(filepath.Join(p.Root, name)); err != nil {
		p.t.Fatal(err)
	}
}

// rename has the machine run another release, with all that is there for it.
func (p patient) rename(release string) {
	p.Release = release
	p.write("/boot/config-"+release, testConfig)
	p.write("/lib/modules/"+release+"/build/Makefile", "")
}

const (
	configFile = "/boot/config-" + testRelease
	depFile    = "/lib/modules/" + testRelease + "/modules.dep"
	moduleFile = "/lib/modules/" + testRelease + "/updates/dkms/ksplice.ko"
	loadedDir  = "/sys/kernel/ksplice"
)

func healthy(t *testing.T) patient {
	p := patient{&Machine{
		Updates: Updates{Keys: []Trusted{{Name: "acme"}}}, Root: t.TempDir(), Release: testRelease, ELF: 62, Now: &machine.Machine{}, Device: func() error { return nil },
		Plugins:         []pluginhost.Found{{File: "arch-x86_64", Info: plugin.Info{Kind: plugin.KindArch, Name: "x86_64", Version: "1", Machines: []uint16{62}}}},
		Health:          func(context.Context, *pluginhost.Found) error { return nil },
		Backend:         func(context.Context) (string, error) { return "Debian 6.1.192-3 by backend debian", nil },
		CompilerVersion: func(context.Context, string) (string, error) { return "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", nil },
		Cache:           "/root/.cache/ksplice",
		Free:            func(string) (uint64, error) { return 100 << 30, nil },
	}, t}
	p.write(configFile, testConfig)
	p.write("/proc/sys/kernel/kptr_restrict", "0\n")
	p.write("/proc/sys/kernel/modules_disabled", "0\n")
	p.write("/proc/self/mountinfo", "25 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
	p.write("/lib/modules/"+testRelease+"/build/Makefile", "")
	p.write(loadedDir+"/armed", "")
	p.write("/sys/module/ksplice/version", "0.1.0\n")
	p.write("/run/x", "")
	return p
}

// ksplice is a module file as far as modinfo looks at it.
func ksplice(t *testing.T, release string) []byte {
	t.Helper()
	f := objfile.New(elf.EM_X86_64)
	f.AddSection(&objfile.Section{Name: ".modinfo", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 1, Data: []byte("license=GPL\x00version=0.1.0\x00vermagic=" + release + " SMP preempt mod_unload \x00")})
	var b bytes.Buffer
	if err := f.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestChecks: one thing is wrong with a machine at a time. A healthy one has no row that is not good.
func TestChecks(t *testing.T) {
	unloaded := func(p patient) {
		p.remove(loadedDir)
		p.write(depFile, "kernel/a.ko: kernel/ksplice.ko.dep\nupdates/dkms/ksplice.ko:\n")
		p.write(moduleFile, string(ksplice(p.t, testRelease)))
	}
	locked := func(p patient) { p.write("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n") }
	for _, x := range []struct {
		name   string
		change func(patient)
		check  string
		want   Verdict
		found  string // in what was found
		do     string // in what to do
	}{
		{"healthy", func(patient) {}, "", "", "", ""},
		{"user", func(p patient) { p.UID = 1000 }, "user", Warning, "user 1000", "root"},
		{"old", func(p patient) { p.rename("5.10.0-9-amd64") }, "kernel release", Wrong, "5.10.0", "6.1 and later"},
		{"between", func(p patient) { p.rename("6.8.0-45-generic") }, "kernel release", Warning, "6.8.0", "6.1 and 6.12"},
		{"no version", func(p patient) { p.rename("acme") }, "kernel release", Warning, "acme", "not known"},
		{"no config", func(p patient) { p.remove(configFile) }, "kernel configuration", Warning, "not found", configFile},
		{"kallsyms", func(p patient) {
			p.write(configFile, strings.ReplaceAll(testConfig, "CONFIG_KALLSYMS_ALL=y", "# CONFIG_KALLSYMS_ALL is not set"))
		}, "kernel configuration", Wrong, "CONFIG_KALLSYMS_ALL is not set", "static variables"},
		{"lto", func(p patient) { p.write(configFile, testConfig+"CONFIG_LTO_CLANG=y\n") }, "kernel configuration", Wrong, "CONFIG_LTO_CLANG is set", "final link"},
		{"regs", func(p patient) { p.write(configFile, strings.ReplaceAll(testConfig, "WITH_ARGS", "WITH_REGS")) }, "", "", "", ""},
		{"no ftrace", func(p patient) { p.write(configFile, strings.ReplaceAll(testConfig, "WITH_ARGS", "WITH_NOTHING")) }, "kernel configuration", Warning, "WITH_ARGS or CONFIG_DYNAMIC", "jump label"},
		{"config.gz", func(p patient) {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			if _, err := w.Write([]byte(strings.ReplaceAll(testConfig, "CONFIG_SMP=y", ""))); err != nil || w.Close() != nil {
				p.t.Fatal("gzip")
			}
			p.write("/proc/config.gz", b.String())
		}, "kernel configuration", Wrong, "CONFIG_SMP is not set", "otherwise"},
		{"broken config.gz", func(p patient) { p.write("/proc/config.gz", "no gzip") }, "kernel configuration", Warning, "/proc/config.gz", ""},
		{"hidden", func(p patient) { p.write("/proc/sys/kernel/kptr_restrict", "2\n") }, "kernel addresses", Wrong, "hidden", "kptr_restrict=1"},
		{"disabled", func(p patient) { p.write("/proc/sys/kernel/modules_disabled", "1\n") }, "loading modules", Wrong, "forbidden", "modules_disabled"},
		{"no modules", func(p patient) { p.remove("/proc/sys/kernel/modules_disabled") }, "loading modules", Wrong, "no modules", "CONFIG_MODULES"},
		{"livepatch", func(p patient) { p.write("/sys/kernel/livepatch/kpatch_1/enabled", "1") }, "live patches of others", Warning, "kpatch_1", "second time"},
		{"headers", func(p patient) { p.remove("/lib/modules/" + testRelease + "/build") }, "kernel headers", Warning, "missing", "linux-headers-" + testRelease},
		{"abi", func(p patient) { p.Device = func() error { return errors.New("it speaks ABI 7") } }, "ksplice module", Wrong, "loaded", "ABI 7"},
		{"not loaded", unloaded, "ksplice module", Wrong, "not loaded; " + moduleFile + " has version 0.1.0", "modprobe ksplice"},
		{"not built", func(p patient) { p.remove(loadedDir) }, "ksplice module", Wrong, "not built", "dkms"},
		{"other kernel", func(p patient) { unloaded(p); p.write(moduleFile, string(ksplice(p.t, "6.1.0-9-amd64"))) }, "ksplice module", Wrong, "is for 6.1.0-9-amd64", "dkms"},
		{"no file", func(p patient) { unloaded(p); p.remove(moduleFile) }, "ksplice module", Wrong, "no such file", "--force"},
		{"no module", func(p patient) { unloaded(p); p.write(moduleFile, "\x7fELF") }, "ksplice module", Wrong, moduleFile, "--force"},
		{"integrity", locked, "lockdown", Warning, "integrity", "signed"},
		{"confidentiality", func(p patient) { p.write("/sys/kernel/security/lockdown", "none integrity [confidentiality]\n") }, "lockdown", Wrong, "confidentiality", "lockdown=integrity"},
		{"secure boot", func(p patient) { p.write(secureVariable, "\x06\x00\x00\x00\x01") }, "secure boot", Good, "on", ""},
		{"no secure boot", func(p patient) { p.write(secureVariable, "\x06\x00\x00\x00\x00") }, "secure boot", Good, "off", ""},
		{"unsigned", func(p patient) { unloaded(p); p.write("/sys/module/module/parameters/sig_enforce", "Y\n") }, "module signature", Wrong, "asked for by module.sig_enforce", "mokutil"},
		{"machine", func(p patient) { p.ELF = 183 }, "architecture plugin", Wrong, "183", "install"},
		{"skipped", func(p patient) {
			p.Plugins = append(p.Plugins, pluginhost.Found{File: "arch-acme", Skipped: "belongs to user 1000"})
		}, "plugins", Warning, "arch-acme is not used", "user 1000"},
		{"ill", func(p patient) {
			p.Health = func(context.Context, *pluginhost.Found) error { return errors.New("install spatch") }
		}, "plugins", Warning, "arch-x86_64 is not well", "spatch"},
		{"no cgroups", func(p patient) {
			p.write("/proc/self/mountinfo", "25 1 0:22 / /sys/fs/cgroup rw - cgroup cgroup rw\n")
		}, "freezing", Warning, "no cgroup v2", "mount"},
		{"open state", func(p patient) {
			p.write("/run/ksplice/x", "")
			if err := os.Chmod(filepath.Join(p.Root, "/run/ksplice"), 0o777); err != nil {
				p.t.Fatal(err)
			}
		}, "state directory", Wrong, "0777", "chmod go-w /run/ksplice"},
		{"no run", func(p patient) { p.remove("/run") }, "state directory", Wrong, "missing", "tmpfs"},
		{"leftover", func(p patient) {
			p.Now = &machine.Machine{Updates: []apply.State{{Applied: engine.Applied{ID: "33333333", Stage: "dropped"}}}}
		}, "leftovers", Warning, "33333333: a transaction was left half-way", "clears it"},
		{"unreadable", func(p patient) { p.Now, p.NowErr = nil, os.ErrPermission }, "leftovers", Warning, "not known", "root"},
		{"backend", func(p patient) {
			p.Backend = func(context.Context) (string, error) { return "", errors.New("run apt-get update") }
		}, "backend", Wrong, "none can build", "apt-get update"},
		{"compiler", func(p patient) {
			p.CompilerVersion = func(context.Context, string) (string, error) { return "", errors.New("not found") }
		}, "compiler", Wrong, "gcc-12 is missing", "install gcc-12"},
		{"other compiler", func(p patient) {
			p.CompilerVersion = func(context.Context, string) (string, error) { return "gcc-12 (Debian 12.2.0-15) 12.2.0", nil }
		}, "compiler", Wrong, "12.2.0-15", "12.2.0-14"},
		{"tight", func(p patient) { p.Free = func(string) (uint64, error) { return 3 << 30, nil } }, "cache", Warning, "3.0 GiB", "--cache"},
		{"full", func(p patient) { p.Free = func(string) (uint64, error) { return 1 << 30, nil } }, "cache", Wrong, "1.0 GiB", "--cache"},
		{"no home", func(p patient) { p.Cache = "" }, "cache", Wrong, "no place", "$HOME"},
	} {
		t.Run(x.name, func(t *testing.T) {
			p := healthy(t)
			x.change(p)
			rows, err := Run(t.Context(), p.Machine, Checks())
			if err != nil {
				t.Fatal(err)
			}
			seen := false
			for _, r := range rows {
				switch {
				case r.Found == "" || (r.Do == "") != (r.Verdict == Good):
					t.Errorf("a row that does not say what was found, and what to do: %+v", r)
				case r.Check == x.check && r.Verdict == x.want && strings.Contains(r.Found, x.found) && strings.Contains(r.Do, x.do):
					seen = true
				case r.Check == "ksplice module" && x.check == "module signature": // one that is not loaded
				case r.Verdict != Good:
					t.Errorf("another row is not good: %+v", r)
				}
			}
			if x.check != "" && !seen {
				t.Errorf("no row %s %s with %q and %q: %+v", x.check, x.want, x.found, x.do, rows)
			}
		})
	}
}

// TestCompressed: a module is read however it is packed, and a signature behind it is seen.
func TestCompressed(t *testing.T) {
	plain := append(ksplice(t, testRelease), signatureMark...)
	pack := func(open func(io.Writer) (io.WriteCloser, error)) string {
		t.Helper()
		var b bytes.Buffer
		w, err := open(&b)
		if err == nil {
			_, err = w.Write(plain)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for ext, text := range map[string]string{
		"":     string(plain),
		".gz":  pack(func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		".xz":  pack(func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }),
		".zst": pack(func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
	} {
		p := healthy(t)
		p.remove(loadedDir)
		p.write("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
		p.write(depFile, "updates/dkms/ksplice.ko"+ext+": kernel/b.ko\n")
		p.write(moduleFile+ext, text)
		rows, err := Run(t.Context(), p.Machine, Checks())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(rows, func(r Row) bool {
			return r.Check == "module signature" && r.Verdict == Good && strings.Contains(r.Found, "ksplice.ko"+ext+" has one")
		}) || Count(rows, Apply, Wrong) != 1 {
			t.Errorf("%q: the signature is not seen, or more is wrong than that it is not loaded: %+v", ext, rows)
		}
	}
}

func TestSeries(t *testing.T) {
	for release, want := range map[string][2]int{"6.1.0-57-amd64": {6, 1}, "6.12.117+deb12-amd64": {6, 12}, "6.8.0-45-generic": {6, 8}, "7.0": {7, 0}} {
		if v, ok := series(release); !ok || v != want {
			t.Errorf("series(%s) = %v, %v", release, v, ok)
		}
	}
	for _, release := range []string{"", "acme", "6", "6-1", "a6.1", "99999999999999999999.1"} {
		if v, ok := series(release); ok {
			t.Errorf("series(%q) = %v", release, v)
		}
	}
}
