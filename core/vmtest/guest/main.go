// Command guest is the init of the virtual machines that package vmtest boots. As process 1 it sets the machine up and
// reaps; a second process of it, the agent, runs what the host asks for. In a machine that has an init of its own, the
// agent is a service of it.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/vmtest/internal/wire"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "agent" {
		if err := agent(); err != nil {
			fail(fmt.Errorf("agent: %w", err))
		}
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "service" {
		service()
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: this is the init of a virtual machine for tests, and of no use elsewhere")
		os.Exit(2)
	}
	if err := setup(); err != nil {
		fail(err)
		poweroff()
	}
	if err := supervise(); err != nil {
		fail(err)
	}
	poweroff()
}

// supervise starts the agent and reaps every child until the agent ends. Two processes, so that the agent can wait for
// its own children while this one waits for any.
func supervise() error {
	cmd := exec.Command("/proc/self/exe", "agent")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("wait for the agent: %w", err)
		case pid == cmd.Process.Pid && status.ExitStatus() != 0:
			return fmt.Errorf("the agent ended with status %#x", uint32(status))
		case pid == cmd.Process.Pid:
			return nil
		}
	}
}

// service is the agent below another init, which is asked to end the machine where the agent ends.
func service() {
	if err := agent(); err != nil {
		fail(fmt.Errorf("agent: %w", err))
	}
	if out, err := exec.Command("systemctl", "poweroff", "--no-block").CombinedOutput(); err != nil {
		fail(fmt.Errorf("power off: %w: %s", err, out))
	}
}

// fail says on the console why the machine cannot go on.
func fail(err error) {
	fmt.Fprintf(os.Stderr, "\n%s%v\n", wire.FailMark, err)
}

func poweroff() {
	unix.Sync()
	for {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		time.Sleep(time.Second) // process 1 must not return
	}
}

var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "TERM=dumb", "TMPDIR=/tmp",
}

// isolate puts a process in a group of its own, so that a signal reaches all that it started.
var isolate = &syscall.SysProcAttr{Setpgid: true}
