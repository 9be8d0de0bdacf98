// Command arch-x86_64 is Ksplice's architecture plugin for x86-64.
package main

import (
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/x86"
	"github.com/ksplice/ksplice/sdk/arch"
)

func main() {
	arch.Serve(&x86.Plugin{})
}
