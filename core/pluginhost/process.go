package pluginhost

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// pipeGrace is how long output is still read after a process has ended: somebody whom it started may hold the pipe.
const pipeGrace = time.Second

// process is one run of a plugin's binary in a process group of its own. Nobody of the group outlives the process,
// and the process gets SIGTERM when this program dies, however it dies.
type process struct {
	cmd    *exec.Cmd
	output tail // what it wrote to stderr

	mu      sync.Mutex // guards reaping: signals go to a group that still exists
	reaped  bool
	killed  bool          // by this program
	exited  chan struct{} // closed when the process has ended and its output was read
	outcome string        // how it ended; to be read once exited is closed
}

// startProcess starts path with one argument or none. The function stdout gets everything that it writes there, in a
// goroutine of its own; stderr goes to the log and to output.
func startProcess(path string, args, env []string, log hclog.Logger, stdout func(io.Reader)) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), exited: make(chan struct{})}
	p.cmd.Env = env
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		outR.Close()
		outW.Close()
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = outW, errW

	var readers sync.WaitGroup
	readers.Go(func() { stdout(outR) })
	readers.Go(func() { pumpLog(errR, log, &p.output) })
	started := make(chan error)
	go p.run(started, func() {
		read := make(chan struct{})
		go func() { readers.Wait(); close(read) }()
		select {
		case <-read:
		case <-time.After(pipeGrace):
		}
		outR.Close()
		errR.Close()
		<-read
	})
	err = <-started
	outW.Close()
	errW.Close()
	if err != nil {
		<-p.exited
		return nil, err
	}
	return p, nil
}

// run starts the process and stays with it to its end. It keeps one thread all the while: the kernel sends the
// parent's death signal when the *thread* that started the child ends (prctl(2), PR_SET_PDEATHSIG).
func (p *process) run(started chan<- error, drain func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.exited)
	err := p.cmd.Start()
	started <- err
	if err != nil {
		drain()
		return
	}
	// Wait without reaping: as long as the zombie is there its number, and the group's, belong to nobody else.
	for {
		if err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			break
		}
	}
	p.mu.Lock()
	unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
	p.reaped = true
	err = p.cmd.Wait()
	p.mu.Unlock()
	p.outcome = "ended without an error"
	if err != nil {
		p.outcome = "ended: " + err.Error()
	}
	drain()
}

// kill ends the process and everybody in its group at once.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		p.killed = true
		unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
		unix.Kill(p.cmd.Process.Pid, unix.SIGKILL) // should it have left its group
	}
}

// diedOfUs says, once the process has ended, that it did so because this program killed it.
func (p *process) diedOfUs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd.ProcessState == nil {
		return p.killed
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return p.killed && ok && status.Signaled() && status.Signal() == unix.SIGKILL
}

// ended waits up to d for the process to end.
func (p *process) ended(d time.Duration) bool {
	select {
	case <-p.exited:
		return true
	default:
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.exited:
		return true
	case <-t.C:
		return false
	}
}

// lineMax bounds one line of output in bytes; the rest of a longer line becomes lines of its own.
const lineMax = 64 << 10

// readLines calls each with every line, bounded in length, until the end of r.
func readLines(r io.Reader, each func(string)) {
	b := bufio.NewReaderSize(r, lineMax)
	for {
		line, _, err := b.ReadLine()
		if err != nil {
			return
		}
		each(string(line))
	}
}

// quoted returns the first bytes of what a plugin wrote, fit for a message.
func quoted(s string) string {
	const most = 120
	if len(s) > most {
		return fmt.Sprintf("%q and %d bytes more", s[:most], len(s)-most)
	}
	return fmt.Sprintf("%q", s)
}
