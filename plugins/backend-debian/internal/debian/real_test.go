package debian

import (
	"bytes"
	"context"
	"debug/elf"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ksplice/ksplice/plugins/internal/apt"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/backend"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// The tests in this file take real packages from the machine's package sources: KSPLICE_TEST_KERNEL=1 asks for them.
// KSPLICE_TEST_CACHE is where trees are kept between runs, KSPLICE_TEST_RELEASES the kernels to take instead of the newest of
// each series.

func needKernel(t *testing.T) {
	t.Helper()
	if os.Getenv("KSPLICE_TEST_KERNEL") != "1" {
		t.Skip("SKIPPED: needs Debian's package sources and a compiler; set KSPLICE_TEST_KERNEL=1")
	}
	if err := (&Backend{}).Health(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func testCache(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("KSPLICE_TEST_CACHE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "ksplice")
	}
	return filepath.Join(dir, "backends", "debian")
}

// releases finds the newest kernel of each series that the archive has.
func releases(t *testing.T) []string {
	t.Helper()
	if s := os.Getenv("KSPLICE_TEST_RELEASES"); s != "" {
		return strings.Fields(s)
	}
	out, err := exec.Command("apt-cache", "--names-only", "search", `^linux-headers-[0-9].*-amd64$`).Output()
	if err != nil {
		t.Fatalf("apt-cache search: %v", err)
	}
	newest := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^linux-headers-((6\.\d+)\.[0-9][^ ]*-amd64) `).FindAllStringSubmatch(string(out), -1) {
		release, s := m[1], m[2]
		if !supported[s] || strings.Contains(release, "-rt-") || strings.Contains(release, "-cloud-") {
			continue
		}
		if have := newest[s]; have == "" || apt.Newer(release, have) {
			newest[s] = release
		}
	}
	if len(newest) == 0 {
		t.Fatal("the package sources have no linux-headers package: run `apt-get update`")
	}
	return slices.Sorted(maps.Values(newest))
}

func prepare(t *testing.T, release string) (*Backend, *backend.Tree) {
	t.Helper()
	b := &Backend{}
	start := time.Now()
	tree, err := b.Prepare(t.Context(), &backend.PrepareRequest{Release: release, CacheDir: testCache(t)}, logProgress(t))
	if err != nil {
		t.Fatalf("Prepare(%s) = %v", release, err)
	}
	t.Logf("Prepare(%s) in %s: %s, reused %t", release, time.Since(start).Round(time.Millisecond), tree.Banner, tree.Reused)
	return b, tree
}

func logProgress(t *testing.T) plugin.ProgressFunc {
	last := ""
	return func(p plugin.Progress) {
		if p.Stage != last {
			last = p.Stage
			t.Logf("%s: %s", p.Stage, p.Message)
		}
	}
}

// workTree makes a work tree the way a host does.
func workTree(t *testing.T, tree *backend.Tree) string {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(tree.Root), ".test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	work := filepath.Join(dir, "root")
	if out, err := exec.Command("cp", "-al", tree.Root, work).CombinedOutput(); err != nil {
		t.Fatalf("cp -al: %v: %s", err, out)
	}
	return work
}

// testUnits are of every kind: in the kernel proper, in its library, a module of one object, one of several, assembly.
var testUnits = []struct{ source, module string }{
	{"kernel/sched/core.c", ""},
	{"lib/string_helpers.c", ""},
	{"fs/namei.c", ""},
	{"net/sched/sch_qfq.c", "sch_qfq"},
	{"fs/ext4/inode.c", "ext4"},
	{"arch/x86/lib/copy_user_64.S", ""},
	// Their directory hangs on drivers/Makefile, not on that of drivers/block.
	{"drivers/block/aoe/aoechr.c", "aoe"},
	{"drivers/block/aoe/aoecmd.c", "aoe"},
	{"drivers/block/aoe/aoenet.c", "aoe"},
}

func TestRealTree(t *testing.T) {
	needKernel(t)
	for _, release := range releases(t) {
		t.Run(release, func(t *testing.T) {
			b, tree := prepare(t, release)
			_, again := prepare(t, release)
			if !again.Reused || again.ID != tree.ID {
				t.Errorf("a second Prepare gives tree %s, reused %t; the first %s", again.ID, again.Reused, tree.ID)
			}
			t.Run("units", func(t *testing.T) { realUnits(t, b, tree) })
			t.Run("compile", func(t *testing.T) { realCompile(t, b, tree) })
			t.Run("facts", func(t *testing.T) { realFacts(t, b, tree) })
			t.Run("link", func(t *testing.T) { realLink(t, b, tree) })
		})
	}
}

func realUnits(t *testing.T, b *Backend, tree *backend.Tree) {
	units := func(sources ...string) []backend.Unit {
		resp, err := b.Units(t.Context(), &backend.UnitsRequest{Tree: tree, Sources: sources})
		if err != nil {
			t.Fatalf("Units(%v) = %v", sources, err)
		}
		return resp.Units
	}
	for _, u := range testUnits {
		want := []backend.Unit{{Source: u.source, Object: strings.TrimSuffix(strings.TrimSuffix(u.source, ".c"), ".S") + ".o", Module: u.module}}
		if got := units(u.source); !slices.Equal(got, want) {
			t.Errorf("Units(%s) = %v, want %v", u.source, got, want)
		}
	}
	if got := units("arch/arm64/kernel/setup.c", "drivers/none/such.c"); len(got) != 0 {
		t.Errorf("Units of files that are not built = %v, want none", got)
	}
	start := time.Now()
	ext4 := units("fs/ext4/ext4.h")
	t.Logf("fs/ext4/ext4.h: %d units in %s", len(ext4), time.Since(start).Round(time.Millisecond))
	if !slices.ContainsFunc(ext4, func(u backend.Unit) bool { return u.Source == "fs/ext4/inode.c" }) {
		t.Errorf("the units that include fs/ext4/ext4.h lack fs/ext4/inode.c")
	}
	// drm/xe compiles sources of drm/i915 as its own (drivers/gpu/drm/xe/Makefile, from 6.8 on).
	const shared = "drivers/gpu/drm/i915/display/intel_alpm.c"
	if got := units(shared); len(got) > 0 {
		want := []backend.Unit{{Source: shared, Object: "drivers/gpu/drm/i915/display/intel_alpm.o", Module: "i915"},
			{Source: shared, Object: "drivers/gpu/drm/xe/i915-display/intel_alpm.o", Module: "xe"}}
		if !slices.Equal(got, want) {
			t.Errorf("Units(%s) = %v, want %v", shared, got, want)
		}
		if o := compileIn(t, b, tree, got); bytes.Equal(o[0], o[1]) {
			t.Errorf("the objects of i915 and of xe are the same")
		}
	}
	start = time.Now()
	resp, err := b.Units(t.Context(), &backend.UnitsRequest{Tree: tree, All: true})
	if err != nil {
		t.Fatalf("Units(all) = %v", err)
	}
	t.Logf("all: %d units in %s", len(resp.Units), time.Since(start).Round(time.Millisecond))
	if n := len(units("include/linux/list.h")); n < len(resp.Units)/2 {
		t.Errorf("include/linux/list.h reaches %d of %d units", n, len(resp.Units))
	}
}

// compileIn compiles the test units in a work tree made for it and returns their objects' bytes.
func compileIn(t *testing.T, b *Backend, tree *backend.Tree, units []backend.Unit) [][]byte {
	t.Helper()
	work := workTree(t, tree)
	resp, err := b.Compile(t.Context(), &backend.CompileRequest{Tree: tree, WorkDir: work, Units: units,
		ExtraFlags: []string{"-ffunction-sections", "-fdata-sections"}}, logProgress(t))
	if err != nil {
		t.Fatalf("Compile = %v", err)
	}
	var objects [][]byte
	for _, r := range resp.Results {
		if r.Object == "" {
			t.Fatalf("%s does not compile: %v", r.Unit.Source, r.Diagnostics)
		}
		t.Logf("%s: %s, %d files read", r.Unit.Source, time.Duration(r.Nanoseconds).Round(time.Millisecond), len(r.Includes))
		if !slices.Contains(r.Includes, r.Unit.Source) {
			t.Errorf("%s: the compiler did not read it", r.Unit.Source)
		}
		o, err := os.ReadFile(r.Object)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(o, []byte(filepath.Dir(work))) {
			t.Errorf("%s: the object names the work tree", r.Unit.Source)
		}
		objects = append(objects, o)
	}
	return objects
}

func realCompile(t *testing.T, b *Backend, tree *backend.Tree) {
	resp, err := b.Units(t.Context(), &backend.UnitsRequest{Tree: tree, Sources: sources()})
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(tree.Config)
	if err != nil {
		t.Fatal(err)
	}
	first := compileIn(t, b, tree, resp.Units)
	second := compileIn(t, b, tree, resp.Units) // commands are remembered now
	for i, u := range resp.Units {
		if !bytes.Equal(first[i], second[i]) {
			t.Errorf("%s: two compiles in two work trees give different objects", u.Source)
		}
		f, err := elf.NewFile(bytes.NewReader(first[i]))
		if err != nil {
			t.Fatal(err)
		}
		want := []string{".debug_info"}
		if strings.HasSuffix(u.Source, ".c") {
			want = append(want, ".orc_unwind_ip", ".return_sites")
			if bytes.Contains(config, []byte("CONFIG_CALL_DEPTH_TRACKING=y")) {
				want = append(want, ".call_sites")
			}
			// Only objtool --link makes it, where there is something to seal.
			if u.Source == "kernel/sched/core.c" && bytes.Contains(config, []byte("CONFIG_X86_KERNEL_IBT=y")) {
				want = append(want, ".ibt_endbr_seal")
			}
		}
		for _, name := range want {
			if f.Section(name) == nil {
				t.Errorf("%s: the object has no section %s", u.Source, name)
			}
		}
		checkStaticBranches(t, u.Source, f)
		// THIS_MODULE is 0 in what is compiled as a part of the kernel proper (include/linux/export.h).
		if u.Source == "drivers/block/aoe/aoechr.c" {
			if y, err := f.Symbols(); err != nil || !slices.ContainsFunc(y, func(y elf.Symbol) bool { return y.Name == "__this_module" }) {
				t.Errorf("%s: it is not compiled as part of a module (%v)", u.Source, err)
			}
		}
	}
}

func sources() (list []string) {
	for _, u := range testUnits {
		list = append(list, u.source)
	}
	return list
}

// checkStaticBranches looks at the sites in __jump_table: objtool has made a nop of exactly those branches whose key's addend has
// bit 1 set (tools/objtool/check.c:handle_jump_alt, arch/x86/include/asm/jump_label.h).
func checkStaticBranches(t *testing.T, name string, f *elf.File) {
	t.Helper()
	rela := f.Section(".rela__jump_table")
	if rela == nil {
		return
	}
	data, err := rela.Data()
	if err != nil {
		t.Fatal(err)
	}
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	nops, jumps := 0, 0
	nop := map[uint64]bool{} // by entry
	for ; len(data) >= 24; data = data[24:] {
		offset, info := f.ByteOrder.Uint64(data), f.ByteOrder.Uint64(data[8:])
		addend := int64(f.ByteOrder.Uint64(data[16:]))
		s := symbols[info>>32-1]
		switch entry := offset / 16; offset % 16 {
		case 8:
			if hacked := addend&2 != 0; hacked != nop[entry] {
				t.Errorf("%s: entry %d of __jump_table: the branch is a nop: %t, the key's bit: %t", name, entry, nop[entry], hacked)
			}
		case 0:
			text := make([]byte, 2)
			if _, err := f.Sections[s.Section].ReadAt(text, int64(s.Value)+addend); err != nil {
				t.Fatal(err)
			}
			switch {
			case text[0] == 0x66 && text[1] == 0x90, text[0] == 0x0f && text[1] == 0x1f:
				nop[entry] = true
				nops++
			case text[0] == 0xeb, text[0] == 0xe9:
				jumps++
			default:
				t.Errorf("%s: a static branch in %s is % x", name, f.Sections[s.Section].Name, text)
			}
		}
	}
	t.Logf("%s: static branches: %d nops, %d jumps", name, nops, jumps)
}

// expressions are of the kind that an architecture plugin asks for.
var expressions = []arch.FactExpression{
	{Name: "jump_entry.size", Includes: []string{"linux/jump_label.h"}, Expression: "sizeof(struct jump_entry)", If: "CONFIG_JUMP_LABEL"},
	{Name: "jump_entry.key", Includes: []string{"linux/jump_label.h"}, Expression: "offsetof(struct jump_entry, key)", If: "CONFIG_JUMP_LABEL"},
	{Name: "alt_instr.size", Includes: []string{"asm/alternative.h"}, Expression: "sizeof(struct alt_instr)"},
	{Name: "bug_entry.size", Includes: []string{"linux/bug.h"}, Expression: "sizeof(struct bug_entry)", If: "CONFIG_GENERIC_BUG"},
	{Name: "orc_entry.size", Includes: []string{"asm/orc_types.h"}, Expression: "sizeof(struct orc_entry)", If: "CONFIG_UNWINDER_ORC"},
	{Name: "exception_table_entry.size", Includes: []string{"linux/extable.h", "asm/extable.h"}, Expression: "sizeof(struct exception_table_entry)"},
	{Name: "zero", Expression: "0"},
	{Name: "negative", Expression: "-5"},
	{Name: "absent", Expression: "nonsense", If: "CONFIG_THERE_IS_NO_SUCH_THING"},
}

func realFacts(t *testing.T, b *Backend, tree *backend.Tree) {
	resp, err := b.Facts(t.Context(), &backend.FactsRequest{Tree: tree, Expressions: expressions, WorkDir: t.TempDir()})
	if err != nil {
		t.Fatalf("Facts = %v", err)
	}
	t.Logf("facts: %v", resp.Facts)
	for name, want := range map[string]int64{"jump_entry.size": 16, "jump_entry.key": 8, "bug_entry.size": 12, "exception_table_entry.size": 12, "zero": 0, "negative": -5} {
		if got, ok := resp.Facts[name]; !ok || got != want {
			t.Errorf("fact %s = %d (there: %t), want %d", name, got, ok, want)
		}
	}
	if v, ok := resp.Facts["absent"]; ok {
		t.Errorf("the fact whose condition is not set is %d", v)
	}
	_, err = b.Facts(t.Context(), &backend.FactsRequest{Tree: tree, WorkDir: t.TempDir(),
		Expressions: []arch.FactExpression{{Name: "wrong.one", Expression: "sizeof(struct no_such_struct)"}}})
	if err == nil || !strings.Contains(err.Error(), "wrong.one") {
		t.Errorf("Facts of a structure that is not there = %v, want an error that names the fact", err)
	}
}

const testGlue = `#include <linux/module.h>
extern int ksplice_slot_0000(void);
extern int extra_answer(void);
static int __init glue_init(void) { return ksplice_slot_0000(); }
static void __exit glue_exit(void) {}
module_init(glue_init);
module_exit(glue_exit);
MODULE_LICENSE("GPL");
`

func realLink(t *testing.T, b *Backend, tree *backend.Tree) {
	dir := t.TempDir()
	extra := filepath.Join(dir, "extra.o")
	asm := ".section .text.extra,\"ax\"\n.globl extra_answer\nextra_answer:\n mov $42, %eax\n ret\n.section .note.GNU-stack,\"\",@progbits\n"
	cmd := exec.Command("as", "-o", extra, "-")
	cmd.Stdin = strings.NewReader(asm)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("as: %v: %s", err, out)
	}
	link := func() []byte {
		resp, err := b.Link(t.Context(), &backend.LinkRequest{Tree: tree, WorkDir: t.TempDir(), Name: "ksplice_test_glue", Objects: []string{extra},
			Glue: map[string]string{"glue.c": testGlue}, Provided: map[string]string{"ksplice_slot_0000": "ksplice"}}, logProgress(t))
		if err != nil {
			t.Fatalf("Link = %v", err)
		}
		for _, d := range resp.Diagnostics {
			t.Logf("diagnostic: %v", d.Error())
		}
		m, err := os.ReadFile(resp.Module)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	start := time.Now()
	first := link()
	t.Logf("linked in %s", time.Since(start).Round(time.Millisecond))
	if !bytes.Equal(first, link()) {
		t.Errorf("two links give different modules")
	}
	f, err := elf.NewFile(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".modinfo", "__versions", ".gnu.linkonce.this_module"} {
		if f.Section(name) == nil {
			t.Errorf("the module has no section %s", name)
		}
	}
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == "extra_answer" && s.Section != elf.SHN_UNDEF }) {
		t.Errorf("the module does not define what the linked object does")
	}
	info, err := f.Section(".modinfo").Data()
	if err != nil || !bytes.Contains(info, []byte("vermagic="+tree.Release+" ")) {
		t.Errorf("the module's information lacks the kernel's release: %q %v", info, err)
	}
	// What nobody provides is an error that names it.
	_, err = b.Link(t.Context(), &backend.LinkRequest{Tree: tree, WorkDir: t.TempDir(), Name: "ksplice_test_glue",
		Glue: map[string]string{"glue.c": testGlue}}, logProgress(t))
	if err == nil || !strings.Contains(err.Error(), "ksplice_slot_0000") {
		t.Errorf("Link of a module with an unknown symbol = %v, want an error that names it", err)
	}
}

func TestRealVersion(t *testing.T) {
	needKernel(t)
	release := releases(t)[0]
	resp, err := (&Backend{}).Probe(context.Background(), &backend.ProbeRequest{Release: release, Version: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.1-1 (2023-01-01)"})
	if err != nil || resp.Supported || !strings.Contains(resp.Reason, "6.1.1-1") {
		t.Errorf("Probe(%s of version 6.1.1-1) = %+v, %v; want a reason that names the version", release, resp, err)
	}
	resp, err = (&Backend{}).Probe(context.Background(), &backend.ProbeRequest{Release: release})
	if err != nil || !resp.Supported {
		t.Errorf("Probe(%s) = %+v, %v; want it supported", release, resp, err)
	}
	t.Logf("%s is %s", release, resp.Banner)
}
