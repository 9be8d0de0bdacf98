package match_test

import (
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/match/matchtest"
)

func TestAbsentAndDiscarded(t *testing.T) {
	w := matchtest.New(t)
	u := w.Unit("a.o", "mod_a")
	u.Func(".text.f", "f", global, "f")
	u.Func(".init.text", "begin", global, "begin")
	v := w.Unit("b.o", "")
	v.Func(".exit.text", "end", global, "end")
	w.Symbol("", "f", text) // the kernel proper's, not the module's
	w.Memory[text] = matchtest.Code("f")
	s := solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusAbsent, 0}, verdict{"begin", match.StatusDiscarded, 0}, verdict{"end", match.StatusDiscarded, 0})
	if r := s.Functions[0].Reason; !strings.Contains(r, "module mod_a") {
		t.Errorf("reason = %q", r)
	}
}

// TestExit: the exit code of a module is there as long as the module is, and tells where what only it names lies.
func TestExit(t *testing.T) {
	for found, want := range map[uint64]match.Status{data: match.StatusMatched, data + 8: match.StatusMismatch} {
		w := matchtest.New(t)
		u := w.Unit("a.o", "mod_a")
		thread := u.Data(".bss.thread", "thread", local)
		u.Func(".exit.text", "end", local, "end", ref{Symbol: "thread"})
		w.Symbol("mod_a", "end", text)
		w.Symbol("mod_a", "thread", found)
		w.Memory[text] = matchtest.Code("end", data)
		s := solve(t, w, around{})
		if f := &s.Functions[0]; f.Status != want {
			t.Errorf("with the thread at %#x it is %s (%s), want %s", found, f.Status, f.Reason, want)
		}
		if at, ok := s.Value(0, thread); want == match.StatusMatched && (!ok || at != data) {
			t.Errorf("thread lies at %#x, %t", at, ok)
		}
	}
}

// TestInit: the init of a module that has not run is code like any other.
func TestInit(t *testing.T) {
	w := matchtest.New(t)
	u := w.Unit("a.o", "mod_a")
	u.Init = true
	u.Func(".init.text", "begin", global, "begin")
	u.Func(".exit.text", "end", global, "end")
	w.Symbol("mod_a", "begin", text)
	w.Symbol("mod_a", "end", text+0x100)
	w.Memory[text], w.Memory[text+0x100] = matchtest.Code("begin"), matchtest.Code("end")
	s := solve(t, w, around{})
	verdicts(t, s, verdict{"begin", match.StatusMatched, text}, verdict{"end", match.StatusMatched, text + 0x100})
}

// TestWeak: a weak function that another unit overrides is elsewhere, and other code; one that nobody overrides matches.
func TestWeak(t *testing.T) {
	w := matchtest.New(t)
	u := w.Unit("a.o", "")
	u.Func(".text.w", "w", weak, "weak w")
	u.Func(".text.v", "v", weak, "weak v")
	w.Symbol("", "w", text)
	w.Symbol("", "v", text+0x100)
	w.Memory[text] = matchtest.Code("strong w")
	w.Memory[text+0x100] = matchtest.Code("weak v")
	s := solve(t, w, around{})
	verdicts(t, s, verdict{"w", match.StatusOverridden, 0}, verdict{"v", match.StatusMatched, text + 0x100})
	if err := s.Err(); err != nil {
		t.Error(err)
	}
}

// TestWeakLinked: the kernel's symbol table says whether a weak function was linked: then it must match, else the strong one is
// not it, however alike they are.
func TestWeakLinked(t *testing.T) {
	for _, x := range []struct {
		kind byte
		code string
		want match.Status
	}{{'T', "w", match.StatusOverridden}, {'T', "strong", match.StatusOverridden}, {'W', "w", match.StatusMatched}, {'W', "changed", match.StatusMismatch}} {
		w := matchtest.New(t)
		w.Unit("a.o", "").Func(".text.w", "w", weak, "w")
		w.Symbols = append(w.Symbols, kernel.Symbol{Name: "w", Address: text, Type: x.kind})
		w.Memory[text] = matchtest.Code(x.code)
		s := solve(t, w, around{})
		if f := &s.Functions[0]; f.Status != x.want || f.Status != match.StatusMatched && f.Reason == "" {
			t.Errorf("%c %s: %s, %q; want %s", x.kind, x.code, f.Status, f.Reason, x.want)
		}
	}
}
