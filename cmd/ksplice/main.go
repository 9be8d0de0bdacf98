// Command ksplice makes, checks, applies and undoes hot updates of a running Linux kernel. Each subcommand has a file
// of its own here, with flags and printing only; the work is done in core.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/pflag"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/create"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/trust"
)

// command is one subcommand: everything --help says of it, its flags and its work.
type command struct {
	name    string
	args    string // what stands behind the name, for example "FILE"
	summary string // one line
	help    string // a paragraph or two for newcomers
	example string
	flags   func(*pflag.FlagSet)
	run     func(ctx context.Context, e *env, args []string) error
	hidden  bool // the kernel module or the installation calls it, nobody else
}

// env is what every subcommand works with.
type env struct {
	out, err io.Writer
	json     bool
	printed  bool // the result has been
	verbose  int
	log      hclog.Logger
	config   *config
	host     *pluginhost.Host
	event    *event // what the journal is told when the command ends; nil: nothing
}

func commands() []*command {
	return []*command{
		createCommand(), inspectCommand(), signCommand(), verifyCommand(), keygenCommand(),
		checkCommand(), applyCommand(), statusCommand(), undoCommand(), persistCommand(),
		unameCommand(), doctorCommand(), configCommand(),
		pluginCommand(), diffCommand(), matchCommand(), completionCommand(),
		manCommand(), arriveCommand(),
	}
}

func main() {
	takePassword()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 || args[0] == "help" && len(args) == 1 || args[0] == "-h" || args[0] == "--help" {
		overview(stdout)
		if len(args) == 0 {
			return exitUsage
		}
		return exitOK
	}
	if args[0] == "help" {
		args = []string{args[1], "--help"}
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.execute(ctx, args[1:], stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "ksplice: there is no command %q; `ksplice --help` lists them\n", args[0])
	return exitUsage
}

// introduction says what ksplice is, in --help and in the manual.
const introduction = `ksplice applies source patches to a running Linux kernel, without a reboot.

A vendor makes an update from a patch; an administrator checks, applies and undoes it:
    ksplice create --patch fix.patch --sign acme.key -o fix.ksplice
    ksplice check fix.ksplice
    ksplice apply fix.ksplice
    ksplice undo ID
`

// overviewWidth is how many letters of a command's arguments the overview has room for.
const overviewWidth = 40

func overview(w io.Writer) {
	fmt.Fprint(w, introduction+"\nCommands:\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range commands() {
		if c.hidden {
			continue
		}
		args := c.args
		if first, _, several := strings.Cut(args, " | "); several && len(args) > overviewWidth {
			args = first + " | ..."
		}
		fmt.Fprintf(t, "    %s\t%s\n", strings.TrimSpace(c.name+" "+args), c.summary)
	}
	t.Flush()
	var codes []string
	for _, x := range exitMeanings {
		codes = append(codes, fmt.Sprintf("%d %s", x.code, x.short))
	}
	fmt.Fprintf(w, "\n`ksplice COMMAND --help` says more of each.\nExit codes: %s.\n", strings.Join(codes, ", "))
}

// flagSet makes the command's flags, and those that all commands have.
func (c *command) flagSet(e *env) (fs *pflag.FlagSet, configPath *string, help *bool) {
	fs = pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.SortFlags = false
	if c.flags != nil {
		c.flags(fs)
	}
	fs.BoolVar(&e.json, "json", false, "print the result as JSON on standard output")
	fs.CountVarP(&e.verbose, "verbose", "v", "say more on standard error; -vv says everything")
	configPath = fs.String("config", "", "configuration `FILE` (default "+configDefault+", if it is there)")
	help = fs.BoolP("help", "h", false, "show this help")
	return fs, configPath, help
}

func (c *command) execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if err := c.perform(ctx, args, stdout, stderr); err != nil {
		return exitCode(err)
	}
	return exitOK
}

// perform runs the command, prints what comes of it, and returns the error that it has printed.
func (c *command) perform(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	e := &env{out: stdout, err: stderr}
	fs, configPath, help := c.flagSet(e)
	if err := fs.Parse(args); err != nil {
		return e.fail(c, usagef("%v", err))
	}
	if *help {
		c.usage(stdout, fs)
		return nil
	}
	level := hclog.Warn
	switch {
	case e.verbose >= 2:
		level = hclog.Debug
	case e.verbose == 1:
		level = hclog.Info
	}
	e.log = hclog.New(&hclog.LoggerOptions{Name: "ksplice", Output: stderr, Level: level})
	var err error
	if e.config, err = readConfig(*configPath); err == nil {
		e.host = pluginhost.New(e.config.host(e.log))
		err = c.run(ctx, e, fs.Args())
		err = errors.Join(err, e.host.Close())
		e.tell(err)
	}
	if err != nil {
		return e.fail(c, err)
	}
	return nil
}

func (c *command) usage(w io.Writer, fs *pflag.FlagSet) {
	fmt.Fprintf(w, "%s\n\nUsage: %s\n\n%s\n", c.summary, strings.TrimSpace("ksplice "+c.name+" [flags] "+c.args), strings.TrimSpace(c.help))
	if c.example != "" {
		fmt.Fprintf(w, "\nExample:\n    %s\n", strings.ReplaceAll(strings.TrimSpace(c.example), "\n", "\n    "))
	}
	// What a switch could be set to is nothing for newcomers; blanks keep the columns.
	usages := strings.ReplaceAll(fs.FlagUsagesWrapped(110), "[=true|false]", strings.Repeat(" ", len("[=true|false]")))
	usages = strings.NewReplacer("--verbose count", "--verbose      ", " (default [])", "").Replace(usages)
	fmt.Fprintf(w, "\nFlags:\n%s", usages)
}

// fail prints the error, as people or programs read it, and returns it.
func (e *env) fail(c *command, err error) error {
	code := exitCode(err)
	var conflict *apply.ConflictError
	var refused *create.RefusedError
	var untrusted *trust.RefusedError
	var called *callError
	if e.json && !e.printed { // standard output holds one value
		v := map[string]any{"error": err.Error(), "exit_code": code}
		switch {
		case errors.As(err, &conflict):
			v["conflicts"] = conflict.Conflicts
		case errors.As(err, &refused):
			v["reasons"] = refused.Reasons
		case errors.As(err, &untrusted):
			v["signatures"] = untrusted.Verdicts
		case errors.As(err, &called):
			v["diagnostic"] = called.diagnostic
		}
		_ = e.encode(v)
	}
	fmt.Fprintf(e.err, "ksplice %s: %v\n", c.name, err)
	if e.verbose > 0 && errors.As(err, &conflict) {
		for _, x := range conflict.Conflicts {
			fmt.Fprintf(e.err, "  thread %d (%s) is in %s, at %#x\n", x.PID, x.Command, x.Function, x.Address)
		}
	}
	if code == exitUsage {
		fmt.Fprintf(e.err, "`ksplice %s --help` shows how it is used\n", c.name)
	}
	return err
}

// result prints v as JSON where asked for, else what text writes.
func (e *env) result(v any, text func(w io.Writer)) error {
	e.printed = true
	if e.json {
		if r := reflect.ValueOf(v); r.Kind() == reflect.Slice && r.IsNil() {
			v = []struct{}{} // a list, if an empty one
		}
		return e.encode(v)
	}
	t := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	text(t)
	return t.Flush()
}

func (e *env) encode(v any) error {
	enc := json.NewEncoder(e.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// one returns the only argument.
func one(args []string, what string) (string, error) {
	if len(args) != 1 {
		return "", usagef("give one %s, not %d", what, len(args))
	}
	return args[0], nil
}
