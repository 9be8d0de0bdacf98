package transfer

import (
	"fmt"
	"maps"
	"slices"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kernel"
)

// blockSize is how many bytes are read at once: some objects of a slab, no more than a page.
const blockSize = 512

// block is memory as it was when it was first asked for, with the bytes that were used.
type block struct {
	data [blockSize]byte
	used [blockSize / 64]uint64
}

// snapshot is what walks have read of memory. What they used of it is compared in the stop, so that it may be old, but not wrong.
type snapshot struct {
	memory kernel.Memory
	blocks map[uint64]*block // by address
}

// MovedError says that walks were led to what is no memory, or in a circle: because what they read does not hold still (Session.Moved), or for good.
type MovedError struct {
	Address uint64
	What    string
}

// Error implements error.
func (e *MovedError) Error() string { return fmt.Sprintf("at %#x: %s", e.Address, e.What) }

// bytes returns n bytes of memory, and notes that they were used.
func (s *snapshot) bytes(address, n uint64) ([]byte, error) {
	if address+n < address {
		return nil, &MovedError{address, "memory ends"}
	}
	out := make([]byte, 0, n)
	for n > 0 {
		base := address &^ (blockSize - 1)
		b := s.blocks[base]
		if b == nil {
			b = &block{}
			if err := s.memory.ReadMemory(b.data[:], base); err != nil {
				return nil, &MovedError{address, err.Error()}
			}
			s.blocks[base] = b
		}
		from := address - base
		to := min(blockSize, from+n)
		for i := from; i < to; i++ {
			b.used[i/64] |= 1 << (i % 64)
		}
		out = append(out, b.data[from:to]...)
		address, n = address+to-from, n-(to-from)
	}
	return out, nil
}

// maxPiece bounds one guard (kmod/ksplice_uapi.h, KSPLICE_MAX_PIECE).
const maxPiece = 4096

// guards lists all bytes that were used, in order.
func (s *snapshot) guards() []engine.Piece {
	var out []engine.Piece
	for _, base := range slices.Sorted(maps.Keys(s.blocks)) {
		b := s.blocks[base]
		for i := uint64(0); i < blockSize; i++ {
			if b.used[i/64] == 0 {
				i |= 63
				continue
			}
			if b.used[i/64]>>(i%64)&1 == 0 {
				continue
			}
			at := base + i
			if k := len(out) - 1; k >= 0 && out[k].Address+uint64(len(out[k].Bytes)) == at && len(out[k].Bytes) < maxPiece {
				out[k].Bytes = append(out[k].Bytes, b.data[i])
			} else {
				out = append(out, engine.Piece{Address: at, Bytes: []byte{b.data[i]}})
			}
		}
	}
	return out
}
