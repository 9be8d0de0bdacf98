package main

import (
	"os"
	"testing"

	"github.com/ksplice/ksplice/plugins/backend-kbuild/internal/plain"
	"github.com/ksplice/ksplice/sdk/sdktest"
)

// What needs no kernel; the builds themselves are tested with real ones elsewhere.
func TestConformance(t *testing.T) {
	b := &plain.Backend{}
	if err := b.Health(t.Context()); err != nil {
		if os.Getenv("KSPLICE_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED: this machine cannot build kernels: %v", err)
	}
	sdktest.Backend(t, b, sdktest.BackendFixtures{Config: map[string]string{"source": t.TempDir()}})
}
