package match

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"time"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// Status says what became of one function of a pre object.
type Status string

// The statuses.
const (
	// StatusMatched: run is pre.
	StatusMatched Status = "matched"
	// StatusMismatch: run differs; Function.Mismatch says where.
	StatusMismatch Status = "mismatch"
	// StatusAbsent: run has no such function.
	StatusAbsent Status = "absent"
	// StatusAmbiguous: several places in run match and nothing decides between them.
	StatusAmbiguous Status = "ambiguous"
	// StatusDiscarded: the function is in code that run has thrown away (init, exit); it is not matched.
	StatusDiscarded Status = "discarded"
	// StatusOverridden: a weak function which another unit's strong one replaced when the kernel was linked.
	StatusOverridden Status = "overridden"
)

// Function is the verdict on one function.
type Function struct {
	Unit   int    `json:"-"`
	Object string `json:"object"`
	Symbol uint32 `json:"-"`
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Address is the function's address in run, Code where its code lies (elsewhere when an update replaced it).
	Address uint64 `json:"address,omitempty"`
	Code    uint64 `json:"code,omitempty"`
	// Reason says why it is not matched.
	Reason   string         `json:"reason,omitempty"`
	Mismatch *arch.Mismatch `json:"mismatch,omitempty"`
	// Run is the function's bytes in run and RunSize their number that count; Resized as in arch.MatchResult.
	Run     []byte `json:"-"`
	RunSize uint64 `json:"size,omitempty"`
	Resized bool   `json:"resized,omitempty"`
}

// Stats counts what matching did.
type Stats struct {
	Functions   int           `json:"functions"`
	Relocations int           `json:"relocations"`
	Bytes       int           `json:"bytes"`
	Rounds      int           `json:"rounds"`
	Time        time.Duration `json:"time_ns"`
	Plugin      time.Duration `json:"plugin_ns"` // spent in calls of the architecture plugin
}

// Solution is the outcome of matching.
type Solution struct {
	Functions []Function
	Stats     Stats

	unknowns *unknowns
	merged   map[fieldKey]uint64
	byName   map[functionKey]int
}

type fieldKey struct {
	unit   int
	symbol uint32
	at     uint64
}

type functionKey struct {
	unit   int
	symbol uint32
}

// Value returns the run value of a symbol of a unit, by the symbol's index in the pre object.
func (s *Solution) Value(unit int, symbol uint32) (uint64, bool) {
	p, ok, err := s.unknowns.place(unit, symbol)
	if err != nil || !ok {
		return 0, false
	}
	return s.unknowns.get(p)
}

// Field returns the address that a field of a matched function names, where its target is merged data whose content was proved.
func (s *Solution) Field(unit int, function uint32, at uint64) (uint64, bool) {
	a, ok := s.merged[fieldKey{unit, function, at}]
	return a, ok
}

// Function returns the verdict on a function.
func (s *Solution) Function(unit int, symbol uint32) (*Function, bool) {
	i, ok := s.byName[functionKey{unit, symbol}]
	if !ok {
		return nil, false
	}
	return &s.Functions[i], true
}

// Err returns nil when every function that run can be expected to have was matched, else an error that names
// the first that was not, and how many there are. A function that run has at several places is no error: who needs its
// address refuses (core/bind).
func (s *Solution) Err() error {
	var first *Function
	bad := 0
	for i := range s.Functions {
		switch f := &s.Functions[i]; f.Status {
		case StatusMatched, StatusAmbiguous, StatusDiscarded, StatusOverridden:
		default:
			if bad++; first == nil {
				first = f
			}
		}
	}
	if first == nil {
		return nil
	}
	return &MismatchError{First: *first, Count: bad}
}

// MismatchError says that run is not what the objects compiled to.
type MismatchError struct {
	First Function
	Count int
}

// Error implements error.
func (e *MismatchError) Error() string {
	s := fmt.Sprintf("run-pre matching: %s: %s: %s", e.First.Object, e.First.Name, e.First.Reason)
	if e.Count > 1 {
		s += fmt.Sprintf(" (and %d more functions)", e.Count-1)
	}
	return s
}

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
			case Discarded(s.Section.Name):
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

type pending struct {
	w *work
	c *candidate
}

// judge asks the plugin about candidates of one unit and checks what it makes dependent on the kernel.
func (m *matcher) judge(ctx context.Context, unit int, list []*pending) error {
	u := m.u.units[unit]
	f, err := os.CreateTemp("", "ksplice-run-*")
	if err != nil {
		return fmt.Errorf("match %s: %w", u.Name, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	req := &arch.MatchRequest{Target: u.Target, Object: u.Object, NoSelfModification: !m.k.Booted}
	var run bytes.Buffer
	for _, p := range list {
		req.Candidates = append(req.Candidates, arch.Candidate{Function: p.w.fn.Symbol, Address: p.c.code,
			RunOffset: uint64(run.Len()), RunLength: uint64(len(p.c.run))})
		run.Write(p.c.run)
	}
	if _, err := f.Write(run.Bytes()); err != nil {
		return fmt.Errorf("match %s: %w", u.Name, err)
	}
	req.Run = plugin.File{Path: f.Name(), SHA256: update.Digest(run.Bytes())}
	start := time.Now()
	resp, err := m.arch.Match(ctx, req)
	m.sol.Stats.Plugin += time.Since(start)
	if err != nil {
		return fmt.Errorf("match %s: %w", u.Name, err)
	}
	if len(resp.Results) != len(list) {
		return fmt.Errorf("match %s: the architecture plugin gave %d results for %d candidates", u.Name, len(resp.Results), len(list))
	}
	for i, p := range list {
		p.c.result = resp.Results[i]
		m.sol.Stats.Bytes += int(p.w.fn.Size)
		if err := m.resolve(unit, p.w, p.c); err != nil {
			return fmt.Errorf("match %s: %s: %w", u.Name, p.w.fn.Name, err)
		}
	}
	return nil
}

// resolve turns a result's equations into places and checks its obligations.
func (m *matcher) resolve(unit int, w *work, c *candidate) error {
	r := &c.result
	if !r.Matched {
		if r.Mismatch == nil {
			return errors.New("the architecture plugin gave neither a match nor a mismatch")
		}
		return nil
	}
	if r.RunSize > uint64(len(c.run)) {
		return fmt.Errorf("the architecture plugin says %d bytes match, but was shown %d", r.RunSize, len(c.run))
	}
	if err := m.verify(unit, w.fn, c); err != nil {
		return err
	}
	c.merged = map[uint64]uint64{}
	add := func(symbol uint32, value, at uint64) error {
		p, ok, err := m.u.place(unit, symbol)
		if err != nil {
			return err
		}
		if !ok {
			s, _ := m.u.symbol(unit, symbol)
			if s.Value != value {
				c.failed = fmt.Sprintf("absolute symbol %s is %#x, run at +%#x has %#x", s.Name, s.Value, at, value)
			}
			return nil
		}
		c.equations = append(c.equations, equation{p, m.original(p, value), at})
		return nil
	}
	for _, e := range r.Equations {
		if err := add(e.Symbol, e.Value, e.At); err != nil {
			return err
		}
	}
	for i := range r.Obligations {
		o := &r.Obligations[i]
		key, failed, err := m.oblige(unit, o)
		if err != nil {
			return err
		}
		if failed != "" && c.failed == "" {
			c.failed = fmt.Sprintf("at +%#x: %s", o.At, failed)
		}
		switch o.Kind {
		case arch.ObligationBytes, arch.ObligationString:
			c.merged[o.At] = o.Address
		case arch.ObligationJumpKey, arch.ObligationStaticCallKey:
			if failed != "" {
				break
			}
			if why, ok, err := m.keyOfTrampoline(unit, o, key); err != nil {
				return err
			} else if ok {
				if why != "" && c.failed == "" {
					c.failed = fmt.Sprintf("at +%#x: %s", o.At, why)
				}
				break
			}
			if err := add(o.Symbol, key-uint64(o.Offset), o.At); err != nil {
				return err
			}
		}
	}
	// The function itself lies where it matched.
	c.equations = append(c.equations, equation{w.p, c.address, 0})
	return nil
}

// original turns a place in a replacement into the place in the function that it replaced: pieces of a function that an update replaced
// refer to each other's middle there, and what is asked of run is where the function is.
func (m *matcher) original(p place, value uint64) uint64 {
	if p.v.unit < 0 || len(m.replaced) == 0 {
		return value
	}
	functions := m.u.units[p.v.unit].Desc.Functions
	for i := range functions {
		f := &functions[i]
		if f.Section != p.v.section {
			continue
		}
		if code, ok := m.replaced[value-p.offset+f.Offset]; ok {
			return code - f.Offset + p.offset
		}
	}
	return value
}

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
	if name == "" || hasAddress(have, value) {
		return ""
	}
	return fmt.Sprintf("at +%#x run names %s for %s, which the kernel's symbol table has at %#x", e.at, m.nameOf(value), name, have[0].Address)
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
