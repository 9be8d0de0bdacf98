package match

import (
	"bytes"
	"debug/elf"
	"fmt"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/decode"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/sdk/arch"
)

// The distribution builds each unit with one section for all functions, so that the assembler resolves jumps to static
// functions nearby and makes them short; pre has every function in a section of its own and a relocation instead. The
// code behind such a jump is shifted, and other jumps across it may change their length in turn.

// mayBeResized says whether different lengths of jumps can explain a difference.
func (c *comparison) mayBeResized(s *stop) bool {
	k, ok := c.start(s.pre)
	if !ok || k >= uint64(len(c.code)) || k >= uint64(len(c.run)) {
		return false
	}
	first, end := c.u.SitesIn(c.fn.Section, c.fn.Offset+s.pre, c.fn.Offset+s.pre+1)
	for i := first; i < end; i++ {
		if c.u.Desc.Sites[i].Kind == arch.SiteJumpLabel {
			return true
		}
	}
	a, errA := decode.Decode(c.code[k:])
	b, errB := decode.Decode(c.run[k:])
	return errA == nil && errB == nil && alike(&a, &b)
}

// alike says that two instructions are the same direct branch but for their length and displacement. Branches of different
// length have no prefixes: the assembler puts none on those whose length it chooses.
func alike(a, b *decode.Inst) bool {
	switch {
	case a.Class != b.Class || !a.IsBranch():
		return false
	case a.Len == b.Len:
		return a.PCRelOff == b.PCRelOff && bytes.Equal(a.Bytes()[:a.PCRelOff], b.Bytes()[:b.PCRelOff])
	case a.OpcodeOff != int(a.Map) || b.OpcodeOff != int(b.Map):
		return false
	}
	return a.Class != decode.Jcc || condition(a) == condition(b)
}

// condition tells conditional jumps apart: the same number for the short and the long form.
func condition(in *decode.Inst) int {
	if in.Map == 1 && in.Opcode&0xf0 == 0x80 || in.Map == 0 && in.Opcode&0xf0 == 0x70 {
		return int(in.Opcode & 0xf)
	}
	return 0x100 | int(in.Opcode) // loop, jrcxz: no other form
}

// walk compares instruction by instruction, with a map of offsets.
func (c *comparison) walk() *stop {
	pre, run := uint64(0), uint64(0)
	for pre < c.fn.Size {
		c.moved[pre] = run
		from, to, why := c.step(pre, run)
		if why != "" {
			return &stop{pre, run, why}
		}
		pre, run = pre+from, run+to
	}
	c.moved[c.fn.Size] = run
	for _, p := range c.pending {
		if want, ok := c.moved[p.pre]; !ok || p.run != c.addr+want {
			return &stop{p.at, c.moved[p.at], fmt.Sprintf("run goes to %#x, expected the function's +%#x, which is at %#x",
				p.run, p.pre, c.addr+want)}
		}
	}
	c.res.Matched, c.res.Resized, c.res.RunSize = true, true, run
	return nil
}

// step compares one site or instruction and returns its lengths in pre and run.
func (c *comparison) step(pre, run uint64) (from, to uint64, why string) {
	base := c.fn.Offset
	if c.image {
		first, end := c.u.SitesIn(c.fn.Section, base+pre, base+pre+1)
		for i := first; i < end; i++ {
			if c.u.Desc.Sites[i].Kind != arch.SiteJumpLabel {
				c.key(i, run)
			}
		}
	}
	if cl := c.clustersAt(base + pre); cl != nil {
		return c.stepSite(*cl, run)
	}
	if run >= uint64(len(c.run)) {
		return 0, 0, "run ends here"
	}
	a, err := decode.Decode(c.code[pre:])
	if err != nil {
		return 0, 0, fmt.Sprintf("pre: %v", err)
	}
	b, err := decode.Decode(c.run[run:])
	if err != nil {
		return 0, 0, fmt.Sprintf("run: %v", err)
	}
	n := uint64(a.Len)
	fields := c.u.FieldsIn(c.fn.Section, base+pre, base+pre+n)
	if alike(&a, &b) {
		if a.Len != b.Len {
			c.res.Resized = true
		}
		return n, uint64(b.Len), c.stepBranch(&a, fields, pre, b.Target(c.addr+run))
	}
	probed := b.Len == 1 && c.run[run] == int3 && !c.image && uint64(len(c.run))-run >= n
	if probed && bytes.Equal(c.code[pre+1:pre+n], c.run[run+1:run+n]) {
		c.oblige(arch.Obligation{Kind: arch.ObligationKprobe, At: pre, Address: c.addr + run})
		c.res.Sites = append(c.res.Sites, arch.Range{Offset: run, Length: 1})
		return n, n, ""
	}
	if a.Len != b.Len {
		return 0, 0, "the instructions differ"
	}
	masked := bytes.Clone(c.run[run : run+n])
	for _, f := range fields {
		k := f.Offset - base - pre
		if k+uint64(f.Size) > n {
			return 0, 0, "a field reaches across instructions"
		}
		copy(masked[k:k+uint64(f.Size)], c.code[pre+k:])
	}
	if !bytes.Equal(masked, c.code[pre:pre+n]) {
		return 0, 0, "the instructions differ"
	}
	for i := range fields {
		if f := &fields[i]; f.Size != 0 {
			if why := c.field(f, run+f.Offset-base-pre); why != "" {
				return 0, 0, why
			}
		}
	}
	return n, n, ""
}

// clustersAt returns the cluster that begins at a place of the function's section.
func (c *comparison) clustersAt(at uint64) *cluster {
	if c.image {
		// Static branches may have other lengths; all else is compared like other code.
		first, end := c.u.SitesIn(c.fn.Section, at, at+1)
		for i := first; i < end; i++ {
			if s := &c.u.Desc.Sites[i]; s.Kind == arch.SiteJumpLabel {
				return &cluster{s.Section, s.At, s.At + s.Length, []int{i}}
			}
		}
		return nil
	}
	if cl := c.clustersIn(c.fn.Section, at, at+1); len(cl) > 0 {
		return &cl[0]
	}
	return nil
}

// stepSite compares a site, which keeps its length but for static branches.
func (c *comparison) stepSite(cl cluster, run uint64) (from, to uint64, why string) {
	n := cl.end - cl.start
	back := c.mark()
	if why = c.site(cl, run); why == "" {
		return n, n, ""
	}
	c.rollback(back)
	i := cl.sites[0]
	if len(cl.sites) != 1 || c.u.Desc.Sites[i].Kind != arch.SiteJumpLabel {
		return 0, 0, why
	}
	other := 7 - n // 2 or 5 bytes
	if run+other > uint64(len(c.run)) {
		return 0, 0, why
	}
	if c.key(i, run) == "" && c.jumpLabel(i, run, other) == "" {
		c.res.Resized = true
		c.res.Sites = append(c.res.Sites, arch.Range{Offset: run, Length: other})
		return n, other, ""
	}
	c.rollback(back)
	return 0, 0, why
}

// stepBranch checks where a direct branch leads. Its field is the displacement, and nothing else in it is one.
func (c *comparison) stepBranch(a *decode.Inst, fields []describe.Field, pre, target uint64) (why string) {
	for i := range fields {
		f := &fields[i]
		if f.Size == 0 {
			continue
		}
		if f.Kind != arch.RefBranch || f.Size != a.PCRelSize || f.Type != elf.R_X86_64_PC32 && f.Type != elf.R_X86_64_PLT32 {
			return fmt.Sprintf("the field of type %v at +%#x is no displacement of the branch", f.Type, c.at(f.Offset))
		}
		return c.means(f, target-uint64(f.Means))
	}
	to := c.fn.Offset + pre + uint64(a.Len) + uint64(a.Rel())
	return c.leadsPlace(pre, describe.Place{Section: c.fn.Section, At: to}, target)
}
