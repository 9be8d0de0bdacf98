package match_test

import (
	"bytes"
	"context"
	"debug/elf"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/match/matchtest"
	"github.com/ksplice/ksplice/sdk/arch"
)

const (
	text = 0xffffffff81000000
	data = 0xffffffff82000000

	local, global, weak = elf.STB_LOCAL, elf.STB_GLOBAL, elf.STB_WEAK
)

type ref = matchtest.Ref

// around is what others do to the kernel.
type around struct {
	redirects []kernel.Redirect
	tracing   kernel.Tracing
}

func solve(t *testing.T, w *matchtest.World, a around) *match.Solution {
	t.Helper()
	s, err := match.RunWith(t.Context(), w.Kernel(true), w, w.Units(), a.redirects, &a.tracing)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// verdict is what a test says of a function.
type verdict struct {
	Name    string
	Status  match.Status
	Address uint64
}

// verdicts checks the status and address of all functions, in order.
func verdicts(t *testing.T, s *match.Solution, want ...verdict) {
	t.Helper()
	var got []verdict
	for _, f := range s.Functions {
		v := verdict{f.Name, f.Status, 0}
		if f.Status == match.StatusMatched {
			v.Address = f.Address
		} else if f.Reason == "" {
			t.Errorf("%s is %s without a reason", f.Name, f.Status)
		}
		got = append(got, v)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("verdicts (-want +got):\n%s", d)
		for _, f := range s.Functions {
			t.Logf("%s: %s: %s", f.Name, f.Status, f.Reason)
		}
	}
}

func value(t *testing.T, s *match.Solution, unit int, symbol uint32, want uint64) {
	t.Helper()
	if got, ok := s.Value(unit, symbol); !ok || got != want {
		t.Errorf("value of symbol %d of unit %d = %#x, %t, want %#x", symbol, unit, got, ok, want)
	}
}

func TestSimple(t *testing.T) {
	w := matchtest.New(t)
	u := w.Unit("a.o", "")
	extern := u.Undefined("jiffies")
	static := u.Data(".data.count", "count", local)
	u.Func(".text.f", "f", global, "f", ref{Symbol: "jiffies"}, ref{Symbol: "count", Addend: 4})
	w.Symbol("", "f", text)
	w.Memory[text] = matchtest.Code("f", data, data+0x104)

	s := solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusMatched, text})
	value(t, s, 0, extern, data)
	value(t, s, 0, static, data+0x100)
	if err := s.Err(); err != nil {
		t.Error(err)
	}
	if s.Stats.Functions != 1 || s.Stats.Relocations != 2 || s.Stats.Bytes != 24 {
		t.Errorf("stats = %+v", s.Stats)
	}
	if f, ok := s.Function(0, 3); !ok || string(f.Run) != string(w.Memory[text]) {
		t.Errorf("function = %+v, %t", f, ok)
	}
}

// TestRounds: g is found by the call of f only, and h by that of g: run's symbol table has several of each.
func TestRounds(t *testing.T) {
	w := matchtest.New(t)
	u := w.Unit("a.o", "")
	h := u.Func(".text.h", "h", local, "same")
	g := u.Func(".text.g", "g", local, "same too", ref{Symbol: "h"})
	u.Func(".text.f", "f", global, "f", ref{Symbol: "g"})
	for i, n := range []string{"f", "g", "g", "g", "h", "h"} {
		w.Symbol("", n, text+uint64(i)*0x100)
	}
	w.Memory[text] = matchtest.Code("f", text+0x200)
	w.Memory[text+0x100] = matchtest.Code("same too", text+0x400)
	w.Memory[text+0x200] = matchtest.Code("same too", text+0x500)
	w.Memory[text+0x300] = matchtest.Code("same too", text+0x400)
	w.Memory[text+0x400] = matchtest.Code("same")
	w.Memory[text+0x500] = matchtest.Code("same")

	s := solve(t, w, around{})
	verdicts(t, s, verdict{"h", match.StatusMatched, text + 0x500}, verdict{"g", match.StatusMatched, text + 0x200},
		verdict{"f", match.StatusMatched, text})
	value(t, s, 0, g, text+0x200)
	value(t, s, 0, h, text+0x500)
	if s.Stats.Rounds < 2 {
		t.Errorf("rounds = %d", s.Stats.Rounds)
	}
}

// TestStaticLocals: two functions with one name each, in two units; the static variables they name decide.
func TestStaticLocals(t *testing.T) {
	w := matchtest.New(t)
	a, b := w.Unit("a.o", ""), w.Unit("b.o", "")
	for _, u := range []*matchtest.Unit{a, b} {
		u.Data(".data.buf", "buf.0", local)
		u.Func(".text.init", "init_one", local, "init", ref{Symbol: "buf.0"})
		u.Func(".text.user", "use_"+u.Name, global, u.Name, ref{Symbol: "buf.0"}, ref{Symbol: "init_one"})
	}
	w.Symbol("", "init_one", text)
	w.Symbol("", "init_one", text+0x100)
	w.Symbol("", "use_a.o", text+0x200)
	w.Symbol("", "use_b.o", text+0x300)
	w.Memory[text] = matchtest.Code("init", data)
	w.Memory[text+0x100] = matchtest.Code("init", data+0x800)
	w.Memory[text+0x200] = matchtest.Code("a.o", data+0x800, text+0x100)
	w.Memory[text+0x300] = matchtest.Code("b.o", data, text)

	s := solve(t, w, around{})
	verdicts(t, s, verdict{"init_one", match.StatusMatched, text + 0x100}, verdict{"use_a.o", match.StatusMatched, text + 0x200},
		verdict{"init_one", match.StatusMatched, text}, verdict{"use_b.o", match.StatusMatched, text + 0x300})
	value(t, s, 0, 1, data+0x800)
	value(t, s, 1, 1, data)
}

func TestAmbiguous(t *testing.T) {
	w := matchtest.New(t)
	w.Unit("a.o", "").Func(".text.f", "f", local, "f")
	w.Symbol("", "f", text)
	w.Symbol("", "f", text+0x100)
	w.Memory[text], w.Memory[text+0x100] = matchtest.Code("f"), matchtest.Code("f")
	s := solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusAmbiguous, 0})
	if r := s.Functions[0].Reason; !strings.Contains(r, "2 places") {
		t.Errorf("reason = %q", r)
	}
	if err := s.Err(); err != nil { // the kernel has it; only its address is open
		t.Error(err)
	}
}

// TestContradiction: two functions disagree about a variable. The second one is refused, by name of who said so.
func TestContradiction(t *testing.T) {
	w := matchtest.New(t)
	u := w.Unit("a.o", "")
	u.Undefined("jiffies")
	u.Func(".text.f", "f", global, "f", ref{Symbol: "jiffies"})
	u.Func(".text.g", "g", global, "g", ref{Symbol: "jiffies"})
	w.Symbol("", "f", text)
	w.Symbol("", "g", text+0x100)
	w.Memory[text] = matchtest.Code("f", data)
	w.Memory[text+0x100] = matchtest.Code("g", data+8)
	s := solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusMatched, text}, verdict{"g", match.StatusMismatch, 0})
	if r := s.Functions[1].Reason; !strings.Contains(r, "symbol jiffies") || !strings.Contains(r, "f in a.o") {
		t.Errorf("reason = %q", r)
	}

	// Within one function, too.
	w = matchtest.New(t)
	u = w.Unit("a.o", "")
	u.Undefined("jiffies")
	u.Func(".text.f", "f", global, "f", ref{Symbol: "jiffies"}, ref{Symbol: "jiffies"})
	w.Symbol("", "f", text)
	w.Memory[text] = matchtest.Code("f", data, data+8)
	s = solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusMismatch, 0})
	if r := s.Functions[0].Reason; !strings.Contains(r, "symbol jiffies") {
		t.Errorf("reason = %q", r)
	}
}

// TestExclusive: one place of run is one function.
func TestExclusive(t *testing.T) {
	w := matchtest.New(t)
	w.Unit("a.o", "").Func(".text.f", "f", local, "f")
	w.Unit("b.o", "").Func(".text.f", "f", local, "f")
	w.Symbol("", "f", text)
	w.Memory[text] = matchtest.Code("f")
	s := solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusMatched, text}, verdict{"f", match.StatusMismatch, 0})
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "where f of a.o is") {
		t.Errorf("Err = %v", err)
	}
}

// TestOrder: what lies in one section must lie in run as it does in pre, as far as the symbol table tells.
func TestOrder(t *testing.T) {
	for _, second := range []uint64{8, 16} {
		w := matchtest.New(t)
		u := w.Unit("a.o", "")
		for _, n := range []string{"x", "y", "z"} {
			u.Data(".data..read_mostly", n, local)
		}
		u.Func(".text.f", "f", global, "f", ref{Symbol: "x"})
		w.Symbol("", "f", text)
		w.Symbol("", "x", data)
		w.Symbol("", "y", data+second)
		w.Symbol("", "z", data+24-second)
		w.Memory[text] = matchtest.Code("f", data)
		s := solve(t, w, around{})
		if second == 8 {
			verdicts(t, s, verdict{"f", match.StatusMatched, text})
			value(t, s, 0, 2, data+8)
			continue
		}
		verdicts(t, s, verdict{"f", match.StatusMismatch, 0})
		if r := s.Functions[0].Reason; !strings.Contains(r, "y") {
			t.Errorf("reason = %q", r)
		}
	}
}

// TestHugeSection: a section without content cannot hold code.
func TestHugeSection(t *testing.T) {
	w := matchtest.New(t)
	u := w.Unit("a.o", "")
	u.Func(".text.f", "f", global, "f")
	u.File.Section(".text.f").Size, u.Desc.Functions[0].Size = 1<<62, 1<<61
	w.Symbol("", "f", text)
	if _, err := match.Run(t.Context(), w.Kernel(true), w, w.Units()); err == nil || !strings.Contains(err.Error(), "does not lie in its section") {
		t.Errorf("Run: %v", err)
	}
}

func TestMismatch(t *testing.T) {
	w := matchtest.New(t)
	w.Unit("a.o", "").Func(".text.f", "f", global, "f")
	w.Symbol("", "f", text)
	w.Memory[text] = matchtest.Code("something else")
	s := solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusMismatch, 0})
	if f := s.Functions[0]; f.Mismatch == nil || !strings.Contains(f.Reason, "the tags differ") || f.Address != text {
		t.Errorf("function = %+v", f)
	}
}

// TestMemoryEnds: code at the end of memory is compared as far as it goes.
func TestMemoryEnds(t *testing.T) {
	w := matchtest.New(t)
	w.Unit("a.o", "").Func(".text.f", "f", global, "f", ref{Symbol: "x"})
	w.Symbol("", "f", text)
	w.Memory[text] = matchtest.Code("f", data)
	verdicts(t, solve(t, w, around{}), verdict{"f", match.StatusMatched, text})
	w.Memory[text] = w.Memory[text][:12]
	verdicts(t, solve(t, w, around{}), verdict{"f", match.StatusMismatch, 0})
}

// rewriting is a world whose kernel puts a function's last bytes in place after the first look at them.
type rewriting struct {
	*matchtest.World
	code []byte
}

func (r *rewriting) Match(ctx context.Context, req *arch.MatchRequest) (*arch.MatchResponse, error) {
	resp, err := r.World.Match(ctx, req)
	r.Memory[text] = r.code
	return resp, err
}

// TestTransient: code that was just being rewritten is looked at again.
func TestTransient(t *testing.T) {
	w := matchtest.New(t)
	w.Unit("a.o", "").Func(".text.f", "f", global, "f")
	w.Symbol("", "f", text)
	w.Memory[text] = bytes.Repeat([]byte{0xcc}, len(matchtest.Code("f")))
	s, err := match.RunWith(t.Context(), w.Kernel(true), &rewriting{w, matchtest.Code("f")}, w.Units(), nil, &kernel.Tracing{})
	if err != nil {
		t.Fatal(err)
	}
	verdicts(t, s, verdict{"f", match.StatusMatched, text})
}

// TestMerged: a string that linkers merge is proved by content, and bind can ask where it is.
func TestMerged(t *testing.T) {
	w := matchtest.New(t)
	u := w.Unit("a.o", "")
	f := u.Func(".text.f", "f", global, "f", ref{Symbol: ".rodata.str", Obligation: arch.ObligationString, Bytes: []byte("hello\x00")})
	w.Symbol("", "f", text)
	w.Memory[text] = matchtest.Code("f", data+2)
	w.Memory[data] = []byte("x hello\x00 and more")
	s := solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusMatched, text})
	if a, ok := s.Field(0, f, 8); !ok || a != data+2 {
		t.Errorf("field = %#x, %t", a, ok)
	}
	if _, ok := s.Field(0, f, 16); ok {
		t.Error("a field that is not there has an address")
	}
	w.Memory[data] = []byte("x help!\x00")
	s = solve(t, w, around{})
	verdicts(t, s, verdict{"f", match.StatusMismatch, 0})
	if r := s.Functions[0].Reason; !strings.Contains(r, "help!") || !strings.Contains(r, "hello") {
		t.Errorf("reason = %q", r)
	}
	delete(w.Memory, data)
	verdicts(t, solve(t, w, around{}), verdict{"f", match.StatusMismatch, 0})
}

// TestImage: the same by Run itself, on a kernel that was never booted.
func TestImage(t *testing.T) {
	w := matchtest.New(t)
	w.Unit("a.o", "").Func(".text.f", "f", global, "f")
	w.Symbol("", "f", text)
	w.Memory[text] = matchtest.Code("f")
	s, err := match.Run(t.Context(), w.Kernel(false), w, w.Units())
	if err != nil {
		t.Fatal(err)
	}
	verdicts(t, s, verdict{"f", match.StatusMatched, text})
	if s.Stats.Time <= 0 {
		t.Errorf("time = %s", s.Stats.Time)
	}
}

// TestLyingArch: a plugin that says nonsense costs one error.
func TestLyingArch(t *testing.T) {
	w := matchtest.New(t)
	w.Unit("a.o", "").Func(".text.f", "f", global, "f")
	w.Symbol("", "f", text)
	w.Memory[text] = matchtest.Code("f")
	for name, result := range map[string]arch.MatchResult{
		"neither":  {},
		"too long": {Matched: true, RunSize: 1 << 40},
		"symbol":   {Matched: true, RunSize: 8, Equations: []arch.Equation{{Symbol: 99, Value: data}}},
	} {
		if _, err := match.Run(t.Context(), w.Kernel(false), &liar{arch.Mock{}, []arch.MatchResult{result}}, w.Units()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := match.Run(t.Context(), w.Kernel(false), &liar{arch.Mock{}, nil}, w.Units()); err == nil {
		t.Error("no results: no error")
	}
}

type liar struct {
	arch.Mock
	results []arch.MatchResult
}

func (l *liar) Match(context.Context, *arch.MatchRequest) (*arch.MatchResponse, error) {
	return &arch.MatchResponse{Results: l.results}, nil
}
