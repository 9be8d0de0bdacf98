package match_test

import (
	"context"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/match"
	"github.com/ksplice/ksplice/core/match/matchtest"
	"github.com/ksplice/ksplice/sdk/arch"
)

// corrupt is a world whose plugin says something else of the first function.
type corrupt struct {
	*matchtest.World
	edit func(*arch.MatchResult)
}

func (c *corrupt) Match(ctx context.Context, req *arch.MatchRequest) (*arch.MatchResponse, error) {
	resp, err := c.World.Match(ctx, req)
	if err == nil {
		c.edit(&resp.Results[0])
	}
	return resp, err
}

// TestVerdict: what the architecture plugin says of a function is compared with pre and run. The function has a field at +8, a string
// at +16 and a static branch at +24.
func TestVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*arch.MatchResult)
		want string
	}{
		"size":                {func(r *arch.MatchResult) { r.RunSize-- }, "31 bytes of run are the 32 of pre"},
		"no equation":         {func(r *arch.MatchResult) { r.Equations = nil }, "nothing of the field at +0x8"},
		"another value":       {func(r *arch.MatchResult) { r.Equations[0].Value += 8 }, "the field at +0x8 does not give"},
		"another symbol":      {func(r *arch.MatchResult) { r.Equations[0].Symbol++ }, "the field at +0x8 does not give"},
		"another place":       {func(r *arch.MatchResult) { r.Equations[0].At-- }, "nothing of the field at +0x8"},
		"two values":          {func(r *arch.MatchResult) { r.Equations = append(r.Equations, arch.Equation{Symbol: 1, At: 8}) }, "the field at +0x8 does not give"},
		"of no field":         {func(r *arch.MatchResult) { r.Equations = append(r.Equations, arch.Equation{Symbol: 1, At: 4}) }, "where the object has no field"},
		"outside":             {func(r *arch.MatchResult) { r.Equations = append(r.Equations, arch.Equation{Symbol: 1, At: 1 << 40}) }, "where the object has no field"},
		"no string":           {func(r *arch.MatchResult) { r.Obligations = r.Obligations[1:] }, "nothing of the field at +0x10"},
		"another string":      {func(r *arch.MatchResult) { r.Obligations[0].Bytes = []byte("help\x00") }, "does not lead to a constant"},
		"half a string":       {func(r *arch.MatchResult) { r.Obligations[0].Bytes = []byte("hell") }, "does not lead to a constant"},
		"string elsewhere":    {func(r *arch.MatchResult) { r.Obligations[0].Address++ }, "does not lead to a constant"},
		"string of no field":  {func(r *arch.MatchResult) { o := r.Obligations[0]; o.At = 4; r.Obligations = append(r.Obligations, o) }, "where the object has no field"},
		"string as equation":  {func(r *arch.MatchResult) { r.Equations = append(r.Equations, arch.Equation{Symbol: 1, At: 16}) }, "the field at +0x10 does not give"},
		"no key":              {func(r *arch.MatchResult) { r.Obligations = r.Obligations[:1] }, "the keys of 0 places"},
		"another key":         {func(r *arch.MatchResult) { r.Obligations[1].Symbol-- }, "no site with that key"},
		"key's offset":        {func(r *arch.MatchResult) { r.Obligations[1].Offset += 8 }, "no site with that key"},
		"key elsewhere":       {func(r *arch.MatchResult) { r.Obligations[1].Address -= 16 }, "no site with that key"},
		"no site":             {func(r *arch.MatchResult) { r.Sites = nil }, "nothing of the field at +0x18"},
		"site too many":       {func(r *arch.MatchResult) { r.Sites = append(r.Sites, arch.Range{Offset: 0, Length: 8}) }, "at +0x0 there is no place of 8 bytes"},
		"site outside":        {func(r *arch.MatchResult) { r.Sites[0].Length++ }, "at +0x18"},
		"nobody's breakpoint": {func(r *arch.MatchResult) { r.Sites = append(r.Sites, arch.Range{Length: 1}) }, "at +0x0 there is no place of 1 bytes"},
	} {
		w, _ := described(t)
		_, err := match.RunWith(t.Context(), w.Kernel(true), &corrupt{w, c.edit}, w.Units(), nil, &kernel.Tracing{})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "a.o: f: the architecture plugin says") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestVerdictOverlooks: a byte that differs is seen, whatever the plugin says of it.
func TestVerdictOverlooks(t *testing.T) {
	w, _ := described(t)
	var truth arch.MatchResult
	if _, err := match.RunWith(t.Context(), w.Kernel(true), &corrupt{w, func(r *arch.MatchResult) {
		if truth.RunSize == 0 {
			truth = *r
		}
	}}, w.Units(), nil, &kernel.Tracing{}); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[int]string{3: "at +0x3 pre has", 8: "the field at +0x8", 17: "the field at +0x10"} {
		w, _ := described(t)
		w.Memory[text][at] ^= 0x10
		lies := &corrupt{w, func(r *arch.MatchResult) {
			if !r.Matched || r.RunSize == truth.RunSize {
				*r = truth
			}
		}}
		if _, err := match.RunWith(t.Context(), w.Kernel(true), lies, w.Units(), nil, &kernel.Tracing{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("+%#x: %v, want %q", at, err, want)
		}
	}
}

// TestVerdictOfImage: what was never booted has no places that the kernel has rewritten.
func TestVerdictOfImage(t *testing.T) {
	w, _ := described(t)
	if _, err := match.Run(t.Context(), w.Kernel(false), w, w.Units()); err == nil || !strings.Contains(err.Error(), "which an image does not have") {
		t.Errorf("err = %v", err)
	}
}

// TestVerdictOfProbe: a breakpoint that the plugin has checked excuses its byte, and no other.
func TestVerdictOfProbe(t *testing.T) {
	for length, want := range map[uint64]bool{1: true, 2: true, 9: false} {
		w := matchtest.New(t)
		w.Unit("a.o", "").Func(".text.f", "f", global, "f", ref{Symbol: "x"})
		w.Symbol("", "f", text)
		w.Memory[text] = matchtest.Code("f", data)
		probed := &corrupt{w, func(r *arch.MatchResult) {
			r.Sites = append(r.Sites, arch.Range{Offset: 0, Length: length})
			r.Obligations = append(r.Obligations, arch.Obligation{Kind: arch.ObligationKprobe, Address: text})
		}}
		_, err := match.RunWith(t.Context(), w.Kernel(true), probed, w.Units(), nil, &kernel.Tracing{Kprobes: []uint64{text}})
		if want != (err == nil) {
			t.Errorf("%d bytes: %v", length, err)
		}
	}
}
