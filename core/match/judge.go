package match

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

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
		if why := m.auxiliary(p.v, value-p.offset); why != "" && c.failed == "" {
			c.failed = fmt.Sprintf("at +%#x: %s", at, why)
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

// auxiliary says what is wrong with the place of a section that only jumps lead to which the kernel rewrites before it runs anything else, and
// that is gone then (arch/x86/include/asm/cpufeature.h:_static_cpu_has, which jumps to .altinstr_aux until alternatives are applied). An image has
// it: one field says where, and no symbol, so that what it holds must tell.
func (m *matcher) auxiliary(v variable, address uint64) string {
	if v.unit < 0 {
		return ""
	}
	u := m.u.units[v.unit]
	s := u.File.Sections[v.section]
	if s.Name != ".altinstr_aux" {
		return ""
	}
	run := make([]byte, len(s.Data))
	if err := m.k.Memory.ReadMemory(run, address); err != nil {
		return fmt.Sprintf("run names %#x for %s, which cannot be read: %v", address, s.Name, err)
	}
	fields := make([]bool, len(s.Data))
	for _, r := range u.Desc.Refs {
		for i := r.At; int(r.Section) == s.Index && i < r.At+uint64(r.Size); i++ {
			fields[i] = true
		}
	}
	for i, b := range s.Data {
		if !fields[i] && run[i] != b {
			return fmt.Sprintf("run names %#x for %s, where it has another byte at +%#x", address, s.Name, i)
		}
	}
	return ""
}
