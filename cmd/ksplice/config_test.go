package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSettings holds the table of settings against what the configuration file is read into.
func TestSettings(t *testing.T) {
	var want []string
	var walk func(prefix string, of reflect.Type)
	walk = func(prefix string, of reflect.Type) {
		switch of.Kind() {
		case reflect.Struct:
			for i := range of.NumField() {
				walk(prefix+"."+of.Field(i).Tag.Get("toml"), of.Field(i).Type)
			}
		case reflect.Map:
			name := ".FILE"
			if of.Elem().Kind() != reflect.Map && prefix == ".plugin.FILE" {
				name = ".KEY"
			}
			walk(prefix+name, of.Elem())
		default:
			want = append(want, prefix[1:])
		}
	}
	walk("", reflect.TypeFor[config]())
	var got []string
	for _, s := range settings {
		got = append(got, s.Key)
		if s.Type == "" || s.Meaning == "" {
			t.Errorf("%s: the table does not say what it is", s.Key)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("settings that the table lists (-want +got):\n%s", d)
	}
}

// TestConfigOwn: root believes no configuration that somebody else could change.
func TestConfigOwn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("[trust]\nallow_unsigned = true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, os.DevNull} {
		if c, err := readConfig(path); err != nil || c.Trust.AllowUnsigned != (path == file) {
			t.Errorf("%s: %+v, %v", path, c, err)
		}
	}
	if err := os.Chmod(file, 0o646); err != nil {
		t.Fatal(err)
	}
	_, err := readConfig(file)
	if os.Geteuid() != 0 {
		if err != nil {
			t.Errorf("for somebody who is not root: %v", err)
		}
		return
	}
	var usage *usageError
	if !errors.As(err, &usage) || !strings.Contains(err.Error(), file+" is writable by everybody") {
		t.Errorf("what everybody can write: %v", err)
	}
}
