package kernel

import (
	"fmt"
	"strings"
)

// parseKallsyms reads the text of /proc/kallsyms: "ADDRESS TYPE NAME" and, for symbols of modules, a tab and "[MODULE]"
// (kernel/kallsyms.c: s_show).
func parseKallsyms(text string) (*Symbols, error) {
	list := make([]Symbol, 0, strings.Count(text, "\n")+1)
	visible := false
	module := ""
	for n := 1; text != ""; n++ {
		line := text
		if i := strings.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = ""
		}
		address, rest, ok := cutHex(line)
		if !ok || len(rest) < 4 || rest[0] != ' ' || rest[2] != ' ' {
			return nil, fmt.Errorf("parse kallsyms: line %d: %.100q is not \"address type name\": %w", n, line, ErrFormat)
		}
		y := Symbol{Address: address, Type: rest[1], Name: rest[3:]}
		if i := strings.IndexByte(y.Name, '\t'); i >= 0 {
			m := y.Name[i+1:]
			y.Name = y.Name[:i]
			if len(m) < 3 || m[0] != '[' || m[len(m)-1] != ']' || y.Name == "" {
				return nil, fmt.Errorf("parse kallsyms: line %d: %.100q has no [module] behind the tab: %w", n, line, ErrFormat)
			}
			if m = m[1 : len(m)-1]; m != module {
				module = m
			}
			y.Module = module
		}
		visible = visible || address != 0
		// Until its init has run, a module shows what it only names, too, where others have it (kernel/module/kallsyms.c:
		// add_kallsyms, elf_type; kernel/kallsyms.c: s_show makes the letter small, as it exports none of it).
		if y.Type == 'u' && y.Module != "" {
			continue
		}
		list = append(list, y)
	}
	switch {
	case len(list) == 0:
		return nil, fmt.Errorf("parse kallsyms: it is empty; the kernel needs CONFIG_KALLSYMS: %w", ErrFormat)
	case !visible:
		return nil, fmt.Errorf("read kallsyms: %w", ErrHidden)
	}
	return newSymbols(list), nil
}

// cutHex cuts a number of one to sixteen hexadecimal digits off the line.
func cutHex(line string) (v uint64, rest string, ok bool) {
	i := 0
	for ; i < len(line) && i < 16; i++ {
		c := line[i]
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | uint64(c-'a'+10)
		default:
			return v, line[i:], i > 0
		}
	}
	return v, line[i:], i > 0
}
