package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// visible are the commands and flags that a user is to find.
func visible(each func(c *command, flags []*pflag.Flag)) {
	for _, c := range commands() {
		if c.hidden {
			continue
		}
		fs, _, _ := c.flagSet(&env{})
		var flags []*pflag.Flag
		fs.VisitAll(func(f *pflag.Flag) { flags = append(flags, f) })
		each(c, flags)
	}
}

// TestCompletionWhole: every command and flag is in every script, each with what it takes.
func TestCompletionWhole(t *testing.T) {
	bash, zsh, fish := bashCompletion(), zshCompletion(), fishCompletion()
	section := func(script, begin, end string) string {
		_, rest, found := strings.Cut(script, begin)
		if !found {
			return ""
		}
		rest, _, _ = strings.Cut(rest, end)
		return rest
	}
	visible(func(c *command, flags []*pflag.Flag) {
		b, z := section(bash, "\n\t"+c.name+")\n", "\n\t\t;;\n"), section(zsh, "\n\t\t"+c.name+")\n", "\n\t\t\t;;\n")
		for _, f := range flags {
			for shell, has := range map[string]bool{
				"bash": strings.Contains(b, "--"+f.Name+" "),
				"zsh":  strings.Contains(z, "'*--"+f.Name+"[") || strings.Contains(z, "'*--"+f.Name+"="),
				"fish": strings.Contains(fish, "'__fish_seen_subcommand_from "+c.name+"' -l "+f.Name+" "),
			} {
				if !has {
					t.Errorf("%s: %s has no --%s", shell, c.name, f.Name)
				}
			}
		}
		if !strings.Contains(zsh, "\t'"+c.name+":") || !strings.Contains(fish, " -a "+c.name+" -d ") {
			t.Errorf("zsh or fish has no command %s", c.name)
		}
	})
	for _, script := range []string{bash, zsh, fish} {
		if strings.Contains(script, "arrive") {
			t.Error("a hidden command is offered")
		}
	}
}

// atWork is a directory with files to complete, and a ksplice that tells of two updates.
func atWork(t *testing.T) (dir string, environment []string) {
	t.Helper()
	dir = t.TempDir()
	var b bytes.Buffer
	e := &env{out: &b}
	if err := e.encode([]apply.State{
		{Applied: engine.Applied{ID: "3f9c2ab1", Stage: "applied"}}, {Applied: engine.Applied{ID: "0badcafe", Stage: "applied"}},
		{Applied: engine.Applied{ID: "3f9c2ab1:8021q", Stage: "armed"}, Armed: &engine.Armed{ID: "3f9c2ab1", Module: "8021q"}},
	}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"bin/ksplice": "#!/bin/sh\n[ \"$*\" = 'status --json' ] && cat <<'END'\n" + b.String() + "END\n",
		"work/fix.ksplice": "", "work/fix.patch": "", "work/two words.ksplice": "", "work/a.o": "", "work/sub/x": ""} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "work"), append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "HOME="+dir)
}

// TestBash has a real bash complete command lines.
func TestBash(t *testing.T) {
	bash := need.Program(t, "bash")
	dir, environment := atWork(t)
	var all []string
	visible(func(c *command, _ []*pflag.Flag) { all = append(all, c.name) })
	ids := []string{"0badcafe", "3f9c2ab1"}
	for _, x := range []struct {
		words string // COMP_WORDS, as bash splits them; the last is completed
		want  []string
	}{
		{"ksplice,", append(slices.Clone(all), "help", "--help")},
		{"ksplice,und", []string{"undo"}},
		{"ksplice,help,", all},
		{"ksplice,undo,", ids},
		{"ksplice,undo,3", ids[1:]},
		{"ksplice,apply,--replace,", ids},
		{"ksplice,apply,--replace,=,0", ids[:1]},
		{"ksplice,apply,--repl", []string{"--replace"}},
		{"ksplice,apply,--attempts,", nil},
		{"ksplice,apply,", []string{"fix.ksplice", "sub", "two words.ksplice"}},
		{"ksplice,apply,--freeze,f", []string{"fix.ksplice"}},
		{"ksplice,create,--patch,fix", []string{"fix.ksplice", "fix.patch"}},
		{"ksplice,create,-p,fix.p", []string{"fix.patch"}},
		{"ksplice,create,--on,fix", []string{"fix.ksplice"}},
		{"ksplice,create,--module-source,", []string{"sub"}},
		{"ksplice,create,--cache,=,", []string{"sub"}},
		{"ksplice,diff,", []string{"a.o", "sub"}},
		{"ksplice,plugin,", []string{"list", "check", "new", "run"}},
		{"ksplice,plugin,check,fix.p", []string{"fix.patch"}},
		{"ksplice,plugin,list,", nil},
		{"ksplice,completion,z", []string{"zsh"}},
		{"ksplice,status,--pro", []string{"--prometheus"}},
		{"ksplice,status,", nil},
		{"ksplice,frobnicate,", nil},
	} {
		// The words may hold anything but a comma.
		cmd := exec.Command(bash, "--norc", "--noprofile", "-c", bashCompletion()+`
IFS=, read -ra COMP_WORDS <<<"$1"; [[ $1 == *, ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_ksplice; ((${#COMPREPLY[@]})) && printf '%s\n' "${COMPREPLY[@]}"; true`, "bash", x.words)
		cmd.Dir, cmd.Env = dir, environment
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", x.words, err, out)
		}
		var got []string
		for l := range strings.Lines(string(out)) {
			got = append(got, strings.TrimSuffix(l, "\n"))
		}
		slices.Sort(got)
		slices.Sort(x.want)
		if d := cmp.Diff(x.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", x.words, d)
		}
	}
	if out, err := exec.Command(bash, "--norc", "-c", bashCompletion()+"complete -p ksplice").CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "complete -F _ksplice ksplice" {
		t.Errorf("sourced, it says %q: %v", out, err)
	}
}

// TestBashLint has shellcheck read the script.
func TestBashLint(t *testing.T) {
	cmd := exec.Command(need.Program(t, "shellcheck"), "-")
	cmd.Stdin = strings.NewReader(bashCompletion())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestFish has a real fish complete command lines.
func TestFish(t *testing.T) {
	fish := need.Program(t, "fish")
	dir, environment := atWork(t)
	script := filepath.Join(t.TempDir(), "ksplice.fish")
	if err := os.WriteFile(script, []byte(fishCompletion()), 0o644); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string][]string{
		"ksplice und":                  {"undo"},
		"ksplice undo ":                {"0badcafe", "3f9c2ab1"},
		"ksplice apply --repl":         {"--replace"},
		"ksplice apply --replace 3":    {"3f9c2ab1"},
		"ksplice apply f":              {"fix.ksplice"},
		"ksplice plugin ":              {"check", "list", "new", "run"},
		"ksplice create --patch fix.p": {"fix.patch"},
	} {
		cmd := exec.Command(fish, "--no-config", "-c", fmt.Sprintf("source %s; complete -C %s", script, fishQuote(line)))
		cmd.Dir, cmd.Env = dir, environment
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		var got []string
		for l := range strings.Lines(string(out)) {
			word, _, _ := strings.Cut(strings.TrimSuffix(l, "\n"), "\t")
			got = append(got, word)
		}
		slices.Sort(got)
		if strings.HasSuffix(line, "f") { // it offers other files behind those that fit
			got = slices.DeleteFunc(got, func(s string) bool { return !strings.HasSuffix(s, ".ksplice") })
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", line, d)
		}
	}
}

// TestZsh has zsh read the script.
func TestZsh(t *testing.T) {
	cmd := exec.Command(need.Program(t, "zsh"), "-f", "-n", "/dev/stdin")
	cmd.Stdin = strings.NewReader(zshCompletion())
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}
