package kerneltest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// TestPersist boots a Debian from a disk again and again: an update that was applied with --persist is there after a reboot, before the network;
// not after a boot that died of it, until somebody resumes; not where the command line or a file forbids it; not on another kernel; not after undo.
func TestPersist(t *testing.T) {
	t.Parallel()
	vmtest.NeedAll(t)
	const series = "6.1"
	image := vmtest.MustBuildImage(t, vmtest.ImageSpec{Series: series})
	s := &system{share: t.TempDir()}
	l := prepare(t, series)
	l.share = s.share
	e, err := examples.Get("uptime-words")
	if err != nil {
		t.Fatal(err)
	}
	effect, file := e.Show[0], l.example(t, e)
	if err := os.CopyFS(filepath.Join(s.share, "packages"), os.DirFS(makePackages(t, moduleVersion(t)))); err != nil {
		t.Fatal(err)
	}
	module, err := os.ReadFile(l.kmod)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.share, "ksplice.ko"), module, 0o644); err != nil {
		t.Fatal(err)
	}

	s.Guest = vmtest.TestImage(t, vmtest.ImageOptions{Image: image, MemoryMiB: 2048, Share: s.share})
	defer func() {
		if t.Failed() {
			r, err := s.Run(t.Context(), "sh", "-c", "exec 2>&1; systemctl status --no-pager -l ksplice.service; journalctl -b --no-pager -u ksplice.service; ls -lR /var/lib/ksplice; cat /var/lib/ksplice/*.json /proc/cmdline")
			if err == nil {
				t.Log(r.Stdout)
			}
		}
	}()
	again := func(more string) {
		t.Helper()
		began := time.Now()
		s.Guest = s.MustReboot(t, more)
		s.sh(t, "systemctl is-system-running --wait || :")
		t.Logf("%.0f s: booted again", time.Since(began).Seconds())
	}
	s.sh(t, "dpkg -i /share/packages/ksplice_*.deb /share/packages/ksplice-plugins_*.deb")
	s.sh(t, "install -D -m 644 /share/ksplice.ko /lib/modules/"+image.Kernel.Release+"/updates/ksplice.ko && depmod && modprobe ksplice")
	s.wants(t, "systemctl is-enabled ksplice.service", "enabled")
	s.wants(t, "ksplice persist list", "no persistent updates")
	s.wants(t, "ksplice apply --persist --allow-unsigned --attempts 100 "+file, "applied", "is applied again at each boot")
	s.wants(t, "ksplice persist list", image.Kernel.Release)
	s.sh(t, "rm /etc/ksplice/config.toml; sync") // what was said with apply counts

	again("")
	s.sees(t, effect, "new")
	s.wants(t, "systemctl show -p ActiveState ksplice.service", "ActiveState=active")
	if in, net := s.when(t, "ksplice.service"), s.when(t, "network-pre.target"); in == 0 || in > net {
		t.Errorf("the updates were in after %d µs, and the network could begin after %d µs", in, net)
	}
	s.wants(t, "journalctl -b -o cat -u ksplice.service", "1 of 1 update applied")
	// A service that is started again does nothing twice.
	s.sh(t, "systemctl restart ksplice.service")
	s.sees(t, effect, "new")

	// The machine goes down in good order within the minute, which is no death.
	s.wants(t, "ls /var/lib/ksplice", "boot.json")
	again("")
	s.sees(t, effect, "new")

	// It dies within the minute.
	s.wants(t, "ls /var/lib/ksplice", "boot.json")
	s.Cut()
	for range 2 {
		again("")
		s.sees(t, effect, "old")
		s.wants(t, "systemctl show -p ActiveState ksplice.service", "ActiveState=failed")
		s.wants(t, "ksplice persist list 2>&1", "Nothing is applied at boot until you run `ksplice persist resume`")
	}
	s.wants(t, "ksplice persist resume", "resumed")
	s.sh(t, "systemctl restart ksplice.service")
	s.sees(t, effect, "new")
	// And when it has lived for a minute with it, its death is not the update's.
	s.sh(t, "for i in $(seq 90); do test -e /var/lib/ksplice/boot.json || exit 0; sleep 1; done; exit 1")
	s.Cut()
	again("")
	s.sees(t, effect, "new")

	// By hand.
	again("ksplice.disable")
	s.sees(t, effect, "old")
	s.wants(t, "journalctl -b -o cat -u ksplice.service", "ksplice.disable is on the kernel's command line")
	s.sh(t, "modprobe ksplice; touch /etc/ksplice/disable; systemctl restart ksplice.service")
	s.sees(t, effect, "old")
	s.sh(t, "rm /etc/ksplice/disable; systemctl restart ksplice.service")
	s.sees(t, effect, "old") // the command line is as it was

	// Another kernel's updates are none of this one's.
	s.sh(t, `sed -i.was 's/"version": "#1 /"version": "#0 /' /var/lib/ksplice/updates.json; ! cmp -s /var/lib/ksplice/updates.json /var/lib/ksplice/updates.json.was; sync`)
	again("")
	s.sees(t, effect, "old")
	s.wants(t, "journalctl -b -o cat -u ksplice.service", "none of 1 persistent update is for "+image.Kernel.Release)
	s.sh(t, "mv /var/lib/ksplice/updates.json.was /var/lib/ksplice/updates.json; systemctl restart ksplice.service")
	s.sees(t, effect, "new")

	// What is undone stays undone.
	s.wants(t, "ksplice undo --attempts 100 $(ksplice persist list --json | sed -n 's/.*\"id\": \"\\(.*\\)\",/\\1/p')", "undone", "is not applied at boot any more")
	again("")
	s.sees(t, effect, "old")
	s.wants(t, "ksplice persist list", "no persistent updates")
}

// when returns when a unit became active, in microseconds since the machine began to boot; 0: it did not.
func (s *system) when(t testing.TB, unit string) int64 {
	t.Helper()
	out := s.sh(t, fmt.Sprintf("systemctl show --value -p ActiveEnterTimestampMonotonic %s", unit))
	n, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
