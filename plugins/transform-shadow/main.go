// Command transform-shadow carries structures that gain members: the new ones become shadow fields, which objects that were born before the
// update have as well, and the structure keeps its layout. Coccinelle rewrites the sources.
package main

import (
	"github.com/ksplice/ksplice/plugins/transform-shadow/internal/shadow"
	"github.com/ksplice/ksplice/sdk/transform"
)

func main() {
	transform.Serve(&shadow.Plugin{})
}
