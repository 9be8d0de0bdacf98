package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// TestManual: every visible command has a page, every flag, exit code, event and key is in one, and no hidden command is.
func TestManual(t *testing.T) {
	pages := map[string]string{}
	for _, p := range manual("1.2", "2026-01-02") {
		if _, twice := pages[p.file()]; twice {
			t.Errorf("%s is there twice", p.file())
		}
		pages[p.file()] = p.text
		if !strings.HasPrefix(p.text, ".TH ") || !strings.Contains(p.text, `"2026-01-02" "ksplice 1.2" "Ksplice"`) {
			t.Errorf("%s begins with %.80q", p.file(), p.text)
		}
	}
	has := func(page, text string) {
		t.Helper()
		if !strings.Contains(pages[page], text) {
			t.Errorf("%s does not say %q", page, text)
		}
	}
	visible(func(c *command, flags []*pflag.Flag) {
		page := "ksplice-" + c.name + ".1"
		has("ksplice.1", "\n.TP\n"+bold(c.name))
		has("ksplice.1", "\n.BR "+escapes.Replace("ksplice-"+c.name)+" (1)")
		for _, f := range flags {
			has(page, bold("--"+f.Name))
			if f.Shorthand != "" {
				has(page, bold("-"+f.Shorthand)+", "+bold("--"+f.Name))
			}
		}
	})
	for _, c := range commands() {
		if _, there := pages["ksplice-"+c.name+".1"]; there == c.hidden {
			t.Errorf("command %s is hidden: %v, and has a page: %v", c.name, c.hidden, there)
		}
	}
	for i, x := range exitMeanings { // 0 to 5, in order
		if x.code != i {
			t.Errorf("exit code %d stands in place %d", x.code, i)
		}
		has("ksplice.1", ".TP\n"+bold(strconv.Itoa(i))+"\n"+fill(x.text))
	}
	if len(exitMeanings) != exitBuild+1 {
		t.Errorf("%d exit codes are told of, want those up to %d", len(exitMeanings), exitBuild)
	}
	for _, k := range eventKinds {
		has("ksplice.1", k.id)
	}
	for _, f := range eventFields {
		has("ksplice.1", bold(f.name))
	}
	for _, k := range configKeys {
		has("ksplice-config.5", argument("["+k.table+"]"))
		has("ksplice-config.5", bold(k.key))
	}
}

// TestConfigKeys: the manual lists what the configuration takes, and nothing else; and its example is one.
func TestConfigKeys(t *testing.T) {
	var listed, taken []string
	for _, k := range configKeys {
		listed = append(listed, k.table+"."+k.key)
	}
	var walk func(prefix string, v reflect.Type)
	walk = func(prefix string, v reflect.Type) {
		switch v.Kind() {
		case reflect.Struct:
			for f := range v.Fields() {
				if !f.IsExported() {
					continue
				}
				walk(strings.TrimPrefix(prefix+"."+f.Tag.Get("toml"), "."), f.Type)
			}
		case reflect.Map:
			name := "FILE"
			if strings.HasSuffix(prefix, ".FILE") {
				name = "KEY"
			}
			walk(prefix+"."+name, v.Elem())
		default:
			taken = append(taken, prefix)
		}
	}
	walk("", reflect.TypeFor[config]())
	if d := cmp.Diff(taken, listed); d != "" {
		t.Errorf("what the configuration takes, and what is listed (-taken +listed):\n%s", d)
	}
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte(configExample), 0o644); err != nil {
		t.Fatal(err)
	}
	if c, err := readConfig(file); err != nil || len(c.Plugins.Dirs) != 1 || len(c.Plugin) != 1 {
		t.Errorf("the example: %+v, %v", c, err)
	}
}

// TestManualLint has those read the pages who will show them.
func TestManualLint(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SOURCE_DATE_EPOCH", "1764500000")
	var out strings.Builder
	if code := run(t.Context(), []string{"man", "--of", "1.2", dir}, &out, &out); code != exitOK {
		t.Fatalf("exit code %d\n%s", code, out.String())
	}
	pages, err := filepath.Glob(filepath.Join(dir, "ksplice*.[15]"))
	if err != nil || len(pages) < 3 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	for name, args := range map[string][]string{"mandoc": {"-Tlint", "-Wwarning"}, "groff": {"-ww", "-man", "-Tutf8", "-z"}} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.Command(need.Program(t, name), append(args, pages...)...).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestRoff(t *testing.T) {
	for text, want := range map[string]string{
		"a `b -c` d":     `a \fBb \-c\fR d`,
		".so x":          `\&.so x`,
		"'tis":           `\&\(aqtis`,
		`a\b ^ ~`:        `a\(rsb \(ha \(ti`,
		"one ` backtick": "one \\(ga backtick",
	} {
		if got := line(text); got != want {
			t.Errorf("line(%q) = %q, want %q", text, got, want)
		}
	}
	long := strings.Repeat("word ", 16) + ".hidden 'too"
	for l := range strings.Lines(fill(long)) {
		if len(l) > width+1 || strings.HasPrefix(l, ".") || strings.HasPrefix(l, `\(aq`) {
			t.Errorf("fill: line %q", l)
		}
	}
	if got := argument(`a "b" -c`); got != `"a \(dqb\(dq \-c"` {
		t.Errorf("argument: %s", got)
	}
}
