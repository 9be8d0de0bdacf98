package arch_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
	"github.com/ksplice/ksplice/sdk/sdktest"
)

// FuzzReplies has a plugin answer all calls with the same bytes: each answer is refused, or keeps what the client promises.
func FuzzReplies(f *testing.F) {
	for _, m := range []proto.Message{
		&pb.DescribeResponse{Objects: []*pb.ObjectDescription{{
			Functions: []*pb.Function{{Symbol: 1, Name: "f", Section: 1, Size: 32, Parent: -1, Endbr: true, Fentry: true, FentryOffset: 4}},
			Refs:      []*pb.Ref{{Section: 1, At: 8, Size: 4, Type: 2, PcRel: true, Kind: pb.RefKind_REF_KIND_BRANCH, Symbol: 2, Addend: -4}},
			Branches:  []*pb.Branch{{Section: 1, At: 16, Length: 5, Field: 17, FieldSize: 4, Target: 64}},
			Sites:     []*pb.Site{{Section: 1, At: 4, Length: 5, Kind: "fentry", Live: true, Table: 3, Key: -1}},
			Entries:   []*pb.TableEntry{{Table: 3, Size: 8, Owner: 1, OwnerOffset: 4, Ignore: []*pb.Range{{Offset: 4, Length: 2}}}},
		}}},
		&pb.MatchResponse{Results: []*pb.MatchResult{{Matched: true, RunSize: 32, Equations: []*pb.Equation{{Symbol: 2, Value: 1 << 40, At: 8}},
			Obligations: []*pb.Obligation{{Kind: "string", At: 16, Bytes: []byte("x\x00")}}, Sites: []*pb.Range{{Offset: 4, Length: 5}}}}},
		&pb.MatchResponse{Results: []*pb.MatchResult{{Mismatch: &pb.Mismatch{PreOffset: 4, Reason: "it differs"}}}},
		&pb.FixupResponse{Edits: []*pb.Edit{{Section: 1, At: 8, Bytes: []byte{1, 2, 3, 4}, Reloc: &pb.NewReloc{At: 8, Type: 2, Symbol: "x"}}},
			Copies: []*pb.Copy{{Section: 1, At: 4, Length: 8, Name: "c"}}},
		&pb.RedirectResponse{Redirects: []*pb.RedirectPlan{{Kind: "jump", Window: &pb.Range{Length: 5}, Template: []byte{0xe9, 0, 0, 0, 0}, Field: 1, Type: 2, Addend: -4}}},
		&pb.FactExpressionsResponse{Expressions: []*pb.FactExpression{{Name: "n", Includes: []string{"linux/bug.h"}, Expression: "1"}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := sdktest.RawArch(b)
		ctx := t.Context()
		if r, err := c.Describe(ctx, &arch.DescribeRequest{Objects: make([]plugin.File, 1)}); err == nil {
			checkDescription(t, &r.Objects[0])
		}
		candidate := arch.Candidate{Function: 1, Address: 1 << 40, RunLength: 96}
		if r, err := c.Match(ctx, &arch.MatchRequest{Candidates: []arch.Candidate{candidate}}); err == nil {
			checkResult(t, &r.Results[0], candidate.RunLength)
		}
		if r, err := c.Fixup(ctx, &arch.FixupRequest{Sections: []uint32{1}}); err == nil {
			for _, e := range r.Edits {
				if e.Section != 1 || e.Reloc != nil && e.Reloc.At-e.At >= uint64(len(e.Bytes)) {
					t.Errorf("edit %+v", e)
				}
			}
		}
		if r, err := c.Redirect(ctx, &arch.RedirectRequest{Functions: []uint32{1}}); err == nil {
			if p := r.Redirects[0]; p.Kind == arch.RedirectJump && (p.Field >= p.Window.Length || uint64(len(p.Template)) != p.Window.Length) {
				t.Errorf("redirect %+v", p)
			}
		}
		if r, err := c.FactExpressions(ctx); err == nil {
			for _, x := range r {
				if x.Name == "" || x.Expression == "" {
					t.Errorf("fact %+v", x)
				}
			}
		}
	})
}

func checkDescription(t *testing.T, d *arch.ObjectDescription) {
	for i, x := range d.Functions {
		if x.Section == 0 || x.Offset+x.Size < x.Offset || x.Pad > x.Offset || int(x.Parent) >= len(d.Functions) || int(x.Parent) == i || x.Fentry && x.FentryOffset > x.Size {
			t.Errorf("function %+v", x)
		}
	}
	for i := range d.Refs {
		if i > 0 && d.Refs[i].Section == d.Refs[i-1].Section && d.Refs[i].At < d.Refs[i-1].At || d.Refs[i].Size > 8 {
			t.Errorf("reference %+v", d.Refs[i])
		}
	}
	for _, x := range d.Sites {
		if x.Section == 0 || x.Kind == "" || x.At+x.Length < x.At || x.Key < -1 || int(x.Key) >= len(d.Refs) {
			t.Errorf("site %+v", x)
		}
	}
	for _, x := range d.Branches {
		if x.Length == 0 || x.Field < x.At || x.Field-x.At+uint64(x.FieldSize) > uint64(x.Length) {
			t.Errorf("branch %+v", x)
		}
	}
	for _, x := range d.Entries {
		if x.Table == 0 || x.At+x.Size < x.At {
			t.Errorf("entry %+v", x)
		}
	}
}

func checkResult(t *testing.T, r *arch.MatchResult, shown uint64) {
	if r.Matched == (r.Mismatch != nil) || r.Matched && r.RunSize > shown {
		t.Errorf("result %+v", r)
	}
	for _, s := range r.Sites {
		if r.Matched && (s.Offset > r.RunSize || s.Length > r.RunSize-s.Offset) {
			t.Errorf("site %+v in %d bytes", s, r.RunSize)
		}
	}
}
