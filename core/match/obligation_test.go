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

// TestKeys: the key of a static branch comes from run's own table, by the site's address; two candidates with different keys
// are told apart by it.
func TestKeys(t *testing.T) {
	const table = data + 0x1000
	w := matchtest.New(t)
	u := w.Unit("a.o", "")
	key := u.Undefined("my_key")
	u.Func(".text.f", "f", global, "f", ref{Symbol: "my_key", Addend: 9, Obligation: arch.ObligationJumpKey})
	w.Symbol("", "f", text)
	w.Memory[text] = matchtest.Code("f", 0)
	s := solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusMismatch, 0})
	if r := s.Functions[0].Reason; !strings.Contains(r, "no jump site") {
		t.Errorf("reason = %q", r)
	}

	w.Memory[table] = matchtest.JumpEntry(table, text+8, data+0x20+1)
	w.Symbol("", "__start___jump_table", table)
	w.Symbol("", "__stop___jump_table", table+16)
	s = solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusMatched, text})
	// The entry's low two bits are flags, so that the key lies at data+0x20, less the offset that pre names, without its flags.
	value(t, s, 0, key, data+0x20-8)
}

// TestKeyOfTrampoline: where a site names the trampoline, the kernel has put the key in its place.
func TestKeyOfTrampoline(t *testing.T) {
	const table, key = data + 0x1000, data + 0x40
	w := matchtest.New(t)
	u := w.Unit("a.o", "")
	trampoline := u.Undefined("__SCT__call")
	u.Func(".text.f", "f", global, "f", ref{Symbol: "__SCT__call", Obligation: arch.ObligationStaticCallKey})
	w.Symbol("", "f", text)
	w.Symbol("", "__SCT__call", text+0x4000)
	w.Memory[text] = matchtest.Code("f", 0)
	entry := binary.LittleEndian.AppendUint32(nil, uint32(0x100000000-(table-(text+8)))) // relative to itself
	w.Memory[table] = binary.LittleEndian.AppendUint32(entry, uint32(0x100000000-(table+4-key)))
	w.Symbol("", "__start_static_call_sites", table)
	w.Symbol("", "__stop_static_call_sites", table+8)
	s := solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusMismatch, 0})
	if r := s.Functions[0].Reason; !strings.Contains(r, "expected __SCK__call") {
		t.Errorf("reason = %q", r)
	}
	w.Symbol("", "__SCK__call", key)
	s = solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusMatched, text})
	if v, ok := s.Value(0, trampoline); ok {
		t.Errorf("the site says that the trampoline lies at %#x", v)
	}
}

func TestObligations(t *testing.T) {
	const thunk = text + 0x8000
	symbol := ref{Symbol: "thunk_r11", Obligation: arch.ObligationSymbol}
	code := ref{Symbol: "x", Obligation: arch.ObligationCode, Bytes: []byte{0xff, 0xe0}}
	kprobe := ref{Symbol: "x", Obligation: arch.ObligationKprobe}
	ftrace := ref{Symbol: "x", Obligation: arch.ObligationFtrace}
	named := func(module, name string) func(*matchtest.World, *around) {
		return func(w *matchtest.World, _ *around) { w.Symbol(module, name, thunk) }
	}
	holds := func(b ...byte) func(*matchtest.World, *around) {
		return func(w *matchtest.World, _ *around) { w.Memory[thunk] = b }
	}
	nothing := func(*matchtest.World, *around) {}
	for _, c := range []struct {
		name string
		ref  ref
		set  func(*matchtest.World, *around)
		want match.Status
	}{
		{"symbol", symbol, named("", "thunk_r11"), match.StatusMatched},
		{"another symbol", symbol, named("", "thunk_r12"), match.StatusMismatch},
		{"no symbol", symbol, nothing, match.StatusMismatch},
		{"code", code, holds(0xff, 0xe0), match.StatusMatched},
		{"other code", code, holds(0xff, 0xe1), match.StatusMismatch},
		{"kprobe", kprobe, func(_ *matchtest.World, a *around) { a.tracing.Kprobes = []uint64{thunk} }, match.StatusMatched},
		{"nobody's breakpoint", kprobe, nothing, match.StatusMismatch},
		{"ftrace", ftrace, named("", "ftrace_caller"), match.StatusMatched},
		{"trampoline", ftrace, named("__builtin__ftrace", "ftrace_trampoline"), match.StatusMatched},
		{"no tracer", ftrace, named("", "do_exit"), match.StatusMismatch},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := matchtest.New(t)
			w.Unit("a.o", "").Func(".text.f", "f", global, "f", c.ref)
			w.Symbol("", "f", text)
			w.Symbol("", "_text", text)
			w.Symbol("", "_end", data)
			w.Memory[text] = matchtest.Code("f", thunk)
			var a around
			c.set(w, &a)
			s := solve(t, w, a)
			if got := s.Functions[0]; got.Status != c.want {
				t.Errorf("status = %s (%s), want %s", got.Status, got.Reason, c.want)
			}
		})
	}
}

// TestUnknownObligation: what this program cannot check must not pass.
func TestUnknownObligation(t *testing.T) {
	w := matchtest.New(t)
	w.Unit("a.o", "").Func(".text.f", "f", global, "f", ref{Symbol: "x", Obligation: "from the future"})
	w.Symbol("", "f", text)
	w.Memory[text] = matchtest.Code("f", data)
	if _, err := match.RunWith(t.Context(), w.Kernel(true), w, w.Units(), nil, &kernel.Tracing{}); err == nil || !strings.Contains(err.Error(), "from the future") {
		t.Errorf("err = %v", err)
	}
}
