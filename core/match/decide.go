package match

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/objfile"
)

// decide accepts the function's only candidate that matches and that no equation contradicts.
func (m *matcher) decide(w *work) (bool, error) {
	var good []*candidate
	var contradiction string
	for _, c := range w.candidates {
		if !c.result.Matched || c.failed != "" {
			continue
		}
		if why := m.contradicts(w, c); why != "" {
			contradiction = why
			continue
		}
		good = append(good, c)
	}
	f := &m.sol.Functions[w.index]
	if len(good) != 1 {
		if len(good) == 0 && contradiction != "" {
			f.Reason = contradiction
		}
		return false, nil
	}
	c := good[0]
	from := fmt.Sprintf("%s in %s", w.fn.Name, m.u.units[w.unit].Name)
	for _, e := range c.equations {
		if err := m.u.set(e.p, e.value, from); err != nil {
			return false, fmt.Errorf("run-pre matching: %w", err) // contradicts has seen all equations: a bug
		}
	}
	for at, a := range c.merged {
		m.sol.merged[fieldKey{w.unit, w.fn.Symbol, at}] = a
	}
	f.Status, f.Address, f.Code, f.Reason = StatusMatched, c.address, c.code, ""
	f.RunSize, f.Resized = c.result.RunSize, c.result.Resized
	f.Run = c.run[:c.result.RunSize]
	m.sol.Stats.Functions++
	m.sol.Stats.Relocations += len(c.result.Equations) + len(c.merged)
	w.done = true
	return true, nil
}

func (m *matcher) contradicts(w *work, c *candidate) string {
	own := map[variable]equation{}
	for _, e := range c.equations {
		if got, ok := m.u.get(e.p); ok && got != e.value {
			return fmt.Sprintf("at +%#x run names %#x for %s, but %s says %#x", e.at, e.value-e.p.offset,
				m.u.describe(e.p.v), m.u.solved[e.p.v].from, got-e.p.offset)
		} else if ok {
			continue // who solved it has looked at what follows
		}
		if o, ok := own[e.p.v]; ok && o.value-o.p.offset != e.value-e.p.offset {
			return fmt.Sprintf("run names %#x for %s at +%#x, and %#x at +%#x", o.value-o.p.offset, m.u.describe(e.p.v), o.at,
				e.value-e.p.offset, e.at)
		}
		own[e.p.v] = e
		if why := m.misnamed(e); why != "" {
			return why
		}
	}
	if m.livepatch[c.address] {
		return "livepatch has redirected the function: a redirect of ours would never be reached; disable that livepatch first"
	}
	return ""
}

// misnamed says what is wrong with an equation by which a symbol would lie where run's own symbol table has another of its
// names: the field that gave it was changed.
func (m *matcher) misnamed(e equation) string {
	v, value := e.p.v, e.value-e.p.offset
	var name string
	var have []kernel.Symbol
	if v.unit < 0 {
		name, have = v.name, m.k.Symbols.LookupIn("", v.name)
		if v.scope != "" {
			have = m.k.Symbols.Lookup(v.name) // another module may export it
		}
	} else {
		for _, y := range m.u.named[v] {
			if have = m.named(v.unit, y.Name); !hasAddress(have, value+y.Value) {
				name, value = y.Name, value+y.Value
				break
			}
		}
	}
	if name == "" {
		if why := m.outside(e); why != "" {
			return why
		}
		return m.misnumbered(e)
	}
	if hasAddress(have, value) {
		return ""
	}
	return fmt.Sprintf("at +%#x run names %s for %s, which the kernel's symbol table has at %#x", e.at, m.nameOf(value), name, have[0].Address)
}

// outside says that a section of a unit would lie where neither its module nor a part that it was compiled on top of has memory. Per-CPU
// data of modules lie elsewhere (kernel/module/main.c:percpu_modalloc).
func (m *matcher) outside(e equation) string {
	u := m.u.units[e.p.v.unit]
	if strings.HasPrefix(u.File.Sections[e.p.v.section].Name, ".data..percpu") {
		return ""
	}
	some := false
	for _, module := range append([]string{u.Module}, u.Parts...) {
		inside, known := m.k.Inside(module, e.value)
		if inside {
			return ""
		}
		some = some || known
	}
	if !some {
		return ""
	}
	return fmt.Sprintf("at +%#x run names %#x for something in %s, which has no memory there", e.at, e.value, m.where(e.p.v.unit))
}

// misnumbered is misnamed for names with numbers of the compiler's: where run has such a name at all, one with the same stem lies there.
func (m *matcher) misnumbered(e equation) string {
	value := e.value - e.p.offset
	for _, y := range m.u.numbered[e.p.v] {
		have := m.named(e.p.v.unit, y.Name)
		stem, _ := objfile.Stem(y.Name)
		if len(have) == 0 || slices.ContainsFunc(m.k.Symbols.At(value+y.Value), func(s kernel.Symbol) bool {
			x, _ := objfile.Stem(s.Name)
			return x == stem
		}) {
			continue
		}
		return fmt.Sprintf("at +%#x run names %s for %s, where the kernel's symbol table has none of that name", e.at, m.nameOf(value+y.Value), y.Name)
	}
	return ""
}

// hasAddress says that one of the symbols lies at an address, or that there are none.
func hasAddress(have []kernel.Symbol, address uint64) bool {
	return len(have) == 0 || slices.ContainsFunc(have, func(s kernel.Symbol) bool { return s.Address == address })
}

// exclude refuses functions that were found where another one is.
func (m *matcher) exclude() {
	by := map[uint64]*work{}
	for _, w := range m.work {
		if !w.done {
			continue
		}
		f := &m.sol.Functions[w.index]
		o := by[f.Address]
		if o == nil {
			by[f.Address] = w
			continue
		}
		if o.p != w.p {
			f.Status = StatusMismatch
			f.Reason = fmt.Sprintf("it is found at %#x, where %s of %s is", f.Address, o.fn.Name, m.u.units[o.unit].Name)
		}
	}
}

// finish gives every undecided function its verdict.
func (m *matcher) finish() {
	for _, w := range m.work {
		if w.done {
			continue
		}
		f := &m.sol.Functions[w.index]
		matched := 0
		for _, c := range w.candidates {
			if c.result.Matched && c.failed == "" {
				matched++
			}
		}
		switch {
		case len(w.candidates) == 0:
			f.Status, f.Reason = StatusAbsent, "the running kernel has no function of that name in "+m.where(w.unit)
		case f.Reason != "" && matched == 0, f.Reason != "" && matched > 0:
			f.Status, f.Address = StatusMismatch, w.candidates[0].address
		case matched > 1:
			f.Status, f.Reason = StatusAmbiguous, fmt.Sprintf("%d places in the running kernel match and nothing decides between them", matched)
		default:
			f.Status = StatusMismatch
			m.explain(f, w)
		}
		if w.weak && f.Status != StatusAmbiguous {
			f.Status = StatusOverridden
		}
	}
}

func (m *matcher) where(unit int) string {
	if n := m.u.units[unit].Module; n != "" {
		return "module " + n
	}
	return "the kernel proper"
}

// explain describes the candidate that came furthest.
func (m *matcher) explain(f *Function, w *work) {
	best := w.candidates[0]
	depth := func(c *candidate) uint64 {
		if c.result.Matched {
			return ^uint64(0)
		}
		return c.result.Mismatch.PreOffset
	}
	for _, c := range w.candidates[1:] {
		if depth(c) > depth(best) {
			best = c
		}
	}
	f.Address, f.Code = best.address, best.code
	if best.failed != "" {
		f.Reason = best.failed
		return
	}
	if r, ok := m.redirect[best.address]; ok {
		f.Reason = fmt.Sprintf("update %s has replaced the function; make the new update on top of it (create --on), or apply it in its place (--replace): ", r.ID)
	}
	f.Mismatch = best.result.Mismatch
	f.Reason += fmt.Sprintf("at +%#x: %s", f.Mismatch.PreOffset, f.Mismatch.Reason)
	if f.Mismatch.Pre != "" || f.Mismatch.Run != "" {
		f.Reason += fmt.Sprintf(" (pre %q, run %q)", f.Mismatch.Pre, f.Mismatch.Run)
	}
}
