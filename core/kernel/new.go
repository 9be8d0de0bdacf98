package kernel

import (
	"encoding/binary"
	"slices"
)

// New puts a kernel together from what the caller knows of it, for tests of stages and for other sources of memory than
// this package has. It is little-endian; applied updates, tracing and the sections of modules are not known.
func New(identity Identity, symbols []Symbol, modules map[string]Module, memory Memory, booted bool) *Kernel {
	k := &Kernel{Identity: identity, Symbols: newSymbols(slices.Clone(symbols)), Modules: modules, Memory: memory, Booted: booted,
		order: binary.LittleEndian}
	k.setRanges()
	return k
}
