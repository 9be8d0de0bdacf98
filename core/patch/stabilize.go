package patch

import (
	"fmt"
	"strconv"
	"strings"
)

// StabilizeLines returns post, the file at path after a patch, with #line directives that give unchanged lines the
// numbers that they have in pre. So __LINE__ in code that a patch only moved stays what it was, and with it bug tables and whatever
// else the kernel makes of line numbers. A directive goes in front of the first unchanged line after a change at which no comment,
// continuation, preprocessor directive or parenthesis (the arguments of a macro) is open; lines before it keep the numbers
// that they have. Directives in a conditional group that is skipped have no effect, so there is another one behind #else, #elif
// and #endif of a group that has got one.
//
// Only C sources and headers get directives; other files are returned as they are, since no line of assembly is recorded but in
// its own bug entries. It is an error when post ends in an open comment or conditional group.
func StabilizeLines(pre, post []byte, path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".c") && !strings.HasSuffix(path, ".h") {
		return post, nil
	}
	before, after := splitLines(pre), splitLines(post)
	match := align(before, after)
	infos, err := scan(after)
	if err != nil {
		return nil, fmt.Errorf("stabilize line numbers of %s: %w", path, err)
	}
	want := numbers(before)
	out := make([]byte, 0, len(post)+len(post)/16)
	s := tracker{number: 1}
	for j, l := range after {
		info := infos[j]
		if i := match[j]; i >= 0 && info.safe && s.off(want[i]) {
			out = append(out, "#line "+strconv.Itoa(want[i])+lineEnd(l)...)
			s.put(want[i])
		}
		out = append(out, l...)
		s.pass(info)
	}
	return out, nil
}

// lineEnd returns the end of a line, for an inserted one to have the same.
func lineEnd(l string) string {
	if strings.HasSuffix(l, "\r\n") {
		return "\r\n"
	}
	return "\n"
}

// splitLines splits a file into lines with their newlines.
func splitLines(b []byte) []string {
	lines := strings.SplitAfter(string(b), "\n")
	if n := len(lines); lines[n-1] == "" {
		lines = lines[:n-1]
	}
	return lines
}

// numbers returns the number that the compiler gives each line, with the file's own #line directives obeyed wherever
// they stand.
func numbers(lines []string) []int {
	out := make([]int, len(lines))
	infos, err := scan(lines)
	n := 1
	for i := range lines {
		out[i] = n
		n++
		if err == nil && infos[i].line > 0 {
			n = infos[i].line
		}
	}
	return out
}

// tracker follows the number that the compiler gives to lines.
type tracker struct {
	number int
	// unsure says that the number depends on whether a conditional group was skipped.
	unsure bool
	// groups has an entry for each open conditional group: whether a directive stands in it.
	groups []bool
}

// off says that the next line may have another number than it should.
func (s *tracker) off(want int) bool {
	return s.unsure || s.number != want
}

// put takes note of a #line directive.
func (s *tracker) put(number int) {
	s.number, s.unsure = number, false
	if n := len(s.groups); n > 0 {
		s.groups[n-1] = true
	}
}

// pass goes over a line.
func (s *tracker) pass(info lineInfo) {
	s.number++
	n := len(s.groups)
	switch info.directive {
	case "if", "ifdef", "ifndef":
		s.groups = append(s.groups, false)
	case "elif", "elifdef", "elifndef", "else":
		s.unsure = s.unsure || s.groups[n-1]
	case "endif":
		touched := s.groups[n-1]
		s.groups = s.groups[:n-1]
		s.unsure = s.unsure || touched
		if touched && n > 1 {
			s.groups[n-2] = true
		}
	case "line":
		if info.line > 0 {
			s.put(info.line)
		}
	}
}
