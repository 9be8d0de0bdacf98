package kernel

import (
	"fmt"
	"slices"
	"sort"

	"github.com/ksplice/ksplice/core/engine"
)

// overlay is memory with some places shown otherwise.
type overlay struct {
	Memory
	places []place // by address, none overlap
}

type place struct {
	address uint64
	bytes   []byte
}

// ReadMemory implements Memory.
func (o *overlay) ReadMemory(p []byte, address uint64) error {
	if err := o.Memory.ReadMemory(p, address); err != nil {
		return err
	}
	i := sort.Search(len(o.places), func(i int) bool {
		x := &o.places[i]
		return x.address+uint64(len(x.bytes)) > address
	})
	for ; i < len(o.places) && o.places[i].address < address+uint64(len(p)); i++ {
		x := &o.places[i]
		if x.address >= address {
			copy(p[x.address-address:], x.bytes)
		} else {
			copy(p, x.bytes[address-x.address:])
		}
	}
	return nil
}

// lookThrough shows memory as it was under the jumps of the updates with the given IDs, and before they wrote to data; updates are oldest
// first, and what an older one found is what counts.
func lookThrough(m Memory, updates []engine.Applied, ids []string) (Memory, error) {
	for _, u := range slices.Backward(updates) {
		if u.Stage != "applied" || !slices.Contains(ids, engine.UpdateID(u.ID)) {
			continue
		}
		o := &overlay{Memory: m}
		for _, c := range u.Functions {
			if c.Kind != "jump" {
				continue
			}
			if len(c.Old) == 0 {
				return nil, fmt.Errorf("look through update %s: the loaded ksplice module does not say what %s was: reload the one that came with this ksplice", u.ID, c.Name)
			}
			o.places = append(o.places, place{c.Code + c.Window, c.Old})
		}
		for _, c := range u.Data {
			o.places = append(o.places, place{c.Address, c.Old})
		}
		sort.Slice(o.places, func(i, j int) bool { return o.places[i].address < o.places[j].address })
		m = o
	}
	return m, nil
}
