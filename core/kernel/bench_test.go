package kernel

import (
	"fmt"
	"strings"
	"testing"
)

// bigKallsyms is a text of as many symbols as a large kernel has.
func bigKallsyms(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%016x t some_function_with_a_name_%d", 0xffffffff81000000+uint64(i)*48, i*7919%n)
		if i > n*9/10 {
			fmt.Fprintf(&b, "\t[module_%d]", i/1000)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func BenchmarkKallsyms(b *testing.B) {
	text := bigKallsyms(165000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := parseKallsyms(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIndex(b *testing.B) {
	s, err := parseKallsyms(bigKallsyms(165000))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s.index()
	}
}
