package arch

import (
	"fmt"
	"math"
	"slices"
)

// inside says that length bytes from offset lie in size bytes.
func inside(offset, length, size uint64) bool { return offset <= size && length <= size-offset }

// place is a section and an offset in it, in the order that descriptions are sorted.
type place struct {
	section uint32
	offset  uint64
}

// checkSorted returns an error unless places are in ascending order.
func checkSorted[T any](what string, items []T, at func(*T) place) error {
	var last place
	for i := range items {
		p := at(&items[i])
		if p.section < last.section || p.section == last.section && p.offset < last.offset {
			return fmt.Errorf("%s are not sorted: section %d offset %#x stands behind section %d offset %#x",
				what, p.section, p.offset, last.section, last.offset)
		}
		last = p
	}
	return nil
}

func checkDescribe(req *DescribeRequest, resp *DescribeResponse) error {
	if got, want := len(resp.Objects), len(req.Objects); got != want {
		return fmt.Errorf("%d descriptions for %d objects", got, want)
	}
	for i := range resp.Objects {
		if err := checkDescription(&resp.Objects[i]); err != nil {
			return fmt.Errorf("%s: %w", req.Objects[i].Path, err)
		}
	}
	return nil
}

func checkDescription(d *ObjectDescription) error {
	if err := firstError(
		checkSorted("functions", d.Functions, func(f *Function) place { return place{f.Section, f.Offset} }),
		checkSorted("references", d.Refs, func(r *Ref) place { return place{r.Section, r.At} }),
		checkSorted("branches", d.Branches, func(b *Branch) place { return place{b.Section, b.At} }),
		checkSorted("sites", d.Sites, func(s *Site) place { return place{s.Section, s.At} }),
		checkSorted("table entries", d.Entries, func(e *TableEntry) place { return place{e.Table, e.At} }),
	); err != nil {
		return err
	}
	for i := range d.Functions {
		f := &d.Functions[i]
		switch {
		case f.Parent < -1 || int(f.Parent) >= len(d.Functions) || int(f.Parent) == i:
			return fmt.Errorf("function %q has parent %d of %d functions", f.Name, f.Parent, len(d.Functions))
		case f.Section == 0 || !inside(f.Offset, f.Size, math.MaxUint64):
			return fmt.Errorf("function %q lies in section %d at %#x with size %#x", f.Name, f.Section, f.Offset, f.Size)
		case f.Pad > f.Offset:
			return fmt.Errorf("function %q has %d bytes of pad before offset %#x", f.Name, f.Pad, f.Offset)
		case f.Fentry && f.FentryOffset > f.Size:
			return fmt.Errorf("function %q of %d bytes has its tracer's call at %d", f.Name, f.Size, f.FentryOffset)
		}
	}
	for i := range d.Refs {
		if r := &d.Refs[i]; r.Section == 0 || r.Size > 8 {
			return fmt.Errorf("the reference at section %d offset %#x has %d bytes", r.Section, r.At, r.Size)
		}
	}
	for i := range d.Branches {
		b := &d.Branches[i]
		if b.Section == 0 || b.Length == 0 || b.Field < b.At || !inside(b.Field-b.At, uint64(b.FieldSize), uint64(b.Length)) {
			return fmt.Errorf("the branch at section %d offset %#x of %d bytes has its field at %#x, %d bytes",
				b.Section, b.At, b.Length, b.Field, b.FieldSize)
		}
	}
	for i := range d.Sites {
		s := &d.Sites[i]
		if s.Section == 0 || s.Kind == "" || s.Key < -1 || int(s.Key) >= len(d.Refs) || !inside(s.At, s.Length, math.MaxUint64) {
			return fmt.Errorf("the %q site at section %d offset %#x, length %#x, has key %d of %d references",
				s.Kind, s.Section, s.At, s.Length, s.Key, len(d.Refs))
		}
	}
	for i := range d.Entries {
		e := &d.Entries[i]
		if e.Table == 0 || !inside(e.At, e.Size, math.MaxUint64) {
			return fmt.Errorf("a table entry lies in section %d at %#x with size %#x", e.Table, e.At, e.Size)
		}
		for _, r := range e.Ignore {
			if !inside(r.Offset, r.Length, e.Size) {
				return fmt.Errorf("the table entry at section %d offset %#x of %d bytes ignores %d bytes at %d",
					e.Table, e.At, e.Size, r.Length, r.Offset)
			}
		}
	}
	return nil
}

// obligationKinds are the kinds that exist.
var obligationKinds = []ObligationKind{
	ObligationBytes, ObligationString, ObligationSymbol, ObligationCode,
	ObligationJumpKey, ObligationStaticCallKey, ObligationStaticCallFunc, ObligationKprobe, ObligationFtrace,
}

func checkMatch(req *MatchRequest, resp *MatchResponse) error {
	if got, want := len(resp.Results), len(req.Candidates); got != want {
		return fmt.Errorf("%d results for %d candidates", got, want)
	}
	for i := range resp.Results {
		if err := checkMatchResult(&req.Candidates[i], &resp.Results[i]); err != nil {
			return fmt.Errorf("symbol %d against address %#x: %w", req.Candidates[i].Function, req.Candidates[i].Address, err)
		}
	}
	return nil
}

func checkMatchResult(c *Candidate, r *MatchResult) error {
	switch {
	case r.Matched && r.Mismatch != nil:
		return fmt.Errorf("it is a match and a mismatch (%s)", r.Mismatch.Reason)
	case !r.Matched && r.Mismatch == nil:
		return fmt.Errorf("it is neither a match nor a mismatch")
	case !r.Matched:
		return nil
	case r.RunSize > c.RunLength:
		return fmt.Errorf("a match of %d bytes where %d were given", r.RunSize, c.RunLength)
	}
	for _, s := range r.Sites {
		if !inside(s.Offset, s.Length, r.RunSize) {
			return fmt.Errorf("a site of %d bytes at %#x in %d bytes of run", s.Length, s.Offset, r.RunSize)
		}
	}
	for i := range r.Obligations {
		if o := &r.Obligations[i]; !slices.Contains(obligationKinds, o.Kind) {
			return fmt.Errorf("there is no obligation of kind %q", o.Kind)
		}
	}
	return nil
}

func checkFixup(req *FixupRequest, resp *FixupResponse) error {
	for i := range resp.Edits {
		e := &resp.Edits[i]
		if !slices.Contains(req.Sections, e.Section) {
			return fmt.Errorf("an edit in section %d, which was not asked about", e.Section)
		}
		if n := e.Reloc; n != nil && (n.At < e.At || n.At-e.At >= uint64(len(e.Bytes))) {
			return fmt.Errorf("the edit of %d bytes at section %d offset %#x has its relocation at %#x", len(e.Bytes), e.Section, e.At, n.At)
		}
	}
	for _, c := range resp.Copies {
		if !slices.Contains(req.Sections, c.Section) || c.Name == "" {
			return fmt.Errorf("a copy named %q in section %d, which was not asked about or has no name", c.Name, c.Section)
		}
	}
	return nil
}

func checkRedirect(req *RedirectRequest, resp *RedirectResponse) error {
	if got, want := len(resp.Redirects), len(req.Functions); got != want {
		return fmt.Errorf("%d redirects for %d functions", got, want)
	}
	for i := range resp.Redirects {
		r := &resp.Redirects[i]
		switch r.Kind {
		case RedirectJump:
			if uint64(len(r.Template)) != r.Window.Length || r.Field >= r.Window.Length {
				return fmt.Errorf("the jump of symbol %d has a template of %d bytes with its field at %d, for a window of %d",
					req.Functions[i], len(r.Template), r.Field, r.Window.Length)
			}
		case RedirectFtrace, RedirectNone:
			if r.Reason == "" {
				return fmt.Errorf("the redirect %q of symbol %d has no reason", r.Kind, req.Functions[i])
			}
		default:
			return fmt.Errorf("there is no redirect of kind %q", r.Kind)
		}
	}
	return nil
}

func checkFacts(facts []FactExpression) error {
	seen := make(map[string]bool, len(facts))
	for _, f := range facts {
		if f.Name == "" || f.Expression == "" || seen[f.Name] {
			return fmt.Errorf("the fact %q has no expression, no name, or is there twice", f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}
