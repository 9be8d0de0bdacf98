package objfile

import "strings"

// Stem is a symbol's name without the numbers that compilers and the kernel's __UNIQUE_ID append: they move when anything
// before them in the source changes. numbered says that there were such.
func Stem(name string) (stem string, numbered bool) {
	const unique = "__UNIQUE_ID_"
	var out []string
	for i, p := range strings.Split(name, ".") {
		if i > 0 && p != "" && strings.Trim(p, "0123456789") == "" {
			numbered = true
			continue
		}
		if i == 0 && strings.HasPrefix(p, unique) {
			if q := strings.TrimRight(p, "0123456789"); q != p {
				p, numbered = q, true
			}
		}
		out = append(out, p)
	}
	return strings.Join(out, "."), numbered
}
