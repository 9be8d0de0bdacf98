package arch

import (
	"github.com/ksplice/ksplice/sdk/internal/wire"
	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
)

func targetTo(t *Target) *pb.Target {
	return &pb.Target{Machine: uint32(t.Machine), Facts: t.Facts, Config: t.Config, Module: t.Module}
}

func targetFrom(t *pb.Target, n *wire.Narrow) Target {
	return Target{Machine: n.Uint16("Target.Machine", t.GetMachine()), Facts: t.GetFacts(), Config: t.GetConfig(), Module: t.GetModule()}
}

func fileTo(f plugin.File) *pb.File { return wire.New(&f, wire.FileTo) }

func fileFrom(f *pb.File) plugin.File { return wire.One(f, wire.FileFrom) }

func rangeTo(r *Range, to *pb.Range) { to.Offset, to.Length = r.Offset, r.Length }

func rangeFrom(r *pb.Range, to *Range) { *to = Range{Offset: r.GetOffset(), Length: r.GetLength()} }

func descriptionTo(d *ObjectDescription, to *pb.ObjectDescription) {
	to.Functions = wire.Pack(d.Functions, func(f *Function, to *pb.Function) {
		to.Symbol, to.Name, to.Section, to.Offset, to.Size = f.Symbol, f.Name, f.Section, f.Offset, f.Size
		to.Pad, to.Endbr, to.Fentry, to.FentryOffset, to.Parent = f.Pad, f.Endbr, f.Fentry, f.FentryOffset, f.Parent
	})
	to.Refs = wire.Pack(d.Refs, func(r *Ref, to *pb.Ref) {
		to.Section, to.At, to.Size, to.Type, to.PcRel = r.Section, r.At, uint32(r.Size), r.Type, r.PCRel
		to.Kind, to.Symbol, to.Addend, to.Offset = pb.RefKind(r.Kind)+pb.RefKind_REF_KIND_ADDRESS, r.Symbol, r.Addend, r.Offset
		to.Indexed = r.Indexed
	})
	to.Branches = wire.Pack(d.Branches, func(b *Branch, to *pb.Branch) {
		to.Section, to.At, to.Length = b.Section, b.At, uint32(b.Length)
		to.Field, to.FieldSize, to.Target = b.Field, uint32(b.FieldSize), b.Target
	})
	to.Sites = wire.Pack(d.Sites, func(s *Site, to *pb.Site) {
		to.Section, to.At, to.Length, to.Kind, to.Live = s.Section, s.At, s.Length, string(s.Kind), s.Live
		to.Table, to.Entry, to.Key, to.Detail = s.Table, s.Entry, s.Key, wire.Text(s.Detail)
	})
	to.Entries = wire.Pack(d.Entries, func(e *TableEntry, to *pb.TableEntry) {
		to.Table, to.At, to.Size = e.Table, e.At, e.Size
		to.Owner, to.OwnerOffset, to.OwnerLength = e.Owner, e.OwnerOffset, e.OwnerLength
		to.Ignore = wire.Pack(e.Ignore, rangeTo)
	})
}

func descriptionFrom(d *pb.ObjectDescription, to *ObjectDescription, n *wire.Narrow) {
	to.Functions = wire.Unpack(d.GetFunctions(), func(f *pb.Function, to *Function) {
		*to = Function{
			Symbol: f.GetSymbol(), Name: f.GetName(), Section: f.GetSection(), Offset: f.GetOffset(), Size: f.GetSize(),
			Pad: f.GetPad(), Endbr: f.GetEndbr(), Fentry: f.GetFentry(), FentryOffset: f.GetFentryOffset(), Parent: f.GetParent(),
		}
	})
	to.Refs = wire.Unpack(d.GetRefs(), func(r *pb.Ref, to *Ref) {
		*to = Ref{
			Section: r.GetSection(), At: r.GetAt(), Size: n.Uint8("Ref.Size", r.GetSize()), Type: r.GetType(), PCRel: r.GetPcRel(),
			Symbol: r.GetSymbol(), Addend: r.GetAddend(), Offset: r.GetOffset(), Indexed: r.GetIndexed(),
		}
		switch k := r.GetKind(); k {
		case pb.RefKind_REF_KIND_ADDRESS, pb.RefKind_REF_KIND_BRANCH, pb.RefKind_REF_KIND_MEMORY, pb.RefKind_REF_KIND_PER_CPU:
			to.Kind = RefKind(k - pb.RefKind_REF_KIND_ADDRESS)
		default:
			n.Note("the reference at section %d offset %#x has kind %d, which does not exist", to.Section, to.At, k)
		}
	})
	to.Branches = wire.Unpack(d.GetBranches(), func(b *pb.Branch, to *Branch) {
		*to = Branch{
			Section: b.GetSection(), At: b.GetAt(), Length: n.Uint8("Branch.Length", b.GetLength()),
			Field: b.GetField(), FieldSize: n.Uint8("Branch.FieldSize", b.GetFieldSize()), Target: b.GetTarget(),
		}
	})
	to.Sites = wire.Unpack(d.GetSites(), func(s *pb.Site, to *Site) {
		*to = Site{
			Section: s.GetSection(), At: s.GetAt(), Length: s.GetLength(), Kind: SiteKind(s.GetKind()), Live: s.GetLive(),
			Table: s.GetTable(), Entry: s.GetEntry(), Key: s.GetKey(), Detail: s.GetDetail(),
		}
	})
	to.Entries = wire.Unpack(d.GetEntries(), func(e *pb.TableEntry, to *TableEntry) {
		*to = TableEntry{
			Table: e.GetTable(), At: e.GetAt(), Size: e.GetSize(),
			Owner: e.GetOwner(), OwnerOffset: e.GetOwnerOffset(), OwnerLength: e.GetOwnerLength(),
			Ignore: wire.Unpack(e.GetIgnore(), rangeFrom),
		}
	})
}

func candidateTo(c *Candidate, to *pb.Candidate) {
	to.Function, to.Address, to.RunOffset, to.RunLength = c.Function, c.Address, c.RunOffset, c.RunLength
}

func candidateFrom(c *pb.Candidate, to *Candidate) {
	*to = Candidate{Function: c.GetFunction(), Address: c.GetAddress(), RunOffset: c.GetRunOffset(), RunLength: c.GetRunLength()}
}

func matchResultTo(r *MatchResult, to *pb.MatchResult) {
	to.Matched, to.RunSize, to.Resized = r.Matched, r.RunSize, r.Resized
	to.Sites = wire.Pack(r.Sites, rangeTo)
	if m := r.Mismatch; m != nil {
		to.Mismatch = &pb.Mismatch{
			PreOffset: m.PreOffset, RunOffset: m.RunOffset,
			Pre: wire.Text(m.Pre), Run: wire.Text(m.Run), Reason: wire.Text(m.Reason),
		}
	}
	to.Equations = wire.Pack(r.Equations, func(e *Equation, to *pb.Equation) { to.Symbol, to.Value, to.At = e.Symbol, e.Value, e.At })
	to.Obligations = wire.Pack(r.Obligations, func(o *Obligation, to *pb.Obligation) {
		to.Kind, to.At, to.Address, to.Bytes = string(o.Kind), o.At, o.Address, o.Bytes
		to.Names, to.Forms, to.Symbol, to.Offset = o.Names, o.Forms, o.Symbol, o.Offset
	})
}

func matchResultFrom(r *pb.MatchResult, to *MatchResult) {
	*to = MatchResult{
		Matched: r.GetMatched(), RunSize: r.GetRunSize(), Resized: r.GetResized(), Sites: wire.Unpack(r.GetSites(), rangeFrom),
	}
	if m := r.GetMismatch(); m != nil {
		to.Mismatch = &Mismatch{
			PreOffset: m.GetPreOffset(), RunOffset: m.GetRunOffset(), Pre: m.GetPre(), Run: m.GetRun(), Reason: m.GetReason(),
		}
	}
	to.Equations = wire.Unpack(r.GetEquations(), func(e *pb.Equation, to *Equation) {
		*to = Equation{Symbol: e.GetSymbol(), Value: e.GetValue(), At: e.GetAt()}
	})
	to.Obligations = wire.Unpack(r.GetObligations(), func(o *pb.Obligation, to *Obligation) {
		*to = Obligation{
			Kind: ObligationKind(o.GetKind()), At: o.GetAt(), Address: o.GetAddress(), Bytes: o.GetBytes(),
			Names: o.GetNames(), Forms: o.GetForms(), Symbol: o.GetSymbol(), Offset: o.GetOffset(),
		}
	})
}

func fixupTo(r *FixupResponse) *pb.FixupResponse {
	return &pb.FixupResponse{
		Edits: wire.Pack(r.Edits, func(e *Edit, to *pb.Edit) {
			to.Section, to.At, to.Bytes = e.Section, e.At, e.Bytes
			if n := e.Reloc; n != nil {
				to.Reloc = &pb.NewReloc{At: n.At, Type: n.Type, Symbol: n.Symbol, SymbolIndex: n.SymbolIndex, Addend: n.Addend}
			}
		}),
		Copies: wire.Pack(r.Copies, func(c *Copy, to *pb.Copy) {
			to.Section, to.At, to.Length, to.Name = c.Section, c.At, c.Length, c.Name
		}),
		Refusals: wire.Pack(r.Refusals, wire.DiagnosticTo),
	}
}

func fixupFrom(r *pb.FixupResponse) *FixupResponse {
	return &FixupResponse{
		Edits: wire.Unpack(r.GetEdits(), func(e *pb.Edit, to *Edit) {
			*to = Edit{Section: e.GetSection(), At: e.GetAt(), Bytes: e.GetBytes()}
			if n := e.GetReloc(); n != nil {
				to.Reloc = &NewReloc{
					At: n.GetAt(), Type: n.GetType(), Symbol: n.GetSymbol(), SymbolIndex: n.GetSymbolIndex(), Addend: n.GetAddend(),
				}
			}
		}),
		Copies: wire.Unpack(r.GetCopies(), func(c *pb.Copy, to *Copy) {
			*to = Copy{Section: c.GetSection(), At: c.GetAt(), Length: c.GetLength(), Name: c.GetName()}
		}),
		Refusals: wire.Unpack(r.GetRefusals(), wire.DiagnosticFrom),
	}
}

func redirectTo(r *Redirect, to *pb.RedirectPlan) {
	to.Kind, to.Window, to.Template, to.Field = string(r.Kind), wire.New(&r.Window, rangeTo), r.Template, r.Field
	to.Type, to.Addend, to.Reason = r.Type, r.Addend, wire.Text(r.Reason)
}

func redirectFrom(r *pb.RedirectPlan, to *Redirect) {
	*to = Redirect{
		Kind: RedirectKind(r.GetKind()), Window: wire.One(r.GetWindow(), rangeFrom), Template: r.GetTemplate(),
		Field: r.GetField(), Type: r.GetType(), Addend: r.GetAddend(), Reason: r.GetReason(),
	}
}
