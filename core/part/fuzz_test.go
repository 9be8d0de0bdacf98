package part

import (
	"bytes"
	"encoding/binary"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ksplice/ksplice/sdk/arch"
	pb "github.com/ksplice/ksplice/sdk/proto/ksplice/plugin/v1"
	"github.com/ksplice/ksplice/sdk/sdktest"
)

// FuzzReplies has a plugin answer Fixup and Redirect with any bytes: no part is made of them, or one whose windows lie in its functions.
func FuzzReplies(f *testing.F) {
	for _, m := range []proto.Message{
		&pb.RedirectResponse{Redirects: []*pb.RedirectPlan{{Kind: "jump", Window: &pb.Range{Length: 5}, Template: []byte{0xe9, 0, 0, 0, 0}, Field: 1, Type: 2, Addend: -4}}},
		&pb.RedirectResponse{Redirects: []*pb.RedirectPlan{{Kind: "ftrace", Reason: "a site is in the way"}}},
		&pb.FixupResponse{Edits: []*pb.Edit{{Section: 1, At: 8, Bytes: []byte{1, 2, 3, 4}, Reloc: &pb.NewReloc{At: 8, Type: 2, Symbol: "x", Addend: -4}}},
			Copies: []*pb.Copy{{Section: 1, At: 4, Length: 8, Name: "c"}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	base := input(f, preSource, postSource)
	var sections []uint32
	for _, s := range base.Units[0].Post.File.Sections[1:] {
		sections = append(sections, uint32(s.Index))
	}
	var symbols []uint32
	for y := range base.Units[0].Redirects {
		symbols = append(symbols, y)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := sdktest.RawArch(b)
		in, u := *base, base.Units[0]
		if fix, err := c.Fixup(t.Context(), &arch.FixupRequest{Sections: sections}); err == nil {
			u.Fixup = fix
		}
		if r, err := c.Redirect(t.Context(), &arch.RedirectRequest{Functions: symbols}); err == nil && len(r.Redirects) > 0 {
			u.Redirects = map[uint32]arch.Redirect{}
			for i, y := range symbols {
				u.Redirects[y] = r.Redirects[i]
			}
		}
		in.Units = []UnitInput{u}
		o, err := Build(&in)
		if err != nil {
			return
		}
		for _, x := range append(o.Objects, o.Description) {
			if err := x.Write(&bytes.Buffer{}); err != nil {
				t.Error(err)
			}
		}
		d := o.Description.Section(descriptionSection).Data[partSize:]
		size, window, length := binary.LittleEndian.Uint64(d[funcSizeAt:]), binary.LittleEndian.Uint32(d[funcWindowAt:]), binary.LittleEndian.Uint32(d[funcWindowLenAt:])
		if uint64(window)+uint64(length) > size {
			t.Errorf("a window of %d bytes at %d in %d", length, window, size)
		}
	})
}
