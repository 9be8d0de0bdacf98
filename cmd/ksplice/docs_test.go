package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

var (
	blockPattern  = regexp.MustCompile("(?ms)^```.*?^```$")
	spanPattern   = regexp.MustCompile("`([^`\n]+)`")
	linkPattern   = regexp.MustCompile(`\]\(([^)#:]+)\)`)
	flagPattern   = regexp.MustCompile(`^--([a-z][a-z-]*)`)
	targetPattern = regexp.MustCompile(`(?m)^([a-z-]+):`)
)

// TestProse looks at what no test of the kernel runs, the manual's running text: each command and target that it names is one, each option is of that command, of any
// where it stands alone, and what it links to is there.
func TestProse(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range targetPattern.FindAllStringSubmatch(string(makefile), -1) {
		targets[m[1]] = true
	}
	flags := map[string][]string{"": {}}
	visible(func(c *command, of []*pflag.Flag) {
		for _, f := range of {
			flags[c.name] = append(flags[c.name], f.Name)
			flags[""] = append(flags[""], f.Name)
		}
	})
	seen := 0
	check := func(path, text string) {
		words := strings.Fields(text)
		command := ""
		switch {
		case words[0] == "ksplice" && len(words) > 1 && words[1] != "COMMAND" && !strings.HasPrefix(words[1], "-"):
			command = words[1]
			if _, known := flags[command]; !known {
				t.Errorf("%s: `%s`: there is no command %s", path, text, command)
				return
			}
		case words[0] == "make" && len(words) > 1:
			seen++
			for _, w := range words[1:] {
				if strings.HasPrefix(w, "-") {
					break
				}
				if !strings.Contains(w, "=") && !targets[w] {
					t.Errorf("%s: `%s`: the Makefile has no %s", path, text, w)
				}
			}
			return
		case words[0] != "ksplice" && !strings.HasPrefix(words[0], "--"):
			return
		}
		seen++
		for _, w := range words {
			if m := flagPattern.FindStringSubmatch(w); m != nil && m[1] != "help" && !slices.Contains(flags[command], m[1]) {
				t.Errorf("%s: `%s`: no option --%s", path, text, m[1])
			}
		}
	}
	read := func(path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		prose := blockPattern.ReplaceAllString(string(b), "")
		for _, m := range spanPattern.FindAllStringSubmatch(prose, -1) {
			check(path, m[1])
		}
		for _, line := range strings.Split(prose, "\n") {
			if text, ok := strings.CutPrefix(line, "    make "); ok {
				text, _, _ = strings.Cut(text, "#")
				check(path, "make "+text)
			}
		}
		for _, m := range linkPattern.FindAllStringSubmatch(prose, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to what is not there: %v", path, err)
			}
		}
	}
	err = filepath.WalkDir("docs", func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			read(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	read("../../README.md")
	if seen < 10 {
		t.Errorf("%d commands are named: the pages are not read as they are written", seen)
	}
}
