package match_test

import (
	"debug/elf"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/match/matchtest"
)

// TestLivepatched: what livepatch has redirected is refused, in that module only.
func TestLivepatched(t *testing.T) {
	w := matchtest.New(t)
	u := w.Unit("a.o", "")
	u.Func(".text.f", "f", global, "f")
	u.Func(".text.g", "g", global, "g")
	w.Symbol("", "f", text)
	w.Symbol("", "g", text+0x100)
	w.Memory[text], w.Memory[text+0x100] = matchtest.Code("f"), matchtest.Code("g")
	s := solve(t, w, around{tracing: kernel.Tracing{Livepatched: []kernel.Livepatched{{Name: "f"}, {Module: "mod_a", Name: "g"}}}})
	verdicts(t, s, verdict{"f", match.StatusMismatch, 0}, verdict{"g", match.StatusMatched, text + 0x100})
	if r := s.Functions[0].Reason; !strings.Contains(r, "livepatch") {
		t.Errorf("reason = %q", r)
	}
}

// TestOnTop: a function that an update has replaced has its old address and the replacement's code; an update that was not made
// on top of it is refused with the reason.
func TestOnTop(t *testing.T) {
	const replacement = 0xffffffffc0100000
	w := matchtest.New(t)
	u := w.Unit("a.o", "")
	f := u.Func(".text.f", "f", global, "f after the first update", ref{Symbol: "jiffies"})
	u.Func(".text.g", "g", global, "g", ref{Symbol: "f"})
	w.Symbol("", "f", text)
	w.Symbol("", "g", text+0x100)
	w.Memory[text] = matchtest.Code("f with a jump in it", data)
	w.Memory[replacement] = matchtest.Code("f after the first update", data)
	w.Memory[text+0x100] = matchtest.Code("g", text)
	a := around{redirects: []kernel.Redirect{{Code: text, Replacement: replacement, ID: "0badcafe", Part: "ksplice_0badcafe_vmlinux", Name: "f"}}}

	s := solve(t, w, a)
	verdicts(t, s, verdict{"f", match.StatusMatched, text}, verdict{"g", match.StatusMatched, text + 0x100})
	value(t, s, 0, f, text)
	if got := s.Functions[0].Code; got != replacement {
		t.Errorf("code = %#x, want %#x", got, uint64(replacement))
	}

	w.Memory[replacement] = matchtest.Code("other", data)
	s = solve(t, w, a)
	verdicts(t, s, verdict{"f", match.StatusMismatch, 0}, verdict{"g", match.StatusMatched, text + 0x100})
	if r := s.Functions[0].Reason; !strings.Contains(r, "update 0badcafe has replaced the function") || !strings.Contains(r, "create --on") || !strings.Contains(r, "--replace") {
		t.Errorf("reason = %q", r)
	}
}

// TestPieces: a piece of a function that an update replaced refers to the middle of the replacement, as whose address counts the function's.
func TestPieces(t *testing.T) {
	const replacement, part = 0xffffffffc0100000, "ksplice_0badcafe_vmlinux"
	for _, piece := range []string{"f.cold", "f.isra.0.cold"} { // the first one's name has no number of the compiler's
		w := matchtest.New(t)
		u := w.Unit("a.o", "")
		cold := u.Func(".text.unlikely.f", piece, elf.STB_LOCAL, "f.cold after the first update", ref{Symbol: "f"})
		f := u.Func(".text.f", "f", global, "f after the first update", ref{Symbol: piece})
		u.Func(".text.g", "g", global, "g", ref{Symbol: "f"})
		w.Symbol("", "f", text)
		w.Symbol("", "g", text+0x100)
		w.Symbol("", piece, text+0x200)
		w.Symbol(part, piece+".ksplice", replacement+0x800)
		w.Memory[text] = matchtest.Code("f with a jump in it", data)
		w.Memory[text+0x100] = matchtest.Code("g", text)
		w.Memory[text+0x200] = matchtest.Code("f.cold", text)
		w.Memory[replacement] = matchtest.Code("f after the first update", replacement+0x800)
		w.Memory[replacement+0x800] = matchtest.Code("f.cold after the first update", replacement)
		s := solve(t, w, around{redirects: []kernel.Redirect{{Code: text, Replacement: replacement, ID: "0badcafe", Part: part, Name: "f"},
			{Code: text + 0x200, ID: "0badcafe", Part: part, Name: piece}}})
		verdicts(t, s, verdict{piece, match.StatusMatched, replacement + 0x800}, verdict{"f", match.StatusMatched, text}, verdict{"g", match.StatusMatched, text + 0x100})
		value(t, s, 0, f, text)
		value(t, s, 0, cold, replacement+0x800)
	}
}

// TestBrought: what an update brought is found in its part, for objects made on top of that update only.
func TestBrought(t *testing.T) {
	const brought, part = 0xffffffffc0100000, "ksplice_0badcafe_vmlinux"
	w := matchtest.New(t)
	u := w.Unit("a.o", "")
	helper := u.Func(".text.helper", "helper", elf.STB_LOCAL, "helper", ref{Symbol: "jiffies"})
	names := u.Data(".data.names", "names", elf.STB_LOCAL)
	u.Func(".text.f", "f", global, "f after the first update", ref{Symbol: "helper"}, ref{Symbol: "names"})
	w.Symbol("", "f", text)
	w.Symbol("", "names", data+0x500) // another unit's
	w.Symbol(part, "helper", brought)
	w.Symbol(part, "names", brought+0x800)
	w.Memory[text] = matchtest.Code("f with a jump in it")
	w.Memory[brought] = matchtest.Code("helper", data)
	w.Memory[brought+0x100] = matchtest.Code("f after the first update", brought, brought+0x800)
	a := around{redirects: []kernel.Redirect{{Code: text, Replacement: brought + 0x100, ID: "0badcafe", Part: part, Name: "f"}}}

	verdicts(t, solve(t, w, a), verdict{"helper", match.StatusAbsent, 0}, verdict{"f", match.StatusMismatch, 0})
	u.Parts = []string{"ksplice_11111111_vmlinux", part}
	s := solve(t, w, a)
	verdicts(t, s, verdict{"helper", match.StatusMatched, brought}, verdict{"f", match.StatusMatched, text})
	value(t, s, 0, helper, brought)
	value(t, s, 0, names, brought+0x800)
}
