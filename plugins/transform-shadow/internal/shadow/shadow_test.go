package shadow

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/sdk/sdktest/need"
	"github.com/ksplice/ksplice/sdk/transform"
)

// plan asks about one structure that gains members.
func plan(t *testing.T, p *Plugin, files map[string]string, members ...transform.Member) *transform.PlanResponse {
	t.Helper()
	_, err := Program()
	need.OK(t, err)
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	source := "net/u.c"
	if _, ok := files["net/u.h"]; ok {
		source = "net/u.h"
	}
	resp, err := p.Plan(t.Context(), &transform.PlanRequest{SourceDir: dir, Items: []transform.Item{{ID: id, Kind: transform.ItemLayout, Unit: "net/u.o", Name: "s", Source: source, Members: members}}})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

const (
	id   = "layout:net/u.c:s"
	head = "#include <linux/slab.h>\n#ifdef CONFIG_X\n#include <linux/x.h>\n#endif\n\n"
	decl = "struct s {\n\tint a;\n\tu32 n; /* new */\n\tint b;\n};\n"
)

var number = transform.Member{Name: "n", Type: "u32", Size: 4, Kind: transform.MemberNumber}

// TestRewrite wants every form of access to be a look-up, and objects to lose what they had where they are made and freed.
func TestRewrite(t *testing.T) {
	body := `
static struct s one;

static void use(struct s *p, struct s **q, struct s *all)
{
	p->n = 1;
	(*q)->n++;
	all[3].n += one.n;
	other(&p->n);
	if (p->n == 2)
		kfree(p);
	kmem_cache_free(cache, *q);
}

static struct s *make(void)
{
	struct s *p = NULL;

	p = kzalloc(sizeof(*p), GFP_KERNEL);
	return p;
}

int n(struct t *x) { return x->n; }
`
	resp := plan(t, &Plugin{}, map[string]string{"net/u.c": head + decl + body}, number)
	got := string(resp.Edits["net/u.c"])
	for _, want := range []string{
		"struct s {\n\tint a; /* new */\n\tint b;\n};", "(*ksplice_at_s_n(p)) = 1;", "(*ksplice_at_s_n((*q)))++;", "(*ksplice_at_s_n(&all[3])) += (*ksplice_at_s_n(&one))", "other(&(*ksplice_at_s_n(p)))",
		"if ((*ksplice_at_s_n(p)) == 2)", "ksplice_shadow_detach(&ksplice_s_n, p);\n\t\tkfree(p);", "ksplice_shadow_detach(&ksplice_s_n, *q);\n\tkmem_cache_free(cache, *q);",
		"GFP_KERNEL);\n\tksplice_shadow_detach(&ksplice_s_n, p);", "return x->n;",
		"#include <linux/slab.h>\n#include <ksplice.h>\n\nKSPLICE_SHADOW(ksplice_s_n, \"net/u.c:s.n\", typeof(u32), NULL, NULL);\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the source lacks %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", got)
	}
	if want := "n (zero for objects that exist) is a shadow field"; len(resp.Claimed) != 1 || resp.Because[id] != want {
		t.Errorf("it claims %q because %q, want %q", resp.Claimed, resp.Because[id], want)
	}
}

// TestHeader: the member of a structure that a header declares is looked up in the files that use it.
func TestHeader(t *testing.T) {
	p := &Plugin{}
	if err := p.Configure(t.Context(), map[string]string{"s.n": "((struct s *)object)->a + 1"}); err != nil {
		t.Fatal(err)
	}
	lock := transform.Member{Name: "lock", Type: "struct mutex", Size: 32}
	files := map[string]string{"net/u.h": strings.Replace(decl, "\tint b;", "\tstruct mutex lock;\n\tint b;", 1),
		"net/u.c": head + "#include \"u.h\"\nvoid f(struct s *p)\n{\n\tmutex_init(&p->lock);\n}\n",
		"net/m.c": head + "#include \"u.h\"\nstruct s *m(void)\n{\n\tstruct s *p;\n\n\tp = kzalloc(sizeof(*p), GFP_KERNEL);\n\treturn p;\n}\n",
		"net/v.c": head + "#include \"u.h\"\nint g(struct s *p)\n{\n\tmutex_lock(&p->lock);\n\treturn p->n;\n}\n",
		"net/w.c": head + "#include \"u.h\"\nint h(struct s *p)\n{\n\treturn p->a;\n}\n"}
	resp := plan(t, p, files, number, lock)
	if len(resp.Claimed) != 1 || len(resp.Edits) != 4 || strings.Contains(string(resp.Edits["net/u.h"]), "lock") || strings.Contains(string(resp.Edits["net/u.h"]), "u32") {
		t.Fatalf("it claims %q, declines %q, edits %q", resp.Claimed, resp.Declined, resp.Edits)
	}
	u, v := string(resp.Edits["net/u.c"]), string(resp.Edits["net/v.c"])
	for text, want := range map[string]string{
		u + "1":                       "static int ksplice_s_lock_begin(void *object, void *data, void *arg)\n{\n\tmutex_init((typeof(struct mutex) *)data);\n\treturn 0;\n}",
		string(resp.Edits["net/m.c"]): "ksplice_shadow_detach(&ksplice_s_n, p);\n\tif (p)\n\t\tmemset(ksplice_at_s_n(p), 0, sizeof(typeof(u32)));",
		v + "1":                       "*(typeof(u32) *)data = (((struct s *)object)->a + 1);",
		v + "2":                       `KSPLICE_SHADOW(ksplice_s_lock, "net/u.h:s.lock", typeof(struct mutex), ksplice_s_lock_begin, NULL);`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s\nlacks %q", text, want)
		}
	}
	if strings.Contains(u, `s.n"`) || !strings.Contains(resp.Because[id], "until undo") {
		t.Errorf("because %q:\n%s", resp.Because[id], u)
	}
}

// TestDeclined: what cannot be kept beside objects is named, with the reason.
func TestDeclined(t *testing.T) {
	free := "struct s *f(struct s *p)\n{\n\tp->n = 1;\n\tkfree(p);\n\tp = kzalloc(sizeof(*p), GFP_KERNEL);\n\treturn p;\n}\n"
	one := func(body string) map[string]string { return map[string]string{"net/u.c": head + decl + free + body} }
	for name, c := range map[string]struct {
		files  map[string]string
		member transform.Member
		words  string
	}{
		"a list":           {map[string]string{"net/u.c": head + decl + free}, transform.Member{Name: "n", Type: "struct list_head", Size: 16}, "container_of"},
		"work items":       {map[string]string{"net/u.c": head + decl + free}, transform.Member{Name: "n", Type: "struct work_struct[2]", Size: 64}, "container_of"},
		"a bit field":      {map[string]string{"net/u.c": head + decl + free}, transform.Member{Name: "n", Type: "u32", Size: 4, Bits: 1, Kind: transform.MemberNumber}, "bit field"},
		"a function":       {map[string]string{"net/u.c": head + decl + free}, transform.Member{Name: "n", Type: "function *", Size: 8}, "give it a typedef"},
		"no name":          {map[string]string{"net/u.c": head + decl + free}, transform.Member{Name: "at.n", Type: "u32", Size: 4, Kind: transform.MemberNumber}, "without a name"},
		"freed later":      {map[string]string{"net/u.c": head + decl + "void f(struct s *p)\n{\n\tp->n = 1;\n\tkfree_rcu(p, rcu);\n}\n"}, number, "kfree_rcu"},
		"no life":          {map[string]string{"net/u.c": head + decl + "void f(struct s *p)\n{\n\tp->n = 1;\n}\n"}, number, "no file of the patch makes such objects"},
		"freed only":       {map[string]string{"net/u.c": head + decl + "void f(struct s *p)\n{\n\tp->n = 1;\n\tkfree(p);\n}\n"}, number, "no file of the patch makes such objects"},
		"an address":       {one(""), transform.Member{Name: "n", Type: "struct x *", Size: 8, Kind: transform.MemberPointer}, `"s.n" = "EXPRESSION"`},
		"a count of users": {one(""), transform.Member{Name: "n", Type: "refcount_t", Size: 4}, `"s.n" = "EXPRESSION"`},
		"sleepers":         {one(""), transform.Member{Name: "n", Type: "wait_queue_head_t", Size: 24}, "container_of"},
		"locks":            {one(""), transform.Member{Name: "n", Type: "spinlock_t[4]", Size: 16}, "container_of"},
		"in a declaration": {one("void g(void)\n{\n\tstruct s *p = kzalloc(sizeof(*p), GFP_KERNEL);\n\n\th(p);\n}\n"), number, "statement of its own"},
		"in a condition":   {one("void g(void)\n{\n\tstruct s *p;\n\n\tif (!(p = kmalloc(sizeof(*p), GFP_KERNEL)))\n\t\treturn;\n\th(p);\n}\n"), number, "statement of its own"},
		"a copy, declared": {one("void g(struct s *q)\n{\n\tstruct s *p = kmemdup(q, sizeof(*q), GFP_KERNEL);\n\n\th(p);\n}\n"), number, "copies of one"},
		"many":             {one("void g(void)\n{\n\tstruct s *p;\n\n\tp = kcalloc(4, sizeof(*p), GFP_KERNEL);\n\th(p);\n}\n"), number, "several such objects"},
		"a call":           {one("struct s *pop(void);\nvoid g(void)\n{\n\tkfree(pop());\n}\n"), number, "evaluated twice"},
		"a step":           {one("void g(struct s **a, int i)\n{\n\tkfree(a[i++]);\n}\n"), number, "evaluated twice"},
		"cleared":          {one("void g(struct s *p)\n{\n\tmemset(p, 0, sizeof(*p));\n}\n"), number, "copies or clears"},
		"copied by bytes":  {one("void g(struct s *p, struct s *q)\n{\n\tmemcpy(p, q, sizeof(*p));\n}\n"), number, "copies or clears"},
		"on loan":          {one("void g(void)\n{\n\tstruct s on;\n\n\th(&on);\n}\n"), number, "on the stack"},
		"a program's":      {one("void g(struct s __user *p)\n{\n\th(p);\n}\n"), number, "not in the kernel's memory"},

		"inline":     {map[string]string{"net/u.h": decl + "static inline int g(struct s *p)\n{\n\treturn p->n;\n}\n", "net/u.c": head + free}, number, "the header net/u.h uses n"},
		"the stack":  {map[string]string{"net/u.c": head + decl + "int g(void)\n{\n\tstruct s on;\n\n\ton.n = 1;\n\treturn h(&on);\n}\n" + free}, number, "on the stack"},
		"a copy":     {map[string]string{"net/u.c": head + decl + "void g(struct s *a, struct s *b)\n{\n\t*a = *b;\n}\n" + free}, number, "copies or clears"},
		"no include": {map[string]string{"net/u.c": decl + free}, number, "no #include"},
		"a macro":    {map[string]string{"net/u.c": head + strings.Replace(decl, "u32 n;", "DECLARE(n);", 1) + free}, number, "one expects"},
	} {
		resp := plan(t, &Plugin{}, c.files, c.member)
		if len(resp.Claimed) > 0 || len(resp.Edits) > 0 || !strings.Contains(resp.Declined[id], c.words) {
			t.Errorf("%s: it claims %q and declines %q, want %q\n%s", name, resp.Claimed, resp.Declined, c.words, resp.Edits["net/u.c"])
		}
	}
}

func TestConfigure(t *testing.T) {
	for key, value := range map[string]string{"n": "1", "s.n": " ", "s.n.m": "1", "s.m": "1; x"} {
		if err := (&Plugin{}).Configure(t.Context(), map[string]string{key: value}); err == nil {
			t.Errorf("%s = %q is taken", key, value)
		}
	}
}
