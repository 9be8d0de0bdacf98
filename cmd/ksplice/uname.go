package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"github.com/ksplice/ksplice/core/machine"
)

func unameCommand() *command {
	var release, all bool
	return &command{
		name: "uname", summary: "show which version of the kernel runs in effect",
		help: `Prints one line: the release that was booted, in parentheses the version that it has in effect by what its vendor says, and a +ID for
every applied update, in the order in which they were applied. Neither uname(1) nor the kernel itself shows any of it: a hot update changes code, not names.

The version in effect is that of the latest update which says one (create --effective): the package whose source has all that this update and those
below it mend. No update says more than its vendor knew; where none says one, the line has none. An update some module of which runs without its part
is marked with a question mark, and its version does not count. -r prints the version in effect alone, or the release where there is none, for
scripts that compare versions; -a says what each update is.`,
		example: "ksplice uname\nksplice uname -r",
		flags: func(fs *pflag.FlagSet) {
			fs.BoolVarP(&release, "release", "r", false, "print the version in effect alone, or the booted release where no update says one")
			fs.BoolVarP(&all, "all", "a", false, "a row for the booted kernel and each update, with what it is")
		},
		run: func(_ context.Context, e *env, args []string) error {
			if len(args) > 0 || release && all {
				return usagef("uname takes no arguments, and one of -r and -a")
			}
			m, err := machine.Read()
			if err != nil {
				return err
			}
			v := m.Effective()
			return e.result(v, func(w io.Writer) {
				switch {
				case release && v.Version != "":
					fmt.Fprintln(w, v.Version)
				case release:
					fmt.Fprintln(w, v.Release)
				case all:
					printEffective(w, &v)
				default:
					fmt.Fprintln(w, v.String())
				}
			})
		},
	}
}

func printEffective(w io.Writer, v *machine.Effective) {
	fmt.Fprintf(w, "booted\t%s\t%s\n", v.Release, v.Booted)
	for _, u := range v.Updates {
		version := ""
		if u.Effective != "" {
			version = " (" + u.Effective + ")"
		}
		fmt.Fprintf(w, "applied\t%s\t%s%s\n", u.ID, u.Description, version)
		if len(u.Without) > 0 {
			fmt.Fprintf(w, "\tnot whole\tmodule %s runs without its part\n", strings.Join(u.Without, ", "))
		}
	}
	if v.Version != "" {
		fmt.Fprintf(w, "in effect\t%s\tas %s says\n", v.Version, v.By)
	}
}
