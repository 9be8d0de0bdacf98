package main

import (
	"testing"

	"github.com/ksplice/ksplice/plugins/backend-debian/internal/debian"
	"github.com/ksplice/ksplice/sdk/sdktest"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// What needs no kernel and no network; the builds themselves are tested with real ones elsewhere.
func TestConformance(t *testing.T) {
	b := &debian.Backend{}
	need.OK(t, b.Health(t.Context()))
	sdktest.Backend(t, b, sdktest.BackendFixtures{})
}
