package create

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/semantic"
	"github.com/ksplice/ksplice/core/update"
)

// TestAcceptLayout: a structure whose layout changes is refused by the ID of its item, unless the author accepts that, or wants a report only.
func TestAcceptLayout(t *testing.T) {
	const body = ` int b; }; struct s *all; int ext(struct s *); int f(struct s *x) { return ext(x) + x->b; }`
	const id = "layout:u.c:s"
	for name, o := range map[string]Options{"nobody": {}, "another": {Accept: map[string]string{"layout:u.c:t": "so"}}, "accepted": {Accept: map[string]string{id: "it is new"}}, "report": {ReportOnly: true}} {
		r, u := localRun(t, `struct s {`+body, `struct s { int a;`+body, false)
		r.o.Accept, r.o.ReportOnly = o.Accept, o.ReportOnly
		changes, err := semantic.CompareFiles(u.pre.object.Path, u.post.object.Path)
		if err != nil || len(changes) != 1 {
			t.Fatalf("%v, %v", changes, err)
		}
		err = r.carry(t.Context(), r.misread(nil, u, &changes[0]))
		var reason string
		if err != nil {
			reason = err.Error()
		}
		if refused := err != nil; refused != (name == "nobody" || name == "another") {
			t.Errorf("%s: %q", name, reason)
		}
		if len(r.report.Items) != 1 || r.report.Items[0].ID != id {
			t.Fatalf("%s: items %+v of %s", name, r.report.Items, changes[0].Where)
		}
		if reason != "" && !strings.Contains(reason, "--accept "+id) {
			t.Errorf("%s: %q does not name %s", name, reason, id)
		}
		claimed := []update.Claim(nil)
		if name == "accepted" {
			claimed = []update.Claim{{Item: id, Because: "it is new"}}
		}
		if d := cmp.Diff(claimed, r.claims); d != "" {
			t.Errorf("%s: claims (-want +got):\n%s", name, d)
		}
		if err := r.unknownItems(); (err != nil) != (name == "another") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAcceptInitialiser: what the author accepts is offered to no plugin, and the running kernel's datum stays.
func TestAcceptInitialiser(t *testing.T) {
	r, u := localRun(t, opsWas, opsIs, false)
	r.dir, r.o.Say = t.TempDir(), func(string, string) {}
	var err error
	if u.result, err = diff.Compare(u.pre.diff, u.post.diff); err != nil {
		t.Fatal(err)
	}
	id := u.initialiser("ops")
	r.o.Accept = map[string]string{id: "nobody calls it"}
	if err := r.transform(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(u.result.Refusals) > 0 || len(u.result.Sets()) > 0 {
		t.Errorf("refusals %v, sets %q", u.result.Refusals, u.result.Sets())
	}
	if d := cmp.Diff([]update.Claim{{Item: id, Because: "nobody calls it"}}, r.claims); d != "" {
		t.Errorf("claims (-want +got):\n%s", d)
	}
	if err := r.unknownItems(); err != nil {
		t.Error(err)
	}
	r.o.Accept["initialiser:u.o:other"] = "why not"
	if err := r.unknownItems(); err == nil || !strings.Contains(err.Error(), "--accept initialiser:u.o:other: the patch changes nothing of that name; what it changes is "+id) {
		t.Errorf("unknown item: %v", err)
	}
}
