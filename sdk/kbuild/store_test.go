package kbuild

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ksplice/ksplice/sdk/plugin"
)

// putTree writes what makes a complete tree for open.
func putTree(t *testing.T, s *Store, name string, used time.Duration) string {
	t.Helper()
	dir := filepath.Join(s.dir, name)
	for file, text := range map[string]string{treeName: `{"release":"1","layout":"` + Layout + `"}`, "state/" + environmentName: `{"SRCARCH":"x86"}`, "root/a.c": "a"} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	then := time.Now().Add(-used)
	if err := os.Chtimes(filepath.Join(dir, treeName), then, then); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestStoreMake(t *testing.T) {
	s := NewStore(t.TempDir())
	silent := func(plugin.Progress) {}
	broken := errors.New("broken")
	_, _, err := s.Make(t.Context(), "key", silent, func(root string) (*Info, error) {
		return nil, errors.Join(broken, os.WriteFile(filepath.Join(root, "half"), nil, 0o644))
	})
	if !errors.Is(err, broken) {
		t.Fatalf("Make = %v", err)
	}
	name := digest(Layout, "key")[:32]
	if left, _ := filepath.Glob(filepath.Join(s.dir, name+"*")); len(left) != 1 || filepath.Ext(left[0]) != lockSuffix {
		t.Errorf("a failed Make leaves %v", left)
	}
	// What a killed run left is removed before the next begins.
	for _, rubbish := range []string{name + newSuffix + "/root/half", name + "/root/half"} {
		if err := os.MkdirAll(filepath.Join(s.dir, rubbish), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err = s.Make(t.Context(), "key", silent, func(root string) (*Info, error) {
		if entries, err := os.ReadDir(root); err != nil || len(entries) > 0 {
			t.Errorf("the directory to fill has %v, %v", entries, err)
		}
		return nil, broken
	})
	if !errors.Is(err, broken) {
		t.Fatalf("Make = %v", err)
	}
	// Whoever waits for another can be cancelled, and finds the tree made.
	unlock := tryLock(filepath.Join(s.dir, name) + lockSuffix)
	if unlock == nil {
		t.Fatal("the lock is still held")
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := func(p plugin.Progress) { cancel() }
	if _, _, err := s.Make(ctx, "key", waiting, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait = %v", err)
	}
	putThenUnlock := func(plugin.Progress) {
		putTree(t, s, name, 0)
		unlock()
	}
	tree, reused, err := s.Make(t.Context(), "key", putThenUnlock, nil)
	if err != nil || !reused || tree.Release != "1" {
		t.Errorf("Make after waiting = %+v, %t, %v", tree, reused, err)
	}
}

func TestStoreList(t *testing.T) {
	s := NewStore(t.TempDir())
	putTree(t, s, "good", 0)
	for name, text := range map[string]string{"old": `{"release":"1","layout":"1"}`, "half": ""} {
		dir := putTree(t, s, name, 0)
		if err := os.Remove(filepath.Join(dir, treeName)); err != nil {
			t.Fatal(err)
		}
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, treeName), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != 1 || filepath.Base(list[0].Dir) != "good" {
		t.Errorf("List = %v, %v; want the complete tree of this layout", list, err)
	}
}

func TestStoreSweep(t *testing.T) {
	s := NewStore(t.TempDir())
	day := 24 * time.Hour
	var dirs []string
	for i := range 9 {
		dirs = append(dirs, putTree(t, s, string(rune('a'+i)), time.Duration(i)*2*day))
	}
	held := tryLock(dirs[8] + lockSuffix) // somebody makes it again
	defer held()
	if err := os.MkdirAll(filepath.Join(s.dir, "x"+newSuffix), 0o755); err != nil {
		t.Fatal(err)
	}
	s.sweep("a")
	for i, dir := range dirs {
		_, err := os.Stat(dir)
		if there, want := err == nil, i < keptTrees || i == 8; there != want {
			t.Errorf("tree %d, used %d days ago, is there: %t, want %t", i, 2*i, there, want)
		}
	}
	if _, err := os.Stat(filepath.Join(s.dir, "x"+newSuffix)); err == nil {
		t.Errorf("half a tree of a killed run stays")
	}
}
