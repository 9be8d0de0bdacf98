package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

// entry is how often a function was called. A function without a probe says why.
type entry struct {
	Function string `json:"function"`
	Calls    uint64 `json:"calls"`
	Error    string `json:"error,omitempty"`
}

// entered counts calls of functions, MODULE:FUNCTION or FUNCTION, by probes at their entries, for a time. It prints a list.
func entered(args []string) (err error) {
	fs := flag.NewFlagSet("entered", flag.ContinueOnError)
	watched := fs.Duration("for", time.Second, "the `time`")
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if err := mountTracing(); err != nil {
		return err
	}
	list := make([]entry, fs.NArg())
	probes := make([]*kprobeTracer, fs.NArg())
	defer func() {
		for _, k := range probes {
			if k != nil {
				err = errors.Join(err, k.close())
			}
		}
	}()
	for i, place := range fs.Args() {
		to := target{function: place}
		if m, f, ok := strings.Cut(place, ":"); ok {
			to = target{f, m}
		}
		list[i].Function = to.function
		if probes[i], err = kprobeNamed(to, fmt.Sprintf("p%d_%d", os.Getpid(), i)); err != nil {
			list[i].Error = err.Error() // some functions take no probe (Documentation/trace/kprobes.rst, "Blacklist")
		}
	}
	time.Sleep(*watched)
	for i, k := range probes {
		if k == nil {
			continue
		}
		if list[i].Calls, err = k.count(); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(list)
}
