// Package manual reads the pages of cmd/ksplice/docs as what they are: commands with what they print. The kernel tests run every page.
//
// A block of code whose language is "console" is a session: lines that begin with "$ " are run where updates are made, lines that begin with "# " on
// the machine that is updated, as root. A command that ends with a backslash goes on in the next line. What follows up to the next command is what it prints; a
// line "..." stands for any lines, "..." inside of a line for any text. Numbers, IDs and kernel releases are those of the day on which the page was written:
// others may be printed. A block whose language is followed by a path is that file: on the machine that is updated if the path is absolute, else in the directory
// where updates are made, which both see.
package manual

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Step is a command, or a file to write.
type Step struct {
	Line int // in the page, from 1
	// Command is what a shell runs; empty: File is written.
	Command string
	// Target says that it is for the machine that is updated.
	Target bool
	// Prints are the lines that the page shows.
	Prints []string
	// File and Content are a file's path and text.
	File, Content string
}

// Read returns the steps of a page, in order.
func Read(page string) ([]Step, error) {
	var steps []Step
	lines := strings.Split(page, "\n")
	for i := 0; i < len(lines); i++ {
		info, ok := strings.CutPrefix(lines[i], "```")
		if !ok {
			continue
		}
		begin := i
		for i++; ; i++ {
			if i == len(lines) {
				return nil, fmt.Errorf("line %d: the block does not end", begin+1)
			}
			if lines[i] == "```" {
				break
			}
		}
		body := lines[begin+1 : i]
		language, path, _ := strings.Cut(info, " ")
		switch {
		case path != "":
			steps = append(steps, Step{Line: begin + 1, Target: strings.HasPrefix(path, "/"), File: path, Content: strings.Join(body, "\n") + "\n"})
		case language == "console":
			s, err := session(body, begin+2)
			if err != nil {
				return nil, err
			}
			steps = append(steps, s...)
		}
	}
	return steps, nil
}

// session reads a block of commands that begins at a line.
func session(body []string, first int) ([]Step, error) {
	var steps []Step
	for i := 0; i < len(body); i++ {
		command, host := strings.CutPrefix(body[i], "$ ")
		target := false
		if !host {
			command, target = strings.CutPrefix(body[i], "# ")
		}
		if !host && !target {
			if len(steps) == 0 {
				return nil, fmt.Errorf("line %d: the block does not begin with a command", first+i)
			}
			s := &steps[len(steps)-1]
			s.Prints = append(s.Prints, body[i])
			continue
		}
		s := Step{Line: first + i, Target: target}
		for strings.HasSuffix(command, "\\") {
			if i++; i == len(body) {
				return nil, fmt.Errorf("line %d: the command does not end", s.Line)
			}
			command = strings.TrimSuffix(command, "\\") + body[i]
		}
		s.Command = command
		steps = append(steps, s)
	}
	return steps, nil
}

// Names maps what a page calls an update, or a kernel, to what it is called here.
type Names map[string]string

var (
	idPattern      = regexp.MustCompile(`\b[0-9a-f]{8}\b`)
	releasePattern = regexp.MustCompile(`\b\d+\.\d+\.\d+-\d+-amd64\b`)
	// What a line of a page may say otherwise than the machine: in this order.
	tokenPattern = regexp.MustCompile(`\.\.\.|\b\d+\.\d+\.\d+-\d+-amd64\b|\b[0-9a-f]{8}\b|\d[\d.,:]*|\s+`)
)

// Here returns a text with the names that things have here. release is the kernel's.
func (n Names) Here(text, release string) string {
	text = releasePattern.ReplaceAllString(text, release)
	return idPattern.ReplaceAllStringFunc(text, func(id string) string {
		if here, ok := n[id]; ok {
			return here
		}
		return id
	})
}

// Compare says how what was printed differs from what a page shows, and learns the names of updates.
func (n Names) Compare(shown []string, printed string) error {
	lines := strings.Split(strings.TrimRight(printed, "\n"), "\n")
	at, skip := 0, false
	for _, want := range shown {
		if strings.TrimSpace(want) == "..." {
			skip = true
			continue
		}
		pattern, ids := line(want)
		found := false
		for ; at < len(lines); at++ {
			if got := pattern.FindStringSubmatch(strings.TrimRight(lines[at], " ")); got != nil && n.learn(ids, got[1:]) == nil {
				found = true
				at++
				break
			}
			if !skip {
				break
			}
		}
		if !found {
			return fmt.Errorf("the page shows\n  %s\nwhat was printed is\n%s", want, printed)
		}
		skip = false
	}
	if rest := strings.TrimSpace(strings.Join(lines[min(at, len(lines)):], "\n")); rest != "" && !skip {
		return fmt.Errorf("the page does not show what was printed in the end:\n%s", rest)
	}
	return nil
}

// line returns a pattern for a line of a page, and the IDs that its groups stand for.
func line(want string) (*regexp.Regexp, []string) {
	var b strings.Builder
	var ids []string
	b.WriteString("^")
	rest := strings.TrimRight(want, " ")
	for rest != "" {
		at := tokenPattern.FindStringIndex(rest)
		if at == nil {
			b.WriteString(regexp.QuoteMeta(rest))
			break
		}
		b.WriteString(regexp.QuoteMeta(rest[:at[0]]))
		switch token := rest[at[0]:at[1]]; {
		case token == "...":
			b.WriteString(".*")
		case strings.TrimSpace(token) == "":
			b.WriteString(`\s+`)
		case releasePattern.MatchString(token):
			b.WriteString(`\S+`)
		case len(token) == 8 && idPattern.MatchString(token):
			ids = append(ids, token)
			b.WriteString(`([0-9a-f]{8})`)
		default:
			b.WriteString(`\d[\d.,:]*`)
		}
		rest = rest[at[1]:]
	}
	b.WriteString("$")
	return regexp.MustCompile(b.String()), ids
}

// learn takes down what the IDs of a page are here; an ID that is two is an error.
func (n Names) learn(ids, here []string) error {
	for i, id := range ids {
		if had, ok := n[id]; ok && had != here[i] {
			return errors.New("another ID")
		}
	}
	for i, id := range ids {
		n[id] = here[i]
	}
	return nil
}
