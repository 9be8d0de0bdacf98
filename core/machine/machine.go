// Package machine is how a machine stands: its updates, what is not as it should be, and which version of the kernel they make of it.
// The commands for monitoring and for people call it (status, uname).
package machine

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kept"
	"github.com/ksplice/ksplice/core/persist"
	"github.com/ksplice/ksplice/core/update"
)

// Machine is a machine at one moment.
type Machine struct {
	// Release and Version are the running kernel's, as uname -r and uname -v print them.
	Release string
	Version string
	// Loaded says that the kernel module is; Module is its version, empty where it says none.
	Loaded bool
	Module string
	// Updates are those that the kernel module knows, in the order in which they were applied, and then what is armed.
	Updates []apply.State
	// Orphans are loaded parts that belong to no applied update, by module name.
	Orphans []string
	// Busy says that a ksplice was at work, so that what looks half-way may just be on its way.
	Busy bool
	// Manifests are those of applied updates, by ID, as far as they were kept.
	Manifests map[string]*update.Manifest
	// Persistent are the IDs of the updates that are to be applied at each boot of this kernel, in their order.
	Persistent []string
	// Booting says that they are being applied, or have been a moment ago. Disabled says why they are not by an administrator's will, Died is what the
	// guard remembers of a boot that died of them, since when they are not.
	Booting  bool
	Disabled string
	Died     *persist.Attempt
	// PersistentErr says why all that is not known.
	PersistentErr error
}

// moduleVersion is where the loader shows what the kernel module calls itself.
const moduleVersion = "/sys/module/ksplice/version"

// Read looks at the running machine. It needs root, as what the kernel module shows of functions is root's.
func Read() (*Machine, error) {
	m := &Machine{Manifests: map[string]*update.Manifest{}}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("which kernel is running: %w", err)
	}
	m.Release, m.Version = unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Version[:])
	switch _, err := os.Stat(engine.SysfsPath); {
	case err == nil:
		m.Loaded = true
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("look for the ksplice module: %w", err)
	}
	if b, err := os.ReadFile(moduleVersion); err == nil {
		m.Module = strings.TrimSpace(string(b))
	}
	// Before the rest and behind it: who was at work, or began meanwhile, may have changed what we see.
	before, err := engine.Locked()
	if err != nil {
		return nil, err
	}
	if m.Updates, err = apply.Status(); err != nil {
		return nil, err
	}
	if m.Orphans, err = engine.Orphans(); err != nil {
		return nil, err
	}
	after, err := engine.Locked()
	if err != nil {
		return nil, err
	}
	m.Busy = before || after
	for _, s := range m.Updates {
		id := engine.UpdateID(s.ID)
		if s.Stage != "applied" || m.Manifests[id] != nil {
			continue
		}
		// An update is in force whether its manifest is there or not; what only that knows is not told then.
		manifest, err := kept.Default().ReadManifest(id)
		if err == nil {
			m.Manifests[id] = manifest
		}
	}
	m.PersistentErr = m.readPersistent(persist.Default())
	return m, nil
}

// readPersistent looks at what is applied at boot.
func (m *Machine) readPersistent(store persist.Store) error {
	list, err := store.List()
	if err != nil {
		return err
	}
	for _, e := range persist.Of(list, m.Release, m.Version) {
		m.Persistent = append(m.Persistent, e.ID)
	}
	if m.Disabled, err = persist.DisabledHere(); err != nil {
		return err
	}
	boot, err := persist.Boot()
	if err != nil {
		return err
	}
	a, err := store.Guarded()
	if err != nil {
		return err
	}
	m.Booting = a != nil && a.Boot == boot && !a.Suspended
	m.Died, err = store.Died(boot)
	return err
}

// Unapplied are the IDs of persistent updates of which this kernel has nothing, applied or armed.
func (m *Machine) Unapplied() []string {
	return slices.DeleteFunc(slices.Clone(m.Persistent), func(id string) bool {
		return slices.ContainsFunc(m.Updates, func(s apply.State) bool {
			return engine.UpdateID(s.ID) == id && (s.Stage == "applied" || s.Armed != nil)
		})
	})
}

// Problem is one thing that is not as it should be.
type Problem struct {
	// ID is the transaction's, or empty where Part is all that is known.
	ID string `json:"id,omitempty"`
	// Part is the name of a loaded part.
	Part string `json:"part,omitempty"`
	// What says what is wrong, Do what mends it.
	What string `json:"what"`
	Do   string `json:"do"`
}

// Problems lists what is not as it should be, an empty list where all is: a transaction that was left half-way, a part that was left behind, a
// module that runs without its armed part, and a persistent update that is not in force without an administrator's will. While a ksplice is at work nothing is told, as it may be mending just that. Dead probes are no problem:
// they say something of tracing; nor are parts that wait for modules which are not loaded.
func (m *Machine) Problems() []Problem {
	out := []Problem{}
	if m.Busy {
		return out
	}
	var told []string
	for _, s := range m.Updates {
		switch {
		case s.Armed != nil && s.Armed.Live:
			out = append(out, Problem{ID: s.ID, What: fmt.Sprintf("module %s runs without its part of the update: %s", s.Armed.Module, s.Armed.State),
				Do: "unload and load the module, or undo the update and apply it again"})
		case s.Stage == "preparing", s.Stage == "dropped":
			what := "a transaction was left half-way, in stage " + s.Stage
			if s.AbortCause != "" {
				what += " (" + s.AbortCause + ")"
			}
			out = append(out, Problem{ID: s.ID, What: what, Do: "the next `ksplice apply` or `ksplice undo` clears it away"})
			told = append(told, s.Parts...)
		}
	}
	for _, name := range m.Orphans {
		if slices.Contains(told, name) {
			continue
		}
		out = append(out, Problem{Part: name, What: "a part is loaded that belongs to no applied update",
			Do: "the next `ksplice apply` or `ksplice undo` removes it, or `rmmod " + name + "`"})
	}
	return append(out, m.missing()...)
}

// missing are the problems of persistent updates that the boot did not apply.
func (m *Machine) missing() []Problem {
	if m.PersistentErr != nil {
		return []Problem{{What: m.PersistentErr.Error(), Do: "until that is mended nothing is applied at boot"}}
	}
	if m.Died != nil {
		return []Problem{{What: (&persist.SuspendedError{Attempt: *m.Died}).Error(), Do: "take away the update that did it (ksplice persist remove ID) before that"}}
	}
	if m.Disabled != "" || m.Booting {
		return nil
	}
	var out []Problem
	for _, id := range m.Unapplied() {
		out = append(out, Problem{ID: id, What: "it is persistent, and is not applied", Do: "`journalctl -b -u ksplice.service` says why; apply it, or `ksplice persist remove " + id + "`"})
	}
	return out
}

// Name says whose problem it is: a transaction's, a part's or the boot's.
func (p *Problem) Name() string { return cmp.Or(p.ID, p.Part, "boot") }
