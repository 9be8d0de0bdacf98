package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

func completionCommand() *command {
	return &command{
		name: "completion", args: "bash | zsh | fish", summary: "print a completion script for a shell",
		help: `Prints what has the shell complete commands, flags, files, and the IDs of updates where it runs as root. make install puts the scripts
where the shells of distributions look for them.`,
		example: "ksplice completion bash > /etc/bash_completion.d/ksplice",
		run: func(_ context.Context, e *env, args []string) error {
			shell, err := one(args, "shell")
			if err != nil {
				return err
			}
			var script string
			switch shell {
			case "bash":
				script = bashCompletion()
			case "zsh":
				script = zshCompletion()
			case "fish":
				script = fishCompletion()
			default:
				return usagef("%q is none of the shells bash, zsh and fish", shell)
			}
			_, err = io.WriteString(e.out, script)
			return err
		},
	}
}

// kind is what a value or an argument is, as far as a shell can offer some.
type kind string

const (
	kindNone   kind = "none"   // nothing to offer
	kindFile   kind = "file"   // any file
	kindDir    kind = "dir"    // a directory
	kindUpdate kind = "update" // an update's file
	kindObject kind = "object" // an object file
	kindID     kind = "id"     // the ID of an update that is applied or armed
)

// kinds says what the names of values and arguments in --help stand for. Others have nothing to offer.
var kinds = map[string]kind{"FILE": kindFile, "BINARY": kindFile, "HEADER": kindNone, "DIRECTORY": kindDir, "DIR": kindDir, "ID": kindID, "UPDATE": kindUpdate,
	"PRE.o": kindObject, "POST.o": kindObject, "[OBJECT...]": kindObject}

// updateFlags take the file of an update.
var updateFlags = []string{"on", "update"}

// completable is a command as completion scripts see it.
type completable struct {
	name, summary string
	flags         []completableFlag
	// words are what may come first: subcommands; kinds is what comes then, where words[0] has kinds[words[0]], or what comes at once, under "".
	words []string
	kinds map[string]kind
}

type completableFlag struct {
	long, short, text string
	takes             bool // a value, which stands behind it
	optional          bool // a value only with = between
	kind              kind
	value             string // the value's name
}

// aWord is a subcommand in a command's arguments, as opposed to a name for what stands there.
var aWord = regexp.MustCompile(`^[a-z]+$`)

// completables are the visible commands.
func completables() []completable {
	var out []completable
	for _, c := range commands() {
		if c.hidden {
			continue
		}
		x := completable{name: c.name, summary: c.summary, kinds: map[string]kind{}}
		for _, form := range c.forms() {
			words := strings.Fields(form)
			sub := ""
			if len(words) > 0 && aWord.MatchString(words[0]) {
				sub, words = words[0], words[1:]
				x.words = append(x.words, sub)
			}
			x.kinds[sub] = kindNone
			for _, w := range words {
				k := kinds[w]
				if w == "FILE" {
					k = kindUpdate // of a command, it is an update's
				}
				if k != "" && k != kindNone {
					x.kinds[sub] = k
				}
			}
		}
		fs, _, _ := c.flagSet(&env{})
		fs.VisitAll(func(f *pflag.Flag) {
			if f.Hidden {
				return
			}
			value, text := pflag.UnquoteUsage(f)
			y := completableFlag{long: f.Name, short: f.Shorthand, text: text, takes: f.NoOptDefVal == "", optional: f.NoOptDefVal != "" && f.Value.Type() == "string", kind: kindNone, value: value}
			if k, ok := kinds[value]; ok && y.takes {
				y.kind = k
			}
			if slices.Contains(updateFlags, f.Name) {
				y.kind = kindUpdate
			}
			x.flags = append(x.flags, y)
		})
		out = append(out, x)
	}
	return out
}

// quote makes one word of a shell's of any text.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// idCommand prints the IDs that undo takes. It says nothing where it may not know them.
const idCommand = `ksplice status --json 2>/dev/null | sed -n 's/^    "id": "\([0-9a-f]*\).*/\1/p' | sort -u`

// bashKinds are what offers what begins with $cur.
var bashKinds = map[kind]string{
	kindNone:   ":",
	kindFile:   `_ksplice_files '*'`,
	kindDir:    `compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur")`,
	kindUpdate: `_ksplice_files '*.ksplice'`,
	kindObject: `_ksplice_files '*.o'`,
	kindID:     `mapfile -t COMPREPLY < <(compgen -W "$(` + idCommand + `)" -- "$cur")`,
}

func bashCompletion() string {
	var b strings.Builder
	b.WriteString(`# bash completion for ksplice
# shellcheck shell=bash

# Directories, and files that match a pattern.
_ksplice_files() {
	compopt -o filenames 2>/dev/null
	mapfile -t COMPREPLY < <(compgen -d -- "$cur"; compgen -f -X "!$1" -- "$cur" | while IFS= read -r f; do [[ -d $f ]] || printf '%s\n' "$f"; done)
}

_ksplice() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]} i sub=
	COMPREPLY=()
	# --flag=value comes as three words.
	if [[ $cur == = ]]; then
		cur=
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	if ((COMP_CWORD == 1)); then
`)
	list := completables()
	var names []string
	for _, c := range list {
		names = append(names, c.name)
	}
	fmt.Fprintf(&b, "\t\tmapfile -t COMPREPLY < <(compgen -W %s -- \"$cur\")\n\t\treturn\n\tfi\n\tcase $command in\n", quote(strings.Join(append(names, "help", "--help"), " ")))
	for _, c := range list {
		fmt.Fprintf(&b, "\t%s)\n", c.name)
		fmt.Fprintf(&b, "\t\tcase $prev in\n")
		var flags []string
		for _, f := range c.flags {
			flags = append(flags, "--"+f.long)
			pattern := "--" + f.long
			if f.short != "" {
				flags = append(flags, "-"+f.short)
				pattern += " | -" + f.short
			}
			if f.takes {
				fmt.Fprintf(&b, "\t\t%s)\n\t\t\t%s\n\t\t\treturn\n\t\t\t;;\n", pattern, bashKinds[f.kind])
			}
		}
		fmt.Fprintf(&b, "\t\tesac\n\t\tif [[ $cur == -* ]]; then\n\t\t\tmapfile -t COMPREPLY < <(compgen -W %s -- \"$cur\")\n\t\t\treturn\n\t\tfi\n", quote(strings.Join(flags, " ")))
		if len(c.words) > 0 {
			fmt.Fprintf(&b, "\t\tfor ((i = 2; i < COMP_CWORD; i++)); do\n\t\t\tcase ${COMP_WORDS[i]} in %s) sub=${COMP_WORDS[i]} ;; esac\n\t\tdone\n", strings.Join(c.words, " | "))
			fmt.Fprintf(&b, "\t\tcase $sub in\n\t\t'') mapfile -t COMPREPLY < <(compgen -W %s -- \"$cur\") ;;\n", quote(strings.Join(c.words, " ")))
			for _, w := range c.words {
				fmt.Fprintf(&b, "\t\t%s) %s ;;\n", w, bashKinds[c.kinds[w]])
			}
			b.WriteString("\t\tesac\n")
		} else {
			fmt.Fprintf(&b, "\t\t%s\n", bashKinds[c.kinds[""]])
		}
		b.WriteString("\t\t;;\n")
	}
	fmt.Fprintf(&b, "\thelp)\n\t\tmapfile -t COMPREPLY < <(compgen -W %s -- \"$cur\")\n\t\t;;\n\tesac\n}\n\ncomplete -F _ksplice ksplice\n", quote(strings.Join(names, " ")))
	return b.String()
}

// zshKinds are actions of _arguments.
var zshKinds = map[kind]string{kindNone: " ", kindFile: "_files", kindDir: "_files -/", kindUpdate: `_files -g "*.ksplice(-.)"`, kindObject: `_files -g "*.o(-.)"`, kindID: "_ksplice_ids"}

// zshText escapes what stands in a specification of _arguments.
var zshText = strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, ":", `\:`)

func zshCompletion() string {
	var b strings.Builder
	b.WriteString("#compdef ksplice\n\n_ksplice_ids() {\n\tlocal -a ids\n\tids=(${(f)\"$(" + idCommand + ")\"})\n\tcompadd -a ids\n}\n\n")
	b.WriteString("_ksplice() {\n\tlocal curcontext=\"$curcontext\" state line\n\tlocal -a commands\n\ttypeset -A opt_args\n\tcommands=(\n")
	list := completables()
	for _, c := range list {
		fmt.Fprintf(&b, "\t\t%s\n", quote(c.name+":"+strings.ReplaceAll(c.summary, ":", `\:`)))
	}
	b.WriteString("\t\t'help:say more of a command'\n\t)\n\t_arguments -C '1:command:->command' '*::argument:->argument' && return\n\tcase $state in\n\tcommand)\n\t\t_describe command commands\n\t\t;;\n\targument)\n\t\tcase $words[1] in\n")
	for _, c := range list {
		fmt.Fprintf(&b, "\t\t%s)\n\t\t\t_arguments", c.name)
		for _, f := range c.flags {
			text := "[" + zshText.Replace(f.text) + "]"
			value := ""
			if f.takes {
				value = ":" + zshText.Replace(f.value) + ":" + zshKinds[f.kind]
			}
			long, short := "--"+f.long, "-"+f.short
			switch {
			case f.takes:
				long, short = long+"=", short+"+"
			case f.optional:
				long, value = long+"=-", "::"+zshText.Replace(f.value)+":"
			}
			fmt.Fprintf(&b, " \\\n\t\t\t\t%s", quote("*"+long+text+value))
			if f.short != "" {
				fmt.Fprintf(&b, " \\\n\t\t\t\t%s", quote("*"+short+text+value))
			}
		}
		if len(c.words) > 0 {
			fmt.Fprintf(&b, " \\\n\t\t\t\t%s", quote("1:what:("+strings.Join(c.words, " ")+")"))
		}
		// Behind a word anything may stand that one of the words takes.
		rest := kindNone
		for _, k := range c.kinds {
			if k != kindNone {
				rest = k
			}
		}
		if rest != kindNone {
			fmt.Fprintf(&b, " \\\n\t\t\t\t%s", quote("*:argument:"+zshKinds[rest]))
		}
		b.WriteString("\n\t\t\t;;\n")
	}
	b.WriteString("\t\thelp)\n\t\t\t_describe command commands\n\t\t\t;;\n\t\tesac\n\t\t;;\n\tesac\n}\n\n# Sourced, it is to be registered; autoloaded, it is the function.\nif [[ $funcstack[1] == _ksplice ]]; then\n\t_ksplice \"$@\"\nelse\n\tcompdef _ksplice ksplice\nfi\n")
	return b.String()
}

// fishKinds are what complete is told besides.
var fishKinds = map[kind]string{kindNone: "", kindFile: " -F", kindDir: " -a '(__fish_complete_directories)'", kindUpdate: " -a '(__fish_complete_suffix .ksplice)'",
	kindObject: " -a '(__fish_complete_suffix .o)'", kindID: " -a '(__ksplice_ids)'"}

// fishQuote makes one word of any text: fish knows a backslash between quotes.
func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}

func fishCompletion() string {
	var b strings.Builder
	b.WriteString("# fish completion for ksplice\n\nfunction __ksplice_ids\n    " + idCommand + "\nend\n\ncomplete -c ksplice -f\n")
	list := completables()
	for _, c := range list {
		fmt.Fprintf(&b, "complete -c ksplice -n __fish_use_subcommand -a %s -d %s\n", c.name, fishQuote(c.summary))
	}
	for _, c := range list {
		in := fishQuote("__fish_seen_subcommand_from " + c.name)
		for _, f := range c.flags {
			fmt.Fprintf(&b, "complete -c ksplice -n %s -l %s", in, f.long)
			if f.short != "" {
				fmt.Fprintf(&b, " -s %s", f.short)
			}
			if f.takes {
				b.WriteString(" -r" + fishKinds[f.kind])
			}
			fmt.Fprintf(&b, " -d %s\n", fishQuote(f.text))
		}
		for _, w := range c.words {
			fmt.Fprintf(&b, "complete -c ksplice -n %s -a %s\n", fishQuote("__fish_seen_subcommand_from "+c.name+"; and not __fish_seen_subcommand_from "+strings.Join(c.words, " ")), w)
			if k := c.kinds[w]; k != kindNone {
				fmt.Fprintf(&b, "complete -c ksplice -n %s%s\n", fishQuote("__fish_seen_subcommand_from "+c.name+"; and __fish_seen_subcommand_from "+w), fishKinds[k])
			}
		}
		if k := c.kinds[""]; k != kindNone && k != "" {
			fmt.Fprintf(&b, "complete -c ksplice -n %s%s\n", in, fishKinds[k])
		}
	}
	return b.String()
}
