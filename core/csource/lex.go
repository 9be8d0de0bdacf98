package csource

import (
	"bytes"
	"strings"
)

type kind uint8

const (
	word        kind = iota // an identifier, a keyword or a number
	text                    // a string or character constant
	punctuation             // a bracket, a semicolon, a comma, or operators without a blank between them
	directive               // a line that begins with #, to its end
)

type token struct {
	kind kind
	b    []byte
}

func (t token) is(s string) bool { return string(t.b) == s }

// character classes
const (
	blank   = 1 << iota
	letter  // may be in a word; numbers begin with a digit and are words, too: 1e+5 is three tokens here and in every text
	bracket // stands for itself
)

var class = func() (c [256]uint8) {
	for _, b := range " \t\r\f\v\n" {
		c[b] |= blank
	}
	for b := range c {
		if b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '_' || b == '$' || b >= 0x80 {
			c[b] |= letter
		}
	}
	for _, b := range "(){}[];,~?" {
		c[b] |= bracket
	}
	return c
}()

// lex splits preprocessed text. ok is false where it is none.
func lex(source []byte) (tokens []token, ok bool) {
	tokens = make([]token, 0, len(source)/4)
	lineStart := true
	for i := 0; i < len(source); {
		c := source[i]
		begin := i
		switch {
		case c == '\n':
			lineStart = true
			i++
			continue
		case class[c]&blank != 0:
			i++
			continue
		case c == 0:
			return nil, false
		case c == '#' && lineStart:
			if i = bytes.IndexByte(source[begin:], '\n'); i < 0 {
				i = len(source)
			} else {
				i += begin
			}
			tokens = append(tokens, token{directive, source[begin:i]})
		case class[c]&letter != 0:
			for i++; i < len(source) && class[source[i]]&letter != 0; i++ {
			}
			tokens = append(tokens, token{word, source[begin:i]})
		case c == '"' || c == '\'':
			for i++; i < len(source) && source[i] != c; i++ {
				if source[i] == '\\' {
					i++
				} else if source[i] == '\n' {
					return nil, false
				}
			}
			if i >= len(source) {
				return nil, false
			}
			i++
			tokens = append(tokens, token{text, source[begin:i]})
		case class[c]&bracket != 0:
			i++
			tokens = append(tokens, token{punctuation, source[begin:i]})
		default:
			for i++; i < len(source) && class[source[i]]&(blank|letter|bracket) == 0 && source[i] != '"' && source[i] != '\'' && source[i] != 0; i++ {
			}
			tokens = append(tokens, token{punctuation, source[begin:i]})
		}
		lineStart = false
	}
	return tokens, true
}

// words calls f with every word in a directive, or in string constants that stand side by side and are one.
func words(list []token, f func(string)) {
	if list[0].kind == directive {
		split(list[0].b, f)
		return
	}
	var joined []byte
	for _, t := range list {
		joined = unescape(joined, t.b[1:len(t.b)-1])
	}
	split(joined, f)
}

// unescape appends the characters that a constant stands for; of those that are no letters it does not matter which.
func unescape(out, b []byte) []byte {
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' || i+1 == len(b) {
			out = append(out, b[i])
			continue
		}
		i++
		base, most := 8, 3
		digits := i
		switch {
		case b[i] == 'x':
			base, most = 16, len(b)
			digits++
		case b[i] < '0' || b[i] > '7':
			out = append(out, ' ')
			continue
		}
		value, n := 0, 0
		for ; digits+n < len(b) && n < most; n++ {
			d := strings.IndexByte("0123456789abcdefABCDEF", b[digits+n])
			if d > 15 {
				d -= 6
			}
			if d < 0 || d >= base {
				break
			}
			value = (value*base + d) & 0xff
		}
		out = append(out, byte(value))
		i = digits + n - 1
	}
	return out
}

func split(b []byte, f func(string)) {
	for i := 0; i < len(b); i++ {
		begin := i
		for i < len(b) && class[b[i]]&letter != 0 {
			i++
		}
		if i > begin {
			f(string(b[begin:i]))
		}
	}
}
