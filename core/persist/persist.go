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
		return nil, fmt.Errorf("read the persistent updates: %s: %w; take it away and apply the updates again with --persist", s.list(), err)
	}
	for _, e := range list {
		if err := valid(e.ID); err != nil {
			return nil, fmt.Errorf("read the persistent updates: %s: %w", s.list(), err)
		}
	}
	return list, nil
}

// Add makes an update persistent, behind all others: file is copied, byte for byte, and the signatures that lie beside it, since whose it is
// is asked again at boot. An entry of the same ID is replaced; those of the IDs in
// instead go in the same step. A crash leaves the old list or the new one.
func (s Store) Add(e Entry, file string, instead []string) error {
	if err := valid(e.ID); err != nil {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("make update %s persistent: %w", e.ID, err)
	}
	if err := errors.Join(s.save(s.File(e.ID), b), s.signatures(e.ID, file)); err != nil {
		return err
	}
	// The file may have been exchanged since the update was applied.
	u, err := update.ReadFile(s.File(e.ID))
	if err != nil {
		return errors.Join(err, s.drop(e.ID))
	}
	if u.Manifest.ID != e.ID {
		return errors.Join(fmt.Errorf("make update %s persistent: %s holds update %s now", e.ID, file, u.Manifest.ID), s.drop(e.ID))
	}
	list, err := s.List()
	if err != nil {
		return err
	}
	kept := slices.DeleteFunc(slices.Clone(list), func(o Entry) bool { return o.ID == e.ID || slices.Contains(instead, o.ID) })
	if err := s.write(append(kept, e)); err != nil {
		return err
	}
	for _, id := range instead {
		if id != e.ID {
			err = errors.Join(err, s.drop(id))
		}
	}
	return err
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

// signatures copies those that lie beside an update's file, or sees to it that none do.
func (s Store) signatures(id, file string) error {
	kept := s.File(id) + trust.DetachedSuffix
	b, err := os.ReadFile(file + trust.DetachedSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.Remove(kept); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	} else if err == nil {
		return s.save(kept, b)
	}
	if err != nil {
		return fmt.Errorf("make update %s persistent: its signatures: %w", id, err)
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
	var st unix.Stat_t
	err := unix.Stat(s.root, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the persistent updates: %s: %w", s.root, err)
	}
	if int(st.Uid) != os.Geteuid() && os.Geteuid() == 0 || st.Mode&0o022 != 0 {
		return &UnsafeError{s.root, st.Uid, st.Mode & 0o777}
	}
	return nil
}

// UnsafeError says that others than root may change what is applied at boot.
type UnsafeError struct {
	Path string
	UID  uint32
	Mode uint32
}

// Error implements error.
func (e *UnsafeError) Error() string {
	return fmt.Sprintf("%s belongs to user %d and has mode %04o: what lies in it goes into the kernel, so that it must be root's and writable by nobody else (chown root, chmod go-w)", e.Path, e.UID, e.Mode)
}

// valid refuses what would name another file.
func valid(id string) error {
	if id == "" || id == "." || id == ".." || id != filepath.Base(id) {
		return fmt.Errorf("%q is no ID of an update", id)
	}
	return nil
}
