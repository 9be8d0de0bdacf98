package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ksplice/ksplice/core/engine"
)

// thousands writes 1902 as 1,902.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// counted writes a number of things: 1 function, 1,902 functions.
func counted(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return thousands(n) + " " + thing
}

// milliseconds writes a duration for people: 0.31 ms, 41 ms, 2.1 s.
func milliseconds(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 2000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// size writes a number of bytes for people.
func size(n int64) string {
	if n < 10<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%d KiB", (n+512)>>10)
}

// changed says how much an update changes.
func changed(functions, fields int) string {
	switch {
	case functions+fields == 0:
		return "nothing but what its hooks do"
	case fields == 0:
		return counted(functions, "function")
	case functions == 0:
		return counted(fields, "field") + " of data"
	}
	return counted(functions, "function") + " and " + counted(fields, "field") + " of data"
}

// functionNames lists replaced functions, without the fragments that go with them.
func functionNames(changes []engine.Change) string {
	var names []string
	for _, c := range changes {
		if c.Kind != "fragment" {
			names = append(names, c.Name)
		}
	}
	return strings.Join(names, ",")
}
