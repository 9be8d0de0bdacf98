package kbuild

import (
	"strings"
	"testing"
)

func TestCheckConfig(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{"CONFIG_MODULES": "y"}, ""},
		{Config{"CONFIG_MODULES": "y", "CONFIG_LTO_CLANG": "y"}, "CONFIG_LTO_CLANG is set"},
		{Config{}, "CONFIG_MODULES is not set"},
	} {
		err := checkConfig(c.config)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), ".config")) {
			t.Errorf("checkConfig(%v) = %v, want %q and the file", c.config, err, c.want)
		}
	}
}
