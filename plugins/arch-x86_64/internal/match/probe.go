package match

import (
	"bytes"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/sdk/arch"
)

// Bytes that kprobes write (arch/x86/kernel/kprobes/core.c:arch_arm_kprobe, opt.c:arch_optimize_kprobes).
const (
	int3     = 0xcc
	jmp32    = 0xe9
	jmp32Len = 5
)

// probe accepts a kprobe at an offset where pre and run differ: a breakpoint over the first byte of an instruction, or the
// jump of an optimised one over five bytes. It returns where comparing goes on, 0 where there is none. The host checks
// that a kprobe is registered there. site says that a site begins there: a breakpoint on one is probedSite's business.
func (c *comparison) probe(at uint64, site bool) uint64 {
	if c.image || at >= uint64(len(c.run)) {
		return 0
	}
	if k, ok := c.start(at); !ok || k != at {
		return 0
	}
	length := uint64(0)
	switch {
	case c.run[at] == int3 && !site:
		length = 1
	case c.run[at] == jmp32:
		length = jmp32Len
	default:
		return 0
	}
	if at+length > uint64(len(c.code)) {
		return 0
	}
	// Nor does the kernel let probes cover what it rewrites while it runs (kernel/kprobes.c:check_kprobe_address_safe, opt.c:
	// arch_check_optimized_kprobe).
	for _, cl := range c.clustersIn(c.fn.Section, c.fn.Offset+at, c.fn.Offset+at+length) {
		for _, i := range cl.sites {
			if s := &c.u.Desc.Sites[i]; s.Live && s.Kind != describe.SiteSMPLock {
				return 0
			}
		}
	}
	c.res.Sites = append(c.res.Sites, arch.Range{Offset: at, Length: length})
	c.oblige(arch.Obligation{Kind: arch.ObligationKprobe, At: at, Address: c.addr + at})
	// A field or site that the jump covers in part is not compared.
	base, end := c.fn.Offset, at+length
	for _, f := range c.u.FieldsIn(c.fn.Section, base+at, base+end) {
		end = max(end, f.Offset+uint64(f.Size)-base)
	}
	for _, cl := range c.clustersIn(c.fn.Section, base+at, base+at+length) {
		end = max(end, cl.end-base)
	}
	return min(end, uint64(len(c.code)))
}

// probedSite accepts a site with a breakpoint of a kprobe on one of its instructions: with some other byte in the
// breakpoint's place it has one of its forms.
func (c *comparison) probedSite(cl cluster, at uint64) bool {
	length := cl.end - cl.start
	run := c.run
	defer func() { c.run = run }()
	for k := range length {
		if run[at+k] != int3 {
			continue
		}
		c.run = bytes.Clone(run)
		for b := range 256 {
			if b == int3 {
				continue
			}
			c.run[at+k] = byte(b)
			back := c.mark()
			if c.cluster(cl, at) == "" {
				c.oblige(arch.Obligation{Kind: arch.ObligationKprobe, At: c.at(cl.start) + k, Address: c.addr + at + k})
				return true
			}
			c.rollback(back)
		}
	}
	return false
}
