// Command arch-aarch64 is the beginning of an architecture plugin for arm64: it describes objects as far as its notes (PORTING.md) are
// done, and refuses everything else by the number of the note.
package main

import "github.com/ksplice/ksplice/sdk/arch"

func main() { arch.Serve(&Plugin{}) }
