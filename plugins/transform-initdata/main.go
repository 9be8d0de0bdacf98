// Command transform-initdata carries changed initialisers of data that the running kernel has: the new value is written where the datum
// still has the old one, in the stop in which the functions are redirected, and undo puts the old one back.
package main

import (
	"github.com/ksplice/ksplice/plugins/transform-initdata/internal/initdata"
	"github.com/ksplice/ksplice/sdk/transform"
)

func main() {
	transform.Serve(initdata.Plugin{})
}
