package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/ksplice/ksplice/core/kept"
	"github.com/ksplice/ksplice/core/persist"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/trust"
)

func manCommand() *command {
	var version string
	return &command{
		name: "man", args: "DIRECTORY", summary: "write the manual's pages", hidden: true,
		help: `The installation runs this: it writes ksplice.1, a page for each command, and ksplice-config.5, from the tables that --help is made of.`,
		flags: func(fs *pflag.FlagSet) {
			fs.StringVar(&version, "of", "", "the `VERSION` of ksplice that the pages are of")
		},
		run: func(_ context.Context, e *env, args []string) error {
			dir, err := one(args, "directory")
			if err != nil {
				return err
			}
			date := ""
			// As everything that is built reproducibly has it (reproducible-builds.org/specs/source-date-epoch).
			if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
				seconds, err := strconv.ParseInt(s, 10, 64)
				if err != nil {
					return usagef("$SOURCE_DATE_EPOCH is %q, not a number of seconds", s)
				}
				date = time.Unix(seconds, 0).UTC().Format(time.DateOnly)
			}
			for _, p := range manual(version, date) {
				if err := os.WriteFile(filepath.Join(dir, p.file()), []byte(p.text), 0o644); err != nil {
					return fmt.Errorf("write the manual: %w", err)
				}
			}
			return nil
		},
	}
}

// page is one page of the manual.
type page struct {
	name    string
	section int
	text    string // for man(7)
}

func (p *page) file() string { return fmt.Sprintf("%s.%d", p.name, p.section) }

// manual makes all pages.
func manual(version, date string) []page {
	pages := []page{mainPage(version, date)}
	var others []string
	for _, c := range commands() {
		if c.hidden {
			continue
		}
		others = append(others, "ksplice-"+c.name)
		pages = append(pages, c.page(version, date))
	}
	pages = append(pages, configPage(version, date))
	pages[0].text += see(append(others, configManual)...)
	return pages
}

// roff writes the language of man(7).
type roff struct{ strings.Builder }

// escapes are of characters that mean something else to roff, or that it would set as others (groff_char(7)).
var escapes = strings.NewReplacer(`\`, `\(rs`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`)

// quotedCode is what stands in backquotes: set bold, without them.
var quotedCode = regexp.MustCompile("`[^`\n]+`")

// line escapes text that stands on a line of its own.
func line(text string) string { return harmless(inline(text)) }

// harmless has a line not be taken for a request to roff.
func harmless(s string) string {
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, `\(aq`) {
		return `\&` + s
	}
	return s
}

// width is how long a line of a page's source may be, in bytes (mandoc(1), -Wstyle).
const width = 80

// fill escapes text that roff fills lines with, on as many lines as it takes.
func fill(text string) string {
	var b strings.Builder
	at := 0
	for i, word := range strings.Fields(inline(text)) {
		if i > 0 && at+1+len(word) > width {
			b.WriteByte('\n')
			at = 0
		} else if i > 0 {
			b.WriteByte(' ')
			at++
		}
		if at == 0 {
			word = harmless(word)
		}
		b.WriteString(word)
		at += len(word)
	}
	return b.String()
}

// inline escapes text.
func inline(text string) string {
	var b strings.Builder
	at := 0
	for _, m := range quotedCode.FindAllStringIndex(text, -1) {
		b.WriteString(escapes.Replace(text[at:m[0]]) + `\fB` + escapes.Replace(text[m[0]+1:m[1]-1]) + `\fR`)
		at = m[1]
	}
	b.WriteString(escapes.Replace(text[at:]))
	return b.String()
}

// argument escapes what a macro gets as one argument.
func argument(text string) string {
	return `"` + strings.ReplaceAll(escapes.Replace(text), `"`, `\(dq`) + `"`
}

func newPage(name string, section int, version, date, summary string) *roff {
	r := &roff{}
	source := strings.TrimSpace("ksplice " + version)
	fmt.Fprintf(r, ".TH %s %d %s %s %s\n", argument(strings.ToUpper(name)), section, `"`+date+`"`, argument(source), argument("Ksplice"))
	// Left alone: hyphenation, which breaks names, and blanks that make both margins straight.
	r.WriteString(".nh\n.ad l\n")
	r.section("NAME")
	fmt.Fprintf(r, "%s \\- %s\n", escapes.Replace(name), line(summary))
	return r
}

func (r *roff) section(name string) { fmt.Fprintf(r, ".SH %s\n", argument(name)) }

// text writes paragraphs: an empty line ends one; lines that begin with blanks stay as they are.
func (r *roff) text(s string) {
	first := true
	for paragraph := range strings.SplitSeq(strings.TrimSpace(s), "\n\n") {
		if !first {
			r.WriteString(".PP\n")
		}
		first = false
		var filled, kept []string
		end := func() {
			if len(filled) > 0 {
				r.WriteString(fill(strings.Join(filled, " ")) + "\n")
			}
			if len(kept) > 0 {
				r.WriteString(".nf\n" + strings.Join(kept, "\n") + "\n.fi\n")
			}
			filled, kept = nil, nil
		}
		for l := range strings.Lines(paragraph) {
			l = strings.TrimRight(l, " \n")
			if strings.HasPrefix(l, " ") {
				kept = append(kept, line(l))
				continue
			}
			if len(kept) > 0 {
				end()
			}
			filled = append(filled, l)
		}
		end()
	}
}

// literal writes lines that stay as they are.
func (r *roff) literal(s string) {
	r.WriteString(".RS 4\n.nf\n")
	for l := range strings.Lines(strings.TrimSpace(s)) {
		r.WriteString(line(strings.TrimRight(l, "\n")) + "\n")
	}
	r.WriteString(".fi\n.RE\n")
}

// item writes a term, which is roff already, and what is said of it.
func (r *roff) item(term, text string) {
	fmt.Fprintf(r, ".TP\n%s\n%s\n", term, fill(text))
}

func bold(s string) string { return `\fB` + escapes.Replace(s) + `\fR` }

func italic(s string) string { return `\fI` + escapes.Replace(s) + `\fR` }

// configManual is the page of the configuration file, beside that of the command ksplice config.
const configManual = "ksplice-config(5)"

// see writes which pages say more: commands', and such as name their section.
func see(pages ...string) string {
	r := &roff{}
	r.section("SEE ALSO")
	for i, p := range pages {
		section, comma := 1, ","
		name, file := strings.CutSuffix(p, "(5)")
		if file {
			section = 5
		}
		if i == len(pages)-1 {
			comma = ""
		}
		fmt.Fprintf(r, ".BR %s (%d)%s\n", escapes.Replace(name), section, comma)
	}
	return r.String()
}

func (r *roff) exits() {
	r.section("EXIT STATUS")
	for _, x := range exitMeanings {
		r.item(bold(strconv.Itoa(x.code)), x.text)
	}
}

func mainPage(version, date string) page {
	r := newPage("ksplice", 1, version, date, "update a running Linux kernel without a reboot")
	r.section("SYNOPSIS")
	fmt.Fprintf(r, "%s %s [%s] [%s]\n", bold("ksplice"), italic("COMMAND"), italic("flags"), italic("arguments"))
	r.section("DESCRIPTION")
	r.text(introduction)
	r.section("COMMANDS")
	for _, c := range commands() {
		if !c.hidden {
			r.item(strings.TrimSpace(bold(c.name)+" "+italic(c.args)), c.summary)
		}
	}
	r.exits()
	r.section("ENVIRONMENT")
	r.item(bold(pluginhost.PathVariable), "Directories in which plugins are looked for behind those of the configuration, separated as in $PATH.")
	r.item(bold("XDG_CACHE_HOME"), "Trees and objects are kept below it, in ksplice/; by default ~/.cache/ksplice.")
	r.item(bold(passwordVariable), "The password of a secret key to sign with, where no file is named. A file is safer: whoever is the same user reads this in /proc/PID/environ.")
	r.section("FILES")
	r.item(italic(configDefault), "The configuration; it need not be there.")
	r.item(italic(trust.DefaultDir), "Keys of those whose updates this machine takes: NAME.pub; and those that it takes none of any more: NAME.revoked.")
	r.item(italic(persist.Root), "Updates that are applied at each boot.")
	r.item(italic(persist.DisableFile), "While it is there, nothing is applied at boot.")
	r.item(italic(kept.Root), "What is known of the updates of this boot. Undo needs it.")
	r.item(italic("/sys/kernel/ksplice"), "What the kernel module shows of updates.")
	r.section("JOURNAL")
	r.text("apply and undo, and the kernel module when it applies a part to a module that has come, tell the systemd journal how it ended, where there is one. MESSAGE_ID is fixed for each event:")
	for _, k := range eventKinds {
		r.item(bold(k.name)+" "+escapes.Replace(k.id), k.what)
	}
	r.WriteString(".PP\nThe fields:\n")
	for _, f := range eventFields {
		r.item(bold(f.name), f.what)
	}
	return page{"ksplice", 1, r.String()}
}

// page makes a command's page.
func (c *command) page(version, date string) page {
	name := "ksplice-" + c.name
	r := newPage(name, 1, version, date, c.summary)
	r.section("SYNOPSIS")
	for i, form := range c.forms() {
		if i > 0 {
			r.WriteString(".br\n")
		}
		fmt.Fprintf(r, "%s [%s]", bold("ksplice "+c.name), italic("flags"))
		if form != "" {
			fmt.Fprintf(r, " %s", italic(form))
		}
		r.WriteByte('\n')
	}
	r.section("DESCRIPTION")
	r.text(c.help)
	r.section("OPTIONS")
	fs, _, _ := c.flagSet(&env{})
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		r.item(flagTerm(f), flagText(f))
	})
	if c.example != "" {
		r.section("EXAMPLES")
		r.literal(c.example)
	}
	r.exits()
	r.WriteString(see("ksplice", configManual))
	return page{name, 1, r.String()}
}

// forms are the ways in which a command takes arguments: "list | check BINARY" are two.
func (c *command) forms() []string { return strings.Split(c.args, " | ") }

// flagTerm is a flag as it is written: -k, --kernel=RELEASE.
func flagTerm(f *pflag.Flag) string {
	term := bold("--" + f.Name)
	if f.Shorthand != "" {
		term = bold("-"+f.Shorthand) + ", " + term
	}
	value, _ := pflag.UnquoteUsage(f)
	switch {
	case f.Value.Type() == "bool" || f.Value.Type() == "count":
	case f.NoOptDefVal != "":
		term += "[=" + italic(value) + "]"
	default:
		term += "=" + italic(value)
	}
	return term
}

// flagText is what a flag does, and what it is by default.
func flagText(f *pflag.Flag) string {
	_, text := pflag.UnquoteUsage(f)
	switch f.DefValue {
	case "", "false", "0", "[]":
		return text
	}
	return text + " (default " + f.DefValue + ")"
}

func configPage(version, date string) page {
	r := newPage("ksplice-config", 5, version, date, "the configuration of ksplice")
	r.section("DESCRIPTION")
	r.text("`" + configDefault + "`, or the file that `--config` names, is written in TOML (toml.io). It need not be there. A key that is not listed here is refused, with its name.")
	r.section("KEYS")
	table := ""
	for _, k := range configKeys {
		if k.table != table {
			table = k.table
			fmt.Fprintf(r, ".SS %s\n", argument("["+table+"]"))
		}
		kind := k.kind
		if k.standard != "" {
			kind += ", default " + k.standard
		}
		r.item(bold(k.key)+" ("+escapes.Replace(kind)+")", k.text)
	}
	r.section("EXAMPLES")
	r.literal(configExample)
	r.WriteString(see("ksplice"))
	return page{"ksplice-config", 5, r.String()}
}
