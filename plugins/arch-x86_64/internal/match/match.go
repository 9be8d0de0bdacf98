// Package match compares functions of a pre object with candidate bytes of a running kernel. It compares bytes under
// the mask of relocation fields and sites first and decodes only where that does not settle it. Relocation fields
// outside sites become equations, constants that the linker may merge become obligations on content, sites are accepted
// by form. The plugin's Match call is its only caller.
package match

import (
	"bytes"
	"context"
	"fmt"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/decode"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Run answers a Match request about the object that u describes; run holds the bytes of the request's run file. The error
// is for requests that make no sense; functions that differ are in the results.
func Run(ctx context.Context, u *describe.Unit, req *arch.MatchRequest, run []byte) ([]arch.MatchResult, error) {
	m := &matcher{u: u, image: req.NoSelfModification, clusters: map[uint32][]cluster{}, layout: newLayout(u.Target)}
	results := make([]arch.MatchResult, len(req.Candidates))
	for i := range req.Candidates {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c := &req.Candidates[i]
		if c.RunOffset > uint64(len(run)) || c.RunLength > uint64(len(run))-c.RunOffset {
			return nil, fmt.Errorf("candidate %d: %d bytes at %#x lie outside the run file of %d bytes", i, c.RunLength, c.RunOffset, len(run))
		}
		fn := u.Function(c.Function)
		if fn == nil {
			return nil, fmt.Errorf("candidate %d: symbol %d is no function of the object", i, c.Function)
		}
		results[i] = m.function(fn, c.Address, run[c.RunOffset:c.RunOffset+c.RunLength])
	}
	return results, nil
}

// matcher is one Match call.
type matcher struct {
	u        *describe.Unit
	image    bool
	layout   layout
	clusters map[uint32][]cluster
	names    map[describe.Place][]string // of functions, by where they begin
}

// comparison is one function against one candidate.
type comparison struct {
	*matcher
	fn   *arch.Function
	code []byte // of pre
	run  []byte
	addr uint64
	// moved maps offsets of pre to offsets of run while forms of different length are walked through; nil: they are equal.
	moved   map[uint64]uint64
	pending []pendingTarget
	starts  []bool // instruction starts of pre, on demand
	// alternative says that forms of an alternative are tried: its calls may be others than the object's own.
	alternative bool
	res         arch.MatchResult
}

// pendingTarget is a place of the function itself that run refers to, to be checked when all is mapped.
type pendingTarget struct {
	at, pre, run uint64
}

// stop is where pre and run part.
type stop struct {
	pre, run uint64
	reason   string
}

// function judges one candidate.
func (m *matcher) function(fn *arch.Function, addr uint64, run []byte) arch.MatchResult {
	s := &m.u.File.Sections[fn.Section]
	c := &comparison{matcher: m, fn: fn, run: run, addr: addr}
	if fn.Offset > uint64(len(s.Data)) || fn.Size > uint64(len(s.Data))-fn.Offset {
		return c.mismatch(&stop{reason: fmt.Sprintf("the object has no code for the function in section %s", s.Name)})
	}
	c.code = s.Data[fn.Offset : fn.Offset+fn.Size]
	if fn.Size == 0 {
		return c.mismatch(&stop{reason: "the function has no code in the object: nothing can prove where it is"})
	}
	first := c.straight()
	if first == nil {
		c.res.Matched, c.res.RunSize = true, fn.Size
		return c.res
	}
	if c.mayBeResized(first) {
		w := &comparison{matcher: m, fn: fn, code: c.code, run: run, addr: addr, moved: map[uint64]uint64{}, starts: c.starts}
		second := w.walk()
		if second == nil {
			return w.res
		}
		if second.pre > first.pre && w.res.Resized {
			return w.mismatch(second)
		}
	}
	return c.mismatch(first)
}

// straight compares byte for byte, with every offset the same in pre and run.
func (c *comparison) straight() *stop {
	n := c.fn.Size
	if uint64(len(c.run)) < n {
		// What is there is compared all the same, for a better message.
		n = uint64(len(c.run))
	}
	base := c.fn.Offset
	fields := c.u.FieldsIn(c.fn.Section, base, base+n)
	clusters := c.clustersIn(c.fn.Section, base, base+n)
	if c.image {
		c.keysIn(base, base+n)
	}
	for pos := uint64(0); pos < n; {
		for len(fields) > 0 && (fields[0].Offset < base+pos || fields[0].Size == 0) {
			fields = fields[1:]
		}
		for len(clusters) > 0 && clusters[0].start < base+pos {
			clusters = clusters[1:]
		}
		next := n
		if len(fields) > 0 {
			next = min(next, fields[0].Offset-base)
		}
		site := len(clusters) > 0 && clusters[0].start-base <= next
		if site {
			next = min(next, clusters[0].start-base)
		}
		if k := firstDifference(c.code[pos:next], c.run[pos:next]); k >= 0 {
			at := pos + uint64(k)
			if pos = c.probe(at, false); pos == 0 {
				return &stop{at, at, "the bytes differ"}
			}
			continue
		}
		if pos = next; pos == n {
			break
		}
		switch {
		case site:
			why := c.site(clusters[0], pos)
			if why == "" {
				pos = clusters[0].end - base
				break
			}
			at := pos
			if pos = c.probe(at, true); pos == 0 {
				return &stop{at, at, why}
			}
		case fields[0].Offset-base+uint64(fields[0].Size) > n:
			return &stop{pos, pos, "the field reaches beyond what there is of run"}
		default:
			f := &fields[0]
			if why := c.field(f, pos); why != "" {
				return &stop{pos, pos, why}
			}
			pos += uint64(f.Size)
		}
	}
	if n < c.fn.Size {
		return &stop{n, n, fmt.Sprintf("run ends after %d bytes, expected %d", n, c.fn.Size)}
	}
	return nil
}

// firstDifference is the index of the first byte that differs, -1 where none does.
func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			return i
		}
	}
	return -1
}

// start is the offset of the pre instruction that holds an offset; ok is false where decoding does not get there.
func (c *comparison) start(at uint64) (uint64, bool) {
	if c.starts == nil {
		c.starts = make([]bool, len(c.code)+1)
		for pos := 0; pos < len(c.code); {
			c.starts[pos] = true
			in, err := decode.Decode(c.code[pos:])
			if err != nil {
				break
			}
			pos += in.Len
		}
	}
	for k := int(min(at, uint64(len(c.code)))); k >= 0 && int(at)-k < decode.MaxLen; k-- {
		if c.starts[k] {
			return uint64(k), true
		}
	}
	return 0, false
}

// at is the offset in the function of a place in its section.
func (c *comparison) at(p uint64) uint64 { return p - c.fn.Offset }

// mismatch is the result for a function that differs, with both instructions decoded.
func (c *comparison) mismatch(s *stop) arch.MatchResult {
	m := &arch.Mismatch{PreOffset: s.pre, RunOffset: s.run, Reason: s.reason}
	pre, run := s.pre, s.run
	if k, ok := c.start(s.pre); ok && c.code != nil {
		pre, run = k, s.run-min(s.run, s.pre-k)
	}
	m.Pre = text(c.code, pre, pre)
	if pre < uint64(len(c.code)) {
		if in, err := decode.Decode(c.code[pre:]); err == nil {
			for _, f := range c.u.FieldsIn(c.fn.Section, c.fn.Offset+pre, c.fn.Offset+pre+uint64(in.Len)) {
				m.Pre += fmt.Sprintf(" [%s%+#x]", c.u.File.Symbols[f.Symbol].Name, f.Means)
			}
		}
	}
	m.Run = text(c.run, run, c.addr+run)
	return arch.MatchResult{Mismatch: m}
}

// text is the instruction at an offset of code for people, with its bytes, as if it lay at address.
func text(code []byte, at, address uint64) string {
	if at >= uint64(len(code)) {
		return "nothing"
	}
	in, err := decode.Decode(code[at:])
	if err != nil {
		return fmt.Sprintf("no known instruction (% x)", code[at:min(at+8, uint64(len(code)))])
	}
	return fmt.Sprintf("%s (% x)", in.Text(address), in.Bytes())
}
