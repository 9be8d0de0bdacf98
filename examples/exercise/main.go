// Command exercise runs inside the guests of the kernel tests. It uses the code that the example patches change, sleeps in
// it, traces it and measures it; package examples says which of its actions shows which patch's effect.
//
//	exercise do ACTION [ARG...]                           use the code once and print what a program sees
//	exercise loop [flags] ACTION [ARG...]                 use the code until SIGTERM and count what was seen
//	exercise sleep                                        sleep in eventfd_read until SIGUSR1
//	exercise eventfd                                      keep an eventfd; at each SIGUSR1 read it and print its count of reads
//	exercise hold KIND [ARG...]                           make objects, and use them at each SIGUSR1
//	exercise asleep -until FILE KIND                      sleep in another call until FILE appears; count interruptions
//	exercise trace KIND FUNCTION [MODULE]                 count calls until SIGTERM; SIGUSR1 prints the count
//	exercise entered [-for TIME] [MODULE:]FUNCTION...     count calls of functions for a time
//	exercise bench [flags]                                nanoseconds a call of getppid
//	exercise vlan DEVICE ID                               make the VLAN device DEVICE.ID
//
// Results are lines of JSON on standard output, but for "do", which prints plain text.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

var commands = map[string]func(args []string) error{
	"do": do, "loop": loop, "sleep": sleep, "eventfd": keepEventfd, "hold": hold, "asleep": asleep, "trace": trace, "entered": entered, "bench": bench, "vlan": vlan,
}

// errUsage says that the arguments are wrong.
var errUsage = errors.New("usage: exercise do|loop|sleep|eventfd|hold|asleep|trace|entered|bench|vlan [ARG...]")

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "exercise:", err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 || commands[args[0]] == nil {
		return errUsage
	}
	if err := commands[args[0]](args[1:]); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

// say prints a result as a line of JSON.
func say(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }
