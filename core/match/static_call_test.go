package match_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/match/matchtest"
	"github.com/ksplice/ksplice/sdk/arch"
)

// TestStaticCallFunc: a static call leads to what its key holds; where it holds nothing, to what stands for that.
func TestStaticCallFunc(t *testing.T) {
	const table, key, callee, thunk = data + 0x1000, data + 0x40, text + 0x4000, text + 0x8000
	for name, c := range map[string]struct {
		holds uint64
		leads []uint64
		want  match.Status
	}{
		"the key's":            {callee, []uint64{callee}, match.StatusMatched},
		"its pad":              {callee, []uint64{callee - 9, callee}, match.StatusMatched},
		"another":              {callee, []uint64{callee + 0x10}, match.StatusMismatch},
		"nothing":              {callee, nil, match.StatusMismatch},
		"none, and a thunk":    {0, []uint64{thunk}, match.StatusMatched},
		"none, and a function": {0, []uint64{callee}, match.StatusMismatch},
		"one, and a thunk":     {callee, []uint64{thunk}, match.StatusMismatch},
	} {
		w := matchtest.New(t)
		u := w.Unit("a.o", "")
		u.Func(".text.f", "f", global, "f", ref{Symbol: "__SCK__call", Obligation: arch.ObligationStaticCallKey})
		w.Symbol("", "f", text)
		w.Symbol("", "callee", callee)
		w.Symbol("", "__x86_return_thunk", thunk)
		w.Symbol("", "__start_static_call_sites", table)
		w.Symbol("", "__stop_static_call_sites", table+8)
		w.Memory[text] = matchtest.Code("f", 0)
		entry := binary.LittleEndian.AppendUint32(nil, uint32(0x100000000-(table-(text+8)))) // relative to itself
		w.Memory[table] = binary.LittleEndian.AppendUint32(entry, uint32(0x100000000-(table+4-key)))
		w.Memory[key] = binary.LittleEndian.AppendUint64(nil, c.holds)
		leads := &corrupt{w, func(r *arch.MatchResult) {
			o := arch.Obligation{Kind: arch.ObligationStaticCallFunc, At: 8, Address: text + 8, Names: []string{"__x86_return_thunk"}}
			for _, a := range c.leads {
				o.Forms = append(o.Forms, binary.LittleEndian.AppendUint64(nil, a))
			}
			r.Obligations = append(r.Obligations, o)
		}}
		s, err := match.RunWith(t.Context(), w.Kernel(true), leads, w.Units(), nil, &kernel.Tracing{})
		if err != nil {
			t.Fatal(err)
		}
		if f := &s.Functions[0]; f.Status != c.want || f.Status != match.StatusMatched && !strings.Contains(f.Reason, "the static call leads elsewhere") {
			t.Errorf("%s: %s (%s), want %s", name, f.Status, f.Reason, c.want)
		}
	}
}
