// Command backend-acme builds pieces of the kernels that ACME delivers: a tarball, a series of patches, a configuration.
package main

import "github.com/ksplice/ksplice/sdk/backend"

func main() { backend.Serve(&Backend{}) }
