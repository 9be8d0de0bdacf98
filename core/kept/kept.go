// Package kept is what ksplice keeps about the updates of this boot: the manifest of each that is applied, and of one that waits for
// modules its file and how ksplice was set up. It lies in memory-backed storage, since no update outlives a boot either. The
// apply, arrive and undo pipelines call it.
package kept

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ksplice/ksplice/core/transfer"
	"github.com/ksplice/ksplice/core/update"
)

// Root is where it is kept on a machine. Only root can write to it, so that whose an update is, which was asked when it was armed, is not asked again.
const Root = "/run/ksplice"

// Settings are what an armed update is applied with.
type Settings struct {
	// Dirs, Pins and PluginConfig are the plugins' (core/pluginhost, Config).
	Dirs         []string                     `json:"dirs"`
	Pins         map[string]string            `json:"pins,omitempty"`
	PluginConfig map[string]map[string]string `json:"plugin_config,omitempty"`
	// Attempts, Interval and Freeze are how threads in the way are waited out.
	Attempts int           `json:"attempts"`
	Interval time.Duration `json:"interval_ns"`
	Freeze   bool          `json:"freeze"`
}

// Store is a directory: armed/ID/ for each update that waits, applied/ID.json for each that was applied.
type Store struct{ root string }

// Default is the machine's own store.
func Default() Store { return Store{Root} }

// At is a store somewhere else, for tests.
func At(root string) Store { return Store{root} }

const (
	updateFile   = "update.ksplice"
	settingsFile = "settings.json"
)

// Dir is where an armed update's files lie.
func (s Store) Dir(id string) string { return filepath.Join(s.armed(), id) }

func (s Store) armed() string { return filepath.Join(s.root, "armed") }

// Arm keeps an update. What was kept of the same ID before is replaced; a crash leaves the one or the other.
func (s Store) Arm(u *update.Update, settings *Settings) (err error) {
	id := u.Manifest.ID
	if err := os.MkdirAll(s.armed(), 0o700); err != nil {
		return fmt.Errorf("keep update %s: %w", id, err)
	}
	dir, err := os.MkdirTemp(s.armed(), ".new-")
	if err != nil {
		return fmt.Errorf("keep update %s: %w", id, err)
	}
	defer os.RemoveAll(dir)
	b, err := json.MarshalIndent(settings, "", "  ")
	if err != nil {
		return fmt.Errorf("keep update %s: %w", id, err)
	}
	if err := os.WriteFile(filepath.Join(dir, settingsFile), b, 0o600); err != nil {
		return fmt.Errorf("keep update %s: %w", id, err)
	}
	if err := u.WriteFile(filepath.Join(dir, updateFile)); err != nil {
		return fmt.Errorf("keep update %s: %w", id, err)
	}
	if err := s.Disarm(id); err != nil {
		return err
	}
	if err := os.Rename(dir, s.Dir(id)); err != nil {
		return fmt.Errorf("keep update %s: %w", id, err)
	}
	return nil
}

// ReadSettings returns how a kept update is to be applied.
func (s Store) ReadSettings(id string) (*Settings, error) {
	b, err := os.ReadFile(filepath.Join(s.Dir(id), settingsFile))
	if err != nil {
		return nil, fmt.Errorf("read what was kept of update %s: %w", id, err)
	}
	var settings Settings
	if err := json.Unmarshal(b, &settings); err != nil {
		return nil, fmt.Errorf("read what was kept of update %s: %s: %w", id, settingsFile, err)
	}
	return &settings, nil
}

// ReadUpdate returns a kept update.
func (s Store) ReadUpdate(id string) (*update.Update, error) {
	u, err := update.ReadFile(filepath.Join(s.Dir(id), updateFile))
	if err != nil {
		return nil, fmt.Errorf("read what was kept of update %s: %w", id, err)
	}
	if u.Manifest.ID != id {
		return nil, fmt.Errorf("read what was kept of update %s: the file is of %s", id, u.Manifest.ID)
	}
	return u, nil
}

// Disarm forgets an update's file. One that is not kept is no error.
func (s Store) Disarm(id string) error {
	if err := valid(id); err != nil {
		return err
	}
	if err := os.RemoveAll(s.Dir(id)); err != nil {
		return fmt.Errorf("forget update %s: %w", id, err)
	}
	return nil
}

func (s Store) manifest(id string) string { return filepath.Join(s.root, "applied", id+".json") }

// SaveManifest keeps the manifest of an update that is being applied.
func (s Store) SaveManifest(m *update.Manifest) error {
	if err := valid(m.ID); err != nil {
		return err
	}
	return s.save(s.manifest(m.ID), m)
}

// save writes a file anew: a crash leaves the old one or the new one.
func (s Store) save(file string, content any) error {
	b, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("keep %s: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("keep %s: %w", file, err)
	}
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return fmt.Errorf("keep %s: %w", file, err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("keep %s: %w", file, err)
	}
	return nil
}

// ReadManifest returns the manifest of an applied update.
func (s Store) ReadManifest(id string) (*update.Manifest, error) {
	if err := valid(id); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(s.manifest(id))
	if err != nil {
		return nil, fmt.Errorf("read the manifest of update %s: %w", id, err)
	}
	var m update.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("read the manifest of update %s: %s: %w", id, s.manifest(id), err)
	}
	if m.ID != id {
		return nil, fmt.Errorf("read the manifest of update %s: %s is of %s", id, s.manifest(id), m.ID)
	}
	return &m, nil
}

func (s Store) transfers(transaction string) string {
	return filepath.Join(s.root, "transfers", transaction+".json")
}

// SaveTransfers keeps what undoing a transaction needs to take its state transfers back; none removes what was kept.
func (s Store) SaveTransfers(transaction string, list []transfer.Bound) error {
	if err := valid(transaction); err != nil {
		return err
	}
	if len(list) == 0 {
		return s.forgetTransfers(transaction)
	}
	return s.save(s.transfers(transaction), list)
}

// ReadTransfers returns the state transfers of an applied transaction.
func (s Store) ReadTransfers(transaction string) ([]transfer.Bound, error) {
	if err := valid(transaction); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(s.transfers(transaction))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var list []transfer.Bound
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("read the state transfers of update %s: %w", transaction, err)
	}
	return list, nil
}

func (s Store) forgetTransfers(transaction string) error {
	if err := os.Remove(s.transfers(transaction)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget the state transfers of update %s: %w", transaction, err)
	}
	return nil
}

// Forget removes all that is kept of an update. One of which nothing is kept is no error.
func (s Store) Forget(id string) error {
	if err := s.Disarm(id); err != nil {
		return err
	}
	if err := os.Remove(s.manifest(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget update %s: %w", id, err)
	}
	// Of what came to modules later, too: ID:MODULE.
	late, err := filepath.Glob(s.transfers(id + ":*"))
	if err != nil {
		return fmt.Errorf("forget update %s: %w", id, err)
	}
	for _, file := range append(late, s.transfers(id)) {
		if err := s.forgetTransfers(strings.TrimSuffix(filepath.Base(file), ".json")); err != nil {
			return err
		}
	}
	return nil
}

// valid refuses what would name another file.
func valid(id string) error {
	if id == "" || id == "." || id == ".." || id != filepath.Base(id) {
		return fmt.Errorf("%q is no ID of an update", id)
	}
	return nil
}
