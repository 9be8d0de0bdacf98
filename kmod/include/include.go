// Package include has the header that a patch may include as <ksplice.h>: hooks, shadow fields, claims. The create pipeline
// puts it into the patched tree.
package include

import _ "embed" // for the header

// Ksplice is ksplice.h.
//
//go:embed ksplice.h
var Ksplice []byte
