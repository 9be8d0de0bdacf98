// Package armed keeps what an update needs that waits for modules: its file, and how ksplice was set up when it was applied. It lies
// in memory-backed storage, since what is armed does not outlive a boot either. The apply, arrive and undo pipelines call it.
package armed

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ksplice/ksplice/core/update"
)

// Root is where armed updates are kept, a directory each.
const Root = "/run/ksplice/armed"

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

// Store is a directory of armed updates.
type Store struct{ root string }

// Default is the machine's own store.
func Default() Store { return Store{Root} }

// At is a store somewhere else, for tests.
func At(root string) Store { return Store{root} }

const (
	updateFile   = "update.ksplice"
	settingsFile = "settings.json"
)

// Dir is where an update's files lie.
func (s Store) Dir(id string) string { return filepath.Join(s.root, id) }

// Save keeps an update. What was kept of the same ID before is replaced; a crash leaves the one or the other.
func (s Store) Save(u *update.Update, settings *Settings) (err error) {
	id := u.Manifest.ID
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return fmt.Errorf("keep update %s: %w", id, err)
	}
	dir, err := os.MkdirTemp(s.root, ".new-")
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
	if err := s.Remove(id); err != nil {
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

// Remove forgets an update. One that is not kept is no error.
func (s Store) Remove(id string) error {
	if id == "" || id != filepath.Base(id) {
		return fmt.Errorf("forget update %q: it is no ID", id)
	}
	if err := os.RemoveAll(s.Dir(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget update %s: %w", id, err)
	}
	return nil
}
