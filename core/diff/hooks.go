package diff

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/ksplice/ksplice/core/objfile"
)

// What a patch says with <ksplice.h> (kmod/include/ksplice.h): the section that lists hooks, with entries of two 32-bit words (when, order) and
// a function's address.
const (
	hookSection   = ".ksplice.hooks"
	hookEntry     = 16
	rodataSection = ".ksplice.rodata" // addresses of data that may be rewritten
	claimSection  = ".ksplice.claims" // items that the patch takes upon itself, strings
)

// ShadowSection is the section of shadow fields, which the kernel module forgets when the update is undone.
const ShadowSection = ".data..ksplice_shadow"

// HookKinds are the times at which hooks run, by number (kmod/ksplice_part.h, KSPLICE_HOOK_*).
var HookKinds = []string{"pre_apply", "check_apply", "apply", "post_apply", "fail_apply",
	"pre_reverse", "check_reverse", "reverse", "post_reverse", "fail_reverse"}

// early are those that run while run's old code does: what they call is as it was.
var early = []string{"pre_apply", "check_apply", "apply", "fail_apply", "post_reverse"}

// Hook is a function of the patch's own that runs before, during or after apply or undo.
type Hook struct {
	// When is one of HookKinds; Function is post's.
	When     string
	Function *objfile.Symbol

	item  *item
	order uint32
}

// readHooks lists the hooks of post that pre does not have: those are of an update that this one stands on.
func (r *Result) readHooks() error {
	had, err := r.pre.hooks()
	if err != nil {
		return err
	}
	hooks, err := r.post.hooks()
	if err != nil {
		return err
	}
	for _, h := range hooks {
		switch a := h.item.pair; {
		case a == nil:
			r.Hooks = append(r.Hooks, h)
		case !slices.ContainsFunc(had, func(x Hook) bool { return x.item == a && x.When == h.When }):
			r.refuse(h.Function.Name, fmt.Sprintf("it is a hook (%s), and a function that was there before", h.When), "give the hook a function of its own")
		}
	}
	return nil
}

// hooks reads a view's hooks, in the order in which the source has them.
func (v *view) hooks() ([]Hook, error) {
	var out []Hook
	for _, s := range v.o.File.Sections[1:] {
		if s.Name != hookSection || v.rules[s] != ruleHooks {
			continue
		}
		if s.Size%hookEntry != 0 || s.Size != uint64(len(s.Data)) {
			return nil, fmt.Errorf("%s: section %s has %d bytes, which are no hooks of %d", v.o.Name, s.Name, s.Size, hookEntry)
		}
		for at := uint64(0); at < s.Size; at += hookEntry {
			when := binary.LittleEndian.Uint32(s.Data[at:])
			refs := v.refsIn(s, at, at+hookEntry)
			if int64(when) >= int64(len(HookKinds)) || len(refs) != 1 || refs[0].At != at+8 || refs[0].Size != addressSize {
				return nil, fmt.Errorf("%s: what section %s has at %#x is no hook", v.o.Name, s.Name, at)
			}
			t := v.target(refs[0])
			if t.item == nil || t.item.kind != itemFunction || t.offset != 0 {
				return nil, fmt.Errorf("%s: the %s hook at %s+%#x is %s, no function of its source file", v.o.Name, HookKinds[when], s.Name, at, t)
			}
			out = append(out, Hook{When: HookKinds[when], Function: t.item.symbol, item: t.item, order: binary.LittleEndian.Uint32(s.Data[at+4:])})
		}
	}
	slices.SortStableFunc(out, func(a, b Hook) int { return cmp.Compare(a.order, b.order) })
	return out, nil
}

// ClosureHook is a hook whose function goes along.
type ClosureHook struct {
	When string
	// Piece is the function; Early lists, for a hook that runs while run's old code does, the functions outside of the part that it
	// calls, itself or through new ones: none of them may be replaced.
	Piece *Piece
	Early []Target
}

// hooks takes the functions of hooks into the part.
func (c *Closure) hooks() error {
	for _, h := range c.r.Hooks {
		p, err := c.piece(h.item)
		if err != nil {
			return err
		}
		c.Hooks = append(c.Hooks, ClosureHook{When: h.When, Piece: p})
	}
	return nil
}

// findEarly follows early hooks, through what they call and the data that they use, once everything that the part needs is known.
func (c *Closure) findEarly() {
	for i := range c.Hooks {
		h := &c.Hooks[i]
		if !slices.Contains(early, h.When) {
			continue
		}
		seen := map[*Piece]bool{h.Piece: true}
		for open := []*Piece{h.Piece}; len(open) > 0; {
			p := open[0]
			open = open[1:]
			for k := range p.References {
				t := &p.References[k].Target
				switch {
				case t.Piece == nil:
					h.Early = append(h.Early, *t)
				case t.Piece.Change != nil:
					h.Early = append(h.Early, Target{Pre: t.Piece.Change.Pre, Name: t.Piece.Change.Name})
				case !seen[t.Piece]:
					seen[t.Piece] = true
					open = append(open, t.Piece)
				}
			}
		}
	}
}

// Calls names the replaced function that an early hook leads to; empty for none.
func (h *ClosureHook) Calls(replaced func(*Target) bool) string {
	for i := range h.Early {
		if replaced(&h.Early[i]) {
			return h.Early[i].Name
		}
	}
	return ""
}

// forgotten says that an address does not outlive the update: a shadow field's, which the kernel module forgets, and those of its
// constructor and destructor in it.
func forgotten(p *Piece, to *item) bool {
	return to.section.Name == ShadowSection || p.Section.Name == ShadowSection
}

// Rewritable says that the patch lets a datum be rewritten (ksplice_assume_rodata), and not only one that it stands on.
func (r *Result) Rewritable(datum string) bool {
	return r.post.rewritable(datum) && !r.pre.rewritable(datum)
}

func (v *view) rewritable(datum string) bool {
	for _, s := range v.o.File.Sections[1:] {
		if s.Name != rodataSection {
			continue
		}
		for _, ref := range v.refsIn(s, 0, s.Size) {
			if t := v.target(ref); t.item != nil && t.item.kind == itemData && t.offset == 0 && t.item.name() == datum {
				return true
			}
		}
	}
	return false
}

// Claims says that post has the claim of an item (ksplice_claim): it was compiled.
func (r *Result) Claims(item string) bool {
	for _, s := range r.post.o.File.Sections[1:] {
		if s.Name == claimSection && slices.Contains(strings.Split(string(s.Data), "\x00"), item) {
			return true
		}
	}
	return false
}
