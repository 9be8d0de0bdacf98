// Command backend-kbuild builds pieces of a kernel whose source tree and configuration are on this machine: one's own, or a
// vendor's.
package main

import (
	"github.com/ksplice/ksplice/plugins/backend-kbuild/internal/plain"
	"github.com/ksplice/ksplice/sdk/backend"
)

func main() {
	backend.Serve(&plain.Backend{})
}
