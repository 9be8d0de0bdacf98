package create

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/build"
	"github.com/ksplice/ksplice/core/diff"
	"github.com/ksplice/ksplice/core/diff/difftest"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// compiler is a backend that can compile, but may not tell anything.
type compiler struct {
	backend.Unimplemented
	silent bool
}

func (*compiler) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Kind: plugin.KindBackend, Name: "compiler"}, nil
}

func (c *compiler) Compile(ctx context.Context, req *backend.CompileRequest, _ plugin.ProgressFunc) (*backend.CompileResponse, error) {
	u := req.Units[0]
	flags := strings.Join(req.ExtraFlags, " ")
	if c.silent {
		flags = "-w"
	}
	command := exec.CommandContext(ctx, "sh", "-c", fmt.Sprintf("gcc -O2 -g -w -c %s -o %s %s", flags, u.Object, u.Source))
	command.Dir = req.WorkDir
	if out, err := command.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return &backend.CompileResponse{Results: []backend.CompileResult{{Unit: u, Object: filepath.Join(req.WorkDir, u.Object)}}}, nil
}

// The functions of a structure whose member n moves.
const (
	localHead = `extern void *kmalloc(unsigned long, unsigned); extern void kfree(const void *); extern void ext(int); extern void *kept;
#define noinline __attribute__((noinline))
`
	localWas = "struct t { int first, n; };\n"
	localIs  = "struct t { int first; long more; int n; };\n"
	localUse = `static noinline struct t *make(int n) { struct t *p = kmalloc(sizeof(*p), 1); if (p) p->n = n; return p; }
static inline void use(struct t *p) { ext(p->n); kfree(p); }
void f(int n) { struct t *p = make(n); if (p) use(p); }
`
)

func TestLocals(t *testing.T) {
	const (
		detail  = "size 8 becomes 24; member n moves from 4 to 16; new member more at 8: "
		note    = "struct t (u.c:3): " + detail + "no object of it outlives the functions that have to do with it, which are replaced: "
		refused = "the patch is refused: layout of struct t changes (u.c:3): " + detail + "objects that exist already would be misread; this needs code that carries them over and says so (ksplice_claim), or --accept layout:u.c:t where it does no harm"
	)
	for _, c := range []struct {
		name      string
		pre, post string // after the definition
		silent    bool
		note, err string
	}{
		{"all are replaced", localUse, localUse, false, note + "f make", ""},
		{"one does not change", localUse + "void g(void) { struct t x; x.first = 1; ext(x.first); }", localUse + "void g(void) { struct t x; x.first = 1; ext(x.first); }", false, "", refused},
		{"one has it from another, inlined", localUse + "static inline int h(struct t *p) { return p->first; } void g(void) { struct t x; x.first = 1; ext(h(&x)); }",
			localUse + "static inline int h(struct t *p) { return p->first; } void g(void) { struct t x; x.first = 1; ext(h(&x)); }", false, "", refused},
		{"one goes", localUse + "void g(void) { struct t *p = make(7); kfree(p); }", localUse, false, "", refused},
		{"one comes", localUse, localUse + "static noinline int g(struct t *p) { return p->n; } void h(void) { struct t x = { 1 }; ext(g(&x)); }", false, note + "f g h make", ""},
		{"kept before", localUse + "void g(void) { kept = make(1); }", localUse + "void g(void) { kfree(make(1)); }", false, "", refused},
		{"kept after", localUse + "void g(void) { kfree(make(1)); }", localUse + "void g(void) { kept = make(1); }", false, "", refused},
		{"the compiler does not tell", localUse, localUse, true, "", refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, u := localRun(t, localHead+localWas+c.pre, localHead+localIs+c.post, c.silent)
			open, err := r.layout(t.Context(), r.units)
			if err != nil || len(open) != 1 {
				t.Fatalf("layout = %v, %v; want one to decide", open, err)
			}
			if u.result, err = diff.Compare(u.pre.diff, u.post.diff); err != nil {
				t.Fatal(err)
			}
			text := ""
			if err := r.locals(t.Context(), open); err != nil {
				text = err.Error()
			}
			if d := cmp.Diff(c.err, text); d != "" {
				t.Errorf("error (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.note, strings.Join(r.report.Notes, "\n")); d != "" {
				t.Errorf("notes (-want +got):\n%s", d)
			}
		})
	}
}

// TestLayoutCertain: where one change is refused for sure, all are told at once.
func TestLayoutCertain(t *testing.T) {
	const more = "struct g { int a; %s int b; } g;\n"
	r, _ := localRun(t, localHead+localWas+fmt.Sprintf(more, "")+localUse, localHead+localIs+fmt.Sprintf(more, "int c;")+localUse, false)
	_, err := r.layout(t.Context(), r.units)
	var refused *RefusedError
	if !errors.As(err, &refused) || len(refused.Reasons) != 2 {
		t.Errorf("layout = %v, want two reasons", err)
	}
}

// localRun is a run that has compiled a unit before and after the patch.
func localRun(t *testing.T, pre, post string, silent bool) (*run, *unit) {
	t.Helper()
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "u.c"), []byte(pre), 0o600); err != nil {
		t.Fatal(err)
	}
	u := &unit{Unit: backend.Unit{Source: "u.c", Object: "u.o"}}
	for s, source := range map[**side]string{&u.pre: pre, &u.post: post} {
		path := difftest.CompileDebug(t, "u", source)
		*s = &side{diff: difftest.Object(t, "u", source), object: build.Object{Path: path, SHA256: source}}
	}
	builder := build.New(&compiler{silent: silent}, t.TempDir(), nil)
	t.Cleanup(func() { builder.Close() })
	files := map[string][]byte{"u.c": []byte(post)}
	r := &run{o: Options{Builder: builder, Say: func(string, string) {}}, tree: &backend.Tree{ID: "tree", Root: root, Source: root, Build: root}, units: []*unit{u},
		post: files, after: files, edited: map[string]bool{}, edits: map[string][]byte{}}
	r.o.Transforms = func(context.Context) ([]Transform, error) { return nil, nil }
	return r, u
}
