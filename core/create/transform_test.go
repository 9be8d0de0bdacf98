package create

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

const (
	opsWas = `extern int ext(int); struct ops { const char *name; int (*call)(int); int limit; };
static int a(int n) { return ext(n); } static int b(int n) { return ext(n + 1); } int keep(int n) { return a(n) * b(n); }
struct ops ops = { "was", a, 1 }; int g(int n) { return ops.call(n) + ops.limit; }
`
	opsID = "initialiser:u.o:ops"
)

var opsIs = strings.Replace(opsWas, `"was", a, 1`, `"is", b, 2`, 1)

// planner is a transform plugin that answers with what a test says.
type planner struct {
	transform.Unimplemented
	plan func(*transform.PlanRequest) *transform.PlanResponse
}

func (planner) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Kind: plugin.KindTransform, Name: "test"}, nil
}

func (p planner) Plan(_ context.Context, req *transform.PlanRequest) (*transform.PlanResponse, error) {
	if r := p.plan(req); r != nil {
		return r, nil
	}
	return nil, errors.New("no plan")
}

// transformed offers the changed initialiser of ops to plugins.
func transformed(t *testing.T, plugins ...planner) (*run, *unit, error) {
	t.Helper()
	r, u := localRun(t, opsWas, opsIs, false)
	r.dir, r.text = t.TempDir(), []byte("the patch")
	r.o.Say = func(string, string) {}
	r.o.Transforms = func(context.Context) (out []Transform, err error) {
		for _, p := range plugins {
			out = append(out, Transform{Name: "test", Transform: p})
		}
		return out, nil
	}
	var err error
	if u.result, err = diff.Compare(u.pre.diff, u.post.diff); err != nil {
		t.Fatal(err)
	}
	return r, u, r.transform(t.Context())
}

func claim(rewrite bool) planner {
	return planner{plan: func(req *transform.PlanRequest) *transform.PlanResponse {
		resp := &transform.PlanResponse{Because: map[string]string{}}
		for _, it := range req.Items {
			resp.Claimed, resp.Because[it.ID] = append(resp.Claimed, it.ID), "it\n\tcan"
			if rewrite {
				resp.Rewrites = append(resp.Rewrites, it.ID)
			}
		}
		return resp
	}}
}

var nothing = planner{plan: func(*transform.PlanRequest) *transform.PlanResponse { return &transform.PlanResponse{} }}

func TestTransform(t *testing.T) {
	var seen transform.PlanRequest
	var source []byte
	look := planner{plan: func(req *transform.PlanRequest) *transform.PlanResponse {
		seen = *req
		source, _ = os.ReadFile(filepath.Join(req.SourceDir, "u.c"))
		return &transform.PlanResponse{}
	}}
	r, u, err := transformed(t, look, claim(true), planner{plan: func(req *transform.PlanRequest) *transform.PlanResponse {
		if len(req.Items) > 0 {
			t.Errorf("the second is asked about what the first claimed: %+v", req.Items)
		}
		return &transform.PlanResponse{}
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := transform.Item{ID: opsID, Kind: transform.ItemInitialiser, Unit: "u.o", Name: "ops", Pre: make([]byte, 24), Post: make([]byte, 24), Fields: []transform.Field{
		{Name: ".name", Type: "char *", Within: "struct ops", Size: 8, PreAddress: `"was"`, PostAddress: `"is"`},
		{Name: ".call", Type: "function *", Within: "struct ops", Offset: 8, Size: 8, PreAddress: "a", PostAddress: "b"},
		{Name: ".limit", Type: "int", Within: "struct ops", Offset: 16, Size: 4},
	}}
	want.Pre[16], want.Post[16] = 1, 2
	if len(seen.Items) != 1 || string(seen.Patch) != "the patch" || string(source) != opsIs {
		t.Fatalf("asked about %d items with the patch %q and the source %q", len(seen.Items), seen.Patch, source)
	}
	seen.Items[0].Detail = ""
	if d := cmp.Diff(want, seen.Items[0]); d != "" {
		t.Errorf("item (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]update.Claim{{Item: opsID, Plugin: "test", Because: "it can"}}, r.claims); d != "" {
		t.Errorf("claims (-want +got):\n%s", d)
	}
	if len(u.result.Refusals) > 0 || strings.Join(u.result.Sets(), " ") != "ops.name ops.call ops.limit" {
		t.Errorf("refusals %+v, sets %q", u.result.Refusals, u.result.Sets())
	}
}

// TestTransformRefused: what nobody claims stays refused; a plugin that says what cannot be done is an error.
func TestTransformRefused(t *testing.T) {
	for name, c := range map[string]struct {
		plugins []planner
		err     string
	}{
		"no plugin":     {nil, ""},
		"nobody claims": {[]planner{nothing, nothing}, ""},
		"claims only":   {[]planner{claim(false)}, "does not say how it is to be carried"},
		"edits": {[]planner{{plan: func(*transform.PlanRequest) *transform.PlanResponse {
			return &transform.PlanResponse{Edits: map[string][]byte{"v.c": nil}}
		}}}, "it edits v.c, which is no source that the patch leaves"},
		"fails": {[]planner{{plan: func(*transform.PlanRequest) *transform.PlanResponse { return nil }}}, "transform plugin test: no plan"},
	} {
		r, u, err := transformed(t, c.plugins...)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", name, err, c.err)
		}
		if len(u.result.Refusals) != 1 || len(r.claims) > 0 {
			t.Errorf("%s: refusals %+v, claims %+v", name, u.result.Refusals, r.claims)
		}
	}
}

// TestTransformEdits: what a plugin makes of the sources is compiled next, and its claims stay.
func TestTransformEdits(t *testing.T) {
	const edited = "int nothing_of_it;\n"
	edit := planner{plan: func(req *transform.PlanRequest) *transform.PlanResponse {
		return &transform.PlanResponse{Claimed: []string{opsID}, Because: map[string]string{opsID: "it is edited"}, Edits: map[string][]byte{"u.c": []byte(edited)}}
	}}
	r, _, err := transformed(t, edit)
	if !errors.Is(err, errEdited) || string(r.after["u.c"]) != edited || string(r.edits["u.c"]) != edited {
		t.Fatalf("%v, source %q, edits %q", err, r.after["u.c"], r.edits)
	}
	if d := cmp.Diff([]update.Claim{{Item: opsID, Plugin: "test", Because: "it is edited"}}, r.claims); d != "" {
		t.Errorf("claims (-want +got):\n%s", d)
	}
	if _, _, err := transformed(t, planner{plan: func(req *transform.PlanRequest) *transform.PlanResponse {
		return &transform.PlanResponse{Declined: map[string]string{opsID: "it is too hard"}}
	}}); err != nil {
		t.Error(err)
	}
}

// TestCarry: a changed layout that a plugin declines says why; one that is as it was behind a plugin's edits is none of a plugin's that claims it.
func TestCarry(t *testing.T) {
	layout := func(p planner) (*run, []*offer) {
		r, u := localRun(t, "struct s { int b; }; struct s *all; int f(void) { return all->b; }", "struct s { int a; int b; }; struct s *all; int f(void) { return all->b; }", false)
		r.dir = t.TempDir()
		r.o.Transforms = func(context.Context) ([]Transform, error) { return []Transform{{Name: "test", Transform: p}}, nil }
		changes, err := semantic.CompareFiles(u.pre.object.Path, u.post.object.Path)
		if err != nil || len(changes) != 1 {
			t.Fatalf("%v, %v", changes, err)
		}
		return r, r.misread(nil, u, &changes[0])
	}
	const id = "layout:u.c:s"
	var seen transform.Item
	r, list := layout(planner{plan: func(req *transform.PlanRequest) *transform.PlanResponse {
		seen = req.Items[0]
		return &transform.PlanResponse{Declined: map[string]string{id: "it is too hard"}}
	}})
	if err := r.carry(t.Context(), list); err == nil || !strings.Contains(err.Error(), "transform plugin test cannot carry it: it is too hard") {
		t.Errorf("declined: %v", err)
	}
	seen.Detail = ""
	if d := cmp.Diff(transform.Item{ID: id, Kind: transform.ItemLayout, Unit: "u.o", Name: "s", Source: "u.c", Members: []transform.Member{{Name: "a", Type: "int", Size: 4, Kind: "number"}}}, seen); d != "" {
		t.Errorf("item (-want +got):\n%s", d)
	}
	r, list = layout(planner{plan: func(req *transform.PlanRequest) *transform.PlanResponse {
		return &transform.PlanResponse{Claimed: []string{id}, Because: map[string]string{id: "by edits"}, Edits: map[string][]byte{"u.c": []byte("int x;\n")}}
	}})
	if err := r.carry(t.Context(), list); !errors.Is(err, errEdited) {
		t.Fatalf("edited: %v", err)
	}
	list = r.misread(nil, r.units[0], &semantic.Change{Kind: "struct", Name: "s", Where: "u.c:1", Detail: "it grows"})
	if err := r.carry(t.Context(), list); err == nil || !strings.Contains(err.Error(), "with what it made of the sources the layout changes all the same") {
		t.Errorf("it changes still: %v", err)
	}
}
