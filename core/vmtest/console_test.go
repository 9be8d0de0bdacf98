package vmtest

import (
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
	for _, c := range []struct{ name, text, want string }{
		{"nothing", boot + ready + "[    9.0] lo: up\r\n", ""},
		{"an empty console", "", ""},
		{"the CPU's holes, when booting", boot + cpu + ready, ""},
		{"the same, later", boot + ready + cpu, cpu},
		{"a warning", boot + ready + warning, warning},
		{"a warning, when booting", boot + warning + ready, warning},
		{"the first of two", boot + ready + stall + warning, stall},
		{"a panic before the agent", boot + cpu + panics, panics},
		{"a fault", ready + gpf, gpf},
	} {
		if got := complaint(c.text); len(got) != max(0, len(c.want)-2) || got != c.want[:len(got)] {
			t.Errorf("complaint(%s) = %q, want %q", c.name, got, c.want)
		}
	}
}
