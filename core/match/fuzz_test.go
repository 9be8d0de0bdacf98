package match_test

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/match/matchtest"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
	"github.com/ksplice/ksplice/sdk/sdktest"
)

// first is a plugin whose first answer to Match is made of raw bytes; the rest are true.
type first struct {
	*matchtest.World
	raw  *arch.Client
	used bool
}

func (f *first) Match(ctx context.Context, req *arch.MatchRequest) (*arch.MatchResponse, error) {
	if f.used {
		return f.World.Match(ctx, req)
	}
	f.used = true
	return f.raw.Match(ctx, req)
}

// seeds gives a fuzzer the bytes of messages.
func seeds(f *testing.F, messages ...proto.Message) {
	for _, m := range messages {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// FuzzMatchReply has a plugin answer Match with any bytes: what they say is refused, or true of the kernel.
func FuzzMatchReply(f *testing.F) {
	mismatch := &pb.MatchResult{Mismatch: &pb.Mismatch{Reason: "no"}}
	truth := &pb.MatchResult{Matched: true, RunSize: 32, Sites: []*pb.Range{{Offset: 24, Length: 8}},
		Equations: []*pb.Equation{{Symbol: 1, Value: data, At: 8}},
		Obligations: []*pb.Obligation{{Kind: "string", At: 16, Address: data + 0x200, Bytes: []byte("hello\x00")},
			{Kind: "jump_key", At: 24, Address: text + 24, Symbol: 5}}}
	seeds(f, &pb.MatchResponse{Results: []*pb.MatchResult{truth, {Matched: true, RunSize: 16, Equations: []*pb.Equation{{Symbol: 2, Value: text, At: 8}}}}},
		&pb.MatchResponse{Results: []*pb.MatchResult{mismatch, mismatch}}, &pb.MatchResponse{Results: []*pb.MatchResult{truth, mismatch}})
	f.Fuzz(func(t *testing.T, b []byte) {
		w, u := described(t)
		s, err := match.RunWith(t.Context(), w.Kernel(true), &first{World: w, raw: sdktest.RawArch(b)}, w.Units(), nil, &kernel.Tracing{})
		if err != nil {
			return
		}
		for _, x := range s.Functions {
			if x.Status == match.StatusMatched && !x.Resized && string(x.Run[:8]) != string(matchtest.Tag(x.Name)) {
				t.Errorf("%s is matched with % x", x.Name, x.Run)
			}
		}
		if x, ok := s.Function(0, u.Number("f")); ok && x.Status == match.StatusMatched && !x.Resized {
			if v, ok := s.Value(0, u.Number("count")); ok && v != data {
				t.Errorf("count lies at %#x", v)
			}
		}
	})
}

// describes is a plugin whose answer to Describe is made of raw bytes.
type describes struct{ *arch.Client }

// FuzzDescribeReply has a plugin describe an object with any bytes: what they say is refused, or true of the object.
func FuzzDescribeReply(f *testing.F) {
	seeds(f, &pb.DescribeResponse{Objects: []*pb.ObjectDescription{{
		Functions: []*pb.Function{{Symbol: 2, Name: "f", Section: 2, Size: 32, Parent: -1}, {Symbol: 6, Name: "g", Section: 5, Size: 16, Parent: -1}},
		Refs: []*pb.Ref{
			{Section: 2, At: 8, Size: 8, Type: 1, Kind: pb.RefKind_REF_KIND_ADDRESS, Symbol: 1, Addend: 4, Offset: 4},
			{Section: 2, At: 16, Size: 8, Type: 1, Kind: pb.RefKind_REF_KIND_ADDRESS, Symbol: 3, Addend: 2, Offset: 2},
			{Section: 2, At: 24, Size: 8, Type: 1, Kind: pb.RefKind_REF_KIND_ADDRESS, Symbol: 5, Addend: 1, Offset: 1},
			{Section: 4, Size: 8, Type: 1, Kind: pb.RefKind_REF_KIND_ADDRESS, Symbol: 4, Addend: 24, Offset: 24},
			{Section: 4, At: 8, Size: 8, Type: 1, Kind: pb.RefKind_REF_KIND_ADDRESS, Symbol: 5, Addend: 1, Offset: 1},
			{Section: 5, At: 8, Size: 8, Type: 1, Kind: pb.RefKind_REF_KIND_ADDRESS, Symbol: 2}},
		Sites:   []*pb.Site{{Section: 2, At: 24, Length: 8, Kind: "jump_label", Table: 4, Key: 4}},
		Entries: []*pb.TableEntry{{Table: 4, Size: 16, Owner: 2, OwnerOffset: 24}},
	}}})
	f.Fuzz(func(t *testing.T, b []byte) {
		w, u := described(t)
		resp, err := describes{sdktest.RawArch(b)}.Describe(t.Context(), &arch.DescribeRequest{Objects: make([]plugin.File, 1)})
		if err != nil {
			return
		}
		truth := u.Desc
		u.Desc = &resp.Objects[0]
		s, err := match.RunWith(t.Context(), w.Kernel(true), w, w.Units(), nil, &kernel.Tracing{})
		if err != nil {
			return
		}
		if len(u.Desc.Refs) != len(truth.Refs) || len(u.Desc.Functions) < len(truth.Functions) {
			t.Errorf("%d references and %d functions, the object has %d and %d", len(u.Desc.Refs), len(u.Desc.Functions), len(truth.Refs), len(truth.Functions))
		}
		for _, x := range s.Functions {
			if x.Status == match.StatusMatched && string(x.Run[:8]) != string(matchtest.Tag(x.Name)) {
				t.Errorf("%s is matched with % x", x.Name, x.Run)
			}
		}
	})
}
