package freeze

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

func file(t *testing.T, content string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(f, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestMountPoint(t *testing.T) {
	const other = "22 28 0:20 / /proc rw,nosuid - proc proc rw\n31 25 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup cgroup rw,memory\n"
	for _, x := range []struct{ mounts, want string }{
		{other + "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n", "/sys/fs/cgroup"},
		{other + "35 24 0:30 /service /run/one rw - cgroup2 none rw\n36 24 0:30 / /my\\040cgroups rw - cgroup2 none rw\n", "/my cgroups"},
		{other, ""},
	} {
		got, err := MountPoint(file(t, x.mounts))
		if got != x.want || (x.want == "") != errors.Is(err, ErrNoCgroups) {
			t.Errorf("mountPoint = %q, %v, want %q", got, err, x.want)
		}
	}
}

func TestCgroupOf(t *testing.T) {
	for _, x := range []struct{ text, want, words string }{
		{"12:pids:/x\n0::/system.slice/a.service\n", "/system.slice/a.service", ""}, {"0::/\n", "/", ""},
		{"12:pids:/x\n", "", "in no cgroup"}, {"0::/gone (deleted)\n", "", "is gone"},
	} {
		got, err := cgroupOf(file(t, x.text))
		if got != x.want || (err != nil) != (x.words != "") || err != nil && !strings.Contains(err.Error(), x.words) {
			t.Errorf("cgroupOf(%q) = %q, %v, want %q", x.text, got, err, x.want)
		}
	}
}

// TestHome: threads in several cgroups could not be put back, each into its own.
func TestHome(t *testing.T) {
	dir := t.TempDir()
	write := func(name, cgroup string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("0::"+cgroup+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cgroup", "/vm")
	write("task/7/cgroup", "/vm")
	if got, err := home(dir); err != nil || got != "/vm" {
		t.Errorf("home = %q, %v", got, err)
	}
	write("task/8/cgroup", "/vm/vcpu0")
	if got, err := home(dir); err == nil || !strings.Contains(err.Error(), "/vm and /vm/vcpu0") {
		t.Errorf("of threads in two cgroups: %q, %v", got, err)
	}
}

func TestProcesses(t *testing.T) {
	if pid, err := process(os.Getpid()); err != nil || pid != os.Getpid() {
		t.Errorf("process = %d, %v", pid, err)
	}
	if _, err := process(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of nobody: %v", err)
	}
	if kernel, err := KernelThread(os.Getpid()); err != nil || kernel {
		t.Errorf("this process is a kernel thread: %t, %v", kernel, err)
	}
	// kthreadd, where the machine shows it.
	if b, err := os.ReadFile("/proc/2/comm"); err == nil && string(b) == "kthreadd\n" {
		if kernel, err := KernelThread(2); err != nil || !kernel {
			t.Errorf("kthreadd is a kernel thread: %t, %v", kernel, err)
		}
	}
}

// TestFreezer freezes a real process where this machine lets us make cgroups.
func TestFreezer(t *testing.T) {
	root, err := MountPoint("/proc/self/mountinfo")
	if err != nil {
		t.Skipf("SKIPPED: %v (the kernel tests do it in a guest)", err)
	}
	home, err := cgroupOf("/proc/self/cgroup")
	if err != nil {
		t.Skip("SKIPPED: ", err)
	}
	base := filepath.Join(root, home, "ksplice-test")
	if err := os.Mkdir(base, 0o755); err != nil {
		t.Skip("SKIPPED: ", err)
	}
	defer os.Remove(base)
	ice := func(f *os.File) error {
		_, err := f.WriteString("1\n")
		return err
	}
	f, err := New(ice, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if err := move(base, "cgroup.procs", []string{strconv.Itoa(cmd.Process.Pid)}); err != nil {
		t.Skip("SKIPPED: ", err)
	}
	if err := f.freeze(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	inside, err := filepath.Glob(filepath.Join(base, prefix+"*"))
	if err != nil || len(inside) != 1 {
		t.Fatalf("cgroups: %q, %v", inside, err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(inside[0], "cgroup.events"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "frozen 1") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not frozen: %s", b)
		}
	}
	// As after a kill: another run puts it back.
	if err := recoverBelow(base, hclog.NewNullLogger()); err != nil {
		t.Fatal(err)
	}
	if err := f.Release(); err != nil {
		t.Error(err)
	}
	if got, err := cgroupOf("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/cgroup"); err != nil || got != filepath.Join(home, "ksplice-test") {
		t.Errorf("the process is in %q, %v", got, err)
	}
	if err := move(filepath.Join(root, home), "cgroup.procs", []string{strconv.Itoa(cmd.Process.Pid)}); err != nil {
		t.Error(err)
	}
}
