// Command transform-chrdev carries one patch: the one beside it, by which the kernel remembers the last minor number of each region of
// character devices.
package main

import "github.com/ksplice/ksplice/sdk/transform"

func main() { transform.Serve(Plugin{}) }
