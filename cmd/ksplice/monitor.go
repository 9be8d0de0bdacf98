package main

import (
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/ksplice/ksplice/core/machine"
)

// monitoring are the flags of status for programs that watch a machine.
type monitoring struct{ check, prometheus bool }

func (m *monitoring) flags(fs *pflag.FlagSet) {
	fs.BoolVar(&m.check, "check", false, "say what is not as it should be, and exit with 3 where something is not")
	fs.BoolVar(&m.prometheus, "prometheus", false, "print metrics in Prometheus' text format")
}

// problemsError says that the machine does not stand as it should.
type problemsError struct{ n int }

func (e *problemsError) Error() string { return counted(e.n, "problem") }

func (m *monitoring) run(e *env) error {
	if m.check && m.prometheus || m.prometheus && e.json {
		return usagef("--prometheus goes neither with --check nor with --json: what --check complains of is in ksplice_problems")
	}
	now, err := machine.Read()
	if err != nil {
		return err
	}
	if m.prometheus {
		return now.WriteMetrics(e.out)
	}
	list := now.Problems()
	if err := e.result(list, func(w io.Writer) {
		if len(list) == 0 {
			fmt.Fprintln(w, "good")
		}
		for _, p := range list {
			fmt.Fprintf(w, "%s\t%s; %s\n", p.Name(), p.What, p.Do)
		}
	}); err != nil {
		return err
	}
	if len(list) > 0 {
		return &problemsError{len(list)}
	}
	return nil
}
