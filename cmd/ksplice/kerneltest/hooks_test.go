package kerneltest

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/examples"
)

// hookHunk brings hooks of all kinds, which change no function. Each adds its letter; those that end something print them. Some say no for a
// value of a sysctl.
func hookHunk() string {
	var b strings.Builder
	b.WriteString(" #include <linux/compat.h>\n+#include <ksplice.h>\n+\n+static u64 hooks_run;\n")
	hook := func(when, letter string, veto int, print bool) {
		kind, end := "void", ""
		if veto != 0 || when == "pre_apply" {
			kind, end = "int", fmt.Sprintf("\n+\treturn sysctl_vfs_cache_pressure == %d ? -EBUSY : 0;", veto)
		}
		if print {
			end = "\n+\tpr_info(\"signalfd: hooks %llx\\n\", hooks_run);\n+\thooks_run = 0;"
		}
		fmt.Fprintf(&b, "+\n+static %s hook_%s(void)\n+{\n+\thooks_run = hooks_run << 8 | '%s';%s\n+}\n+ksplice_%s(hook_%s);\n", kind, letter, letter, end, when, letter)
	}
	hook("pre_apply", "a", -1, false)
	hook("pre_apply", "b", 77, false)
	hook("check_apply", "c", 78, false)
	hook("apply", "d", 0, false)
	hook("post_apply", "e", 0, true)
	hook("fail_apply", "f", 0, true)
	hook("fail_apply", "g", 0, false) // the last one first
	hook("pre_reverse", "h", 79, false)
	hook("check_reverse", "i", 80, false)
	hook("reverse", "j", 0, false)
	hook("post_reverse", "k", 0, true)
	hook("post_reverse", "l", 0, false)
	hook("fail_reverse", "m", 0, true)
	return edit("fs/signalfd.c", b.String()+" \n void signalfd_cleanup(struct sighand_struct *sighand)\n")
}

// shadows is the kernel module's list of shadow fields.
func (l *lab) shadows(t testing.TB) string {
	t.Helper()
	return l.MustRun(t, "cat", "/sys/kernel/ksplice/shadows")
}

// TestHooks applies an update with hooks of all kinds, and one that keeps data beside objects that were there before it.
func TestHooks(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		e, err := examples.Get("eventfd-reads")
		if err != nil {
			t.Fatal(err)
		}
		text, err := e.Patch(series)
		if err != nil {
			t.Fatal(err)
		}
		if l.turn("6.12") {
			l.claims(t, text)
		}
		hooks := l.create(t, "hooks", []byte(hookHunk()))
		shadow := l.example(t, e)
		carried, err := examples.Get("eventfd-count")
		if err != nil {
			t.Fatal(err)
		}
		plugin := l.example(t, carried)
		above := map[string]string{"6.1": ` \tseq_printf(m, "eventfd-id: %d\n", ctx->id);`, "6.12": " \t\t   !!(ctx->flags & EFD_SEMAPHORE));"}[series]
		hundreds := l.create(t, "hundreds", []byte(edit("fs/eventfd.c", strings.ReplaceAll(above, `\t`, "\t")+"\n-\tseq_printf(m, \"eventfd-reads: %lld\\n\", atomic64_read(&ctx->reads));\n"+
			"+\tseq_printf(m, \"eventfd-reads: %lld\\n\", atomic64_read(&ctx->reads) * 100);\n }\n")), "--on", filepath.Join(l.share, "eventfd-count.ksplice"))
		both := l.create(t, "both", append(text, hookHunk()...))
		on := l.create(t, "on", []byte(edit("fs/eventfd.c", " \tksplice_shadow_detach(&eventfd_reads, ctx);\n \teventfd_free_ctx(ctx);\n+\tpr_info(\"eventfd: one is gone\\n\");\n }\n \n")), "--on", filepath.Join(l.share, "eventfd-reads.ksplice"))
		other := l.create(t, "other", []byte(strings.Replace(string(text), "atomic64_t, NULL", "struct file, NULL", 1)))
		rewritten := l.create(t, "rewritten", []byte(edit("kernel/printk/printk.c", "-DEFINE_RATELIMIT_STATE(printk_ratelimit_state, 5 * HZ, 10);\n"+
			"+DEFINE_RATELIMIT_STATE(printk_ratelimit_state, 7 * HZ, 10);\n+#include <ksplice.h>\n+ksplice_assume_rodata(printk_ratelimit_state);\n \n int __printk_ratelimit(const char *func)\n")))
		l.boot(t, vmtest.Options{})
		if l.turn("6.1") {
			l.rewritten(t, rewritten)
		}
		if l.turn("6.12") {
			l.hooks(t, hooks)
		}
		l.shadow(t, shadow, on, both, other, plugin, hundreds)
	})
}

// claims wants items of the report to be taken by the patch itself, and hooks to be refused that would call what is replaced.
func (l *lab) claims(t *testing.T, reads []byte) {
	layout, err := examples.Refusal{Name: "layout"}.Patch(l.series())
	if err != nil {
		t.Fatal(err)
	}
	says := func(line string) []byte {
		return []byte(edit("fs/signalfd.c", " #include <linux/compat.h>\n+#include <ksplice.h>\n+\n+"+line+"\n \n void signalfd_cleanup(struct sighand_struct *sighand)\n"))
	}
	const id = "layout:fs/eventfd.c:eventfd_ctx"
	l.create(t, "claimed", append(layout, says(`ksplice_claim("`+id+`",`+"\n+\t"+`"nobody " "looks");`)...))
	u, err := update.ReadFile(filepath.Join(l.share, "claimed.ksplice"))
	if err != nil {
		t.Fatal(err)
	}
	if c := u.Manifest.Claims; len(c) != 1 || c[0] != (update.Claim{Item: id, Hook: true, Because: "nobody looks"}) {
		t.Errorf("claims %+v", c)
	}
	if out, _, _ := l.host(t, "inspect", filepath.Join(l.share, "claimed.ksplice")); !strings.Contains(out, "by the patch: nobody looks") {
		t.Errorf("inspect does not show the claim: %s", out)
	}
	for name, c := range map[string]struct {
		patch []byte
		words string
	}{
		"nothing of that name": {append(reads, says(`ksplice_claim("layout:fs/eventfd.c:other", "a test");`)...), "the patch changes nothing of that name"},
		"no reason":            {append(layout, says(`ksplice_claim("`+id+`");`)...), "fs/signalfd.c:37: write ksplice_claim"},
		"what is replaced":     {append(reads, says("static void calls(void)\n+{\n+\teventfd_ctx_put(NULL);\n+}\n+ksplice_apply(calls);")...), "the apply hook calls leads to eventfd_ctx_put, which the patch changes"},
		"another type":         {says("static void calls(void)\n+{\n+}\n+ksplice_pre_apply(calls);"), "incompatible pointer type"},
	} {
		path := filepath.Join(l.share, "refused.patch")
		if name == "what is replaced" {
			c.patch = []byte(strings.Replace(string(c.patch), "+#include <ksplice.h>\n+\n+static void calls", "+#include <ksplice.h>\n+#include <linux/eventfd.h>\n+static void calls", 1))
		}
		if err := os.WriteFile(path, c.patch, 0o644); err != nil {
			t.Fatal(err)
		}
		_, errs, exit := l.host(t, "create", "--kernel", l.kernel.Release, "--patch", path, "-o", filepath.Join(l.share, "refused.ksplice"))
		if exit == exitOK || !strings.Contains(errs, c.words) {
			t.Errorf("%s: exit code %d, want %q:\n%s", name, exit, c.words, errs)
		}
	}
}

// hooks wants them to run in their order, and to be able to say no.
func (l *lab) hooks(t *testing.T, file string) {
	same := l.saveText(t)
	l.MustRun(t, "dmesg", "-c")
	ran := func(letters string) {
		t.Helper()
		if log, want := l.MustRun(t, "dmesg"), fmt.Sprintf("signalfd: hooks %x\n", letters); !strings.Contains(log, want) {
			t.Errorf("hooks did not run as %s:\n%s", letters, log)
		}
		l.MustRun(t, "dmesg", "-c")
	}
	pressure := func(n int) { l.MustRun(t, "sh", "-c", fmt.Sprintf("echo %d > /proc/sys/vm/vfs_cache_pressure", n)) }
	const no = "a hook of the part for vmlinux said no (-16)"
	pressure(77)
	l.must(t, exitRefused, no, "apply", file)
	ran("abgf")
	pressure(78)
	l.must(t, exitRefused, no, "apply", file)
	ran("abcgf")
	pressure(79)
	l.apply(t, file)
	ran("abcde")
	id := l.id(t, file)
	l.must(t, exitRefused, no, "undo", id)
	ran("hm")
	pressure(80)
	l.must(t, exitRefused, no, "undo", id)
	ran("him")
	pressure(100)
	l.undo(t, id)
	ran("hijlk")
	same()
	l.clean(t)
}

// shadow wants an eventfd that was made before the update to have the field, the field to go with its object, and all of them with the update.
func (l *lab) shadow(t *testing.T, file, on, both, other, plugin, hundreds string) {
	same := l.saveText(t)
	p := l.MustStart(t, guestUser, "eventfd")
	lines := 1
	poll(t, "the eventfd", func() bool { return p.Output() == "ready\n" })
	reads := func(want string) {
		t.Helper()
		if err := p.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		lines++
		poll(t, "the eventfd", func() bool { return strings.Count(p.Output(), "\n") >= lines })
		var last string
		for s := bufio.NewScanner(strings.NewReader(p.Output())); s.Scan(); {
			last = s.Text()
		}
		if last != want {
			t.Errorf("the eventfd shows %q, want %q", last, want)
		}
	}
	// Other programs have eventfds as well.
	count := func() int {
		t.Helper()
		var n int
		if _, err := fmt.Sscanf(l.shadows(t), "fs/eventfd.c:eventfd_ctx.reads 8 %d\n", &n); err != nil {
			t.Fatalf("shadow fields %q: %v", l.shadows(t), err)
		}
		return n
	}
	none := func() {
		t.Helper()
		if got := l.shadows(t); got != "" {
			t.Errorf("shadow fields %q are left", got)
		}
	}
	reads("no reads")
	l.apply(t, file)
	reads("reads: 1")
	reads("reads: 2")
	had := count()
	if had == 0 {
		t.Error("no object has the field")
	}
	const others = 20
	for range others {
		if got := l.MustRun(t, guestUser, "do", "eventfd"); got != "reads: 1\n" {
			t.Errorf("another eventfd shows %q", got)
		}
	}
	if n := count(); n >= had+others {
		t.Errorf("%d objects have the field, %d before: those that are gone keep it", n, had)
	}
	l.must(t, exitRefused, "said no (-17)", "apply", "--replace", l.id(t, file), other)
	l.apply(t, on)
	l.MustRun(t, guestUser, "do", "eventfd")
	if log := l.MustRun(t, "dmesg"); !strings.Contains(log, "eventfd: one is gone\n") {
		t.Errorf("the update on the update does nothing:\n%s", log)
	}
	reads("reads: 3")
	l.undo(t, l.id(t, on))
	// One that stands in its place keeps what the objects have.
	l.must(t, exitOK, "", "apply", "--replace", l.id(t, file), both)
	reads("reads: 4")
	// As does one of which a transform plugin made the field.
	l.must(t, exitOK, "", "apply", "--replace", l.id(t, both), plugin)
	reads("reads: 5")
	// An update on that is written against the patch, and edited by the plugin like it.
	l.apply(t, hundreds)
	reads("reads: 600")
	l.undo(t, l.id(t, hundreds))
	reads("reads: 7")
	l.undo(t, l.id(t, plugin))
	none()
	reads("no reads")
	l.apply(t, file)
	reads("reads: 1")
	l.undo(t, l.id(t, file))
	none()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	same()
	l.clean(t)
}

// rewritten wants a datum that the patch has rewritten to have its new value, and the old one again.
func (l *lab) rewritten(t *testing.T, file string) {
	l.must(t, exitOK, "by the patch: it may be rewritten", "inspect", file)
	l.rate(t, "5")
	l.apply(t, file)
	l.rate(t, "7")
	l.undo(t, l.id(t, file))
	l.rate(t, "5")
}
