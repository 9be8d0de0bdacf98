package match

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"
	"strings"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/forms"
	"github.com/ksplice/ksplice/sdk/arch"
)

// cluster is a range of code covered by sites that overlap; sites are indices in Desc.Sites.
type cluster struct {
	section    uint32
	start, end uint64
	sites      []int
}

// sectionClusters groups a section's sites.
func (m *matcher) sectionClusters(section uint32) []cluster {
	all, ok := m.clusters[section]
	if !ok {
		first, end := m.u.SitesIn(section, 0, ^uint64(0))
		all = m.group(section, first, end, func(int) bool { return true })
		m.clusters[section] = all
	}
	return all
}

// clustersIn returns the clusters of a section that begin in [from, to). For an image there are none: its sites hold what
// the linker left there.
func (m *matcher) clustersIn(section uint32, from, to uint64) []cluster {
	if m.image {
		return nil
	}
	all := m.sectionClusters(section)
	i := sort.Search(len(all), func(i int) bool { return all[i].start >= from })
	j := sort.Search(len(all), func(i int) bool { return all[i].start >= to })
	return all[i:max(i, j)]
}

// keysIn asks for the keys of an image's sites; their bytes are compared like all others.
func (c *comparison) keysIn(from, to uint64) {
	first, end := c.u.SitesIn(c.fn.Section, from, to)
	for i := first; i < end; i++ {
		c.key(i, c.at(c.u.Desc.Sites[i].At))
	}
}

// group makes clusters of the sites with indices in [first, end) that pass keep.
func (m *matcher) group(section uint32, first, end int, keep func(int) bool) []cluster {
	var out []cluster
	for i := first; i < end; i++ {
		s := &m.u.Desc.Sites[i]
		if s.Length == 0 || !keep(i) {
			continue
		}
		if n := len(out); n > 0 && s.At < out[n-1].end {
			out[n-1].end = max(out[n-1].end, s.At+s.Length)
			out[n-1].sites = append(out[n-1].sites, i)
			continue
		}
		out = append(out, cluster{section, s.At, s.At + s.Length, []int{i}})
	}
	return out
}

// site judges a cluster of the function: the bytes of run at offset at.
func (c *comparison) site(cl cluster, at uint64) (why string) {
	length := cl.end - cl.start
	if at > uint64(len(c.run)) || length > uint64(len(c.run))-at {
		return fmt.Sprintf("run ends within the %s site of %d bytes", c.kinds(cl), length)
	}
	for _, i := range cl.sites {
		s := &c.u.Desc.Sites[i]
		if why := c.key(i, at+s.At-cl.start); why != "" {
			return why
		}
	}
	back := c.mark()
	if why = c.cluster(cl, at); why != "" {
		c.rollback(back)
		if !c.probedSite(cl, at) {
			return why
		}
	}
	c.res.Sites = append(c.res.Sites, arch.Range{Offset: at, Length: length})
	return ""
}

// marks remember how much of the result there was, so that a form that did not fit leaves nothing behind.
type marks struct {
	equations, obligations, sites, pending int
}

func (c *comparison) mark() marks {
	return marks{len(c.res.Equations), len(c.res.Obligations), len(c.res.Sites), len(c.pending)}
}

func (c *comparison) rollback(m marks) {
	c.res.Equations, c.res.Obligations = c.res.Equations[:m.equations], c.res.Obligations[:m.obligations]
	c.res.Sites, c.pending = c.res.Sites[:m.sites], c.pending[:m.pending]
}

// kinds names the mechanisms of a cluster.
func (c *comparison) kinds(cl cluster) string {
	var out []string
	for _, i := range cl.sites {
		s := &c.u.Desc.Sites[i]
		k := string(s.Kind)
		if s.Detail != "" {
			k += " (" + s.Detail + ")"
		}
		out = append(out, k)
	}
	return strings.Join(out, ", ")
}

// keyFlags are the low bits of a table's key field that are no address: the branch and init bits of a jump entry, the tail
// and init bits of a static call site (include/linux/jump_label.h, include/linux/static_call_types.h).
const keyFlags = 3

// key obliges run's own table to have the site, which gives the address of its key.
func (c *comparison) key(site int, at uint64) (why string) {
	s := &c.u.Desc.Sites[site]
	kind := arch.ObligationJumpKey
	switch s.Kind {
	case arch.SiteJumpLabel:
	case arch.SiteStaticCall:
		kind = arch.ObligationStaticCallKey
	default:
		return ""
	}
	if s.Key < 0 {
		return fmt.Sprintf("the object's table names no key for the %s site", s.Kind)
	}
	ref := &c.u.Desc.Refs[s.Key]
	c.oblige(arch.Obligation{Kind: kind, At: c.at(s.At), Address: c.addr + at, Symbol: ref.Symbol, Offset: ref.Offset &^ keyFlags})
	return ""
}

// cluster judges the bytes of run at offset at.
func (c *comparison) cluster(cl cluster, at uint64) (why string) {
	var alternatives []int
	for _, i := range cl.sites {
		if s := &c.u.Desc.Sites[i]; s.Kind == describe.SiteAlternative && s.At == cl.start {
			alternatives = append(alternatives, i)
		}
	}
	if len(alternatives) > 0 {
		return c.alternatives(cl, alternatives, at)
	}
	if len(cl.sites) == 1 {
		return c.single(cl.sites[0], at)
	}
	// Several mechanisms at one place: each may have had it last, or none.
	var fit []claims
	back := c.mark()
	try := func(why string) {
		if why == "" {
			fit = append(fit, c.since(back))
		}
		c.rollback(back)
	}
	for _, i := range cl.sites {
		if s := &c.u.Desc.Sites[i]; s.At == cl.start && s.Length == cl.end-cl.start {
			try(c.single(i, at))
		}
	}
	n := cl.end - cl.start
	try(c.piece(piece{section: cl.section, at: cl.start, length: n, total: n, original: true, bare: true}, at))
	if len(fit) == 0 {
		return c.noForm(cl, at)
	}
	c.add(either(fit))
	return ""
}

// noForm is the reason when run has no form of a cluster.
func (c *comparison) noForm(cl cluster, at uint64) string {
	return fmt.Sprintf("the %s site holds % x, which is no form that the kernel gives it", c.kinds(cl), c.run[at:at+cl.end-cl.start])
}

// single judges a site of one mechanism.
func (c *comparison) single(i int, at uint64) (why string) {
	s := &c.u.Desc.Sites[i]
	pre := c.u.File.Sections[s.Section].Data[s.At : s.At+s.Length]
	run := c.run[at : at+s.Length]
	here := c.addr + at
	var o forms.Outcome
	ok := false
	switch s.Kind {
	case arch.SiteFentry:
		if o, ok = forms.Fentry(run); ok && o.HasTarget {
			c.oblige(arch.Obligation{Kind: arch.ObligationFtrace, At: c.atOf(s), Address: here + uint64(o.Target)})
		}
	case arch.SiteJumpLabel:
		return c.jumpLabel(i, at, s.Length)
	case arch.SiteStaticCall:
		if o, ok = forms.StaticCall(pre, run); ok && o.HasTarget {
			c.keyCalls(s, here, here+uint64(o.Target))
		}
		if !ok {
			ok = bytes.Equal(pre[:1], []byte{0xe9}) && c.returns(c.atOf(s), run, here)
		}
	case describe.SiteStaticTramp:
		_, ok = forms.StaticTramp(pre, run)
	case describe.SiteReturn:
		ok = c.returns(c.atOf(s), run, here)
	case describe.SiteRetpoline:
		return c.retpoline(s, pre, run, here)
	case describe.SiteParavirt:
		if _, ok = forms.Paravirt(run); !ok {
			return c.unchanged(s, at)
		}
	case arch.SiteCall:
		return c.call(s, run, here)
	case describe.SiteEndbr:
		_, ok = forms.Endbr(run)
	case describe.SiteSMPLock:
		// Where another prefix comes first, as in "lock cmpxchgw" of one statement, the kernel leaves the place alone.
		if _, prefix := forms.SMPLock(pre); prefix {
			_, ok = forms.SMPLock(run)
		} else {
			ok = bytes.Equal(pre, run)
		}
	case arch.SiteRuntimeConst:
		if o, ok = forms.RuntimeConst(pre, run); ok && o.HasTarget {
			name, _ := describe.RuntimeSymbol(s.Detail)
			c.oblige(arch.Obligation{Kind: arch.ObligationSymbol, At: c.atOf(s), Address: here + uint64(o.Target),
				Names: []string{name}})
		}
	default:
		return fmt.Sprintf("no rule for sites of kind %s", s.Kind)
	}
	if !ok {
		return c.noForm(cluster{s.Section, s.At, s.At + s.Length, []int{i}}, at)
	}
	return ""
}

// noFunction are what a site of a static call that has no function leads to, where it must lead somewhere
// (arch/x86/kernel/static_call.c:__static_call_transform).
var noFunction = append([]string{"__static_call_return"}, forms.ReturnThunks...)

// keyCalls obliges the key of a static call to hold the function that the site leads to, or in whose pad it ends.
func (c *comparison) keyCalls(s *arch.Site, here, target uint64) {
	words := [][]byte{binary.LittleEndian.AppendUint64(nil, target)}
	if callee := c.layout.function(target); callee != target {
		words = append(words, binary.LittleEndian.AppendUint64(nil, callee))
	}
	c.oblige(arch.Obligation{Kind: arch.ObligationStaticCallFunc, At: c.atOf(s), Address: here, Forms: words, Names: noFunction})
}

// jumpLabel judges the n bytes of a static branch: a nop, or a jump to where the table says.
func (c *comparison) jumpLabel(i int, at, n uint64) (why string) {
	s := &c.u.Desc.Sites[i]
	run := c.run[at : at+n]
	o, ok := forms.JumpLabel(run)
	if !ok {
		return fmt.Sprintf("the static branch is % x, expected a nop or a jump", run)
	}
	if o.HasTarget {
		return c.leadsPlace(c.atOf(s), c.u.Sites[i].Target, c.addr+at+uint64(o.Target))
	}
	return ""
}

// atOf is a site's offset in the function, 0 for sites of replacements.
func (c *comparison) atOf(s *arch.Site) uint64 {
	if s.Section == c.fn.Section && s.At >= c.fn.Offset && s.At < c.fn.Offset+c.fn.Size {
		return c.at(s.At)
	}
	return 0
}

// returns accepts a return, straight or through a thunk.
func (c *comparison) returns(at uint64, run []byte, here uint64) bool {
	o, ok := forms.Return(run)
	if ok && o.HasTarget {
		c.oblige(arch.Obligation{Kind: arch.ObligationSymbol, At: at, Address: here + uint64(o.Target), Names: forms.ReturnThunks})
	}
	return ok
}

// retpoline accepts an indirect branch; the register is in the name of the thunk that pre branches to.
func (c *comparison) retpoline(s *arch.Site, pre, run []byte, here uint64) (why string) {
	reg := -1
	for _, f := range c.u.FieldsIn(s.Section, s.At, s.At+s.Length) {
		reg = forms.ThunkRegister(c.u.File.Symbols[f.Symbol].Name)
	}
	if reg < 0 {
		return "pre branches to no thunk that is known, expected __x86_indirect_thunk_ and a register"
	}
	o, ok := forms.Retpoline(pre, run, reg)
	if !ok {
		return fmt.Sprintf("the indirect branch is % x, which is no form that the kernel gives it", run)
	}
	if o.HasTarget {
		c.thunk(c.atOf(s), reg, here+uint64(o.Target))
	}
	return ""
}

// call accepts a direct call that call depth tracking may have led to the callee's pad. Whether it did is told by the
// target's alignment, so that the call is an equation all the same, the only one from a site: with call thunks every direct
// call is a site, and static functions of one name could not be told apart. Of a callee with a thunk the name is asked for, too.
// A call that alternatives may have replaced is no equation.
func (c *comparison) call(s *arch.Site, run []byte, here uint64) (why string) {
	if len(run) != 5 || run[0] != 0xe8 {
		return fmt.Sprintf("the call is % x, expected a direct call", run)
	}
	target := here + 5 + uint64(int64(int32(uint32(run[1])|uint32(run[2])<<8|uint32(run[3])<<16|uint32(run[4])<<24)))
	callee := c.layout.function(target)
	fields := c.u.FieldsIn(s.Section, s.At+1, s.At+2)
	if len(fields) == 0 { // resolved by the assembler
		pre := c.u.File.Sections[s.Section].Data[s.At+1:]
		to := s.At + 5 + uint64(int64(int32(uint32(pre[0])|uint32(pre[1])<<8|uint32(pre[2])<<16|uint32(pre[3])<<24)))
		if c.own(s.Section, to) {
			return c.target(c.atOf(s), to, callee)
		}
		return c.leadsPlace(c.atOf(s), describe.Place{Section: s.Section, At: to}, target)
	}
	f := &fields[0]
	if section, place := c.u.File.Place(f.Symbol, f.Means); c.own(section, place) {
		return c.target(c.atOf(s), place, callee) // it calls itself
	}
	if c.alternative {
		return c.leads(c.atOf(s), f.Symbol, f.Means, target)
	}
	if callee != target {
		if why := c.leads(c.atOf(s), f.Symbol, f.Means, target); why != "" {
			return why
		}
	}
	return c.means(f, callee-uint64(f.Means))
}

// unchanged accepts a site that has what the linker left there.
func (c *comparison) unchanged(s *arch.Site, at uint64) (why string) {
	return c.piece(piece{section: s.Section, at: s.At, length: s.Length, total: s.Length, original: true, bare: true}, at)
}
