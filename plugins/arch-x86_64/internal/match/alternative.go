package match

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/decode"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/forms"
	"github.com/ksplice/ksplice/sdk/arch"
)

// alternatives accepts what entries of .altinstructions can have made of a place: its original or one of the replacements,
// filled up with nops (arch/x86/kernel/alternative.c:apply_alternatives). Entries at one place overwrite each other, so
// that one of them, or none, is what is seen. All are as long as the longest of them.
func (c *comparison) alternatives(cl cluster, entries []int, at uint64) (why string) {
	total := cl.end - cl.start
	for _, i := range cl.sites {
		s := &c.u.Desc.Sites[i]
		if s.Kind != describe.SiteParavirt || s.At != cl.start {
			continue
		}
		if _, ok := forms.Paravirt(c.run[at : at+s.Length]); ok && forms.NopFill(c.run[at+s.Length:at+total]) {
			return ""
		}
	}
	pieces := []piece{{section: cl.section, at: cl.start, length: total, total: total, original: true}}
	for _, i := range entries {
		d := &c.u.Sites[i]
		switch {
		case d.DirectCall:
			// The target is what the paravirtual operation was at boot: no name of the object's.
			if _, ok := forms.DirectCall(c.run[at : at+total]); ok {
				return ""
			}
		case d.ReplacementLen <= total:
			r := d.Replacement
			pieces = append(pieces, piece{section: r.Section, at: r.At, length: d.ReplacementLen, total: total})
		}
	}
	outer := c.alternative
	c.alternative = true
	defer func() { c.alternative = outer }()
	var fit []claims
	back := c.mark()
	for _, p := range pieces {
		if c.piece(p, at) == "" {
			fit = append(fit, c.since(back))
		}
		c.rollback(back)
	}
	if len(fit) == 0 {
		return c.noForm(cl, at)
	}
	c.add(either(fit))
	return ""
}

// claims are what a form demands of the rest of run.
type claims struct {
	equations   []arch.Equation
	obligations []arch.Obligation
	sites       []arch.Range
	pending     []pendingTarget
}

// since takes what came to the result after a mark.
func (c *comparison) since(m marks) claims {
	return claims{slices.Clone(c.res.Equations[m.equations:]), slices.Clone(c.res.Obligations[m.obligations:]),
		slices.Clone(c.res.Sites[m.sites:]), slices.Clone(c.pending[m.pending:])}
}

func (c *comparison) add(x claims) {
	c.res.Equations = append(c.res.Equations, x.equations...)
	c.res.Obligations = append(c.res.Obligations, x.obligations...)
	c.res.Sites = append(c.res.Sites, x.sites...)
	c.pending = append(c.pending, x.pending...)
}

// either combines the claims of forms that all fit the bytes: where one claims nothing it is proved; where they differ in the
// names of a branch's target only, any of the names will do. An address is learned only where all forms give it.
func either(fit []claims) claims {
	for _, x := range fit {
		if len(x.equations)+len(x.obligations)+len(x.pending) == 0 {
			return x
		}
	}
	out := fit[0]
	for _, x := range fit[1:] {
		if !slices.Equal(out.equations, x.equations) {
			out.equations = slices.DeleteFunc(slices.Clone(out.equations), func(e arch.Equation) bool { return !slices.Contains(x.equations, e) })
			continue
		}
		if !slices.EqualFunc(out.obligations, x.obligations, sameButNames) {
			continue
		}
		for i := range out.obligations {
			o := &out.obligations[i]
			for _, n := range x.obligations[i].Names {
				if !slices.Contains(o.Names, n) {
					o.Names = append(slices.Clip(o.Names), n)
				}
			}
		}
	}
	return out
}

func sameButNames(a, b arch.Obligation) bool {
	return a.Kind == b.Kind && a.Address == b.Address && bytes.Equal(a.Bytes, b.Bytes) &&
		slices.EqualFunc(a.Forms, b.Forms, bytes.Equal) && a.Symbol == b.Symbol && a.Offset == b.Offset
}

// piece is code of the object that may stand at a place of run, instruction by instruction.
type piece struct {
	section    uint32
	at, length uint64
	// total is how many bytes of run it fills, with nops behind it.
	total uint64
	// original says that it is the site's own code, not moved there; bare that sites in it were not touched, either.
	original, bare bool
}

// piece compares run at offset at with a piece.
func (c *comparison) piece(p piece, at uint64) (why string) {
	if at > uint64(len(c.run)) || p.total > uint64(len(c.run))-at {
		return "run ends within the site"
	}
	if p.length == 0 {
		if forms.NopFill(c.run[at : at+p.total]) {
			return ""
		}
		return "expected nops"
	}
	sec := &c.u.File.Sections[p.section]
	if p.at > uint64(len(sec.Data)) || p.length > uint64(len(sec.Data))-p.at {
		return "the replacement is not in the object"
	}
	var clusters []cluster
	if !p.bare {
		first, end := c.u.SitesIn(p.section, p.at, p.at+p.length)
		clusters = c.group(p.section, first, end, func(i int) bool {
			s := &c.u.Desc.Sites[i]
			same := s.At == p.at && (s.Kind == describe.SiteAlternative || s.Kind == describe.SiteParavirt && p.original)
			return s.At+s.Length <= p.at+p.length && !same
		})
	}
	nops := uint64(0) // how many bytes of nops end at pos
	nopsEnd := func(pos, fill uint64) string {
		pre, run := sec.Data[p.at+pos-nops:p.at+pos], c.run[at+pos-nops:at+pos+fill]
		nops = 0
		if forms.NopFill(run) || bytes.HasPrefix(run, pre) && forms.NopFill(run[len(pre):]) {
			return ""
		}
		return fmt.Sprintf("expected nops, found % x", run)
	}
	for pos := uint64(0); pos < p.length; {
		if len(clusters) > 0 && clusters[0].start == p.at+pos {
			if why := nopsEnd(pos, 0); why != "" {
				return why
			}
			if why := c.cluster(clusters[0], at+pos); why != "" {
				return why
			}
			pos = clusters[0].end - p.at
			clusters = clusters[1:]
			continue
		}
		in, err := decode.Decode(sec.Data[p.at+pos : p.at+p.length])
		if err != nil {
			return fmt.Sprintf("pre at %s+%#x: %v", sec.Name, p.at+pos, err)
		}
		if isNop(&in) {
			nops += uint64(in.Len)
			pos += uint64(in.Len)
			continue
		}
		if why := nopsEnd(pos, 0); why != "" {
			return why
		}
		if why := c.instruction(&p, &in, p.at+pos, at+pos); why != "" {
			return why
		}
		pos += uint64(in.Len)
	}
	return nopsEnd(p.length, p.total-p.length)
}

// isNop says that an instruction is one that the kernel takes for a nop when it writes better ones
// (arch/x86/kernel/alternative.c:insn_is_nop).
func isNop(in *decode.Inst) bool {
	b := in.Bytes()
	switch {
	case in.Map == 0 && in.Opcode == 0x90:
		return b[0] == 0x90 || b[0] == 0x66
	case in.Map == 1 && in.Opcode == 0x1f:
		return true
	}
	return false
}

// instruction compares one instruction of a piece, at offset pre of the piece's section, with run at offset at.
func (c *comparison) instruction(p *piece, in *decode.Inst, pre, at uint64) (why string) {
	n := uint64(in.Len)
	run := c.run[at : at+n]
	fields := c.u.FieldsIn(p.section, pre, pre+n)
	if in.Class == decode.Jmp && in.Len == 5 && !p.original {
		// A long jump may become a short one (recompute_jump in 6.1, __apply_relocation in 6.12).
		if o, ok := forms.ShortJump(run); ok {
			return c.branch(p, in, fields, pre, at, o)
		}
	}
	masked := make([]byte, n)
	copy(masked, run)
	code := c.u.File.Sections[p.section].Data[pre : pre+n]
	for _, f := range fields {
		if f.Size == 0 {
			continue
		}
		k := f.Offset - pre
		if k+uint64(f.Size) > n {
			return "a field reaches across instructions"
		}
		copy(masked[k:k+uint64(f.Size)], code[k:])
	}
	if in.IsBranch() && len(fields) == 0 && !p.original {
		to := pre + n + uint64(in.Rel())
		if to < p.at || to > p.at+p.length {
			return fmt.Sprintf("a branch of the replacement leads to %#x of its section, outside of it", to)
		}
	}
	if !bytes.Equal(masked, code) {
		return fmt.Sprintf("expected % x, found % x", code, run)
	}
	for i := range fields {
		f := &fields[i]
		if f.Size == 0 {
			continue
		}
		s, why := c.solve(f, at+f.Offset-pre)
		if why != "" {
			return why
		}
		if f.Kind == arch.RefBranch {
			if why := c.leads(c.siteOffset(at), f.Symbol, f.Means, s+uint64(f.Means)); why != "" {
				return why
			}
			continue
		}
		if why := c.meansInSite(f, s, at); why != "" {
			return why
		}
	}
	return ""
}

// meansInSite is means for data that a site's instruction names.
func (c *comparison) meansInSite(f *describe.Field, s, at uint64) (why string) {
	before := c.mark()
	why = c.means(f, s)
	for i := before.equations; i < len(c.res.Equations); i++ {
		c.res.Equations[i].At = c.siteOffset(at)
	}
	for i := before.obligations; i < len(c.res.Obligations); i++ {
		c.res.Obligations[i].At = c.siteOffset(at)
	}
	return why
}

// siteOffset is the offset in pre of a site at an offset of run. Lengths may differ while they are walked through.
func (c *comparison) siteOffset(at uint64) uint64 {
	if c.moved == nil {
		return at
	}
	return min(at, c.fn.Size)
}

// branch checks where a jump that became short leads.
func (c *comparison) branch(p *piece, in *decode.Inst, fields []describe.Field, pre, at uint64, o forms.Outcome) (why string) {
	target := c.addr + at + uint64(o.Target)
	for i := range fields {
		if f := &fields[i]; f.Kind == arch.RefBranch && f.Size != 0 {
			return c.leads(c.siteOffset(at), f.Symbol, f.Means, target)
		}
	}
	to := describe.Place{Section: p.section, At: pre + uint64(in.Len) + uint64(in.Rel())}
	return c.leadsPlace(c.siteOffset(at), to, target)
}
