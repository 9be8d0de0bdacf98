// Command backend-ubuntu builds pieces of Ubuntu's own kernels, from the packages and sources that the machine's package sources have.
package main

import (
	"github.com/ksplice/ksplice/plugins/backend-ubuntu/internal/ubuntu"
	"github.com/ksplice/ksplice/sdk/backend"
)

func main() {
	backend.Serve(&ubuntu.Backend{})
}
