package match_test

import (
	"bytes"
	"debug/elf"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/match/matchtest"
)

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
