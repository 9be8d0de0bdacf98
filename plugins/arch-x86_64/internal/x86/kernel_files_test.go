package x86

import (
	"debug/elf"
	"os"
	"strconv"
	"strings"
	"testing"
)

// config reads a kernel's configuration.
func config(t *testing.T, path string) map[string]string {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if n, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(n, "#") {
			out[n] = strings.Trim(v, `"`)
		}
	}
	return out
}

// kallsyms reads /proc/kallsyms: addresses by name, and names by address.
func kallsyms(t *testing.T, path string) (map[string][]uint64, map[uint64][]string) {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	byName, at := map[string][]uint64{}, map[uint64][]string{}
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) != 3 {
			continue
		}
		a, err := strconv.ParseUint(w[0], 16, 64)
		if err != nil {
			continue
		}
		byName[w[2]] = append(byName[w[2]], a)
		at[a] = append(at[a], w[2])
	}
	return byName, at
}

// kprobes reads a list of kprobes; none where there is no list.
func kprobes(t *testing.T, path string) map[uint64]bool {
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	out := map[uint64]bool{}
	for line := range strings.Lines(string(b)) {
		if w := strings.Fields(line); len(w) > 1 {
			if a, err := strconv.ParseUint(w[0], 16, 64); err == nil {
				out[a] = true
			}
		}
	}
	return out
}

// imageReader reads from the segments of an ELF image.
func imageReader(t *testing.T, path string) func(a, n uint64) []byte {
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	type segment struct {
		at   uint64
		data []byte
	}
	var all []segment
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		all = append(all, segment{p.Vaddr, b})
	}
	return func(a, n uint64) []byte {
		for _, s := range all {
			if a >= s.at && a-s.at < uint64(len(s.data)) {
				return s.data[a-s.at : min(a-s.at+n, uint64(len(s.data)))]
			}
		}
		return nil
	}
}
