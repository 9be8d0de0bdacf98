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
		s.up(t)
		t.Logf("%.0f s: booted again", time.Since(began).Seconds())
	}
	const install = "dpkg -i /share/packages/ksplice_*.deb /share/packages/ksplice-plugins_*.deb"
	s.sh(t, install)
	s.wants(t, "systemctl is-enabled ksplice.service", "enabled")
	// Whether it is on is kept as long as the package is not purged.
	s.sh(t, "dpkg -r ksplice ksplice-plugins")
	s.sh(t, install)
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
	// What may forbid modules comes behind them, and nothing is left out for that.
	if in, settings := s.when(t, "ksplice.service"), s.when(t, "systemd-sysctl.service"); in > settings {
		t.Errorf("the updates were in after %d µs, and the kernel's settings after %d µs", in, settings)
	}
	s.sh(t, "! journalctl -b --no-pager | grep 'ordering cycle'")
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
	s.settles(t)
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
	// What fails and may not fail a little later is tried again, and the machine does not wait for that.
	s.sh(t, `mv /var/lib/ksplice/updates.json.was /var/lib/ksplice/updates.json; exec 9>/run/ksplice.lock; flock 9; systemctl restart ksplice.service 9>&-; ! grep -q . /sys/kernel/ksplice/*/stage`)
	s.sees(t, effect, "old")
	s.wants(t, "journalctl -b -o cat -u ksplice.service", "another ksplice")
	s.settles(t)
	s.sees(t, effect, "new")
	s.wants(t, "ksplice status --check", "good")

	// A service that is killed is no machine that dies: who comes after it forgets the boot.
	again("")
	s.sh(t, "systemctl kill --signal KILL --kill-whom main ksplice.service; ls /var/lib/ksplice/boot.json")
	again("")
	s.sees(t, effect, "new")

	s.late(t, l, again)

	// Nobody waits for what is refused for good: the network comes up before the minute is over.
	s.sh(t, `sed -i.was 's/"--allow-unsigned=true",*//' /var/lib/ksplice/updates.json; ! cmp -s /var/lib/ksplice/updates.json /var/lib/ksplice/updates.json.was; sync`)
	again("")
	s.sees(t, effect, "old")
	s.wants(t, "systemctl show -p ActiveState network-pre.target; ls /var/lib/ksplice", "ActiveState=active", "boot.json")
	s.settles(t)
	s.wants(t, "systemctl show -p ActiveState ksplice.service", "ActiveState=failed")
	s.wants(t, "ksplice status --check || :", "it is persistent, and is not applied")
	s.wants(t, "ksplice status --prometheus", "\nksplice_persistent_unapplied 1\n")
	s.wants(t, "journalctl -b -o cat KSPLICE_OPERATION=boot", "boot failed: 1 of this kernel's persistent updates could not be applied")
	s.wants(t, "ksplice doctor || :", "not applied now: ")
	s.sh(t, "mv /var/lib/ksplice/updates.json.was /var/lib/ksplice/updates.json; systemctl restart ksplice.service")
	s.sees(t, effect, "new")

	// What is undone stays undone.
	s.wants(t, "ksplice undo --attempts 100 $(ksplice persist list --json | sed -n 's/.*\"id\": \"\\(.*\\)\",/\\1/p')", "undone", "is not applied at boot any more")
	again("")
	s.sees(t, effect, "old")
	s.wants(t, "ksplice persist list", "no persistent updates")
	s.sh(t, "dpkg -P ksplice ksplice-plugins; test ! -L /etc/systemd/system/sysinit.target.wants/ksplice.service -a ! -e /var/lib/ksplice")
}

// late has an update's part go in when its module comes, after the minute: a machine that dies of it then does so once.
func (s *system) late(t *testing.T, l *lab, again func(string)) {
	t.Helper()
	e, err := examples.Get("pktgen-commands")
	if err != nil {
		t.Fatal(err)
	}
	file := l.example(t, e)
	const armed = "cat /sys/kernel/ksplice/armed"
	s.wants(t, "ksplice apply --persist --allow-unsigned --attempts 100 "+file, "armed")
	again("")
	s.settles(t)
	s.wants(t, armed, "pktgen")
	arrive := func() {
		t.Helper()
		s.sh(t, "modprobe pktgen; for i in $(seq 300); do ksplice status | grep -q '^[0-9a-f]*:pktgen *applied' && exit 0; sleep 1; done; "+armed+"; ksplice status; exit 1")
		s.wants(t, "ls /var/lib/ksplice", "boot.json")
	}
	arrive()
	// Down in good order.
	again("")
	s.wants(t, armed, "pktgen")
	s.settles(t)
	arrive()
	s.sh(t, "for i in $(seq 300); do test -e /var/lib/ksplice/boot.json || exit 0; sleep 1; done; exit 1")
	again("")
	s.settles(t)
	arrive()
	s.sh(t, "sync")
	s.Cut()
	again("")
	s.wants(t, "ksplice persist list 2>&1", "died of it, or soon after; the last one was ")
	s.sh(t, "ksplice persist resume; systemctl restart ksplice.service")
	s.wants(t, "ksplice undo --attempts 100 $(ksplice persist list | sed -n 's/^\\([0-9a-f]*\\) .*pktgen.*/\\1/p')", "is not applied at boot any more")
}

// up waits until the machine is up, and its updates have been tried.
func (s *system) up(t testing.TB) {
	t.Helper()
	s.sh(t, `for i in $(seq 600); do case $(systemctl is-system-running) in running | degraded) exit 0 ;; esac; sleep 1; done; systemctl list-jobs; exit 1`)
	s.sh(t, `for i in $(seq 600); do [ "$(systemctl show --value -p ActiveState ksplice.service)" = activating ] || exit 0; sleep 1; done; exit 1`)
}

// settles waits until the service has ended, when what it remembers of the boot is gone from the disk.
func (s *system) settles(t testing.TB) {
	t.Helper()
	s.sh(t, `for i in $(seq 600); do case $(systemctl show --value -p SubState ksplice.service) in running | stop-post) sleep 1 ;; *) break ;; esac; done; ! test -e /var/lib/ksplice/boot.json`)
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
