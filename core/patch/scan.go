package patch

import (
	"fmt"
	"strconv"
	"strings"
)

// lineInfo is what a scan of C source knows of one line.
type lineInfo struct {
	// safe says that a directive may be put in front of the line: nothing is open there, and the line neither goes on with what is
	// in front of it nor ends a conditional group.
	safe bool
	// directive is the name of the preprocessor directive that begins on the line, if one does.
	directive string
	// line is, for #line, the number of the next line; else 0.
	line int
}

// scanner walks over C source as the preprocessor does before it knows any macro: comments, literals, continuations, directives
// and parentheses.
type scanner struct {
	infos []lineInfo

	comment   bool // in a /* comment
	toEnd     bool // in a // comment, which a continuation extends
	quote     byte // in a string or character literal, which a continuation extends
	directive bool // in a preprocessor directive
	joined    bool // the line before ended in a continuation
	code      bool // the logical line has had more than white space and comments
	depth     int  // of parentheses

	groups []group
}

// group is an open conditional group.
type group struct {
	line int // where it begins, counted from 0
	// start is the depth of parentheses at its beginning, most the highest at the end of one of its branches.
	start, most int
}

// scan scans C source. It is an error when a comment or a conditional group does not end, or a group ends that has not begun.
func scan(lines []string) ([]lineInfo, error) {
	s := &scanner{infos: make([]lineInfo, len(lines))}
	opened := 0 // the line on which the comment began
	for i, l := range lines {
		info := &s.infos[i]
		text := strings.TrimRight(l, "\r\n")
		info.safe = !s.comment && !s.joined && s.depth == 0 && !strings.ContainsAny(first(text), "(),")
		if !s.joined && !s.comment {
			s.directive, s.code = false, false
		}
		was := s.comment
		// gcc takes a backslash before trailing blanks for a continuation too (and warns).
		body, joined := strings.CutSuffix(strings.TrimRight(text, " \t\f\v"), `\`)
		if !joined {
			body = text
		}
		if err := s.scanLine(i, body, info); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if text == "}" && !was && !s.joined {
			// The end of a function. Parentheses that seem open stand in code that is skipped, or in branches of
			// which only one is compiled.
			s.depth = 0
		}
		if s.comment && !was {
			opened = i
		}
		s.joined = joined
		if !joined {
			s.toEnd, s.quote = false, 0 // a literal that is not closed ends with its line
		}
	}
	if s.comment {
		return nil, fmt.Errorf("line %d: the comment does not end", opened+1)
	}
	if n := len(s.groups); n > 0 {
		return nil, fmt.Errorf("line %d: the conditional group does not end", s.groups[n-1].line+1)
	}
	return s.infos, nil
}

// first returns the first character of a line that is not blank.
func first(l string) string {
	l = strings.TrimLeft(l, " \t")
	return l[:min(1, len(l))]
}

// scanLine scans one line without its end.
func (s *scanner) scanLine(number int, l string, info *lineInfo) error {
	for i := 0; i < len(l); i++ {
		c := l[i]
		switch {
		case s.toEnd:
			return nil
		case s.comment:
			if c == '*' && strings.HasPrefix(l[i:], "*/") {
				s.comment = false
				i++
			}
		case s.quote != 0:
			if c == '\\' {
				i++
			} else if c == s.quote {
				s.quote = 0
			}
		case strings.HasPrefix(l[i:], "/*"):
			s.comment = true
			i++
		case strings.HasPrefix(l[i:], "//"):
			s.toEnd = true
		case c == ' ' || c == '\t' || c == '\f' || c == '\v':
		case c == '#' && !s.code && !s.directive:
			s.directive, s.code = true, true
			if err := s.begin(number, l[i+1:], info); err != nil {
				return err
			}
		default:
			s.code = true
			switch {
			case c == '"' || c == '\'':
				s.quote = c
			case s.directive:
			case c == '(':
				s.depth++
			case c == ')':
				s.depth = max(0, s.depth-1)
			}
		}
	}
	return nil
}

// begin takes note of a directive; rest follows its #. Each branch of a conditional group begins at the depth of parentheses
// that the group began at, and code behind it goes on at the highest that one of them ended with.
func (s *scanner) begin(number int, rest string, info *lineInfo) error {
	rest = strings.TrimLeft(rest, " \t")
	n := 0
	for n < len(rest) && (rest[n] >= 'a' && rest[n] <= 'z' || rest[n] == '_') {
		n++
	}
	name, args := rest[:n], strings.Fields(rest[n:])
	info.directive = name
	switch name {
	case "if", "ifdef", "ifndef":
		s.groups = append(s.groups, group{number, s.depth, 0})
	case "elif", "elifdef", "elifndef", "else", "endif":
		if len(s.groups) == 0 {
			return fmt.Errorf("#%s without #if", name)
		}
		info.safe = false
		g := &s.groups[len(s.groups)-1]
		g.most = max(g.most, s.depth)
		s.depth = g.start
		if name == "endif" {
			s.depth = g.most
			s.groups = s.groups[:len(s.groups)-1]
		}
	case "line":
		if len(args) > 0 {
			if line, err := strconv.ParseUint(args[0], 10, 31); err == nil {
				info.line = int(line)
			}
		}
	}
	return nil
}
