// Command backend-debian builds pieces of Debian's own kernels, from the packages that the machine's package sources have.
package main

import (
	"github.com/ksplice/ksplice/plugins/backend-debian/internal/debian"
	"github.com/ksplice/ksplice/sdk/backend"
)

func main() {
	backend.Serve(&debian.Backend{})
}
