package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/create"
)

// TestRefused: what create says is a verdict by the kinds of its reasons, and "failed" where one of them is no reason that is named.
func TestRefused(t *testing.T) {
	for said, want := range map[string]Result{
		`{"reasons": [{"kind": "state", "text": "layout of struct a"}]}`:                                       {Verdict: NeedsCode, Reasons: []string{"layout of struct a"}},
		`{"reasons": [{"kind": "not built", "text": "nothing"}]}`:                                              {Verdict: NotBuilt, Reasons: []string{"nothing"}},
		`{"reasons": [{"kind": "no effect", "text": "the same"}]}`:                                             {Verdict: NoEffect, Reasons: []string{"the same"}},
		`{"reasons": [{"kind": "patch", "text": "hunk 2"}]}`:                                                   {Verdict: Unfit, Reasons: []string{"hunk 2"}},
		`{"reasons": [{"kind": "state", "text": "a"}, {"kind": "unsupported", "text": "b"}], "error": "both"}`: {Verdict: Failed, Reasons: []string{"a", "b"}},
		`{"error": "a compiler"}`: {Verdict: Failed, Reasons: []string{"on stderr"}},
		``:                        {Verdict: Failed, Reasons: []string{"on stderr"}},
	} {
		want.Stage = "create"
		var got Result
		got.refused([]byte(said), "on stderr\n")
		if d := cmp.Diff(want, got, cmp.AllowUnexported(Result{})); d != "" {
			t.Errorf("%s: (-want +got)\n%s", said, d)
		}
	}
}

func TestKnown(t *testing.T) {
	dir := t.TempDir()
	e := &evaluation{options: options{out: dir}, key: "kernel tools"}
	if err := os.Mkdir(filepath.Join(dir, "results"), 0o755); err != nil {
		t.Fatal(err)
	}
	patch := filepath.Join(dir, "a.patch")
	known := func() *Result {
		t.Helper()
		r, err := e.known(patch)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if err := os.WriteFile(patch, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := known()
	r.end(Applied, "")
	if err := e.keep(r); err != nil {
		t.Fatal(err)
	}
	if r := known(); r.Verdict != Applied {
		t.Errorf("a result of the same patch, kernel and tools is not taken: %+v", r)
	}
	e.key = "kernel other-tools"
	if r := known(); r.Verdict != "" {
		t.Errorf("a result of other tools is taken: %+v", r)
	}
	r.Key = known().Key
	r.end(Failed, "apply", "why")
	if err := e.keep(r); err != nil {
		t.Fatal(err)
	}
	if r := known(); r.Verdict != "" {
		t.Errorf("a failure is taken: %+v", r)
	}
	if err := os.WriteFile(patch, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := known(); r.Verdict != "" {
		t.Errorf("a result of another patch is taken: %+v", r)
	}
}

func TestReport(t *testing.T) {
	rep := newReport("6.1", true, []*Result{
		{Patch: "one", Verdict: Applied, Units: 1, Functions: []string{"f"}, Pause: time.Millisecond, Size: 1500,
			Create: []create.Stage{{Name: "pre", Time: time.Second}}, Entered: []Entered{{Function: "f", Calls: 3}, {Function: "g", Error: "no"}}},
		{Patch: "two", Verdict: Applied, Pause: 2 * time.Millisecond},
		{Patch: "three", Verdict: NeedsCode, Stage: "create", Reasons: []string{"layout of <struct a>", "more"}},
		{Patch: "four", Verdict: NotBuilt, Stage: "create"},
		{Patch: "five", Verdict: Failed, Stage: "apply", Reasons: []string{"why"}},
	})
	if rep.Built != 4 || rep.Share != 0.5 {
		t.Errorf("built %d, share %v, want 4 and 0.5", rep.Built, rep.Share)
	}
	if p := rep.Pauses(); len(p) != 2 || p[0] != (Bar{"two", "2.00 ms", 100}) || p[1] != (Bar{"one", "1.00 ms", 50}) {
		t.Errorf("pauses %+v", p)
	}
	var table, page strings.Builder
	if err := rep.table(&table); err != nil {
		t.Fatal(err)
	}
	if err := rep.html(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1.0 s", "1 of 1", "2 KB", "needs code: create: layout of <struct a> (and 1 more)", "50.0 % of the 4", "backwards", "    2  applied"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("no %q in the table\n%s", want, table.String())
		}
	}
	for _, want := range []string{"layout of &lt;struct a&gt;", "50.0 %", "width: 100.0%", "taken backwards"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q in the page\n%s", want, page.String())
		}
	}
}
