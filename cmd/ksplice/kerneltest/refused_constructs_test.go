package kerneltest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// edit is a patch of one hunk, wherever the file has what it changes.
func edit(file string, hunk string) string {
	old, added := 0, 0
	for line := range strings.Lines(hunk) {
		if line[0] != '+' {
			old++
		}
		if line[0] != '-' {
			added++
		}
	}
	return fmt.Sprintf("--- a/%s\n+++ b/%s\n@@ -7,%d +7,%d @@\n%s", file, file, old, added, hunk)
}

// fresh is a patch that brings a file.
func fresh(file, text string) string {
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	return fmt.Sprintf("--- /dev/null\n+++ b/%s\n@@ -0,0 +1,%d @@\n+%s\n", file, len(lines), strings.Join(lines, "+"))
}

// refusedConstructs makes updates of what no update can carry: the reason names the file, and says what is wrong.
func (l *lab) refusedConstructs(t *testing.T) {
	const list, end = " proc-y\t+= consoles.o\n", " proc-y\t+= cpuinfo.o\n"
	words := fresh("fs/proc/words.c", "int words(int n);\nint words(int n) { return n * 5; }\n")
	for _, c := range []struct {
		name, patch, want string
		built             bool // kbuild is asked
	}{
		{"flags", words + edit("fs/proc/Makefile", list+"+ccflags-y += -DDEBUG\n"+end), "fs/proc/Makefile: line 10 of the patch, \"ccflags-y += -DDEBUG\": rules of the build cannot change", false},
		{"an old file goes from the list", words + edit("fs/proc/Makefile", " proc-y\t+= cmdline.o\n-proc-y\t+= consoles.o\n proc-y\t+= cpuinfo.o\n"), "fs/proc/consoles.c: it is no longer built for vmlinux", true},
		{"an old file comes to the list", words + edit("fs/proc/Makefile", list+"+proc-y\t+= nommu.o\n"+end), "fs/proc/nommu.c: it would be built for vmlinux, where the running kernel does not have it", true},
		{"a new module", words + edit("fs/proc/Makefile", list+"+obj-m\t+= words.o\n"+end), "fs/proc/words.c: it would make a new module words", true},
		{"nobody calls it", words + edit("fs/proc/Makefile", list+"+proc-y\t+= words.o\n"+end), "nothing in it would call what is new (words)", true},
		{"no makefile", words, "this kernel builds nothing of what it touches (fs/proc/words.c)", true},
		{"a second makefile", fresh("fs/proc/Kbuild", "obj-y := words.o\n") + words, "fs/proc/Kbuild: the directory has fs/proc/Makefile already", false},
		{"the configuration of everything", edit("Makefile", " a\n+b\n"), "Makefile: it configures the whole kernel", false},
		{"a linker script", edit("arch/x86/kernel/vmlinux.lds.S", " a\n+b\n"), "arch/x86/kernel/vmlinux.lds.S: a linker script lays out the whole kernel", false},
		{"the vDSO", edit("arch/x86/entry/vdso/vclock_gettime.c", " a\n+b\n"), "arch/x86/entry/vdso/vclock_gettime.c: the vDSO is code of processes", false},
		{"boot code", edit("arch/x86/boot/main.c", " a\n+b\n"), "arch/x86/boot/main.c: it runs before the kernel", false},
		{"a signature of an export", edit("lib/crc7.c", "-u8 crc7_be(u8 crc, const u8 *buffer, size_t len)\n+int crc7_be(u8 crc, const u8 *buffer, size_t len)\n {\n") +
			edit("include/linux/crc7.h", "-extern u8 crc7_be(u8 crc, const u8 *buffer, size_t len);\n+extern int crc7_be(u8 crc, const u8 *buffer, size_t len);\n"),
			"lib/crc7.o: the exported function crc7_be is called otherwise", true},
	} {
		if c.built && !l.turn("6.12") {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			patch := filepath.Join(l.share, "refused.patch")
			if err := os.WriteFile(patch, []byte(c.patch), 0o644); err != nil {
				t.Fatal(err)
			}
			out, errs, exit := l.host(t, "create", "--patch", patch, "--kernel", l.kernel.Release, "-o", filepath.Join(l.share, "refused.ksplice"))
			if exit != exitRefused || !strings.Contains(errs, c.want) {
				t.Errorf("create: exit code %d, want %d and %q\n%s%s", exit, exitRefused, c.want, out, errs)
			}
		})
	}
}
