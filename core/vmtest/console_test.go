package vmtest

import (
	"regexp"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest/internal/wire"
)

func TestComplaint(t *testing.T) {
	const (
		boot    = "[    0.000000] Linux version 6.1.0\r\n"
		ready   = "[    8.833329] " + wire.ReadyMark + "\r\n"
		cpu     = "[    0.030378] RETBleed: WARNING: Spectre v2 mitigation leaves CPU vulnerable to RETBleed attacks\r\n"
		warning = "[   10.000000] WARNING: CPU: 0 PID: 7 at kernel/jump_label.c:73 __jump_label_update+0x1/0x2\r\n"
		stall   = "[   70.000000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\r\n"
		panics  = "[   10.000000] Kernel panic - not syncing: sysrq triggered crash\r\n"
		gpf     = "[   10.000000] general protection fault, probably for non-canonical address 0x1: 0000 [#1]\r\n"
	)
	for _, c := range []struct {
		name, text, want string
		expected         []string
	}{
		{name: "nothing", text: boot + ready + "[    9.0] lo: up\r\n"},
		{name: "an empty console"},
		{name: "the CPU's holes, when booting", text: boot + cpu + ready},
		{name: "the same, later", text: boot + ready + cpu, want: cpu},
		{name: "a warning", text: boot + ready + warning, want: warning},
		{name: "a warning, when booting", text: boot + warning + ready, want: warning},
		{name: "the first of two", text: boot + ready + stall + warning, want: stall},
		{name: "a panic before the agent", text: boot + cpu + panics, want: panics},
		{name: "a fault", text: ready + gpf, want: gpf},
		{name: "an expected warning", text: boot + ready + warning, expected: []string{`WARNING: .* at kernel/jump_label\.c:73 `}},
		{name: "an expected warning twice", text: ready + warning + warning, want: warning, expected: []string{"WARNING: "}},
		{name: "another than expected", text: ready + gpf, want: gpf, expected: []string{"WARNING: "}},
		{name: "an expected warning that does not come", text: ready, want: "it never said what was expected: WARNING: \r\n", expected: []string{"WARNING: "}},
	} {
		var expected []*regexp.Regexp
		for _, x := range c.expected {
			expected = append(expected, regexp.MustCompile(x))
		}
		if got := complaint(c.text, expected); len(got) != max(0, len(c.want)-2) || got != c.want[:len(got)] {
			t.Errorf("complaint(%s) = %q, want %q", c.name, got, c.want)
		}
	}
}
