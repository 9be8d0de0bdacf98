package match_test

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
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

// TestMisnamed: a field that leads to another place than the one that the symbol table has under the name was changed.
func TestMisnamed(t *testing.T) {
	for _, named := range []uint64{data, data + 8} {
		w := matchtest.New(t)
		u := w.Unit("a.o", "")
		u.Undefined("jiffies")
		u.Func(".text.f", "f", global, "f", ref{Symbol: "jiffies"})
		w.Symbol("", "f", text)
		w.Symbol("", "jiffies", data)
		w.Memory[text] = matchtest.Code("f", named)
		s := solve(t, w, around{})
		if named == data {
			verdicts(t, s, verdict{"f", match.StatusMatched, text})
			continue
		}
		verdicts(t, s, verdict{"f", match.StatusMismatch, 0})
		if r := s.Functions[0].Reason; !strings.Contains(r, "jiffies") {
			t.Errorf("reason = %q", r)
		}
	}
}

// TestMisnumbered: the same for a name with a number of the compiler's, under which run may have another one.
func TestMisnumbered(t *testing.T) {
	for leads, want := range map[uint64]match.Status{data: match.StatusMatched, data + 8: match.StatusMatched, data + 0x10: match.StatusMismatch, data + 0x18: match.StatusMismatch} {
		w := matchtest.New(t)
		u := w.Unit("a.o", "")
		u.Data(".data.ops.3", "ops.3", elf.STB_LOCAL)
		u.Func(".text.f", "f", global, "f", ref{Symbol: "ops.3"})
		w.Symbol("", "f", text)
		w.Symbol("", "ops.2", data)
		w.Symbol("", "ops.3", data+8)
		w.Symbol("", "other", data+0x10)
		w.Memory[text] = matchtest.Code("f", leads)
		s := solve(t, w, around{})
		if f := &s.Functions[0]; f.Status != want || want == match.StatusMismatch && !strings.Contains(f.Reason, "for ops.3, where the kernel's symbol table has none of that name") {
			t.Errorf("f leads to %#x: %s (%s), want %s", leads, f.Status, f.Reason, want)
		}
	}
}

// TestOutside: a field that leads to where the unit's module, or the kernel proper, has no memory was changed.
func TestOutside(t *testing.T) {
	for leads, want := range map[uint64]match.Status{data: match.StatusMatched, data + 0x1000: match.StatusMatched, data + 0x1001: match.StatusMismatch, 0xb9480207b6ff: match.StatusMismatch} {
		for _, section := range []string{".data.once", ".data..percpu"} {
			w := matchtest.New(t)
			u := w.Unit("a.o", "mod_a")
			w.Modules["mod_a"] = kernel.Module{Name: "mod_a", Base: text, Size: 0x2000, Ranges: []kernel.Range{{Start: text, End: text + 0x1000}, {Start: data, End: data + 0x1000}}}
			u.Data(section, "", elf.STB_LOCAL)
			u.Func(".text.f", "f", global, "f", ref{Symbol: ""})
			w.Symbol("mod_a", "f", text)
			w.Memory[text] = matchtest.Code("f", leads)
			s := solve(t, w, around{})
			if section == ".data..percpu" {
				want = match.StatusMatched
			}
			if f := &s.Functions[0]; f.Status != want || want == match.StatusMismatch && !strings.Contains(f.Reason, "in module mod_a, which has no memory there") {
				t.Errorf("%s at %#x: %s (%s), want %s", section, leads, f.Status, f.Reason, want)
			}
		}
	}
}

// TestAuxiliary: where code lies that only one jump of an image leads to, what lies there must tell.
func TestAuxiliary(t *testing.T) {
	for leads, want := range map[uint64]match.Status{data: match.StatusMatched, data + 7: match.StatusMismatch, data + 0x1000: match.StatusMismatch} {
		w := matchtest.New(t)
		u := w.Unit("a.o", "")
		to := u.Data(".altinstr_aux", "", elf.STB_LOCAL)
		u.Func(".text.f", "f", global, "f", ref{Symbol: ""})
		w.Symbol("", "f", text)
		w.Memory[text] = matchtest.Code("f", leads)
		content := u.File.Symbols[to].Section.Data
		w.Memory[data] = append(bytes.Clone(content), 1, 2, 3, 4, 5, 6, 7)
		s := solve(t, w, around{})
		if f := &s.Functions[0]; f.Status != want || want == match.StatusMismatch && !strings.Contains(f.Reason, "for .altinstr_aux, wh") {
			t.Errorf("it leads to %#x: %s (%s), want %s", leads, f.Status, f.Reason, want)
		}
	}
}

// TestScopes: a module's globals are its own; two modules may each have one of a name.
func TestScopes(t *testing.T) {
	w := matchtest.New(t)
	for i, module := range []string{"mod_a", "mod_b"} {
		u := w.Unit(module+".o", module)
		u.Func(".text.init", "common", global, "common"+module, ref{Symbol: "shared"})
		at := text + uint64(i)*0x1000
		w.Modules[module] = kernel.Module{Name: module, Base: at, Size: 0x1000, Ranges: []kernel.Range{{Start: at, End: at + 0x1000}}}
		w.Symbol(module, "common", at)
		w.Memory[at] = matchtest.Code("common"+module, data+uint64(i)*8)
	}
	s := solve(t, w, around{})
	verdicts(t, s, verdict{"common", match.StatusMatched, text}, verdict{"common", match.StatusMatched, text + 0x1000})
	value(t, s, 0, 2, data)
	value(t, s, 1, 2, data+8)
}

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
