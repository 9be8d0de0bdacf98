// Package persist is what survives a reboot: the updates that are applied again at each boot, and the guard that keeps a machine which dies
// of that from doing it twice. The ksplice command calls it; the files are root's alone.
package persist

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ksplice/ksplice/core/rootonly"
	"github.com/ksplice/ksplice/core/trust"
	"github.com/ksplice/ksplice/core/update"
)

// Root is where it lies on a machine.
const Root = "/var/lib/ksplice"

// Entry is one update that is applied at boot.
type Entry struct {
	ID          string `json:"id"`
	Description string `json:"description"`
	// Release and Version are those of the kernel that it was applied to (uname -r, uname -v): on no other is it tried.
	Release string `json:"release"`
	Version string `json:"version"`
	// Added is when somebody made it persistent.
	Added time.Time `json:"added"`
	// Base are the IDs of the updates that it stands on, which are applied before it.
	Base []string `json:"base,omitempty"`
	// Flags are what `ksplice apply` was given, and is given again.
	Flags []string `json:"flags"`
}

// Store is a directory: updates.json lists the entries in the order in which they are applied, updates/ID.ksplice are the files, boot.json is the
// guard's.
type Store struct{ root string }

// Default is the machine's own store.
func Default() Store { return Store{Root} }

// At is a store somewhere else, for tests.
func At(root string) Store { return Store{root} }

func (s Store) list() string { return filepath.Join(s.root, "updates.json") }

// File is where the update of an ID lies.
func (s Store) File(id string) string { return filepath.Join(s.root, "updates", id+".ksplice") }

// List returns the entries in the order in which they are applied. A machine that has none has no store.
func (s Store) List() ([]Entry, error) {
	if err := s.owned(); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(s.list())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the persistent updates: %w", err)
	}
	var list []Entry
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, &DamagedError{s.list(), err}
	}
	for _, e := range list {
		if err := valid(e.ID); err != nil {
			return nil, &DamagedError{s.list(), err}
		}
	}
	return list, nil
}

// DamagedError says that the list is not what this package writes.
type DamagedError struct {
	Path string
	Err  error
}

// Error implements error.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("read the persistent updates: %s: %v; take it away and apply the updates again with --persist", e.Path, e.Err)
}

// Unwrap gives the cause.
func (e *DamagedError) Unwrap() error { return e.Err }

// Of returns those of entries that are for a kernel (uname -r, uname -v), in their order.
func Of(list []Entry, release, version string) []Entry {
	return slices.DeleteFunc(slices.Clone(list), func(e Entry) bool { return e.Release != release || e.Version != version })
}

// Add makes an update persistent, behind all others, or in the place of the entry of the same ID. What is kept is what the caller has verified, with the
// signatures that lay beside the file, since whose it is is asked again at boot. Entries of the IDs in instead go in the same step. An update that
// stands on others wants these to be persistent: *BaseError. A crash leaves the old list or the new one.
func (s Store) Add(e Entry, sealed *update.Sealed, beside []trust.Signature, instead []string) error {
	if err := valid(e.ID); err != nil {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	list, err := s.List()
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(o Entry) bool { return o.ID != e.ID && slices.Contains(instead, o.ID) })
	at := slices.IndexFunc(list, func(o Entry) bool { return o.ID == e.ID })
	if at < 0 {
		at, list = len(list), append(list, e)
	}
	list[at] = e
	for _, base := range e.Base {
		if !slices.ContainsFunc(list[:at], func(o Entry) bool { return o.ID == base }) {
			return &BaseError{e.ID, base}
		}
	}
	if err := s.keep(e.ID, sealed, beside); err != nil {
		return err
	}
	if err := s.write(list); err != nil {
		return err
	}
	for _, id := range instead {
		if id != e.ID {
			err = errors.Join(err, s.drop(id))
		}
	}
	return err
}

// BaseError says that an update cannot be persistent, or another one must stay so, because the one stands on the other.
type BaseError struct{ ID, Base string }

// Error implements error.
func (e *BaseError) Error() string {
	return fmt.Sprintf("persistent update %s stands on %s: make that persistent first, and not any more last", e.ID, e.Base)
}

// keep writes an update's file, and the signatures beside it.
func (s Store) keep(id string, sealed *update.Sealed, beside []trust.Signature) error {
	if err := s.save(s.File(id), sealed.Bytes()); err != nil {
		return err
	}
	kept := s.File(id) + trust.DetachedSuffix
	if len(beside) > 0 {
		return s.save(kept, trust.Join(beside))
	}
	if err := os.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make update %s persistent: another one's signatures: %w", id, err)
	}
	return nil
}

// Remove has an update applied at boot no more, and says whether it was.
func (s Store) Remove(id string) (bool, error) {
	if err := valid(id); err != nil {
		return false, err
	}
	list, err := s.List()
	if err != nil || !slices.ContainsFunc(list, func(e Entry) bool { return e.ID == id }) {
		return false, err
	}
	unlock, err := s.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	if list, err = s.List(); err != nil {
		return false, err
	}
	if i := slices.IndexFunc(list, func(e Entry) bool { return slices.Contains(e.Base, id) }); i >= 0 {
		return false, &BaseError{list[i].ID, id}
	}
	if err := s.write(slices.DeleteFunc(list, func(e Entry) bool { return e.ID == id })); err != nil {
		return false, err
	}
	return true, s.drop(id)
}

func (s Store) drop(id string) error {
	for _, file := range []string{s.File(id), s.File(id) + trust.DetachedSuffix} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove persistent update %s: %w", id, err)
		}
	}
	return nil
}

func (s Store) write(list []Entry) error {
	if list == nil {
		list = []Entry{}
	}
	b, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return fmt.Errorf("write the persistent updates: %w", err)
	}
	return s.save(s.list(), append(b, '\n'))
}

// save writes a file anew, and has it on the disk when it returns: a crash leaves the old one or the new one.
func (s Store) save(file string, b []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("keep %s: %w", file, err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(file + ".new")
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(file+".new", file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

// syncDir has a directory's entries on the disk.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lock keeps others from changing the list until unlock is called.
func (s Store) lock() (unlock func(), err error) {
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, fmt.Errorf("keep persistent updates: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the persistent updates: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the persistent updates: %w", err)
	}
	return func() { f.Close() }, nil
}

// owned refuses a store that somebody else could have filled: what lies in it goes into the kernel.
func (s Store) owned() error {
	real, err := filepath.EvalSymlinks(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && os.Geteuid() == 0 {
		err = rootonly.Dir(real)
	}
	if err != nil {
		return &UnsafeError{s.root, err}
	}
	return nil
}

// UnsafeError says that others than root may change what is applied at boot.
type UnsafeError struct {
	Path string
	Err  error // who could, and how
}

// Error implements error.
func (e *UnsafeError) Error() string {
	return fmt.Sprintf("%s: what lies in it goes into the kernel, so that nobody but root may change it: %v (chown root, chmod go-w)", e.Path, e.Err)
}

// Unwrap returns the reason.
func (e *UnsafeError) Unwrap() error { return e.Err }

// valid refuses what is no ID, and could name another file.
func valid(id string) error {
	if !update.ValidID(id) {
		return fmt.Errorf("%q is no ID of an update: eight hex digits", id)
	}
	return nil
}
