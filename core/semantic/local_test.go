package semantic

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// told compiles C source with debug information and what gcc tells of it.
func told(t testing.TB, source string, flags ...string) *Told {
	t.Helper()
	path := object(t, "u", source, append(append(flags, "-g"), strings.Fields(strings.Join(ToldFlags, " "))...)...)
	return readTold(t, path)
}

func readTold(t testing.TB, object string) *Told {
	t.Helper()
	told := &Told{}
	for name, to := range map[string]*[]byte{filepath.Base(object): &told.Object, ToldFiles[0]: &told.Functions, ToldFiles[1]: &told.Signatures, ToldFiles[2]: &told.Symbols} {
		var err error
		if *to, err = os.ReadFile(filepath.Join(filepath.Dir(object), name)); err != nil {
			t.Fatal(err)
		}
	}
	return told
}

// confinedHead is what the sources of TestHolders begin with.
const confinedHead = `typedef unsigned long size_t;
extern void *kmalloc(size_t, unsigned), *kzalloc(size_t, unsigned), *other(size_t, unsigned); extern void kfree(const void *);
extern int IS_ERR(const void *); extern void *ERR_PTR(long);
extern void keep(void *); extern void *get(void); extern int pr(const char *, ...); extern void copy(void *, const void *, size_t);
struct list { struct list *next; };
struct holder { void *priv; unsigned long number; struct list list; void (*call)(void *); };
struct t { int a; long b; struct list list; struct { int c[4]; } in; struct holder *more; };
static __attribute__((noinline)) struct t *make(int n)
{
	struct t *p = kmalloc(sizeof(*p), 3);
	if (!p)
		return 0;
	p->a = n;
	p->in.c[n & 3]++;
	return p;
}
static __attribute__((noinline)) void drop(struct t *p) { kfree(p->more); kfree(p); }
static inline long sum(const struct t *p, int n) { return p->a + p->b + n; }
`

func TestHolders(t *testing.T) {
	for _, c := range []struct{ name, source, want string }{
		{"a pointer", "long f(int n) { struct t *p; long r; if (!(p = make(n))) return -12; r = sum(p, n & p->a); keep(&p->more->list); r += sum(p, ({ int m = n; keep(0); m; })); drop(p); p = 0; return r; }",
			"drop f make sum"},
		{"an object in the frame", "long f(int n) { struct t x = { .a = n }; struct t y; y.b = n; y.a = x.in.c[0]; return sum(&x, n) + sum(&y, 1); }",
			"f sum"},
		{"inlined into who knows nothing of it", "static inline long g(int n) { struct t *p = make(n); long r = p ? sum(p, n) : 0; if (p) drop(p); return r; } long f(int n) { return n + g(2) * 2; }",
			"drop f g make sum"},
		{"errors", "static struct t *try(int n) { struct t *p; if (n > 3) return ERR_PTR(-12); p = kzalloc(sizeof(*p), n); return p; }" +
			"int f(int n) { struct t *p = try(n); if (IS_ERR(p)) return 1; n = p->a; kfree(p); return n; }", "f try"},
		{"tagged allocations", "struct alloc_tag; extern void *kmalloc_noprof(size_t, unsigned); long f(int n) { struct t *p = ({ struct alloc_tag *_old = 0; typeof(kmalloc_noprof(sizeof(*p), 3)) _res = kmalloc_noprof(sizeof(*p), 3);" +
			"do {} while (0); _res; }); n = p->b; drop(p); return n; }", "drop f"},
		{"not used", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			names, err := Holders(told(t, confinedHead+c.source, "-w"), "t")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, strings.Join(names, " ")); d != "" {
				t.Errorf("holders (-want +got):\n%s", d)
			}
		})
	}
}

func TestHoldersRefused(t *testing.T) {
	const others = "others than functions may hold it"
	for _, c := range []struct{ name, source, want string }{
		// what DWARF tells
		{"a global", "struct t *keeper; void f(int n) { keeper = make(n); }", others},
		{"a static object", "static struct t one; long f(int n) { return sum(&one, n); }", others},
		{"a static variable of a function", "long f(int n) { static struct t *last; if (!last) last = make(n); return last->a; }", others},
		{"somebody else's variable", "extern struct t *theirs; long f(int n) { return sum(theirs, n); }", others},
		{"somebody else's variable, in a block", "long f(int n) { extern struct t *theirs; return sum(theirs, n); }", "extern struct t"},
		{"a member", "struct u { int n; struct t *t; }; long f(struct u *u) { u->t = make(1); return 1; }", others},
		{"in another structure", "struct u { int n; struct t t; }; long f(struct u *u) { return u->t.a; }", others},
		{"in an unnamed one", "struct u { int n; union { const struct t *t; long l; }; }; long f(struct u *u) { return u->t->a; }", others},
		{"an array", "long f(int n) { struct t *all[4]; all[n] = make(n); return all[n]->a; }", others},
		{"a pointer to a pointer", "static void into(struct t **to) { *to = make(1); } long f(void) { struct t *p; into(&p); return p->a; }", others},
		{"a typedef", "typedef struct t *tp; long f(struct holder *h) { return ((tp)h->priv)->a; }", others},
		{"a pointer to a function that takes it", "struct ops { void (*f)(int, struct t *); }; void f(struct ops *o) { struct t *p = make(1); o->f(1, p); }", others},
		{"a pointer to a function that returns it", "struct ops { struct t *(*f)(int); }; long f(struct ops *o) { return o->f(1)->a; }", others},
		{"of a header", "", others},

		// declarations
		{"a global function that takes it", "void f(struct t *p) { drop(p); }", "others may call it"},
		{"a global function that returns it", "struct t *f(int n) { return make(n); }", "others may call it"},
		{"somebody else's that takes it", "extern void theirs(struct t *p); void f(int n) { theirs(make(n)); }", "others may call it"},
		{"somebody else's that returns it", "extern struct t *theirs(void); int f(void) { return theirs()->a; }", "others may call it"},
		{"the same, in a block", "int f(void) { extern struct t *theirs(void); return theirs()->a; }", "others may call it"},
		{"somebody else's that calls such ones", "extern void theirs(struct t *(*)(int));", "others may call it"},
		{"by value", "static __attribute__((noinline)) int g(struct t x) { return x.a; } int f(void) { struct t x = { 1 }; return g(x); }", "more than a pointer"},
		{"by value, back", "static __attribute__((noinline)) struct t g(int n) { struct t x = { n }; return x; } int f(void) { return g(1).a; }", "more than a pointer"},

		// the call graph
		{"its address in an initialiser", "struct holder h = { .call = (void (*)(void *))drop };", "Address is taken"},
		{"its address in code", "void f(struct holder *h) { h->call = (void (*)(void *))drop; }", "Address is taken"},
		{"an alias", "extern void put(void *) __attribute__((alias(\"drop\")));", "Referring"},
		{"used by what nobody sees", "static __attribute__((used)) void g(struct t *p) { kfree(p); }", "force_output"},

		// the functions
		{"void * and back", "void f(struct holder *h) { struct t *p = make(1); h->priv = p; } long g(struct holder *h) { struct t *p = h->priv; return p->a; }", "h -> priv ="},
		{"void *, there only", "void f(struct holder *h) { struct t *p = make(1); h->priv = p; }", "h -> priv ="},
		{"void *, back only", "long g(struct holder *h) { struct t *p = h->priv; return p->a; }", "* ) h ->"},
		{"void *, without a variable", "long g(struct holder *h) { return ((struct t *)h->priv)->a; }", "h -> priv"},
		{"a call's result as void *", "void f(struct holder *h) { h->priv = make(1); }", "make ( 1 )"},
		{"unsigned long and back", "long g(struct holder *h) { struct t *p = (struct t *)h->number; return p->a; }", "* ) h ->"},
		{"unsigned long, there only", "void g(struct holder *h) { struct t *p = make(1); h->number = (unsigned long)p; }", "( long unsigned int ) p"},
		{"container_of", "long g(struct list *l) { struct t *p = ({ void *m = l; (struct t *)(m - __builtin_offsetof(struct t, list)); }); return p->a; }", "TARGET_EXPR"},
		{"a thread's argument", "void f(void) { struct t *p = make(1); keep(p); }", "keep ("},
		{"the frame's, to somebody else", "void f(void) { struct t x = { 1 }; keep(&x); }", "keep ("},
		{"the frame's, as a whole", "void f(struct holder *h) { struct t x = { 1 }; copy(&x, h->priv, sizeof(x)); }", "copy ("},
		{"one from another", "long g(void) { struct t x, y = { 1 }; x = y; return x.a; }", "x = y"},
		{"all of what it points to", "long g(void) { struct t *p = make(1); struct t x; x = *p; return x.a; }", "x = * p"},
		{"a parameter, declared again", "static void g(struct t *p) { keep(p); } static void g(struct t *); void f(void) { g(make(1)); }", "keep ("},
		{"the address of a member", "void f(void) { struct t *p = make(1); keep(&p->list); }", "& p -> list"},
		{"the address of a member's", "void f(void) { struct t *p = make(1); keep(&p->in.c[2]); }", "& p -> in"},
		{"the address of an array", "void f(void) { struct t x = { 1 }; keep(x.in.c); }", "& x . in"},
		{"the address of a member, returned", "static struct list *g(struct t *p) { return &p->list; } void f(void) { keep(g(make(1))); }", "return & p"},
		{"the address of a variable", "void f(void) { struct t *p; copy(&p, get(), sizeof(p)); drop(p); }", "& p"},
		{"an argument without a type", "void f(void) { struct t *p = make(1); pr(\"%p\", p); drop(p); }", "\"%p\" , p"},
		{"an argument without a type, back", "int f(int n, ...) { __builtin_va_list l; __builtin_va_start(l, n); return __builtin_va_arg(l, struct t *)->a; }", "arguments without a type"},
		{"a function without a prototype", "extern void old(); void f(void) { struct t *p = make(1); old(p); }", "old ("},
		{"out of assembly", "int f(void) { struct t *p; asm(\"mov %%gs:0,%0\" : \"=r\"(p)); return p->a; }", `"=r" p`},
		{"into assembly", "void f(void) { struct t *p = make(1); asm volatile(\"mov %0,%%gs:0\" :: \"r\"(p)); }", `"r" p`},
		{"another allocator", "int f(void) { struct t *p = other(sizeof(*p), 1); return p->a; }", "other ("},
		{"a size that somebody kept", "int f(struct holder *h) { struct t *p = kmalloc(h->number, 1); return p->a; }", "kmalloc ("},
		{"a smaller one", "int f(struct holder *h) { struct t *p = kmalloc(8, 1); return p->a; }", "kmalloc ("},
		{"a number that is no error", "int f(struct holder *h) { struct t *p = ERR_PTR(h->number); return p->a; }", "ERR_PTR ("},
		{"a fixed address", "int f(void) { struct t *p = (struct t *)4096; return p->a; }", "4096B"},
		{"a fixed address, returned", "static __attribute__((noinline)) struct t *g(void) { return (struct t *)4096; } int f(void) { struct t *p = g(); return p->a; }", "return 4096B"},
		{"what may be an address", "int f(long n) { struct t *p = ERR_PTR(-n); return p->a; }", "ERR_PTR ("},
		{"arithmetic", "int f(int n) { struct t *p = make(n); p++; return p->a; }", "p + +"},
		{"the next one", "int f(int n) { struct t *p = make(n); return p[1].a; }", "p + "},
		{"the next one, in a variable", "int f(int n) { struct t *p = make(n), *q; q = p + 1; return q->a; }", "q = p + "},
		{"the next one, of an assignment's value", "int f(int n) { struct t *p, *q; q = (p = make(n)) + 1; return q->a; }", "q = ( p = make"},
		{"the next one, without a variable", "int f(int n) { struct t *p; return ((p = make(n)) + 1)->a; }", "( p = make"},
		{"a choice", "int f(int n) { struct t *p = make(n); struct t *q = n ? p : get(); return q->a; }", "n == 0 ?"},
		{"a value of a comparison", "void f(int n, struct holder *h) { struct t *p; if ((h->priv = p = make(n))) h->number = 1; }", "( void * ) ( p = make"},
		{"a value of an assignment", "void f(int n) { struct t *p; keep(p = make(n)); }", "keep ("},
		{"a value of an assignment, without a type", "extern void *old(); int f(int n) { struct t *p; return old(p = make(n)) == 0; }", "old ( p ="},
		{"a value of a sequence, without a type", "extern void *old(); void f(int n) { struct t *p; old((keep(0), p = make(n))); }", ", p = make"},
		{"a value of a block", "void f(struct holder *h) { struct t *p; h->priv = ({ keep(0); p = make(2); }); }", "= p = make"},
		{"an argument of the allocator", "int f(struct holder *h) { struct t *p = make(1); struct t *q = kmalloc(sizeof(*q), ({ h->priv = p; 1; })); return q->a; }", "h -> priv ="},
		{"another argument", "int f(struct holder *h) { struct t *p = make(1); return sum(p, ({ h->priv = p; 1; })); }", "h -> priv ="},
		{"the name of an outer variable", "int f(struct holder *h) { void *p = h->priv; if (h->number) { struct t *p = make(1); drop(p); } return sum(p, 1); }", "* p ="},
		{"the name of a global variable", "extern void *p; int f(struct holder *h) { if (h->number) { struct t *p = make(1); drop(p); } return sum(p, 1); }", "sum ("},
		{"an object's name, a global variable's too", "extern struct holder x; int f(int n) { if (n) { struct t x = { 1 }; return x.a; } return sum((void *)&x, 1); }", "sum ("},
		{"a compound literal", "long f(int n) { return sum(&(struct t){ .a = n }, 1); }", "struct t D."},
		{"of the same name inside", "long f(int n) { struct t { long x; } x = { n }; return x.x; }", others},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			source := confinedHead + c.source
			if c.name == "of a header" {
				source = "#line 1 \"u.h\"\n" + confinedHead
			}
			names, err := Holders(told(t, source, "-w"), "t")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q, error %v; want %s", names, err, c.want)
			}
		})
	}
}

// TestHoldersIncomplete: what is missing in one of the texts is noticed.
func TestHoldersIncomplete(t *testing.T) {
	const source = confinedHead + "long f(int n) { struct t *p = make(n); n = sum(p, 1); drop(p); return n; } void last(void) { struct t x = { 1 }; keep(x.more); }"
	whole := told(t, source)
	if names, err := Holders(whole, "t"); err != nil {
		t.Fatal(names, err)
	}
	for name, cut := range map[string]func(*Told){
		"no functions": func(b *Told) { b.Functions = nil },
		"one less":     func(b *Told) { b.Functions = b.Functions[:bytes.Index(b.Functions, []byte(";; Function last"))] },
		"half of one":  func(b *Told) { b.Functions = bytes.TrimSuffix(bytes.TrimSpace(b.Functions), []byte("}")) },
		"two in one": func(b *Told) {
			b.Functions = bytes.Replace(b.Functions, []byte("  drop (p);"), []byte("} { drop (p);"), 1)
		},
		"another language": func(b *Told) { b.Functions = bytes.Replace(b.Functions, []byte("drop (p)"), []byte("drop @ (p)"), 1) },
		"no declarations":  func(b *Told) { b.Signatures = nil },
		"half of them":     func(b *Told) { b.Signatures = b.Signatures[:bytes.Index(b.Signatures, []byte("struct t *p"))] },
		"no call graph":    func(b *Told) { b.Symbols = nil },
		"half of it":       func(b *Told) { b.Symbols = b.Symbols[:bytes.Index(b.Symbols, []byte("Removing unused"))] },
		"without a node":   func(b *Told) { b.Symbols = bytes.ReplaceAll(b.Symbols, []byte("\ndrop/"), []byte("\ndropped/")) },
		"no object":        func(b *Told) { b.Object = b.Object[:100] },
	} {
		b := *whole
		cut(&b)
		if names, err := Holders(&b, "t"); err == nil {
			t.Errorf("%s: %q", name, names)
		}
	}
}
