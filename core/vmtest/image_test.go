package vmtest_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/vmtest"
)

// TestImage boots a whole system, again from the same disk, and once more after its power was cut; another disk of the image has nothing of that.
func TestImage(t *testing.T) {
	vmtest.NeedAll(t)
	i := vmtest.MustBuildImage(t, vmtest.ImageSpec{Series: series[0]})
	o := vmtest.ImageOptions{Image: i, Share: t.TempDir()}
	g := vmtest.TestImage(t, o)
	if got := strings.TrimSpace(g.MustRun(t, "systemctl", "is-system-running", "--wait")); got != "running" {
		t.Errorf("the system is %s\n%s", got, g.MustRun(t, "systemctl", "--failed", "--no-pager"))
	}
	if got := strings.TrimSpace(g.MustRun(t, "uname", "-r")); got != i.Kernel.Release {
		t.Errorf("uname -r is %s, not %s", got, i.Kernel.Release)
	}
	g.MustRun(t, "sh", "-c", "echo seen > /share/file && echo kept > /var/kept")
	if got := g.MustRun(t, "cat", filepath.Join("/share", "file")); got != "seen\n" {
		t.Errorf("/share/file holds %q", got)
	}
	g = g.MustReboot(t, "vmtest.again=1")
	if got := g.MustRun(t, "cat", "/var/kept", "/proc/cmdline"); !strings.HasPrefix(got, "kept\n") || !strings.Contains(got, "vmtest.again=1") {
		t.Errorf("after a reboot: %q", got)
	}
	g.MustRun(t, "sh", "-c", "echo more >> /var/kept && sync")
	g.Cut()
	g = g.MustReboot(t, "")
	if got := g.MustRun(t, "cat", "/var/kept"); got != "kept\nmore\n" {
		t.Errorf("after a power cut: %q", got)
	}
	g.MustRun(t, "systemctl", "reboot", "--no-block")
	if err := g.WaitOff(t.Context()); err != nil {
		t.Error(err)
	}
}
