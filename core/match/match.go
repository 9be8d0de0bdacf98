package match

import (
	"bytes"
	"context"
	"debug/elf"
	"slices"
	"sort"
	"time"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/sdk/arch"
)

// slack is how many bytes of run beyond a function's size in pre the plugin is shown, for longer forms.
const slack = 64

// matcher is one matching in progress.
type matcher struct {
	k         *kernel.Kernel
	arch      arch.Arch
	sol       *Solution
	u         *unknowns
	pages     *pageCache
	tracing   *kernel.Tracing
	redirect  map[uint64]kernel.Redirect // by the address where the replaced code begins
	replaced  map[uint64]uint64          // that address by the replacement's
	livepatch map[uint64]bool            // addresses of redirected functions; where two have one name, of both
	keys      map[string]map[uint64]uint64
	work      []*work
}

// work is one function that is not decided yet.
type work struct {
	index      int // in Solution.Functions
	unit       int
	fn         *arch.Function
	p          place
	weak       bool // another unit's may have replaced it
	candidates []*candidate
	tried      map[uint64]bool
	done       bool
}

// candidate is a place in run that the plugin judged.
type candidate struct {
	address, code uint64
	run           []byte
	result        arch.MatchResult
	equations     []equation
	merged        map[uint64]uint64
	failed        string // an obligation that did not hold
}

type equation struct {
	p     place
	value uint64
	at    uint64
}

// Run matches units against the kernel. The error is for what kept it from judging; that functions do not match is no
// error of Run but in the Solution (see Err), except for contradictions between equations.
func Run(ctx context.Context, k *kernel.Kernel, a arch.Arch, units []*Unit) (*Solution, error) {
	start := time.Now()
	var redirects []kernel.Redirect
	tracing := &kernel.Tracing{}
	if k.Booted {
		var err error
		if redirects, err = k.Redirects(); err != nil {
			return nil, err
		}
		if tracing, err = k.Tracing(); err != nil {
			return nil, err
		}
	}
	s, err := run(ctx, k, a, units, redirects, tracing)
	if err != nil {
		return nil, err
	}
	s.Stats.Time = time.Since(start)
	return s, nil
}

// run matches against a kernel whose code others have redirected and trace.
func run(ctx context.Context, k *kernel.Kernel, a arch.Arch, units []*Unit, redirects []kernel.Redirect, tracing *kernel.Tracing) (*Solution, error) {
	m := &matcher{k: k, arch: a, u: newUnknowns(units), pages: newPageCache(k.Memory), tracing: tracing, redirect: map[uint64]kernel.Redirect{},
		replaced: map[uint64]uint64{}, livepatch: map[uint64]bool{}, keys: map[string]map[uint64]uint64{}}
	m.sol = &Solution{unknowns: m.u, merged: map[fieldKey]uint64{}, byName: map[functionKey]int{}}
	for _, r := range redirects {
		m.redirect[r.Code] = r
		m.replaced[r.Replacement] = r.Code
	}
	for _, n := range m.tracing.Livepatched {
		// By address: what livepatch calls __x64_sys_getppid is __ia32_sys_getppid, too.
		for _, s := range k.Symbols.LookupIn(n.Module, n.Name) {
			m.livepatch[s.Address] = true
		}
	}
	if err := m.collect(); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		for moved := true; moved; m.sol.Stats.Rounds++ {
			var err error
			if moved, err = m.round(ctx); err != nil {
				return nil, err
			}
		}
		if !k.Booted || try == rereads || !m.reread(ctx) {
			break
		}
	}
	m.exclude()
	m.finish()
	return m.sol, nil
}

// rereads is how often code that does not match is looked at again, rereadPause the time before.
const (
	rereads     = 3
	rereadPause = 10 * time.Millisecond
)

// reread drops the candidates that did not match and whose bytes are others by now: the kernel was rewriting a place in them
// (arch/x86/kernel/alternative.c:text_poke_bp_batch puts an int3 there meanwhile). It reports whether there were any.
func (m *matcher) reread(ctx context.Context) bool {
	if !slices.ContainsFunc(m.work, func(w *work) bool { return !w.done && len(w.candidates) > 0 }) {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(rereadPause):
	}
	changed := false
	for _, w := range m.work {
		if w.done {
			continue
		}
		w.candidates = slices.DeleteFunc(w.candidates, func(c *candidate) bool {
			if bytes.Equal(c.run, m.read(c.code, w.fn.Size+slack)) {
				return false
			}
			changed = true
			delete(w.tried, c.address)
			return true
		})
	}
	return changed
}

// collect lists the functions to match; a symbol that is a mere alias of another is matched with it.
func (m *matcher) collect() error {
	for ui, unit := range m.u.units {
		if err := unit.check(); err != nil {
			return err
		}
		for fi := range unit.Desc.Functions {
			fn := &unit.Desc.Functions[fi]
			s := unit.File.Symbols[fn.Symbol]
			f := Function{Unit: ui, Object: unit.Name, Symbol: fn.Symbol, Name: fn.Name}
			m.sol.byName[functionKey{ui, fn.Symbol}] = len(m.sol.Functions)
			weak := s.Bind == elf.STB_WEAK
			switch {
			case unit.discarded(s.Section.Name):
				f.Status, f.Reason = StatusDiscarded, "section "+s.Section.Name+" is gone once it has run"
			case weak && unit.Module == "" && m.linked(fn.Name, 'T', 'D', 'R') && !m.linked(fn.Name, 'W', 'w'):
				f.Status, f.Reason = StatusOverridden, "the running kernel has another unit's in its place"
			default:
				m.work = append(m.work, &work{index: len(m.sol.Functions), unit: ui, fn: fn, weak: weak && !(unit.Module == "" && m.linked(fn.Name, 'W', 'w')),
					p:     place{variable{unit: ui, section: fn.Section}, fn.Offset},
					tried: map[uint64]bool{}})
			}
			m.sol.Functions = append(m.sol.Functions, f)
		}
	}
	return nil
}

// linked says that the kernel proper has a symbol of one of the types that nm(1) prints. Those of weak functions stay weak when the
// kernel is linked; where a strong one replaced them only that is there.
func (m *matcher) linked(name string, types ...byte) bool {
	return slices.ContainsFunc(m.k.Symbols.LookupIn("", name), func(y kernel.Symbol) bool { return slices.Contains(types, y.Type) })
}

// round tries new candidates, drops what equations contradict and accepts what is unique. It reports whether anything moved.
func (m *matcher) round(ctx context.Context) (moved bool, err error) {
	fresh := map[int][]*pending{} // by unit
	for _, w := range m.work {
		if w.done {
			continue
		}
		for _, a := range m.addresses(w) {
			if w.tried[a] {
				continue
			}
			w.tried[a] = true
			c := &candidate{address: a, code: a}
			if r, ok := m.redirect[a]; ok {
				c.code = r.Replacement
			}
			w.candidates = append(w.candidates, c)
			c.run = m.read(c.code, w.fn.Size+slack)
			fresh[w.unit] = append(fresh[w.unit], &pending{w, c})
		}
	}
	units := make([]int, 0, len(fresh))
	for u := range fresh {
		units = append(units, u)
	}
	sort.Ints(units)
	for _, u := range units {
		if err := m.judge(ctx, u, fresh[u]); err != nil {
			return false, err
		}
		moved = true
	}
	for _, w := range m.work {
		if w.done {
			continue
		}
		accepted, err := m.decide(w)
		if err != nil {
			return false, err
		}
		moved = moved || accepted
	}
	return moved, nil
}

// addresses returns where the function may be: where equations say, else where run's symbol table has its name.
func (m *matcher) addresses(w *work) []uint64 {
	if a, ok := m.u.get(w.p); ok {
		return []uint64{a}
	}
	var out []uint64
	for _, s := range m.named(w.unit, w.fn.Name) {
		out = append(out, s.Address)
	}
	return out
}

// named looks a name up where what a unit defines may be.
func (m *matcher) named(unit int, name string) []kernel.Symbol {
	u := m.u.units[unit]
	found := slices.Clone(m.k.Symbols.LookupIn(u.Module, name))
	for _, p := range u.Parts {
		found = append(found, m.k.Symbols.LookupIn(p, name)...)
	}
	return found
}

// read returns up to n bytes of run at address; fewer where memory ends.
func (m *matcher) read(address, n uint64) []byte {
	p := make([]byte, n)
	for {
		if m.k.Memory.ReadMemory(p, address) == nil {
			return p
		}
		if uint64(len(p)) <= n-slack {
			return nil
		}
		p = p[:max(uint64(len(p)), 8)-8]
	}
}
