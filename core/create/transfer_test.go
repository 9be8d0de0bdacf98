package create

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/sdk/transform"
)

// TestFindTransfers: what the source asked for before the patch is of an update that this one stands on.
func TestFindTransfers(t *testing.T) {
	const one, two = `ksplice_transfer("p", "one");`, `ksplice_transfer("p", "t" "wo");`
	for _, c := range []struct {
		pre, post string
		want      []patchTransfer
		err       string
	}{
		{"", one + two + one, []patchTransfer{{"p", "one"}, {"p", "two"}}, ""},
		{one, one + two, []patchTransfer{{"p", "two"}}, ""},
		{one, two, []patchTransfer{{"p", "two"}}, ""},
		{"", `ksplice_transfer("p");`, nil, `a.c:1: write ksplice_transfer("PLUGIN", "WHAT IT IS TO DO") with the name of a transform plugin`},
	} {
		r := &run{pre: map[string][]byte{"a.c": []byte(c.pre)}, post: map[string][]byte{"a.c": []byte(c.post)}}
		err := r.findClaims()
		if !slices.Equal(r.patchTransfers, c.want) || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q, then %q: %v and %v, want %v and %q", c.pre, c.post, r.patchTransfers, err, c.want, c.err)
		}
	}
}

// TestFindClaims: the same claim of an update below counts for that; said in other words it counts for this one.
func TestFindClaims(t *testing.T) {
	const one, again = `ksplice_claim("layout:a.c:t", "so");`, `ksplice_claim("layout:a.c:t", "and so again");`
	for post, want := range map[string]string{one: "", again: "and so again", one + again: "and so again"} {
		r := &run{pre: map[string][]byte{"a.c": []byte(one)}, post: map[string][]byte{"a.c": []byte(post)}}
		if err := r.findClaims(); err != nil || r.patchClaims["layout:a.c:t"] != want {
			t.Errorf("%q: %q, %v", post, r.patchClaims, err)
		}
	}
}

// carries claims what it is offered, for Transfer.
func carries(plan transform.TransferPlan) planner {
	return planner{plan: func(req *transform.PlanRequest) *transform.PlanResponse {
		resp := &transform.PlanResponse{Because: map[string]string{}, Transfers: map[string]transform.TransferPlan{}}
		for _, it := range req.Items {
			resp.Claimed, resp.Because[it.ID], resp.Transfers[it.ID] = append(resp.Claimed, it.ID), "it can", plan
		}
		return resp
	}}
}

// TestTransfers: what a plugin carries at apply is described for that.
func TestTransfers(t *testing.T) {
	r, u, err := transformed(t, carries(transform.TransferPlan{Globals: []string{"ops"}, Data: []byte("data")}))
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.transfers([]*unit{u})
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	x := &got[0]
	if x.Item != opsID || x.Plugin != "test" || string(x.Data) != "data" || len(x.Globals) != 1 {
		t.Errorf("%+v", x)
	}
	g := x.Globals[0]
	if y := u.pre.diff.File.Symbols[g.Symbol]; y.Name != "ops" || g.Type != "struct ops" || g.PerCPU || x.Before[g.Type].Size != 24 || x.After[g.Type].Size != 24 {
		t.Errorf("%+v, symbol %s, before %+v", g, y, x.Before)
	}
	if len(u.result.Refusals) > 0 {
		t.Errorf("it is refused all the same: %+v", u.result.Refusals)
	}
}

// TestTransferRefused: what cannot be described is left to others, and the reason is told.
func TestTransferRefused(t *testing.T) {
	for name, plan := range map[string]transform.TransferPlan{
		"variable no_such:":          {Globals: []string{"no_such"}},
		"type struct no_such:":       {Types: []string{"struct no_such"}},
		"variable g:":                {Globals: []string{"g"}},
		"variable keep.nothing: ":    {Globals: []string{"keep.nothing"}},
		"type struct ops_of_nobody:": {Types: []string{"struct ops", "struct ops_of_nobody"}},
	} {
		r, u, err := transformed(t, carries(plan))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.carriages) > 0 || len(u.result.Refusals) == 0 || !strings.Contains(strings.Join(r.report.Notes, "\n"), name) {
			t.Errorf("%s: carried are %d, notes %q", name, len(r.carriages), r.report.Notes)
		}
	}
}

// TestTransferLayout: a structure that becomes larger is none to fill in, unless the same plugin edits the sources, by which it may stay what
// it was; that is seen when they are compiled.
func TestTransferLayout(t *testing.T) {
	for _, edits := range []map[string][]byte{nil, {"u.c": []byte("int x;\n")}} {
		r, u := localRun(t, "struct s { int b; }; struct s *all; int f(void) { return all->b; }", "struct s { int a; int b; }; struct s *all; int f(void) { return all->b; }", false)
		r.dir = t.TempDir()
		r.o.Say = func(string, string) {}
		p := planner{plan: func(req *transform.PlanRequest) *transform.PlanResponse {
			resp := carries(transform.TransferPlan{Globals: []string{"all"}}).plan(req)
			resp.Edits = edits
			return resp
		}}
		r.o.Transforms = func(context.Context) ([]Transform, error) { return []Transform{{Name: "test", Transform: p}}, nil }
		changes, err := semantic.CompareFiles(u.pre.object.Path, u.post.object.Path)
		if err != nil || len(changes) != 1 {
			t.Fatalf("%v, %v", changes, err)
		}
		err = r.carry(t.Context(), r.misread(nil, u, &changes[0]))
		if edits != nil {
			if !errors.Is(err, errEdited) || len(r.carriages) != 1 {
				t.Errorf("with edits: %v, %d are carried", err, len(r.carriages))
			}
			_, err = r.transfers([]*unit{u})
		}
		if err == nil || !strings.Contains(err.Error(), "struct s has 8 bytes after the patch and 4 before") {
			t.Errorf("edits %d: %v", len(edits), err)
		}
	}
}
