package persist

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Attempt is what the guard remembers of a boot that applies updates, from before the first one until the machine has lived for a while.
type Attempt struct {
	// Boot is the boot's ID (/proc/sys/kernel/random/boot_id).
	Boot  string    `json:"boot"`
	Begun time.Time `json:"begun"`
	// Applying is the update that was being applied last.
	Applying string `json:"applying,omitempty"`
	// Suspended says that a later boot found it: that one died, and nothing is applied at boot until somebody says so.
	Suspended bool `json:"suspended,omitempty"`
}

// SuspendedError says that an earlier boot died while it applied updates, or soon after.
type SuspendedError struct{ Attempt Attempt }

// Error implements error.
func (e *SuspendedError) Error() string {
	if e.Attempt.Begun.IsZero() {
		return "what is kept of the last boot that applied them is damaged. Nothing is applied at boot until you run `ksplice persist resume`"
	}
	last := ""
	if e.Attempt.Applying != "" {
		last = fmt.Sprintf("; the last one was %s", e.Attempt.Applying)
	}
	return fmt.Sprintf("the boot that applied them at %s died of it, or soon after%s. Nothing is applied at boot until you run `ksplice persist resume`",
		e.Attempt.Begun.Format(time.DateTime), last)
}

func (s Store) guard() string { return filepath.Join(s.root, "boot.json") }

// Guarded returns what the guard remembers; nil: nothing, no boot is under way and none died.
func (s Store) Guarded() (*Attempt, error) {
	b, err := os.ReadFile(s.guard())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what came of the last boot: %w", err)
	}
	var a Attempt
	if err := json.Unmarshal(b, &a); err != nil {
		// A file that says nothing is no proof that the machine lived.
		return &Attempt{Suspended: true}, nil
	}
	return &a, nil
}

// Died returns the attempt of a boot that died of its updates, as this boot sees it; nil: none did.
func (s Store) Died(boot string) (*Attempt, error) {
	a, err := s.Guarded()
	if a != nil && (a.Suspended || a.Boot != boot) {
		return a, err
	}
	return nil, err
}

// Begin is called before the first update of a boot. It returns a *SuspendedError where an earlier boot's attempt was never settled.
func (s Store) Begin(boot string) error {
	a, err := s.Died(boot)
	if err != nil {
		return err
	}
	if a != nil {
		if !a.Suspended {
			a.Suspended = true
			if err := s.remember(a); err != nil {
				return err
			}
		}
		return &SuspendedError{*a}
	}
	return s.remember(&Attempt{Boot: boot, Begun: time.Now()})
}

// Applying is called before each update of a boot that has begun.
func (s Store) Applying(boot, id string) error {
	return s.remember(&Attempt{Boot: boot, Begun: time.Now(), Applying: id})
}

// Settle says that this boot has outlived its updates, or goes down in good order.
func (s Store) Settle() error {
	if err := os.Remove(s.guard()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the last boot: %w", err)
	}
	if err := syncDir(s.root); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the last boot: %w", err)
	}
	return nil
}

// SettleIf does so where what is remembered is still a: of a later attempt somebody else sees to it.
func (s Store) SettleIf(a *Attempt) error {
	now, err := s.Guarded()
	if err != nil || now == nil || !now.Begun.Equal(a.Begun) || now.Boot != a.Boot || now.Suspended != a.Suspended {
		return err
	}
	return s.Settle()
}

func (s Store) remember(a *Attempt) error {
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("remember this boot: %w", err)
	}
	return s.save(s.guard(), b)
}

// What keeps updates from being applied at boot by hand.
const (
	// Parameter is a word of the kernel's command line.
	Parameter = "ksplice.disable"
	// DisableFile is a file that need only exist.
	DisableFile = "/etc/ksplice/disable"
)

// Boot returns the running boot's ID, as the guard remembers it.
func Boot() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("ask the kernel which boot this is: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// DisabledHere says what keeps updates from being applied when this machine boots as it did; empty: nothing does.
func DisabledHere() (string, error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", fmt.Errorf("ask the kernel how it was booted: %w", err)
	}
	return Disabled(string(cmdline), DisableFile), nil
}

// Disabled says what keeps updates from being applied at boot; empty: nothing does. cmdline is the kernel's (/proc/cmdline), file DisableFile.
func Disabled(cmdline, file string) string {
	for _, word := range strings.Fields(cmdline) {
		name, value, has := strings.Cut(word, "=")
		if name == Parameter && !(has && off(value)) {
			return Parameter + " is on the kernel's command line"
		}
	}
	if _, err := os.Lstat(file); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file + " is there"
	}
	return ""
}

// off says that a switch of the kernel's is off, as lib/kstrtox.c:kstrtobool reads it. What is neither on nor off there is not off.
func off(value string) bool {
	value = strings.ToLower(value)
	return strings.HasPrefix(value, "n") || strings.HasPrefix(value, "f") || strings.HasPrefix(value, "0") || strings.HasPrefix(value, "of")
}
