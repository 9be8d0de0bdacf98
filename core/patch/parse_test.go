package patch

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	git := `From 0123456789abcdef Mon Sep 17 00:00:00 2001
From: Somebody <somebody@example.org>
Subject: [PATCH v2 1/3] mm: a title that is folded
 over two lines

Text.
---
 mm/a.c | 3 ++-
diff --git a/mm/a.c b/mm/a.c
index 1111111..2222222 100644
--- a/mm/a.c
+++ b/mm/a.c
@@ -1,3 +1,4 @@ int f(void)
 one

-three
+Three
+four
@@ -10 +11,0 @@
-ten
diff --git a/mm/new.c b/mm/new.c
new file mode 100644
index 0000000..3333333
--- /dev/null
+++ b/mm/new.c
@@ -0,0 +1,2 @@
+a
+b
\ No newline at end of file
diff --git a/mm/gone.h b/mm/gone.h
deleted file mode 100644
--- a/mm/gone.h
+++ /dev/null
@@ -1 +0,0 @@
-x
diff --git a/mm/from.c b/mm/to.c
similarity index 90%
rename from mm/from.c
rename to mm/to.c
--- a/mm/from.c
+++ b/mm/to.c
@@ -1,2 +1,2 @@
-x
+y
 z
diff --git a/mm/moved.c b/mm/there.c
similarity index 100%
rename from mm/moved.c
rename to mm/there.c
diff --git a/mm/run.sh b/mm/run.sh
old mode 100644
new mode 100755
-- 
2.39.2
`
	p, err := Parse([]byte(git))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Subject(), "mm: a title that is folded over two lines"; got != want {
		t.Errorf("Subject() = %q, want %q", got, want)
	}
	type file struct {
		Old, New, Path string
		Added, Removed int
		Hunks          int
	}
	var got []file
	for _, f := range p.Files {
		got = append(got, file{f.Old, f.New, f.Path(), f.Added, f.Removed, len(f.Hunks)})
	}
	want := []file{
		{"mm/a.c", "mm/a.c", "mm/a.c", 2, 2, 2},
		{"", "mm/new.c", "mm/new.c", 2, 0, 1},
		{"mm/gone.h", "", "mm/gone.h", 0, 1, 1},
		{"mm/from.c", "mm/to.c", "mm/to.c", 1, 1, 1},
		{"mm/moved.c", "mm/there.c", "mm/there.c", 0, 0, 0},
		{"mm/run.sh", "mm/run.sh", "mm/run.sh", 0, 0, 0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	wantHunk := &Hunk{Number: 1, OldStart: 1, OldLines: 3, NewStart: 1, NewLines: 4, PatchLine: 13, Lines: []Line{
		{Context, "one\n"}, {Context, "\n"}, {Remove, "three\n"}, {Add, "Three\n"}, {Add, "four\n"},
	}}
	if diff := cmp.Diff(wantHunk, p.Files[0].Hunks[0]); diff != "" {
		t.Errorf("hunk (-want +got):\n%s", diff)
	}
	if got := p.Files[1].Hunks[0].Lines[1].Text; got != "b" {
		t.Errorf("last line of a file without newline = %q, want %q", got, "b")
	}
	if diff := cmp.Diff(p, p.Reverse().Reverse()); diff != "" {
		t.Errorf("reversed twice (-want +got):\n%s", diff)
	}
}

func TestParsePlain(t *testing.T) {
	for _, tt := range []struct{ name, header, old, new string }{
		{"times", "--- linux-6.1.orig/mm/a.c\t2024-01-01 10:00:00.000000000 +0100\n+++ linux-6.1/mm/a.c\t2024-01-02 10:00:00.000000000 +0100\n@@ -1 +1 @@\n-a\n+b\n", "mm/a.c", "mm/a.c"},
		{"new by time", "--- a/mm/a.c\t1970-01-01 01:00:00.000000000 +0100\n+++ b/mm/a.c\t2024-01-02 10:00:00.000000000 +0100\n@@ -0,0 +1 @@\n+b\n", "", "mm/a.c"},
		{"backup", "--- a/mm/a.c.orig\n+++ a/mm/a.c\n@@ -1 +1 @@\n-a\n+b\n", "mm/a.c", "mm/a.c"},
		{"quoted", "--- \"a/mm/\\303\\244.c\"\n+++ \"b/mm/\\303\\244.c\"\n@@ -1 +1 @@\n-a\n+b\n", "mm/ä.c", "mm/ä.c"},
		{"no newline in the patch", "--- a/mm/a.c\n+++ b/mm/a.c\n@@ -1 +1 @@\n-a\n+b", "mm/a.c", "mm/a.c"},
		{"carriage returns in the header", "--- a/mm/a.c\r\n+++ b/mm/a.c\r\n@@ -1 +1 @@\r\n-a\n+b\n", "mm/a.c", "mm/a.c"},
	} {
		p, err := Parse([]byte(tt.header))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if f := p.Files[0]; len(p.Files) != 1 || f.Old != tt.old || f.New != tt.new || len(f.Hunks) != 1 {
			t.Errorf("%s: file %q -> %q with %d hunks, want %q -> %q with 1", tt.name, f.Old, f.New, len(f.Hunks), tt.old, tt.new)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const names = "--- a/mm/a.c\n+++ b/mm/a.c\n"
	for _, tt := range []struct{ name, patch, want string }{
		{"nothing", "", "no unified diff"},
		{"text", "hello\n", "no unified diff"},
		{"context diff", "*** a/mm/a.c\n--- b/mm/a.c\n***************\n*** 1 ****\n! a\n--- 1 ----\n! b\n", "no unified diff"},
		{"absolute", "--- /etc/passwd\n+++ /etc/passwd\n@@ -1 +1 @@\n-a\n+b\n", "line 1: path \"/etc/passwd\""},
		{"dots", "--- a/mm/../../x.c\n+++ b/mm/../../x.c\n@@ -1 +1 @@\n-a\n+b\n", "does not name a file inside the source"},
		{"new dots", "--- /dev/null\n+++ b/../x.c\n@@ -0,0 +1 @@\n+b\n", "line 2: path \"b/../x.c\""},
		{"rename dots", "diff --git a/x.c b/y.c\nrename from x.c\nrename to ../y.c\n", "line 3: path \"../y.c\""},
		{"no folder", "--- a.c\n+++ a.c\n@@ -1 +1 @@\n-a\n+b\n", "must begin with one folder"},
		{"double nothing", "--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n", "neither before nor after"},
		{"rename without header", "--- a/x.c\n+++ b/y.c\n@@ -1 +1 @@\n-a\n+b\n", "renames x.c to y.c"},
		{"git names differ", "diff --git a/x.c b/x.c\n--- a/x.c\n+++ b/y.c\n@@ -1 +1 @@\n-a\n+b\n", "not those of the git header"},
		{"copy", "diff --git a/x.c b/y.c\ncopy from x.c\ncopy to y.c\n", "copies of files are not supported"},
		{"binary", "diff --git a/x.bin b/x.bin\nindex 1..2\nGIT binary patch\nliteral 1\nIcmZ\n", "binary patches"},
		{"binary by diff", "Binary files a/x.o and b/x.o differ\n", "binary patches"},
		{"no hunk", names + "text\n", "no hunk follows"},
		{"hunk first", "@@ -1 +1 @@\n-a\n+b\n", "line 1: a hunk before the names"},
		{"bad header", names + "@@ -1,x +1 @@\n-a\n+b\n", "bad hunk header"},
		{"negative", names + "@@ -1,-3 +1 @@\n-a\n+b\n", "bad hunk header"},
		{"zero line", names + "@@ -0,1 +1 @@\n-a\n+b\n", "bad hunk header"},
		{"cut", names + "@@ -1,3 +1,3 @@\n a\n-b\n", "hunk 1 of mm/a.c ends early: 1 old and 2 new lines"},
		{"cut by next", names + "@@ -1,3 +1,3 @@\n a\n-b\n+c\n@@ -9 +9 @@\n-a\n+b\n", "neither context nor change"},
		{"too many", names + "@@ -1,2 +1,2 @@\n a\n-b\n+c\n d\n", "counts fewer lines than it has"},
		{"too many old", names + "@@ -1,1 +1,2 @@\n-a\n-b\n+c\n+d\n", "counts fewer lines than it has"},
		{"no change", names + "@@ -1,2 +1,2 @@\n a\n b\n", "changes nothing"},
		{"mark first", names + "@@ -1 +1 @@\n\\ No newline at end of file\n-a\n+b\n", "no line is before the mark"},
		{"new with old", "--- /dev/null\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n", "hunk of a new file has old lines"},
		{"new twice", "--- /dev/null\n+++ b/x.c\n@@ -0,0 +1 @@\n+a\n@@ -0,0 +2 @@\n+b\n", "has 2 hunks, want 1"},
	} {
		_, err := Parse([]byte(tt.patch))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Parse gives error %v, want %q", tt.name, err, tt.want)
		}
	}
	if _, err := Parse([]byte("GIT binary patch\n")); !errors.Is(err, ErrBinary) {
		t.Errorf("Parse of a binary patch gives %v, want %v", err, ErrBinary)
	}
}

func TestSubject(t *testing.T) {
	for _, tt := range []struct{ header, want string }{
		{"", ""},
		{"Subject: [PATCH 6.1 001/100] [net] fix it\n", "fix it"},
		{"commit 0123\nAuthor: A <a@b>\nDate: now\n\n    net: fix it\n\n    text\n", "net: fix it"},
		{"Fix it\n", "Fix it"},
	} {
		if got := (&Patch{Header: tt.header}).Subject(); got != tt.want {
			t.Errorf("Subject of %q = %q, want %q", tt.header, got, tt.want)
		}
	}
}

func TestClassify(t *testing.T) {
	for _, tt := range []struct {
		path string
		want Class
	}{
		{"mm/mmap.c", Source},
		{"arch/x86/entry/entry_64.S", Source},
		{"arch/x86/entry/vdso/vma.c", Source},
		{"arch/x86/kernel/kgdb.c", Source},
		{"drivers/foo/Kconfig_helper.c", Source},
		{"include/linux/mm.h", Header},
		{"include/uapi/linux/bpf.h", Header},
		{"Documentation/admin-guide/kernel-parameters.txt", Ignored},
		{"Documentation/conf.py", Ignored},
		{"MAINTAINERS", Ignored},
		{"drivers/foo/README.rst", Ignored},
		{"tools/testing/selftests/net/tls.c", Ignored},
		{"samples/bpf/x.c", Ignored},
		{"tools/objtool/check.c", Refused},
		{"net/Kconfig", Refused},
		{"lib/Kconfig.debug", Refused},
		{"Makefile", Refused},
		{"scripts/Makefile.lib", Refused},
		{"Kbuild", Refused},
		{"arch/x86/Makefile", Refused},
		{"arch/x86/Makefile.um", Refused},
		{"arch/x86/entry/vdso/Makefile", Refused},
		{"arch/x86/boot/Makefile", Refused},
		{"fs/ext4/Makefile", Rules},
		{"arch/x86/Kbuild", Rules},
		{"arch/x86/kernel/vmlinux.lds.S", Refused},
		{"include/asm-generic/vmlinux.lds.h", Refused},
		{"arch/x86/boot/compressed/misc.c", Refused},
		{"arch/x86/realmode/init.c", Source},
		{"arch/x86/realmode/rm/wakemain.c", Refused},
		{"arch/x86/entry/vdso/vclock_gettime.c", Refused},
		{"arch/arm64/kernel/vdso32/note.c", Refused},
		{"lib/vdso/gettimeofday.c", Refused},
		{"arch/arm64/boot/dts/x.dts", Refused},
		{"scripts/mod/modpost.c", Refused},
		{"usr/gen_init_cpio.c", Refused},
		{"arch/x86/lib/x86-opcode-map.txt", Refused},
		{"rust/kernel/lib.rs", Refused},
		{"arch/x86/entry/syscalls/syscall_64.tbl", Refused},
	} {
		got := Classify(tt.path)
		if got.Class != tt.want {
			t.Errorf("Classify(%q) = %v, want class %v", tt.path, got, tt.want)
		}
		if (got.Reason == "") != (got.Class == Source || got.Class == Header || got.Class == Rules) {
			t.Errorf("Classify(%q) = %v: reason missing or without need", tt.path, got)
		}
	}
}

// FuzzParse parses anything. What parses survives being reversed twice, and reading what it says never leaves the source.
func FuzzParse(f *testing.F) {
	f.Add([]byte("--- a/mm/a.c\n+++ b/mm/a.c\n@@ -1,2 +1,3 @@ f\n a\n-b\n+c\n+d\n\\ No newline at end of file\n"))
	f.Add([]byte("diff --git a/x b/y\nsimilarity index 90%\nrename from x\nrename to y\n--- a/x\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n"))
	f.Add([]byte("--- /dev/null\n+++ b/new.c\n@@ -0,0 +1 @@\n+a\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		if diff := cmp.Diff(p, p.Reverse().Reverse()); diff != "" {
			t.Fatalf("reversed twice (-want +got):\n%s", diff)
		}
		source := map[string]string{}
		for _, f := range p.Files {
			Classify(f.Path())
			if f.Old != "" && len(f.Hunks) > 0 { // a source that the first hunk of each file fits
				source[f.Old] = strings.Join(f.Hunks[0].old(), "")
			}
		}
		_, err = p.Apply(func(path string) ([]byte, error) {
			if !filepath.IsLocal(path) {
				t.Fatalf("reads %q", path)
			}
			if s, ok := source[path]; ok {
				return []byte(s), nil
			}
			return nil, os.ErrNotExist
		})
		var hunk *HunkError
		if err != nil && !errors.As(err, &hunk) && !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("apply: %v", err)
		}
	})
}

func TestPaths(t *testing.T) {
	for _, x := range []struct {
		f    File
		want []string
	}{
		{File{Old: "a.c", New: "a.c"}, []string{"a.c"}}, {File{New: "a.c"}, []string{"a.c"}}, {File{Old: "a.c"}, []string{"a.c"}},
		{File{Old: "a.c", New: "b.c"}, []string{"a.c", "b.c"}},
	} {
		if got := x.f.Paths(); !slices.Equal(got, x.want) {
			t.Errorf("Paths of %q to %q = %q, want %q", x.f.Old, x.f.New, got, x.want)
		}
	}
}
