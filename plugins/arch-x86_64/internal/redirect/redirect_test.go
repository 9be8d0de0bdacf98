package redirect

import (
	"debug/elf"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/objtest"
	"github.com/ksplice/ksplice/sdk/arch"
)

// entry are the bytes of an entry in pieces.
const (
	endbr  = "f3 0f 1e fa"
	fentry = "0f 1f 44 00 00"
	body   = "31 c0 31 c9 31 d2 c3"
)

// judge makes an object with the code as its function f, and a tracer's site where mcount is not negative.
func judge(t *testing.T, code string, mcount int64, more func(b *objtest.Builder, s uint32)) (got arch.Redirect) {
	t.Helper()
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, code)
	f := b.Func("f", s, 0, b.File.Sections[s].Size)
	if mcount >= 0 {
		n := b.Section("__mcount_loc", objtest.Read, "0000000000000000")
		b.Reloc(n, 0, elf.R_X86_64_64, b.SectionSymbol(s), mcount)
	}
	if more != nil {
		more(b, s)
	}
	out, err := Run(b.Describe(objtest.Target()), []uint32{f})
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

func jumpLabel(at int64) func(b *objtest.Builder, s uint32) {
	return func(b *objtest.Builder, s uint32) {
		n := b.Section("__jump_table", objtest.Data, strings.Repeat("00", 16))
		b.Reloc(n, 0, elf.R_X86_64_PC32, b.SectionSymbol(s), at)
		b.Reloc(n, 4, elf.R_X86_64_PC32, b.SectionSymbol(s), at)
		b.Reloc(n, 8, elf.R_X86_64_PC64, b.Undef("key"), 0)
	}
}

func TestJump(t *testing.T) {
	for _, x := range []struct {
		name, code string
		mcount     int64
		more       func(b *objtest.Builder, s uint32)
		at         uint64
	}{
		{"plain", body, -1, nil, 0},
		{"endbr", endbr + body, -1, nil, 4},
		{"fentry", fentry + body, 0, nil, 5},
		{"endbr and fentry", endbr + fentry + body, 4, nil, 9},
		{"exactly five bytes", fentry + "31 c0 31 c9 c3", 0, nil, 5},
		{"a live site behind the window", fentry + "31 c0 31 c9 90 66 90 c3", 0, jumpLabel(10), 5},
		{"a site that only boot rewrites", fentry + "31 c0 e9 00000000", 0,
			func(b *objtest.Builder, s uint32) { b.Table(".return_sites", objtest.Place{Section: s, Offset: 7}) }, 5},
	} {
		want := arch.Redirect{Kind: arch.RedirectJump, Window: arch.Range{Offset: x.at, Length: 5}, Template: []byte{0xe9, 0, 0, 0, 0}, Field: 1,
			Type: uint32(elf.R_X86_64_PLT32), Addend: -4}
		if d := cmp.Diff(want, judge(t, x.code, x.mcount, x.more)); d != "" {
			t.Errorf("%s (-want +got):\n%s", x.name, d)
		}
	}
}

func TestObstacles(t *testing.T) {
	lock := func(at int64) func(b *objtest.Builder, s uint32) {
		return func(b *objtest.Builder, s uint32) { b.Table(".smp_locks", objtest.Place{Section: s, Offset: at}) }
	}
	staticCall := func(b *objtest.Builder, s uint32) {
		n := b.Section(".static_call_sites", objtest.Data, strings.Repeat("00", 8))
		b.Reloc(n, 0, elf.R_X86_64_PC32, b.SectionSymbol(s), 2)
		b.Reloc(n, 4, elf.R_X86_64_PC32, b.Undef("__SCK__x"), 0)
	}
	for _, x := range []struct {
		name, code string
		mcount     int64
		more       func(b *objtest.Builder, s uint32)
		kind       arch.RedirectKind
		reason     string
	}{
		{"a live site at the window's start", fentry + "66 90" + body, 0, jumpLabel(5), arch.RedirectFtrace, "jump_label"},
		{"a live site at its last byte", fentry + "31 c0 31 c9 66 90" + body, 0, jumpLabel(9), arch.RedirectFtrace, "jump_label"},
		{"a live site that reaches into it", "31 c0 e8 00000000 c3", -1, staticCall, arch.RedirectNone, "static_call"},
		{"a lock prefix", fentry + "f0 ff 00" + body, 0, lock(5), arch.RedirectFtrace, "smp_lock"},
		{"no room, with a tracer's call", fentry + "31 c0 c3", 0, nil, arch.RedirectFtrace, "leave no room"},
		{"no room", "31 c0 c3", -1, nil, arch.RedirectNone, "leave no room"},
		{"a live site and no tracer's call", "66 90" + body, -1, jumpLabel(0), arch.RedirectNone, "no tracer's call"},
	} {
		got := judge(t, x.code, x.mcount, x.more)
		if got.Kind != x.kind || !strings.Contains(got.Reason, x.reason) || got.Window.Length != 0 {
			t.Errorf("%s: %+v, want %s with %q", x.name, got, x.kind, x.reason)
		}
	}
}

func TestNone(t *testing.T) {
	b := objtest.New(t)
	s := b.Section(".text.f", objtest.Text, body)
	b.Func("f", s, 0, 7)
	c := b.Section(".text.unlikely.f", objtest.Text, body)
	cold := b.Func("f.cold", c, 0, 7)
	n := b.Section(".static_call.text", objtest.Text, "e9 00000000 0f b9 cc")
	tramp := b.Func("__SCT__x", n, 0, 8)
	u := b.Describe(objtest.Target())
	got, err := Run(u, []uint32{cold, tramp})
	if err != nil {
		t.Fatal(err)
	}
	for i, words := range []string{"piece of f", "trampoline"} {
		if got[i].Kind != arch.RedirectNone || !strings.Contains(got[i].Reason, words) {
			t.Errorf("%d: %+v, want none with %q", i, got[i], words)
		}
	}
	if _, err := Run(u, []uint32{0}); err == nil {
		t.Error("a symbol that is no function is no error")
	}
}
