package vmtest

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/ksplice/ksplice/core/vmtest/internal/wire"
)

// tailLines is how many lines of the console an error shows.
const tailLines = 100

// trouble are the words by which a kernel complains of itself.
var trouble = regexp.MustCompile(`BUG:|WARNING:|Oops|RCU stall|rcu: INFO|rcu_.* stall|general protection|unchecked MSR|Call Trace|` +
	`kernel BUG at|Kernel panic|INFO: task .* blocked for more than|UBSAN:|list_(add|del) corruption|Fatal kernel bug|` +
	`refcount_t: |double fault|Unhandled fault|` + regexp.QuoteMeta(wire.FailMark))

// harmless are lines that an emulated machine's kernel may print while it boots, with the reasons. They count only
// before the agent is there.
var harmless = []struct {
	line   *regexp.Regexp
	reason string
}{
	{regexp.MustCompile(`\] (RETBleed|Speculative Return Stack Overflow|Spectre V[12] *|MDS|TAA|MMIO Stale Data): WARNING: `),
		"what the emulated CPU's mitigations leave open (arch/x86/kernel/cpu/bugs.c): it says nothing of the kernel's health"},
}

// console keeps what the guest's kernel says.
type console struct{ syncBuffer }

// Console returns all that the kernel has said so far.
func (g *Guest) Console() string { return g.console.String() }

// Expect allows a line of the console that matches, once: one by which the kernel would complain of itself, had a test not provoked
// it. Err wants it to come.
func (g *Guest) Expect(line *regexp.Regexp) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.expected = append(g.expected, line)
}

// Err returns an error when the kernel has complained of itself, or the machine stopped without Close. It ends with the
// console's last lines.
func (g *Guest) Err() error {
	g.mu.Lock()
	closing, expected := g.closing, slices.Clone(g.expected)
	g.mu.Unlock()
	if line := complaint(g.console.String(), expected); line != "" {
		return fmt.Errorf("kernel %s complained: %s\n%s", g.kernel.Release, line, g.console.tail())
	}
	select {
	case <-g.exited:
		if !closing {
			return g.gone()
		}
	default:
	}
	return nil
}

// complaint returns the first line of a console by which the kernel complains, or nothing. Of the expected lines each must be there, and
// excuses one.
func complaint(text string, expected []*regexp.Regexp) string {
	booting := true
	for line := range strings.Lines(text) {
		if strings.Contains(line, wire.ReadyMark) {
			booting = false
		}
		if !trouble.MatchString(line) || booting && isHarmless(line) {
			continue
		}
		i := slices.IndexFunc(expected, func(x *regexp.Regexp) bool { return x.MatchString(line) })
		if i < 0 {
			return strings.TrimSpace(line)
		}
		expected = slices.Delete(slices.Clone(expected), i, i+1)
	}
	if len(expected) > 0 {
		return "it never said what was expected: " + expected[0].String()
	}
	return ""
}

func isHarmless(line string) bool {
	for _, h := range harmless {
		if h.line.MatchString(line) {
			return true
		}
	}
	return false
}

func (c *console) tail() string {
	return "console, last lines:\n" + lastLines(strings.ReplaceAll(c.String(), "\r", ""), tailLines)
}

// syncBuffer is a buffer that one goroutine may fill while others look at it.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
