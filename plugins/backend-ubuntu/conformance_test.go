package main

import (
	"testing"

	"github.com/ksplice/ksplice/plugins/backend-ubuntu/internal/ubuntu"
	"github.com/ksplice/ksplice/sdk/sdktest"
	"github.com/ksplice/ksplice/sdk/sdktest/need"
)

// What needs no kernel and no network; the builds themselves are tested with a kernel in an archive elsewhere.
func TestConformance(t *testing.T) {
	b := &ubuntu.Backend{}
	need.OK(t, b.Health(t.Context()))
	sdktest.Backend(t, b, sdktest.BackendFixtures{})
}
