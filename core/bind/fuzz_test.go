package bind

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/update"
)

// FuzzPart binds any part that a manifest may have: each slot is refused or gets a value within reach.
func FuzzPart(f *testing.F) {
	for _, text := range []string{
		`{"name":"p","target":"vmlinux","slots":[{"kind":"symbol","name":"count","symbol":1},{"kind":"code","name":"f","symbol":3},{"kind":"field","name":".rodata.str","function":3,"at":24}]}`,
		`{"name":"p","target":"mod_a","slots":[{"kind":"key","name":"jiffies","symbol":2},{"kind":"const","name":"x","unit":-1},{"kind":"symbol","name":"f","symbol":3,"address_taken":true}]}`,
		`{"name":"p","target":"vmlinux","globals":["g"],"functions":[{"name":"f","symbol":3,"size":32,"redirect":{"Kind":"jump","Window":{"Offset":4,"Length":5}}}]}`,
		`{"name":"p","target":"vmlinux","writes":[{"name":"ops.peek","symbol":6,"offset":8,"size":8},{"name":"ops.number","symbol":6,"offset":24,"size":4}],"slots":[{"kind":"pointer","name":"ops.name","symbol":6}]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p update.Part
		if json.Unmarshal(b, &p) != nil {
			return
		}
		// What is left out here, reading an update refuses (core/update: check).
		if slices.ContainsFunc(p.Functions, func(x update.Function) bool { return x.Unit != 0 }) ||
			slices.ContainsFunc(p.Writes, func(x update.Write) bool { return x.Unit != 0 }) ||
			slices.ContainsFunc(p.Slots, func(s update.Slot) bool {
				return s.Unit < -1 || s.Unit > 0 || s.Unit < 0 && (s.Kind == update.SlotCode || s.Kind == update.SlotField || s.Kind == update.SlotPointer)
			}) {
			return
		}
		w, _ := opsWorld(t)
		s, err := match.Run(t.Context(), w.Kernel(true), w, w.Units())
		if err != nil {
			t.Fatal(err)
		}
		got, err := Part(&Input{Kernel: w.Kernel(true), Manifest: &update.Manifest{Parts: []update.Part{p}}, Units: w.Units(), Solution: s}, &p)
		if err != nil {
			return
		}
		if len(got.Values) != len(p.Slots) || slices.ContainsFunc(got.Values, func(v uint64) bool { return !reachable(v) }) {
			t.Errorf("values %#x of %d slots", got.Values, len(p.Slots))
		}
	})
}
