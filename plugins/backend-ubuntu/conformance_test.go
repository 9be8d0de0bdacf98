package main

import (
	"os"
	"testing"

	"github.com/ksplice/ksplice/plugins/backend-ubuntu/internal/ubuntu"
	"github.com/ksplice/ksplice/sdk/sdktest"
)

// What needs no kernel and no network; the builds themselves are tested with a kernel in an archive elsewhere.
func TestConformance(t *testing.T) {
	b := &ubuntu.Backend{}
	if err := b.Health(t.Context()); err != nil {
		if os.Getenv("KSPLICE_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED: this machine cannot build kernels: %v", err)
	}
	sdktest.Backend(t, b, sdktest.BackendFixtures{})
}
