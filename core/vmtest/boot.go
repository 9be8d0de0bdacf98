package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/ksplice/ksplice/core/vmtest/internal/wire"
)

// Bounds of the waits that have no other. They are generous: the machine is emulated, and may share its host.
const (
	bootLimit     = 4 * time.Minute
	commandLimit  = 10 * time.Minute
	answerLimit   = time.Minute // for what the agent does at once
	poweroffLimit = 20 * time.Second
	systemLimit   = 12 * time.Minute // until a system with services has booted
	servicesLimit = 3 * time.Minute  // until it has powered off
)

// Options says what to boot. Only Kernel has to be set.
type Options struct {
	Kernel    *Kernel
	CPUs      int    // 0 is 2
	CPU       string // QEMU's -cpu, for example "max"; empty leaves QEMU's own choice
	Append    string // more of the kernel's command line
	MemoryMiB int    // 0 is 1024

	// Modules are loaded by init, with what they depend on, in this order. The others can be loaded with modprobe.
	Modules []string
	// Files of the host, by the full path that they get in the guest. They live in its memory; see Tree.
	Files map[string]string
	// Share is a directory of the host that the guest sees as /share and may write to.
	Share string
	// SecureBoot boots through firmware that has Secure Boot on and trusts, besides who signed the kernel, these certificates (DER). It is nil
	// where no firmware is wanted.
	SecureBoot [][]byte
	// Debug allows WriteMemory, DumpMemory and Divert.
	Debug bool
}

// Boot starts a machine and waits until programs can run in it. ctx bounds the boot only: Close ends the machine, and
// so does the end of this process. The kernel is emulated, with address space randomisation on.
func Boot(ctx context.Context, o Options) (*Guest, error) {
	if o.Kernel == nil {
		return nil, errors.New("boot: Options.Kernel is not set: Fetch one")
	}
	g, err := boot(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("boot %s: %w", o.Kernel.Release, err)
	}
	return g, nil
}

func boot(ctx context.Context, o Options) (*Guest, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, fmt.Errorf("%w: install the package qemu-system-x86", err)
	}
	busybox, err := findBusybox()
	if err != nil {
		return nil, err
	}
	initBinary, err := guestInit(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "vmtest-")
	if err != nil {
		return nil, err
	}
	keep := false
	defer func() {
		if !keep {
			os.RemoveAll(dir)
		}
	}()
	board := []string{"-machine", "q35"}
	if o.SecureBoot != nil {
		if board, err = firmware(filepath.Join(dir, "vars"), o.Kernel, o.SecureBoot); err != nil {
			return nil, err
		}
	}
	argv := append(machine(o.CPU, o.CPUs, o.MemoryMiB), board...)
	var mounts []wire.Mount
	serve := func(tag, host, guest string, readOnly bool) error {
		more, err := share(tag, host, readOnly)
		argv = append(argv, more...)
		mounts = append(mounts, wire.Mount{Tag: tag, Path: guest, ReadOnly: readOnly})
		return err
	}
	if err := serve("modules", o.Kernel.ModulesDir, "/lib/modules/"+o.Kernel.Release, true); err != nil {
		return nil, err
	}
	if o.Share != "" {
		if err := serve("share", o.Share, "/share", false); err != nil {
			return nil, err
		}
	}
	initrd := filepath.Join(dir, "initrd")
	if err := writeInitramfs(initrd, &o, initBinary, busybox, mounts); err != nil {
		return nil, fmt.Errorf("make initramfs: %w", err)
	}
	argv = append(argv, "-kernel", o.Kernel.Vmlinuz, "-initrd", initrd, "-append", commandLine("rdinit=/init", o.Append))

	g := newGuest(o.Kernel, dir)
	if o.Debug {
		g.debugSocket = filepath.Join(dir, "gdb")
		g.monitorSocket = filepath.Join(dir, "qmp")
		argv = append(argv, "-gdb", "unix:"+quoteComma(g.debugSocket)+",server=on,wait=off",
			"-qmp", "unix:"+quoteComma(g.monitorSocket)+",server=on,wait=off", "-device", "vmcoreinfo")
	}
	if err := g.start(qemu, argv); err != nil {
		return nil, err
	}
	keep = true
	if err := g.up(ctx); err != nil {
		return nil, err
	}
	return g, nil
}

// machine returns QEMU's arguments for a machine without disks, with a console and the agent's port; which board it has the caller adds.
func machine(cpu string, cpus, memoryMiB int) []string {
	// One thread for all processors: with several, QEMU now and then runs an int3 that the kernel has replaced by then, and a
	// stock kernel oopses or hangs while it switches tracers or static keys.
	argv := []string{"-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", "-accel", "tcg,thread=single",
		"-smp", strconv.Itoa(orDefault(cpus, 2)), "-m", strconv.Itoa(orDefault(memoryMiB, 1024)),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,fd=3",
		"-device", "virtserialport,chardev=agent,name=" + wire.Port}
	if cpu != "" {
		argv = append(argv, "-cpu", cpu)
	}
	return argv
}

// share returns QEMU's arguments for a directory of the host that the guest can mount by 9p.
func share(tag, host string, readOnly bool) ([]string, error) {
	host, err := filepath.Abs(host)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(host); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("share %s with the guest: it is not a directory (%v)", host, err)
	}
	fsdev := "local,security_model=none,multidevs=remap,id=" + tag + ",path=" + quoteComma(host)
	if readOnly {
		fsdev += ",readonly=on"
	}
	return []string{"-fsdev", fsdev, "-device", "virtio-9p-pci,fsdev=" + tag + ",mount_tag=" + tag}, nil
}

// commandLine is the kernel's. The watchdogs' limits are stretched: an emulated CPU may wait long for its host.
func commandLine(how, more string) string {
	line := "console=ttyS0 panic=-1 printk.devkmsg=on log_buf_len=1M " + how + " rcupdate.rcu_cpu_stall_timeout=60 watchdog_thresh=60"
	if more != "" {
		line += " " + more
	}
	return line
}

func newGuest(k *Kernel, dir string) *Guest {
	return &Guest{kernel: k, dir: dir, poweroffLimit: poweroffLimit, exited: make(chan struct{}), ready: make(chan struct{}),
		calls: make(map[uint64]*call)}
}

// up waits until the agent is there; a machine that does not come up is ended.
func (g *Guest) up(ctx context.Context) error {
	var err error
	select {
	case <-g.ready:
		return nil
	case <-g.exited:
		err = fmt.Errorf("the machine stopped before its agent was there: %s", g.exitReason())
	case <-ctx.Done():
		err = fmt.Errorf("wait for the agent: %w", context.Cause(ctx))
	}
	g.kill()
	return fmt.Errorf("%w\n%s", err, g.console.tail())
}

// start starts QEMU and what reads from it.
func (g *Guest) start(qemu string, argv []string) error {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket pair: %w", err)
	}
	if err := syscall.SetNonblock(pair[0], true); err != nil {
		return err
	}
	g.port = os.NewFile(uintptr(pair[0]), "agent's port")
	theirs := os.NewFile(uintptr(pair[1]), "agent's port in QEMU")
	defer theirs.Close()
	cmd := exec.Command(qemu, argv...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = &g.complaints
	// Should this process be killed, QEMU goes too; a group of its own keeps a terminal's ^C to Close.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	console, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	started := make(chan error)
	go func() {
		// Pdeathsig follows the thread that forked (prctl(2)): it must live as long as QEMU.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_, _ = io.Copy(&g.console, console) // ends when QEMU does
		g.waitErr = cmd.Wait()
		close(g.exited)
		g.port.Close()
		os.RemoveAll(g.dir)
	}()
	if err := <-started; err != nil {
		g.port.Close()
		return fmt.Errorf("start %s: %w", qemu, err)
	}
	g.process = cmd.Process
	g.enc = json.NewEncoder(g.port)
	go g.receive()
	return nil
}

func findBusybox() (string, error) {
	for _, path := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if isStatic(path) {
			return path, nil
		}
	}
	return "", errors.New("there is no static busybox: install the package busybox-static")
}

// quoteComma writes a value of a QEMU option: commas are doubled (qemu(1), "Device drivers").
func quoteComma(s string) string {
	var b []byte
	for i := range len(s) {
		if b = append(b, s[i]); s[i] == ',' {
			b = append(b, ',')
		}
	}
	return string(b)
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}
