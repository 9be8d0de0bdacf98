package part

import (
	"fmt"

	"github.com/ksplice/ksplice/core/update"
)

// slotKey is what makes two slots the same. Global symbols have one slot whichever unit names them.
type slotKey struct {
	kind     update.SlotKind
	unit     int
	symbol   uint32
	function uint32
	at       uint64
	name     string
}

// slot returns the number of a slot with that meaning, a new one where there is none yet.
func (b *builder) slot(s update.Slot, global bool) int {
	k := slotKey{kind: s.Kind, unit: s.Unit, symbol: s.Symbol, function: s.Function, at: s.At}
	if global || s.Unit < 0 {
		k = slotKey{kind: s.Kind, unit: -1, name: s.Name}
	}
	n, ok := b.slots[k]
	if !ok {
		n = len(b.out.Slots)
		b.slots[k] = n
		b.out.Slots = append(b.out.Slots, s)
	}
	b.out.Slots[n].AddressTaken = b.out.Slots[n].AddressTaken || s.AddressTaken
	return n
}

// slotName is the symbol that the kernel module exports for a slot.
func slotName(n int) string { return fmt.Sprintf("ksplice_slot_%04x", n) }
