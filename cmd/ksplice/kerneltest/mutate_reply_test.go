package kerneltest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/ksplice/ksplice/core/apply"
	"github.com/ksplice/ksplice/sdk/arch"
)

// liar is the architecture plugin, but for what a test does to its replies.
type liar struct {
	arch.Arch
	describe func(*arch.DescribeResponse)
	match    func(*arch.MatchRequest, *arch.MatchResponse)
}

// Describe implements arch.Arch.
func (l *liar) Describe(ctx context.Context, req *arch.DescribeRequest) (*arch.DescribeResponse, error) {
	resp, err := l.Arch.Describe(ctx, req)
	if err == nil && l.describe != nil {
		l.describe(resp)
	}
	return resp, err
}

// Match implements arch.Arch.
func (l *liar) Match(ctx context.Context, req *arch.MatchRequest) (*arch.MatchResponse, error) {
	resp, err := l.Arch.Match(ctx, req)
	if err == nil && l.match != nil {
		l.match(req, resp)
	}
	return resp, err
}

// mutateDescription changes one value of what the plugin says of the update's objects.
func mutateDescription(t *testing.T, s *subject, r *rand.Rand) (string, verdictOn, error) {
	var what string
	s.liar.describe = func(resp *arch.DescribeResponse) { what = mutateValue(r, pick(r, described(resp))) }
	defer func() { s.liar.describe = nil }()
	road := s.road()
	for i, u := range road.units {
		again := *u
		road.units[i] = &again
	}
	if err := apply.Describe(t.Context(), s.lying, road.units); err != nil {
		return what, verdictOn{refused: err}, nil
	}
	v, err := s.weigh(road.judge(t.Context()))
	return what, v, err
}

// described gives pointers to the lists of a reply to Describe, so that short ones are changed as often as long ones.
func described(resp *arch.DescribeResponse) []any {
	var out []any
	for i := range resp.Objects {
		d := &resp.Objects[i]
		out = append(out, &d.Functions, &d.Refs, &d.Branches, &d.Sites, &d.Entries)
	}
	return out
}

// mutateVerdict changes one value of what the plugin says of one candidate.
func mutateVerdict(t *testing.T, s *subject, r *rand.Rand) (string, verdictOn, error) {
	var what string
	target := r.IntN(len(s.base.sol.Functions))
	s.liar.match = func(_ *arch.MatchRequest, resp *arch.MatchResponse) {
		if what == "" && target < len(resp.Results) {
			what = fmt.Sprintf("result %d: %s", target, mutateValue(r, &resp.Results[target]))
		}
		target -= len(resp.Results)
	}
	defer func() { s.liar.match = nil }()
	road := s.road()
	road.a = s.lying
	v, err := s.weigh(road.judge(t.Context()))
	return what, v, err
}

// forgeVerdict changes a byte of a function in the kernel, and has the plugin say what it says of the function as it was; or that
// what differs is a place that the kernel rewrites.
func forgeVerdict(t *testing.T, s *subject, r *rand.Rand) (string, verdictOn, error) {
	f := pick(r, s.matchedFunctions())
	at, x := r.Uint64N(f.RunSize), pattern(r)
	what := fmt.Sprintf("%s+%#x ^ %#x", f.Name, at, x)
	hide := r.IntN(3)
	truth, ok := s.truth[candidate(f.Unit, f.Symbol, f.Code)]
	if !ok {
		t.Fatalf("%s: the plugin says nothing of it", what)
	}
	s.liar.match = func(req *arch.MatchRequest, resp *arch.MatchResponse) {
		for i, c := range req.Candidates {
			if c.Function != f.Symbol || c.Address != f.Code || s.unitOf(req.Object) != f.Unit {
				continue
			}
			forged := truth
			if hide > 0 {
				forged.Sites = append(slices.Clone(forged.Sites), arch.Range{Offset: at, Length: min(uint64(hide)*2-1, f.RunSize-at)})
			}
			if hide == 2 {
				forged.Obligations = slices.DeleteFunc(slices.Clone(forged.Obligations), func(o arch.Obligation) bool { return o.At == at })
				forged.Equations = slices.DeleteFunc(slices.Clone(forged.Equations), func(e arch.Equation) bool { return at-e.At < 8 })
			}
			resp.Results[i] = forged
		}
	}
	defer func() { s.liar.match = nil }()
	road := s.road()
	road.a = s.lying
	road.k = flipped(t, s.k, f.Code+at, x)
	if _, err := road.judge(t.Context()); err != nil {
		return what, verdictOn{refused: err}, nil
	}
	return what, verdictOn{}, fmt.Errorf("%w (forged in way %d)", errUnproved, hide)
}

// mutateValue changes one value somewhere in what v points to, and says which: a number, a word, or that an element of a list is
// missing, there twice, or in another's place.
func mutateValue(r *rand.Rand, v any) string {
	at := reflect.ValueOf(v).Elem()
	path := ""
	for {
		switch at.Kind() {
		case reflect.Slice:
			n := at.Len()
			if n == 0 {
				return path + ": nothing to change"
			}
			i := r.IntN(n)
			if at.Type().Elem().Kind() == reflect.Uint8 {
				b := slices.Clone(at.Bytes())
				b[i] ^= pattern(r)
				at.SetBytes(b)
				return fmt.Sprintf("%s[%d]", path, i)
			}
			if r.IntN(4) == 0 {
				return fmt.Sprintf("%s[%d] %s", path, i, rearrange(r, at, i))
			}
			path += fmt.Sprintf("[%d]", i)
			at = at.Index(i)
		case reflect.Struct:
			i := r.IntN(at.NumField())
			path += "." + at.Type().Field(i).Name
			at = at.Field(i)
		case reflect.Pointer:
			if at.IsNil() {
				return path + ": nothing to change"
			}
			at = at.Elem()
		default:
			return path + ": " + scalar(r, at)
		}
	}
}

// rearrange takes element i of a list out, has it twice, or lets it change places.
func rearrange(r *rand.Rand, at reflect.Value, i int) string {
	n := at.Len()
	out := reflect.MakeSlice(at.Type(), 0, n+1)
	for k := range n {
		out = reflect.Append(out, at.Index(k))
	}
	switch r.IntN(3) {
	case 0:
		at.Set(reflect.AppendSlice(out.Slice(0, i), at.Slice(i+1, n)))
		return "is missing"
	case 1:
		at.Set(reflect.AppendSlice(out.Slice(0, i+1), at.Slice(i, n)))
		return "is there twice"
	}
	j := r.IntN(n)
	a, b := reflect.New(at.Type().Elem()).Elem(), reflect.New(at.Type().Elem()).Elem()
	a.Set(out.Index(i))
	b.Set(out.Index(j))
	out.Index(i).Set(b)
	out.Index(j).Set(a)
	at.Set(out)
	return fmt.Sprintf("changes places with %d", j)
}

// scalar changes a number or a word.
func scalar(r *rand.Rand, at reflect.Value) string {
	was := fmt.Sprint(at.Interface())
	switch {
	case at.Kind() == reflect.Bool:
		at.SetBool(!at.Bool())
	case at.CanInt():
		at.SetInt(at.Int() ^ 1<<r.IntN(min(40, at.Type().Bits()-1)))
	case at.CanUint():
		at.SetUint(at.Uint() ^ 1<<r.IntN(at.Type().Bits()))
	case at.Kind() == reflect.String:
		b := []byte(at.String())
		if len(b) == 0 {
			b = []byte("x")
		} else {
			b[r.IntN(len(b))] ^= 1 << r.IntN(5)
		}
		at.SetString(string(b))
	default:
		panic(fmt.Sprintf("a %v cannot be changed", at.Type()))
	}
	return fmt.Sprintf("%s becomes %v", was, at.Interface())
}
