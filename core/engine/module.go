package engine

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The states of an update that callers branch on.
var (
	ErrApplied    = errors.New("the update is applied already")
	ErrNotApplied = errors.New("the update is not applied")
)

// LockPath is the lock that every ksplice which changes the machine holds.
const LockPath = "/run/ksplice.lock"

// LockWithin takes the machine-wide lock of user space, and waits for it up to a limit.
func LockWithin(ctx context.Context, limit time.Duration) (unlock func(), err error) {
	for end := time.Now().Add(limit); ; {
		unlock, err = Lock()
		if err == nil || !errors.Is(err, ErrBusy) || time.Now().After(end) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Lock takes the machine-wide lock of user space, waiting for nobody.
func Lock() (unlock func(), err error) {
	f, err := os.OpenFile(LockPath, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("take the ksplice lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", LockPath, ErrBusy)
	}
	return func() { f.Close() }, nil
}

// PartName returns the module name of the part of update id for target: ksplice_ID_TARGET, cut to what the module
// loader takes (MODULE_NAME_LEN, include/linux/module.h: 64 less sizeof(long), with the NUL).
func PartName(id, target string) string {
	n := "ksplice_" + id + "_" + strings.ReplaceAll(target, "-", "_")
	return n[:min(len(n), 55)]
}

// InitPartName is the module name of the part for before the init of its target.
func InitPartName(id, target string) string { return PartName(id, "init-"+target) }

var partPattern = regexp.MustCompile(`^ksplice_([0-9a-f]{8})_`)

// Load loads a module, bit for bit as given, through finit_module.
func Load(name string, module []byte) error {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.Write(module); err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	if err := unix.FinitModule(fd, "", 0); err != nil {
		return loadError(name, module, err)
	}
	return nil
}

func loadError(name string, module []byte, err error) error {
	demand := ReadDemand()
	if errno := unix.Errno(0); errors.As(err, &errno) {
		if refused := demand.refused(name, module, errno); refused != nil {
			return refused
		}
	}
	advice := loadAdvice(err)
	if demand.Disabled {
		advice = "kernel.modules_disabled is set: no module can be loaded before the next boot"
	}
	return fmt.Errorf("load module %s: %w (%s)", name, err, advice)
}

func loadAdvice(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return "run as root"
	case errors.Is(err, unix.ENOEXEC):
		return "the loader refused its format; the kernel log says more"
	case errors.Is(err, unix.EEXIST):
		return "a module of that name is loaded"
	case errors.Is(err, unix.ENOENT):
		return "a symbol is missing; the kernel log names it"
	}
	return "the kernel log says more"
}

// Unload removes a module, waiting a bounded time for users to let go.
func Unload(ctx context.Context, name string) error {
	var err error
	for range 50 {
		err = unix.DeleteModule(name, unix.O_NONBLOCK)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EAGAIN) {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("unload module %s: %w", name, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("unload module %s: %w", name, err)
}

// Applied is an update that the kernel module knows.
type Applied struct {
	ID string `json:"id"`
	// Stage is preparing, applied, undone, dropped, or gone: the module that it was applied to failed in its init.
	Stage       string    `json:"stage"`
	Description string    `json:"description,omitempty"`
	Since       time.Time `json:"since"`
	// Sequence counts applied updates: the higher is the later.
	Sequence int64 `json:"-"`
	// Pause is how long the machine stood still, in nanoseconds.
	Pause time.Duration `json:"pause_ns"`
	// Exposed is how long the module had been live without the update, in nanoseconds: of a part that came after its module.
	Exposed   time.Duration `json:"exposed_ns,omitempty"`
	Parts     []string      `json:"parts"`
	Functions []Change      `json:"functions"`
	// Data are the fields of data that have another value since.
	Data        []Change `json:"data,omitempty"`
	StaysMapped bool     `json:"stays_mapped"`
	AbortCause  string   `json:"abort_cause,omitempty"`
}

// Change is one replaced function, or a field of data with another value.
type Change struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	// Part is the part's module name.
	Part string `json:"part"`
	// Address is the function's address, Code where its code lay before the update, Replacement where it lies since;
	// Size is the size of the replaced code in bytes, Window the offset of the jump in it.
	Address     uint64 `json:"-"`
	Code        uint64 `json:"-"`
	Replacement uint64 `json:"-"`
	Size        uint64 `json:"size"`
	Window      uint64 `json:"-"`
	// Old is what stood under the jump, or what the data had; nil where the redirect is none, or the kernel module does not say.
	Old []byte `json:"-"`
}

// UpdateID is the ID of the update that a transaction's is of: itself, or what stands before the colon and the module's name
// where a part came after its module.
func UpdateID(id string) string {
	id, _, _ = strings.Cut(id, ":")
	return id
}

// LateID is the ID of the transaction that applies an update's part to a module which came after the rest.
func LateID(id, module string) string { return id + ":" + module }

// SysfsPath is where the kernel module shows its updates.
const SysfsPath = "/sys/kernel/ksplice"

// Updates lists what the kernel module knows, oldest first. Without the module it is empty.
func Updates() ([]Applied, error) { return readUpdates(SysfsPath) }

func readUpdates(root string) ([]Applied, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list updates: %w", err)
	}
	var out []Applied
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		a, err := readUpdate(filepath.Join(root, e.Name()))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue // it went while we looked
		}
		if err != nil {
			return nil, fmt.Errorf("list updates: %s: %w", e.Name(), err)
		}
		out = append(out, *a)
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Sequence < out[j].Sequence })
	return out, nil
}

// Conflicts lists who was in the way at an update's last attempt to commit, while that goes on.
func Conflicts(id string) ([]Conflict, error) {
	b, err := os.ReadFile(filepath.Join(SysfsPath, id, "conflicts"))
	if err != nil {
		return nil, fmt.Errorf("read conflicts: %w", err)
	}
	return parseConflicts(string(b)), nil
}

// parseConflicts reads lines of pid, function, address and command (kmod/sysfs.c: conflicts_show). Of a long list the end may be cut off.
func parseConflicts(text string) []Conflict {
	var out []Conflict
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) < 4 || !strings.HasSuffix(line, "\n") {
			continue
		}
		pid, err := strconv.Atoi(f[0])
		if err != nil {
			continue
		}
		address, err := strconv.ParseUint(f[2], 16, 64)
		if err != nil {
			continue
		}
		out = append(out, Conflict{PID: pid, Function: f[1], Address: address, Command: f[3]})
	}
	return out
}

func readUpdate(dir string) (*Applied, error) {
	a := &Applied{ID: filepath.Base(dir)}
	var err error
	get := func(name string) string {
		b, e := os.ReadFile(filepath.Join(dir, name))
		if e != nil && err == nil {
			err = e
		}
		return strings.TrimSpace(string(b))
	}
	number := func(name string) int64 {
		n, e := strconv.ParseInt(get(name), 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("%s: %w", name, e)
		}
		return n
	}
	a.Stage, a.Description = get("stage"), get("description")
	a.AbortCause = get("abort_cause")
	a.Since, a.Pause = time.Unix(number("applied_at"), 0), time.Duration(number("pause_ns"))
	a.Sequence = number("sequence")
	if _, e := os.Stat(filepath.Join(dir, "exposed_ns")); e == nil { // older kernel modules have none
		a.Exposed = time.Duration(number("exposed_ns"))
	}
	a.Parts = strings.Fields(get("parts"))
	a.StaysMapped = get("stays_mapped") == "1"
	for line := range strings.Lines(get("changes")) {
		c, e := parseChange(line)
		if e != nil && err == nil {
			err = fmt.Errorf("changes: %w", e)
		}
		if c.Kind == dataKind {
			a.Data = append(a.Data, c)
			continue
		}
		a.Functions = append(a.Functions, c)
	}
	return a, err
}

// dataKind is the kind of a change of data: what Change says of code is then the field's that has another value.
const dataKind = "data"

// parseChange reads "code size replacement window kind address name part old"; addresses and old are hexadecimal, the rest is decimal.
// Older kernel modules say nothing of old.
func parseChange(line string) (Change, error) {
	f := strings.Fields(line)
	if len(f) != 8 && len(f) != 9 {
		return Change{}, fmt.Errorf("line %q has %d fields, not 9", line, len(f))
	}
	c := Change{Kind: f[4], Name: f[6], Part: f[7]}
	var err error
	if len(f) == 9 && f[8] != "-" {
		c.Old, err = hex.DecodeString(f[8])
	}
	number := func(s string, base int) uint64 {
		n, e := strconv.ParseUint(s, base, 64)
		err = errors.Join(err, e)
		return n
	}
	c.Code, c.Size, c.Replacement, c.Window, c.Address = number(f[0], 16), number(f[1], 10), number(f[2], 16), number(f[3], 10), number(f[5], 16)
	return c, err
}

// Orphans lists loaded parts that belong to no applied update: a killed run left them.
func Orphans() ([]string, error) {
	updates, err := Updates()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile("/proc/modules")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a kernel without CONFIG_MODULES
	}
	if err != nil {
		return nil, fmt.Errorf("list loaded parts: %w", err)
	}
	return orphans(string(b), updates), nil
}

func orphans(modules string, updates []Applied) []string {
	var out []string
	for line := range strings.Lines(modules) {
		name, _, _ := strings.Cut(line, " ")
		if !partPattern.MatchString(name) {
			continue
		}
		if !slices.ContainsFunc(updates, func(a Applied) bool {
			return (a.Stage == "applied" || a.StaysMapped) && slices.Contains(a.Parts, name)
		}) {
			out = append(out, name)
		}
	}
	return out
}
