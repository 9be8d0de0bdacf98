// Package freeze keeps processes out of a commit's way: it freezes those whose threads stand in functions that are to be replaced, in
// cgroups of its own below theirs, so that accounting and limits stay. A frozen thread has left what it slept in, as for a signal
// (Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze). The apply and undo pipelines call it.
//
// Who thaws is the kernel module, as soon as the commit is decided: this process may be among those that are frozen, or be
// killed. What a killed one leaves, cgroups with running processes in them, Recover clears.
package freeze

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/engine"
)

// prefix begins the names of the cgroups.
const prefix = "ksplice-frozen-"

// ErrNoCgroups says that the freezer is not at hand.
var ErrNoCgroups = errors.New("no cgroup v2 hierarchy is mounted, which freezing needs; mount one (mount -t cgroup2 none /sys/fs/cgroup) or go without --freeze")

// Process is a process that was frozen.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
}

// Freezer freezes processes for one commit. It is not safe for concurrent use.
type Freezer struct {
	// Processes lists who was frozen, in order.
	Processes []Process

	root   string // where the hierarchy is mounted
	ice    func(*os.File) error
	log    hclog.Logger
	groups map[string]*group // by the cgroup that they are below; "self" for this process
	frozen map[int]bool      // by process; false: it cannot be
}

// group is a cgroup of ours.
type group struct {
	parent, dir string
	list        string // the file that takes and lists its members: cgroup.procs or cgroup.threads
	freeze      *os.File
	frozen      bool
}

// New prepares to freeze. ice freezes a cgroup by its cgroup.freeze until the commit is decided; see engine.Device.Freeze.
func New(ice func(*os.File) error, log hclog.Logger) (*Freezer, error) {
	root, err := MountPoint("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return &Freezer{root: root, ice: ice, log: log, groups: map[string]*group{}, frozen: map[int]bool{}}, nil
}

// MountPoint finds the whole cgroup v2 hierarchy in a list of mounts (proc(5), mountinfo).
func MountPoint(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("find cgroups: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		where, what, ok := strings.Cut(line, " - ")
		f := strings.Fields(where)
		if ok && len(f) > 4 && f[3] == "/" && strings.HasPrefix(what, "cgroup2 ") {
			return strings.NewReplacer(`\040`, " ", `\134`, `\`).Replace(f[4]), nil
		}
	}
	return "", ErrNoCgroups
}

// interval is how often the kernel module is asked who is in the way.
const interval = 5 * time.Millisecond

// Watch freezes whoever a running commit of the update finds in its way, until ctx ends. This process comes last, when nobody else
// is: from then on the kernel module goes on alone.
func (f *Freezer) Watch(ctx context.Context, id string) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval):
		}
		conflicts, err := engine.Conflicts(id)
		if err != nil {
			f.log.Debug("who is in the way cannot be read", "error", err)
			continue
		}
		self := false
		others := 0
		for _, c := range conflicts {
			pid, err := process(c.PID)
			switch {
			case err != nil: // it has gone
			case pid == os.Getpid():
				self = true
			default:
				others++
				f.add(pid, c)
			}
		}
		if self && others == 0 {
			f.add(os.Getpid(), engine.Conflict{PID: os.Getpid(), Command: "ksplice"})
		}
	}
}

// add freezes a process, once.
func (f *Freezer) add(pid int, c engine.Conflict) {
	if _, done := f.frozen[pid]; done {
		return
	}
	f.frozen[pid] = false
	if kernel, err := KernelThread(pid); kernel || err != nil {
		return
	}
	if err := f.freeze(pid); err != nil {
		f.log.Warn("a process cannot be frozen", "pid", pid, "command", c.Command, "function", c.Function, "error", err)
		return
	}
	f.frozen[pid] = true
	f.Processes = append(f.Processes, Process{pid, c.Command})
	f.log.Info("frozen", "pid", pid, "command", c.Command, "function", c.Function)
}

// freeze puts a process into a frozen cgroup below its own.
func (f *Freezer) freeze(pid int) error {
	path, err := home(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return err
	}
	// A child of one that was frozen is where that was, in a cgroup of ours.
	for strings.HasPrefix(filepath.Base(path), prefix) {
		path = filepath.Dir(path)
	}
	parent := filepath.Join(f.root, path)
	key := parent
	if pid == os.Getpid() {
		key = "self"
	}
	g := f.groups[key]
	if g == nil {
		if g, err = f.group(parent, len(f.groups)); err != nil {
			return err
		}
		f.groups[key] = g
	}
	if err := g.take(pid); err != nil || g.frozen {
		return err
	}
	if err := f.ice(g.freeze); err != nil {
		return err
	}
	g.frozen = true
	return nil
}

// group makes a cgroup below another one.
func (f *Freezer) group(parent string, n int) (g *group, err error) {
	g = &group{parent: parent, dir: filepath.Join(parent, fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), n)), list: "cgroup.procs"}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a cgroup to freeze: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(g.dir))
		}
	}()
	above, below := cgroupType(parent), cgroupType(g.dir)
	if above == "threaded" || below == "domain invalid" {
		// Below threads only threads can be (cgroup-v2.rst, Threads).
		if err := os.WriteFile(filepath.Join(g.dir, "cgroup.type"), []byte("threaded\n"), 0); err != nil {
			return nil, fmt.Errorf("make a cgroup to freeze: %w", err)
		}
		g.list = "cgroup.threads"
	}
	if g.freeze, err = os.OpenFile(filepath.Join(g.dir, "cgroup.freeze"), os.O_WRONLY, 0); err != nil {
		return nil, fmt.Errorf("make a cgroup to freeze: %w", err)
	}
	return g, nil
}

// cgroupType is what cgroup.type says; the root has none and is a domain.
func cgroupType(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.type"))
	if err != nil {
		return "domain"
	}
	return strings.TrimSpace(string(b))
}

// take moves a process into the group.
func (g *group) take(pid int) error {
	members := []string{strconv.Itoa(pid)}
	if g.list == "cgroup.threads" {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		members = nil
		for _, e := range entries {
			members = append(members, e.Name())
		}
	}
	return move(g.dir, g.list, members)
}

// move moves processes or threads to a cgroup. Those that have ended meanwhile do not count.
func move(dir, list string, members []string) error {
	for _, m := range members {
		err := os.WriteFile(filepath.Join(dir, list), []byte(m+"\n"), 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("move process %s: %w", m, err)
		}
	}
	return nil
}

// Release thaws whom the kernel module has not thawed already, and puts everybody back.
func (f *Freezer) Release() error {
	var errs []error
	for _, g := range f.groups {
		errs = append(errs, recoverBelow(g.dir, f.log))
		g.freeze.Close()
	}
	clear(f.groups)
	return errors.Join(errs...)
}

const (
	removals     = 50
	removalPause = 10 * time.Millisecond
)

// clearGroup thaws a cgroup, puts its members back where they came from and removes it.
func clearGroup(dir string) error {
	list := "cgroup.procs"
	if cgroupType(dir) == "threaded" {
		list = "cgroup.threads"
	}
	var last error
	for range removals {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0\n"), 0); errors.Is(err, fs.ErrNotExist) {
			return nil // somebody else was at it
		} else if err != nil {
			return fmt.Errorf("thaw: %w", err)
		}
		b, err := os.ReadFile(filepath.Join(dir, list))
		if err == nil {
			err = move(filepath.Dir(dir), list, strings.Fields(string(b)))
		}
		if err == nil {
			err = os.Remove(dir)
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		last = err
		time.Sleep(removalPause)
	}
	return fmt.Errorf("put frozen processes back: %w", last)
}

// Recover clears what a run left that was killed.
func Recover(log hclog.Logger) error {
	root, err := MountPoint("/proc/self/mountinfo")
	if errors.Is(err, ErrNoCgroups) {
		return nil
	}
	if err != nil {
		return err
	}
	return recoverBelow(root, log)
}

func recoverBelow(root string, log hclog.Logger) error {
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		case err == nil && d.IsDir() && strings.HasPrefix(d.Name(), prefix):
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("find cgroups of an earlier run: %w", err)
	}
	var errs []error
	for _, dir := range slices.Backward(found) { // what is in one before the one itself
		log.Debug("put frozen processes back", "cgroup", dir)
		errs = append(errs, clearGroup(dir))
	}
	return errors.Join(errs...)
}

// home is the cgroup that all threads of a process are in. dir is its directory in /proc.
func home(dir string) (string, error) {
	path, err := cgroupOf(filepath.Join(dir, "cgroup"))
	if err != nil {
		return "", err
	}
	threads, err := filepath.Glob(filepath.Join(dir, "task", "*", "cgroup"))
	if err != nil {
		return "", err
	}
	for _, t := range threads {
		if p, err := cgroupOf(t); err == nil && p != path {
			return "", fmt.Errorf("its threads are in several cgroups, %s and %s, and could not be put back into them", path, p)
		}
	}
	return path, nil
}

// process is the process that a thread belongs to.
func process(tid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "Tgid:"); ok {
			return strconv.Atoi(strings.TrimSpace(n))
		}
	}
	return 0, fmt.Errorf("/proc/%d/status names no process", tid)
}

// KernelThread says that a process is a thread of the kernel's own: PF_KTHREAD of include/linux/sched.h among its flags (proc(5), stat).
func KernelThread(pid int) (bool, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false, err
	}
	const flags, kthread = 6, 0x00200000 // behind the command
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) <= flags {
		return false, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	n, err := strconv.ParseUint(f[flags], 10, 64)
	return n&kthread != 0, err
}

// cgroupOf is a process's place in the cgroup v2 hierarchy (cgroups(7), /proc/pid/cgroup).
func cgroupOf(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "0::/") })
	if i < 0 {
		return "", fmt.Errorf("%s: it is in no cgroup of version 2", file)
	}
	path := strings.TrimPrefix(lines[i], "0::")
	if strings.HasSuffix(path, " (deleted)") {
		return "", fmt.Errorf("its cgroup %s is gone", path)
	}
	return path, nil
}
