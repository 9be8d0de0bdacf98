package patch

import (
	pathpkg "path"
	"strings"
)

// Class is what a changed file means for a running kernel.
type Class int

// The classes.
const (
	// Source is C or assembly that is compiled by itself.
	Source Class = iota
	// Header is a header: what includes it is compiled.
	Header
	// Ignored is a file that changes no code of the kernel.
	Ignored
	// Rules is a makefile of a directory: it may list the objects of new files (see RulesProblem).
	Rules
	// Refused is a file whose change cannot be brought into a running kernel.
	Refused
)

// Classification is a class with the reason for it, for people; empty for Source, Header and Rules.
type Classification struct {
	Class  Class
	Reason string
}

// rule classifies the paths that it fits.
type rule struct {
	fits   func(path string) bool
	class  Class
	reason string
}

// rules are asked in order. They know the kernel's folders, not its architectures.
var rules = []rule{
	{under("Documentation", "LICENSES"), Ignored, "documentation changes no code"},
	{named("MAINTAINERS", "CREDITS", "COPYING", "README", ".gitignore", ".gitattributes", ".mailmap", ".clang-format", ".cocciconfig"), Ignored, "it changes no code"},
	{suffix(".rst", ".md"), Ignored, "documentation changes no code"},
	{under("samples"), Ignored, "samples are not part of the kernel"},
	{under("tools/objtool", "tools/bpf/resolve_btfids", "tools/build", "tools/lib", "tools/include", "tools/arch"), Refused, "it changes a tool that builds the kernel"},
	{under("tools"), Ignored, "tools for user space are not part of the kernel"},
	{prefix("Kconfig"), Refused, "the configuration of a running kernel cannot change; leave the file out if the code does not depend on it"},
	{named("Platform"), Refused, rulesStay},
	{prefix("Makefile."), Refused, rulesStay},
	{suffix(".lds", ".lds.S", ".lds.h"), Refused, "a linker script lays out the whole kernel, which is running"},
	{under("scripts"), Refused, "it changes how the kernel is built"},
	{configuring, Refused, "it configures the whole kernel: the objects must be built as the running kernel was"},
	{under("usr"), Refused, "it makes the initial file system, which has been used already"},
	{underArch("boot", "realmode/rm", "purgatory", "tools"), Refused, "it runs before the kernel or while it is built, not in it"},
	{vdso, Refused, "the vDSO is code of processes, which map it; only kernel code can be replaced"},
	{suffix(".dts", ".dtsi", ".dtso"), Refused, "a device tree is read while the machine starts"},
	{named("Makefile", "Kbuild"), Rules, ""},
	{suffix(".c", ".S"), Source, ""},
	{suffix(".h"), Header, ""},
}

const rulesStay = "rules of the build cannot change: the objects must be built as the running kernel was"

// Classify says what a change of the file at path, relative to the top of the kernel's source, means.
func Classify(path string) Classification {
	for _, r := range rules {
		if r.fits(path) {
			return Classification{r.class, r.reason}
		}
	}
	return Classification{Refused, "it is neither C, assembly nor a header, and what it changes in the kernel is unknown"}
}

// under fits files below one of the folders.
func under(folders ...string) func(string) bool {
	return func(path string) bool {
		for _, f := range folders {
			if strings.HasPrefix(path, f+"/") {
				return true
			}
		}
		return false
	}
}

// underArch fits files below one of the folders of any architecture.
func underArch(folders ...string) func(string) bool {
	return func(path string) bool {
		rest, ok := strings.CutPrefix(path, "arch/")
		_, rest, _ = strings.Cut(rest, "/")
		return ok && under(folders...)(rest)
	}
}

// named fits files by name, in any folder.
func named(names ...string) func(string) bool {
	return func(path string) bool {
		for _, n := range names {
			if pathpkg.Base(path) == n {
				return true
			}
		}
		return false
	}
}

// prefix fits files by the beginning of their name; C sources and headers are left to other rules.
func prefix(p string) func(string) bool {
	return func(path string) bool {
		base := pathpkg.Base(path)
		return strings.HasPrefix(base, p) && !suffix(".c", ".h", ".S")(base)
	}
}

// suffix fits files by the end of their name.
func suffix(ends ...string) func(string) bool {
	return func(path string) bool {
		for _, e := range ends {
			if strings.HasSuffix(path, e) {
				return true
			}
		}
		return false
	}
}

// configuring fits the makefiles that decide the flags of every unit.
func configuring(path string) bool {
	return path == "Makefile" || path == "Kbuild" || strings.HasPrefix(path, "arch/") && strings.Count(path, "/") == 2 && named("Makefile")(path)
}

// vdso fits the code that the kernel maps into processes. The files that map it and know its exception table are kernel code
// (arch/x86/entry/vdso: vma.c, extable.c, vdso32-setup.c).
func vdso(path string) bool {
	if named("vma.c", "extable.c", "vdso32-setup.c")(path) {
		return false
	}
	for _, dir := range strings.Split(pathpkg.Dir(path), "/") {
		if strings.HasPrefix(dir, "vdso") {
			return true
		}
	}
	return false
}
