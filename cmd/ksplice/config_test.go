package main

import (
	"reflect"
	"slices"
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
