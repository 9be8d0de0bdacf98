package kbuild

import (
	"errors"
	"testing"

	"github.com/ksplice/ksplice/sdk/plugin"
)

func TestPrograms(t *testing.T) {
	if err := Programs(map[string]string{"sh": "dash"}); err != nil {
		t.Errorf("a program that is there: %v", err)
	}
	var d *plugin.Diagnostic
	missing := map[string]string{"no-such-b": "pkg-b", "no-such-a": "pkg-a", "no-such-c": "pkg-b", "sh": "dash"}
	for range 10 { // a map has no order, what is said has
		if err := Programs(missing); !errors.As(err, &d) || d.Detail != "install the packages pkg-a, pkg-b" || d.Fault != plugin.FaultMachine {
			t.Fatalf("Programs = %v", err)
		}
	}
}
