package backend_test

import (
	"context"
	"os"
	"strings"

	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Plugin is a backend that knows its kernels and cannot build them yet: what it embeds refuses the rest.
type Plugin struct{ backend.Unimplemented }

// Info implements plugin.Base.
func (Plugin) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Name: "acme", Version: "0.1.0", Description: "Builds for Acme's kernels."}, nil
}

// Probe implements backend.Backend.
func (Plugin) Probe(_ context.Context, req *backend.ProbeRequest) (*backend.ProbeResponse, error) {
	version, ok := strings.CutSuffix(req.Release, "-acme")
	if !ok {
		return &backend.ProbeResponse{Reason: "releases of Acme's kernels end with -acme"}, nil
	}
	return &backend.ProbeResponse{Supported: true, Banner: "Acme " + version}, nil
}

// The main function of a plugin calls Serve, and nothing else. This one was started as `backend-acme describe`, which shows who it is.
func ExampleServe() {
	os.Args = []string{"backend-acme", "describe"}

	backend.Serve(Plugin{})

	// Output:
	// {
	//   "kind": "backend",
	//   "name": "acme",
	//   "version": "0.1.0",
	//   "protocols": [
	//     1
	//   ],
	//   "description": "Builds for Acme's kernels."
	// }
}
