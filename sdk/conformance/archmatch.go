package conformance

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"slices"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// base is the address that the suite pretends functions to be at: where x86's kernel text begins, and far from the ends of
// the address space on every 64-bit machine.
const base = 0xffffffff81000000

// itself is a request to match the functions of an object with their own bytes, and these bytes.
func (s *archSuite) itself(ctx context.Context, object int) (*arch.MatchRequest, []byte, []arch.Function, error) {
	d, err := s.descriptionOf(ctx, s.files[object])
	if err != nil {
		return nil, nil, nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(s.data[object]))
	if err != nil {
		return nil, nil, nil, err
	}
	req := &arch.MatchRequest{Target: s.fix.Target, Object: s.files[object], NoSelfModification: true}
	var run []byte
	var functions []arch.Function
	for _, fn := range d.Functions {
		if fn.Size == 0 || fn.Parent >= 0 || uint64(fn.Section) >= uint64(len(f.Sections)) {
			continue
		}
		data, err := f.Sections[fn.Section].Data()
		if err != nil || fn.Offset+fn.Size > uint64(len(data)) {
			continue // told by describe
		}
		req.Candidates = append(req.Candidates, arch.Candidate{
			Function: fn.Symbol, Address: base + uint64(len(run)), RunOffset: uint64(len(run)), RunLength: fn.Size,
		})
		functions = append(functions, fn)
		run = append(run, data[fn.Offset:fn.Offset+fn.Size]...)
	}
	if len(functions) == 0 {
		return nil, nil, nil, fmt.Errorf("no function of %s can be matched", s.files[object].Path)
	}
	return req, run, functions, nil
}

// match gives the bytes to the plugin and asks.
func (s *archSuite) match(ctx context.Context, req *arch.MatchRequest, run []byte) (*arch.MatchResponse, error) {
	f, err := s.write("run", run)
	if err != nil {
		return nil, err
	}
	req.Run = f
	return s.Arch.Match(ctx, req)
}

func (s *archSuite) matchItself(ctx context.Context) error {
	matched, first := 0, "none"
	for i := range s.files {
		req, run, functions, err := s.itself(ctx, i)
		if err != nil {
			return err
		}
		resp, err := s.match(ctx, req, run)
		if err != nil {
			return err
		}
		again, err := s.match(ctx, req, run)
		if err != nil {
			return err
		}
		if err := same("Match "+s.files[i].Path, resp, again); err != nil {
			return err
		}
		for j, r := range resp.Results {
			switch {
			case !r.Matched && first == "none":
				first = fmt.Sprintf("%s: %s (pre %q, run %q)", functions[j].Name, r.Mismatch.Reason, r.Mismatch.Pre, r.Mismatch.Run)
			case r.Matched:
				matched++
				if r.RunSize != functions[j].Size {
					return fmt.Errorf("%s of %d bytes matches itself with %d", functions[j].Name, functions[j].Size, r.RunSize)
				}
			}
		}
	}
	if matched == 0 {
		return fmt.Errorf("no function matches its own bytes, which were never modified; first reason: %s", first)
	}
	return nil
}

// matchOther gives bytes that no rewriting of the kernel explains.
func (s *archSuite) matchOther(ctx context.Context) error {
	var errs []error
	for i := range s.files {
		req, run, functions, err := s.itself(ctx, i)
		if err != nil {
			return err
		}
		for _, fill := range []byte{0x00, 0xcc, 0x5a} {
			resp, err := s.match(ctx, req, bytes.Repeat([]byte{fill}, len(run)))
			if err != nil {
				return err
			}
			for j, r := range resp.Results {
				if functions[j].Size < 8 {
					continue
				}
				if r.Matched {
					errs = append(errs, fmt.Errorf("%s of %d bytes matches memory full of %#02x", functions[j].Name, functions[j].Size, fill))
				} else if r.Mismatch.Reason == "" || r.Mismatch.PreOffset > functions[j].Size {
					errs = append(errs, fmt.Errorf("%s: the mismatch at %#x of %d bytes has the reason %q",
						functions[j].Name, r.Mismatch.PreOffset, functions[j].Size, r.Mismatch.Reason))
				}
			}
		}
		// Memory that ends early, down to none.
		for _, keep := range []uint64{0, 1, 2} {
			short := *req
			short.Candidates = slices.Clone(req.Candidates)
			for j := range short.Candidates {
				short.Candidates[j].RunLength = functions[j].Size * keep / 3
			}
			resp, err := s.match(ctx, &short, run)
			if err != nil {
				return err
			}
			for j, r := range resp.Results {
				if r.Matched && functions[j].Size >= 8 {
					errs = append(errs, fmt.Errorf("%s of %d bytes matches %d bytes of run", functions[j].Name, functions[j].Size, short.Candidates[j].RunLength))
				}
			}
		}
		if len(errs) > 10 {
			break
		}
	}
	return errors.Join(errs...)
}

func (s *archSuite) matchBatch(ctx context.Context) error {
	req, run, _, err := s.itself(ctx, 0)
	if err != nil {
		return err
	}
	whole, err := s.match(ctx, req, run)
	if err != nil {
		return err
	}
	reversed := *req
	reversed.Candidates = slices.Clone(req.Candidates)
	slices.Reverse(reversed.Candidates)
	back, err := s.match(ctx, &reversed, run)
	if err != nil {
		return err
	}
	slices.Reverse(back.Results)
	if err := same("Match in two orders", whole.Results, back.Results); err != nil {
		return err
	}
	n := min(len(req.Candidates), 20)
	for i, c := range req.Candidates[:n] {
		one := *req
		one.Candidates = []arch.Candidate{c}
		alone, err := s.match(ctx, &one, run)
		if err != nil {
			return err
		}
		if err := same(fmt.Sprintf("candidate %d in a batch and alone", i), whole.Results[i], alone.Results[0]); err != nil {
			return err
		}
	}
	return nil
}

func (s *archSuite) matchGarbage(ctx context.Context) error {
	req, run, _, err := s.itself(ctx, 0)
	if err != nil {
		return err
	}
	f, err := s.write("run", run)
	if err != nil {
		return err
	}
	var errs []error
	for name, c := range map[string]arch.Candidate{
		"a symbol that does not exist":  {Function: 1 << 31, Address: base, RunLength: 1},
		"symbol 0":                      {Address: base, RunLength: 1},
		"bytes behind the file":         {Function: req.Candidates[0].Function, Address: base, RunOffset: uint64(len(run)), RunLength: 64},
		"more bytes than can be":        {Function: req.Candidates[0].Function, Address: base, RunOffset: 1, RunLength: ^uint64(0)},
		"the end of the address space":  {Function: req.Candidates[0].Function, Address: ^uint64(0), RunLength: req.Candidates[0].RunLength},
		"an offset beyond every number": {Function: req.Candidates[0].Function, Address: base, RunOffset: ^uint64(0), RunLength: 2},
	} {
		one := *req
		one.Run, one.Candidates = f, []arch.Candidate{c}
		resp, err := s.Arch.Match(ctx, &one)
		if err := noPanic("Match with "+name, err); err != nil {
			errs = append(errs, err)
		}
		if err == nil && resp.Results[0].Matched && name != "the end of the address space" {
			errs = append(errs, fmt.Errorf("a match with %s succeeds", name))
		}
	}
	errs = append(errs, s.garbage("Match", func(o plugin.File) error {
		one := *req
		one.Run, one.Object = f, o
		_, err := s.Arch.Match(ctx, &one)
		return err
	}))
	one := *req
	one.Run = plugin.File{Path: f.Path, SHA256: s.files[0].SHA256}
	_, err = s.Arch.Match(ctx, &one)
	return errors.Join(append(errs, diagnostic("Match with bytes of another digest", err))...)
}

func (s *archSuite) fixup(ctx context.Context) error {
	for i, f := range s.files {
		object, err := elf.NewFile(bytes.NewReader(s.data[i]))
		if err != nil {
			return err
		}
		var sections []uint32
		for n, x := range object.Sections {
			if x.Flags&elf.SHF_EXECINSTR != 0 {
				sections = append(sections, uint32(n))
			}
		}
		req := &arch.FixupRequest{Target: s.fix.Target, Object: f, Sections: sections}
		first, err := s.Arch.Fixup(ctx, req)
		if err != nil {
			return fmt.Errorf("fix up %s: %w", f.Path, err)
		}
		second, err := s.Arch.Fixup(ctx, req)
		if err != nil {
			return err
		}
		if err := same("Fixup "+f.Path, first, second); err != nil {
			return err
		}
		for _, e := range first.Edits {
			if size := object.Sections[e.Section].Size; e.At > size || uint64(len(e.Bytes)) > size-e.At {
				return fmt.Errorf("fix up %s: the edit of %d bytes at section %d offset %#x is outside", f.Path, len(e.Bytes), e.Section, e.At)
			}
		}
		for _, c := range first.Copies {
			if size := object.Sections[c.Section].Size; c.At > size || c.Length > size-c.At {
				return fmt.Errorf("fix up %s: the copy of %d bytes at section %d offset %#x is outside", f.Path, c.Length, c.Section, c.At)
			}
		}
	}
	_, err := s.Arch.Fixup(ctx, &arch.FixupRequest{Target: s.fix.Target, Object: s.files[0], Sections: []uint32{1 << 30}})
	return errors.Join(
		noPanic("Fixup of a section that does not exist", err),
		s.garbage("Fixup", func(f plugin.File) error {
			_, err := s.Arch.Fixup(ctx, &arch.FixupRequest{Target: s.fix.Target, Object: f, Sections: []uint32{1}})
			return err
		}))
}

func (s *archSuite) redirect(ctx context.Context) error {
	for i, f := range s.files {
		d, err := s.descriptionOf(ctx, f)
		if err != nil {
			return err
		}
		req := &arch.RedirectRequest{Target: s.fix.Target, Object: s.files[i]}
		for _, fn := range d.Functions {
			req.Functions = append(req.Functions, fn.Symbol)
		}
		first, err := s.Arch.Redirect(ctx, req)
		if err != nil {
			return fmt.Errorf("redirect in %s: %w", f.Path, err)
		}
		slices.Reverse(req.Functions)
		second, err := s.Arch.Redirect(ctx, req)
		if err != nil {
			return err
		}
		slices.Reverse(second.Redirects)
		if err := same("Redirect "+f.Path+" in two orders", first, second); err != nil {
			return err
		}
		for j, r := range first.Redirects {
			fn := d.Functions[j]
			if r.Kind == arch.RedirectJump && (r.Window.Offset > fn.Size+fn.Pad || r.Window.Length == 0) {
				return fmt.Errorf("the jump of %s, of %d bytes, overwrites %d bytes at %d", fn.Name, fn.Size, r.Window.Length, r.Window.Offset)
			}
		}
	}
	_, err := s.Arch.Redirect(ctx, &arch.RedirectRequest{Target: s.fix.Target, Object: s.files[0], Functions: []uint32{1 << 31, 0}})
	return errors.Join(
		noPanic("Redirect of a symbol that does not exist", err),
		s.garbage("Redirect", func(f plugin.File) error {
			_, err := s.Arch.Redirect(ctx, &arch.RedirectRequest{Target: s.fix.Target, Object: f})
			return err
		}))
}

// cancel gives calls up at many moments; the plugin must answer the next.
func (s *archSuite) cancel(ctx context.Context) error {
	want, err := s.Arch.Describe(ctx, &arch.DescribeRequest{Target: s.fix.Target, Objects: s.files})
	if err != nil {
		return err
	}
	req, run, _, err := s.itself(ctx, 0)
	if err != nil {
		return err
	}
	if _, err := s.match(ctx, req, run); err != nil { // writes the bytes
		return err
	}
	for i := range 12 {
		if err := givenUp(ctx, s.Arch, i, func(ctx context.Context) error {
			if _, err := s.Arch.Describe(ctx, &arch.DescribeRequest{Target: s.fix.Target, Objects: s.files}); err != nil {
				return err
			}
			_, err := s.Arch.Match(ctx, req)
			return err
		}); err != nil {
			return err
		}
	}
	got, err := s.Arch.Describe(ctx, &arch.DescribeRequest{Target: s.fix.Target, Objects: s.files})
	if err != nil {
		return fmt.Errorf("after calls that were given up: %w", err)
	}
	return same("Describe before and after calls that were given up", want, got)
}
