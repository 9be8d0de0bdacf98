package patch

import (
	"fmt"
	"strings"
	"testing"
)

// newFile is the part of a patch that brings fs/proc/new.c.
const newFile = "--- /dev/null\n+++ b/fs/proc/new.c\n@@ -0,0 +1 @@\n+int new;\n"

func TestRulesProblem(t *testing.T) {
	for _, tt := range []struct{ name, hunk, want string }{
		{"object", " a\n+obj-y += new.o\n", ""},
		{"of a composite object", " a\n+proc-y\t+= new.o other.o # both\n", ""},
		{"by configuration", " a\n+proc-$(CONFIG_PROC_SYSCTL)\t+= new.o\n", ""},
		{"old name of lists", " a\n+proc-objs := new.o\n", ""},
		{"directory", " a\n+obj-m += sub/\n", ""},
		{"in the middle of a list", " proc-y += a.o \\\n-\tb.o\n+\tb.o new.o\n", ""},
		{"line that goes on", "-proc-y += a.o\n+proc-y += a.o \\\n+\tnew.o\n", ""},
		{"behind what is not shown", "+\tnew.o\n c\n", ""},
		{"blank and comment", " a\n+\n+# new\n", ""},
		{"flags of a new file", " a\n+CFLAGS_new.o := -DDEBUG\n+KASAN_SANITIZE_new.o := n\n+CFLAGS_REMOVE_new.o = -pg\n", ""},
		{"flags of an old file", " a\n+CFLAGS_old.o := -DDEBUG\n", `line 9 of the patch, "CFLAGS_old.o := -DDEBUG": rules of the build cannot change`},
		{"flags of all files", " a\n+ccflags-y += -DDEBUG\n", `"ccflags-y += -DDEBUG"`},
		{"flags in a list", " obj-y += a.o \\\n+\t$(shell date)\n", `"$(shell date)"`},
		{"rule", " a\n+$(obj)/new.o: $(obj)/table.h\n", `"$(obj)/new.o: $(obj)/table.h"`},
		{"condition", " a\n+ifdef CONFIG_X\n", `"ifdef CONFIG_X"`},
		{"object on a line of its own", " a\n+\tnew.o\n", `"new.o"`},
		{"comment in a list", " obj-y += a.o \\\n+# new.o\n", `"# new.o"`},
		{"flags that go", " a\n-ccflags-y += -DDEBUG\n b\n", `"ccflags-y += -DDEBUG"`},
	} {
		old, added := 0, 0
		for line := range strings.Lines(tt.hunk) {
			switch line[0] {
			case ' ':
				old, added = old+1, added+1
			case '-':
				old++
			case '+':
				added++
			}
		}
		text := newFile + "--- a/fs/proc/Makefile\n+++ b/fs/proc/Makefile\n" + header(old, added) + tt.hunk
		p, err := Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got := p.RulesProblem(p.Files[1])
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: RulesProblem = %q, want %q", tt.name, got, tt.want)
		}
	}
	p, err := Parse([]byte("--- /dev/null\n+++ b/fs/new/Makefile\n@@ -0,0 +1 @@\n+ccflags-y += -DX\n--- a/fs/old/Makefile\n+++ /dev/null\n@@ -1 +0,0 @@\n-obj-y += old.o\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.RulesProblem(p.Files[0]); got != "" {
		t.Errorf("a new makefile: %q, want no problem", got)
	}
	if got := p.RulesProblem(p.Files[1]); got != "" {
		t.Errorf("a makefile that goes: %q, want no problem", got)
	}
	p.Files[1].New = "fs/old/Kbuild"
	if got := p.RulesProblem(p.Files[1]); !strings.Contains(got, "another name") {
		t.Errorf("a makefile with another name: %q", got)
	}
}

func header(old, added int) string { return fmt.Sprintf("@@ -1,%d +1,%d @@\n", old, added) }
