package main

import (
	"testing"

	"github.com/ksplice/ksplice/plugins/backend-kbuild/internal/plain"
	"github.com/ksplice/ksplice/sdk/sdktest"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// What needs no kernel; the builds themselves are tested with real ones elsewhere.
func TestConformance(t *testing.T) {
	b := &plain.Backend{}
	need.OK(t, b.Health(t.Context()))
	sdktest.Backend(t, b, sdktest.BackendFixtures{Config: map[string]string{"source": t.TempDir()}})
}
