package patch

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

func TestStabilizeLines(t *testing.T) {
	for _, tt := range []struct{ name, pre, post, want string }{
		{"nothing", "a;\nb;\n", "a;\nb;\n", "a;\nb;\n"},
		{"same number of lines", "a;\nb;\nc;\n", "a;\nB;\nc;\n", "a;\nB;\nc;\n"},
		{"added", "a;\nb;\n", "a;\nnew;\nb;\n", "a;\nnew;\n#line 2\nb;\n"},
		{"removed", "a;\nx;\nb;\n", "a;\nb;\n", "a;\n#line 3\nb;\n"},
		{"at the start", "a;\nb;\n", "new;\na;\nb;\n", "new;\n#line 1\na;\nb;\n"},
		{"at the end", "a;\n", "a;\nnew;\n", "a;\nnew;\n"},
		{"end without newline", "a;\nb;", "a;\nnew;\nb;", "a;\nnew;\n#line 2\nb;"},
		{"carriage return", "a;\r\nb;\r\n", "a;\r\nnew;\r\nb;\r\n", "a;\r\nnew;\r\n#line 2\r\nb;\r\n"},
		{"two hunks", "a;\nb;\nc;\nd;\n", "a;\nnew;\nb;\nc;\nnewer;\nd;\n", "a;\nnew;\n#line 2\nb;\nc;\nnewer;\n#line 4\nd;\n"},
		{"arguments", "f(a,\n  b);\nc;\n", "f(new,\n  a,\n  b);\nc;\n", "f(new,\n  a,\n  b);\n#line 3\nc;\n"},
		{"call on its next line", "f\n(a);\nc;\n", "f\n\n(a);\nc;\n", "f\n\n(a);\n#line 3\nc;\n"},
		{"parenthesis in a string", "f(\"(\", ')', '\\'', \"\\\"(\");\nb;\n", "new;\nf(\"(\", ')', '\\'', \"\\\"(\");\nx;\nb;\n",
			"new;\n#line 1\nf(\"(\", ')', '\\'', \"\\\"(\");\nx;\n#line 2\nb;\n"},
		{"comment", "/* a\n b */\nc;\n", "/* a\n new\n b */\nc;\n", "/* a\n new\n b */\n#line 3\nc;\n"},
		{"line comment", "a; // (\nb;\n", "new;\na; // (\nnew;\nb;\n", "new;\n#line 1\na; // (\nnew;\n#line 2\nb;\n"},
		{"continued line comment", "// a \\\n b\nc;\n", "// a \\\n new \\\n b\nc;\n", "// a \\\n new \\\n b\n#line 3\nc;\n"},
		{"macro", "#define A \\\n\tb \\\n\tc\nd;\n", "#define A \\\n\tnew \\\n\tb \\\n\tc\nd;\n", "#define A \\\n\tnew \\\n\tb \\\n\tc\n#line 4\nd;\n"},
		{"macro with a parenthesis", "#define A f(\nb;\n", "#define A g(f(\nnew;\nb;\n", "#define A g(f(\nnew;\n#line 2\nb;\n"},
		{"comment behind a directive", "#define A /* x\n y */ (\nb;\n", "#define A /* x\n new\n y */ (\nb;\n", "#define A /* x\n new\n y */ (\n#line 3\nb;\n"},
		{"group", "a;\n#if X\nb;\nc;\n#endif\nd;\ne;\n", "a;\n#if X\nnew;\nb;\nc;\n#endif\nd;\ne;\n",
			"a;\n#if X\nnew;\n#line 3\nb;\nc;\n#endif\n#line 6\nd;\ne;\n"},
		{"branches", "#ifdef X\nb;\n#elif Y\nc;\n#else\nd;\n#endif\ne;\n", "#ifdef X\nnew;\nb;\n#elif Y\nc;\n#else\nd;\n#endif\ne;\n",
			"#ifdef X\nnew;\n#line 2\nb;\n#elif Y\n#line 4\nc;\n#else\n#line 6\nd;\n#endif\n#line 8\ne;\n"},
		{"nested groups", "#if X\n#if Y\nb;\n#endif\nc;\n#endif\nd;\n", "#if X\n#if Y\nnew;\nb;\n#endif\nc;\n#endif\nd;\n",
			"#if X\n#if Y\nnew;\n#line 3\nb;\n#endif\n#line 5\nc;\n#endif\n#line 7\nd;\n"},
		{"change before a group", "a;\n#if X\nb;\n#endif\nc;\n", "a;\nnew;\n#if X\nb;\n#endif\nc;\n", "a;\nnew;\n#line 2\n#if X\nb;\n#endif\nc;\n"},
		{"group in arguments", "f(\n#if X\na,\n#else\nb,\n#endif\nc);\nd;\n", "f(\n#if X\na, new,\nnew,\n#else\nb,\n#endif\nc);\nd;\n",
			"f(\n#if X\na, new,\nnew,\n#else\nb,\n#endif\nc);\n#line 8\nd;\n"},
		{"a call begun in either branch", "#if X\nif (f(a,\n#else\nif (f(b,\n#endif\nc))\nd;\n", "#if X\nnew;\nif (f(a,\n#else\nif (f(b,\n#endif\nc))\nd;\n",
			"#if X\nnew;\n#line 2\nif (f(a,\n#else\n#line 4\nif (f(b,\n#endif\nc))\n#line 7\nd;\n"},
		{"apostrophe in a skipped group", "#if 0\ndon't (\n#endif\nb;\nc;\n", "#if 0\ndon't (\n#endif\nnew;\nb;\nc;\n", "#if 0\ndon't (\n#endif\nnew;\n#line 4\nb;\nc;\n"},
		{"parenthesis in a skipped group", "#if 0\nlook here (\n#endif\na;\n}\nb;\nc;\n", "#if 0\nlook here (\n#endif\nnew;\na;\n}\nb;\nc;\n",
			"#if 0\nlook here (\n#endif\nnew;\na;\n}\n#line 6\nb;\nc;\n"},
		{"body in arguments", "F(a,\n{\nb;\n}\n, c\n);\nd;\n", "F(a,\n{\nnew;\nb;\n}\n, c\n);\nd;\n", "F(a,\n{\nnew;\nb;\n}\n, c\n);\n#line 7\nd;\n"},
		{"own directives", "#line 100\na;\nb;\n", "#line 100\na;\nnew;\nb;\n", "#line 100\na;\nnew;\n#line 101\nb;\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := StabilizeLines([]byte(tt.pre), []byte(tt.post), "a.c")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestStabilizeLinesOther(t *testing.T) {
	got, err := StabilizeLines([]byte("a\nb\n"), []byte("a\nnew\nb\n"), "entry.S")
	if err != nil || string(got) != "a\nnew\nb\n" {
		t.Errorf("assembly = %q, %v, want it as it was", got, err)
	}
	got, err = StabilizeLines([]byte("a;\nb;\n"), []byte("a;\nnew;\nb;\n"), "a.h")
	if err != nil || string(got) != "a;\nnew;\n#line 2\nb;\n" {
		t.Errorf("header = %q, %v, want it stabilised", got, err)
	}
	for _, tt := range []struct{ post, want string }{
		{"a;\n/* b\n", "stabilize line numbers of a.c: line 2: the comment does not end"},
		{"#if X\n", "line 1: the conditional group does not end"},
		{"a;\n#endif\n", "line 2: #endif without #if"},
	} {
		if _, err := StabilizeLines(nil, []byte(tt.post), "a.c"); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: error %v, want %q", tt.post, err, tt.want)
		}
	}
}

// TestStabilizeCompiled compiles a file before and after a patch and compares the functions that the patch did not touch.
// They hold __LINE__ in many ways. Without #line all behind the first change would differ.
func TestStabilizeCompiled(t *testing.T) {
	need.Program(t, "gcc")
	pre, err := os.ReadFile(filepath.Join("testdata", "lines.c"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("testdata", "lines.patch"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	files, err := p.Apply(reader(map[string]string{"lines.c": string(pre)}))
	if err != nil {
		t.Fatal(err)
	}
	post := files["lines.c"]
	stable, err := StabilizeLines(pre, post, "lines.c")
	if err != nil {
		t.Fatal(err)
	}
	for _, defines := range [][]string{nil, {"-DFEATURE"}} {
		before, plain, after := functions(t, pre, defines), functions(t, post, defines), functions(t, stable, defines)
		changed := regexp.MustCompile(`^\.text\.(patched_|new_)`)
		moved := 0
		for name, code := range before {
			if changed.MatchString(name) {
				continue
			}
			if !bytes.Equal(code, plain[name]) {
				moved++
			}
			if !bytes.Equal(code, after[name]) {
				t.Errorf("%v: %s differs:\n%x\n%x", defines, name, code, after[name])
			}
		}
		if moved < 5 {
			t.Errorf("%v: only %d functions would differ without #line: the test proves nothing", defines, moved)
		}
	}
}

// functions compiles a C file and returns the code of its functions by section.
func functions(t *testing.T, source []byte, flags []string) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lines.c"), source, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("gcc", append(flags, "-c", "-O2", "-g0", "-Wall", "-Werror", "-ffunction-sections", "-o", "lines.o", "lines.c")...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s\n%s", err, out, source)
	}
	f, err := elf.Open(filepath.Join(dir, "lines.o"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	code := map[string][]byte{}
	for _, s := range f.Sections {
		if !strings.HasPrefix(s.Name, ".text.") {
			continue
		}
		if code[s.Name], err = s.Data(); err != nil {
			t.Fatal(err)
		}
	}
	return code
}

func TestAlign(t *testing.T) {
	for _, tt := range []struct {
		before, after string
		want          []int
	}{
		{"", "", []int{}},
		{"abc", "abc", []int{0, 1, 2}},
		{"", "ab", []int{-1, -1}},
		{"abc", "axc", []int{0, -1, 2}},
		{"abcabba", "cbabac", []int{2, -1, 3, 4, 6, -1}},
		{"abcd", "bcxd", []int{1, 2, -1, 3}},
	} {
		got := align(strings.Split(tt.before, ""), strings.Split(tt.after, ""))
		common := 0
		for j, i := range got {
			if i >= 0 {
				common++
				if tt.before[i] != tt.after[j] {
					t.Errorf("align(%q, %q) = %v pairs %q with %q", tt.before, tt.after, got, tt.before[i], tt.after[j])
				}
			}
		}
		want := 0
		for _, i := range tt.want {
			if i >= 0 {
				want++
			}
		}
		if common != want {
			t.Errorf("align(%q, %q) = %v, want %d lines in common as in %v", tt.before, tt.after, got, want, tt.want)
		}
	}
	// Files with more differences than are worth looking at have their ends in common only.
	var before, after []string
	for i := range 3 * maxEdits {
		before, after = append(before, fmt.Sprint("a", i)), append(after, fmt.Sprint("b", i))
	}
	before, after = append(before, "end"), append(after, "end")
	got := align(before, after)
	if got[0] != -1 || got[len(got)-1] != len(before)-1 {
		t.Errorf("align of files without likeness = %d ... %d, want -1 ... %d", got[0], got[len(got)-1], len(before)-1)
	}
}

// FuzzStabilizeLines stabilises anything: what it inserts, and nothing else, can be taken out again.
func FuzzStabilizeLines(f *testing.F) {
	f.Add([]byte("a;\n#if X\nb(\n1);\n#else\nc;\n#endif\nd;\n"), []byte("a;\n#if X\nx;\nb(\n1);\n#else\nc;\n#endif\nd;\n"))
	f.Add([]byte("/* a */ 'x' \"(\" \\\n// b\n"), []byte("\n/* a */ 'x' \"(\" \\\n// b\n"))
	f.Fuzz(func(t *testing.T, pre, post []byte) {
		got, err := StabilizeLines(pre, post, "a.c")
		if err != nil {
			return
		}
		want := splitLines(post)
		at := 0
		for _, l := range splitLines(got) {
			switch {
			case at < len(want) && l == want[at]:
				at++
			case regexp.MustCompile(`^#line [0-9]+\r?\n$`).MatchString(l):
			default:
				t.Fatalf("line %q is neither the source's nor inserted:\n%s", l, got)
			}
		}
		if at != len(want) {
			t.Fatalf("%d lines of %d are left:\n%s", at, len(want), got)
		}
	})
}
