package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ksplice/ksplice/core/engine"
)

var le = binary.LittleEndian

// space is memory for tests: pieces by address, writable.
type space map[uint64][]byte

func (s space) ReadMemory(p []byte, address uint64) error {
	for at, b := range s {
		if address >= at && address-at+uint64(len(p)) <= uint64(len(b)) {
			copy(p, b[address-at:])
			return nil
		}
	}
	return errors.New("nothing is there")
}

// jumpEntry makes a struct jump_entry that lies at address at.
func jumpEntry(at, code, key uint64) []byte {
	b := le.AppendUint32(nil, uint32(code-at))
	b = le.AppendUint32(b, 0)
	return le.AppendUint64(b, key-(at+8))
}

// callSite makes a struct static_call_site that lies at address at.
func callSite(at, code, key uint64) []byte {
	return le.AppendUint32(le.AppendUint32(nil, uint32(code-at)), uint32(key-(at+4)))
}

func TestLiveFromFiles(t *testing.T) {
	const text, data, this = 0xffffffffc0100000, 0xffffffffc0200000, 0xffffffffc0200800
	root := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("proc/kallsyms", "0000000000000000 A __per_cpu_start\n0000000000001000 A __per_cpu_end\nffffffff81000000 T _text\n"+
		"ffffffff81000100 D __start___jump_table\nffffffff81000120 D __stop___jump_table\n"+
		"ffffffff81000200 D __start_ro_after_init\nffffffff81000300 D __end_ro_after_init\nffffffff81001000 B _end\n"+
		"ffffffffc0100000 t f\t[mod_a]\nffffffffc0200800 d __this_module\t[mod_a]\n")
	write("proc/modules", "mod_a 8192 0 - Live 0xffffffffc0100000\n")
	write("proc/sys/kernel/osrelease", "6.12.1\n")
	write("proc/sys/kernel/version", "#1 SMP\n")
	write("sys/kernel/notes", string(elfNote("GNU", 3, "\xab\xcd")))
	for name, a := range map[string]string{".text": "0xffffffffc0100000", "__jump_table": "0xffffffffc0200000",
		".static_call_sites": "0xffffffffc0200100", ".data..ro_after_init": "0xffffffffc0200200", ".data": "0xffffffffc0200300"} {
		write("sys/module/mod_a/sections/"+name, a+"\n")
	}
	proper := make([]byte, 0x1000)
	copy(proper[0x100:], jumpEntry(testBase+0x100, testBase+0x10, testBase+0x500|1))
	copy(proper[0x110:], jumpEntry(testBase+0x110, testBase+0x20, testBase+0x510|keyInit))
	module := make([]byte, 0x1000)
	copy(module, jumpEntry(data, text+4, testBase+0x520))
	copy(module[0x10:], jumpEntry(data+0x10, text+8, data+0x600))
	copy(module[0x20:], jumpEntry(data+0x20, text+12, data+0x610|keyInit))
	copy(module[0x100:], callSite(data+0x100, text+0x20, data+0x700|1))
	// struct module: mem[0], mem[1] of 72 bytes each, jump_entries, static_call_sites; the data area begins with the table.
	desc := module[this-data:]
	le.PutUint64(desc[0x80:], text)
	le.PutUint32(desc[0x88:], 0x1000)
	le.PutUint64(desc[0x80+72:], data)
	le.PutUint32(desc[0x88+72:], 0x1000)
	le.PutUint64(desc[0x300:], data)
	le.PutUint32(desc[0x308:], 3)
	le.PutUint32(desc[0x310:], 1)
	le.PutUint64(desc[0x318:], data+0x100)
	memory := space{testBase: proper, text: make([]byte, 0x1000), data: module}

	k, err := liveAt(root, LiveOptions{Memory: memory})
	if err != nil {
		t.Fatal(err)
	}
	if k.Identity.Release != "6.12.1" || k.Identity.Version != "#1 SMP" || k.Identity.BuildID != "abcd" || !k.Booted {
		t.Errorf("identity %+v", k.Identity)
	}
	if d := cmp.Diff([]Range{{text, text + 0x1000}, {data, data + 0x1000}}, k.Modules["mod_a"].Ranges); d != "" {
		t.Errorf("ranges (-want +got):\n%s", d)
	}
	for _, c := range []struct {
		module string
		read   func(string) (map[uint64]uint64, error)
		want   map[uint64]uint64
	}{
		{"", k.JumpKeys, map[uint64]uint64{testBase + 0x10: testBase + 0x500}},
		{"mod_a", k.JumpKeys, map[uint64]uint64{text + 4: testBase + 0x520, text + 8: data + 0x600}},
		{"mod_a", k.StaticCallKeys, map[uint64]uint64{text + 0x20: data + 0x700}},
		{"", k.StaticCallKeys, map[uint64]uint64{}},
	} {
		got, err := c.read(c.module)
		if d := cmp.Diff(c.want, got); d != "" || err != nil {
			t.Errorf("keys of %q: %v (-want +got):\n%s", c.module, err, d)
		}
	}
	if _, err := k.JumpKeys("mod_b"); !errors.Is(err, ErrNoModules) {
		t.Errorf("keys of a module that is not loaded: %v", err)
	}
	coming, err := liveAt(root, LiveOptions{Memory: memory, Coming: "mod_a"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := coming.JumpKeys("mod_a")
	if d := cmp.Diff(map[uint64]uint64{text + 4: testBase + 0x520, text + 8: data + 0x600, text + 12: data + 0x610}, got); d != "" || err != nil {
		t.Errorf("keys of a module whose init has not run: %v (-want +got):\n%s", err, d)
	}
	for a, want := range map[uint64]bool{testBase + 0x200: true, testBase + 0x300: false, data + 0x210: true, data + 0x300: false,
		data + 0x1f8: false, text: false} {
		if got := k.ReadOnlyAfterInit(a); got != want {
			t.Errorf("ReadOnlyAfterInit(%#x) = %v, want %v", a, got, want)
		}
	}
	le.PutUint32(desc[0x308:], 1<<20) // a count that does not fit
	if _, err := k.JumpKeys("mod_a"); !errors.Is(err, ErrFormat) {
		t.Errorf("a table larger than its module: %v", err)
	}
	write("proc/kallsyms", "0000000000000000 T _text\n")
	if _, err := liveAt(root, LiveOptions{Memory: memory}); !errors.Is(err, ErrHidden) {
		t.Errorf("hidden addresses: %v", err)
	}
}

// Since Linux 6.4 a module's address in /proc/modules is its text's: that of nls_ucs2_utils, which holds tables only, is 0.
func TestModuleRangesNoText(t *testing.T) {
	p := make([]byte, 0x400)
	le.PutUint64(p[0x100+72:], 0xffffffffc0100000)
	le.PutUint32(p[0x108+72:], 0x3000)
	le.PutUint64(p[0x100+2*72:], 0xffffffffc0200000)
	le.PutUint32(p[0x108+2*72:], 0x1000)
	want := []Range{{0xffffffffc0100000, 0xffffffffc0103000}, {0xffffffffc0200000, 0xffffffffc0201000}}
	if d := cmp.Diff(want, moduleRanges(p, le, 0, 0x4000)); d != "" {
		t.Errorf("moduleRanges (-want +got):\n%s", d)
	}
	le.PutUint32(p[0x8:], 0x4000) // a zero before a word that happens to be the size
	if d := cmp.Diff(want, moduleRanges(p, le, 0, 0x4000)); d != "" {
		t.Errorf("moduleRanges (-want +got):\n%s", d)
	}
}

// Up to Linux 6.3 /proc/modules counts a module's init, until that has run (kernel/module/procfs.c:m_show).
func TestModuleRangesInit(t *testing.T) {
	p := make([]byte, 0x400)
	le.PutUint64(p[0x100:], 0xffffffffc0100000)
	le.PutUint32(p[0x108:], 0x8000)
	le.PutUint64(p[0x100+80:], 0xffffffffc0300000)
	le.PutUint32(p[0x108+80:], 0x2000)
	le.PutUint64(p[0x100+160:], 1) // whatever comes behind
	le.PutUint32(p[0x108+160:], 7)
	want := []Range{{0xffffffffc0100000, 0xffffffffc0108000}, {0xffffffffc0300000, 0xffffffffc0302000}}
	if d := cmp.Diff(want, moduleRanges(p, le, 0xffffffffc0100000, 0xa000)); d != "" {
		t.Errorf("moduleRanges (-want +got):\n%s", d)
	}
}

func TestModuleRangesOneArea(t *testing.T) {
	p := make([]byte, 0x400)
	le.PutUint64(p[0x100:], 0xffffffffc0100000)
	le.PutUint32(p[0x108:], 0x8000)
	if d := cmp.Diff([]Range{{0xffffffffc0100000, 0xffffffffc0108000}}, moduleRanges(p, le, 0xffffffffc0100000, 0x8000)); d != "" {
		t.Errorf("moduleRanges (-want +got):\n%s", d)
	}
	if r := moduleRanges(p, le, 0xffffffffc0100000, 0x9000); r != nil {
		t.Errorf("moduleRanges with another size = %x", r)
	}
}

func TestLiveTracingFromFiles(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"on/vmlinux/f,1", "on/ext4/g,1", "off/vmlinux/h,1", "off/ext4/i,2"} {
		if err := os.MkdirAll(filepath.Join(root, "sys/kernel/livepatch", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for f, content := range map[string]string{"sys/kernel/livepatch/on/enabled": "1\n", "sys/kernel/livepatch/on/transition": "0\n",
		"sys/kernel/livepatch/off/enabled": "0\n", "sys/kernel/livepatch/off/transition": "0\n",
		"sys/kernel/debug/kprobes/list": "ffffffff81000010  k  f+0x0    [FTRACE]\n"} {
		p := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := LiveTracing(root)
	if err != nil {
		t.Fatal(err)
	}
	want := &Tracing{Kprobes: []uint64{0xffffffff81000010}, Livepatched: []Livepatched{{"", "f"}, {"ext4", "g"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("LiveTracing (-want +got):\n%s", d)
	}
	if got, err := LiveTracing(t.TempDir()); err != nil || len(got.Kprobes)+len(got.Livepatched) != 0 {
		t.Errorf("without debugfs and livepatch: %+v, %v", got, err)
	}
}

func TestRedirects(t *testing.T) {
	change := func(name string, address, code, replacement uint64, part string) engine.Change {
		return engine.Change{Name: name, Address: address, Code: code, Replacement: replacement, Part: part}
	}
	got := redirects([]engine.Applied{
		{ID: "1", Stage: "applied", Functions: []engine.Change{change("f", 1, 1, 100, "p1"), change("g", 2, 2, 200, "p1")}},
		{ID: "2", Stage: "undone", Functions: []engine.Change{change("g", 2, 200, 250, "p2")}},
		{ID: "3", Stage: "applied", Functions: []engine.Change{change("f", 1, 100, 300, "p3")}},
	})
	want := []Redirect{{Code: 1, Replacement: 300, ID: "3", Part: "p3", Name: "f"}, {Code: 2, Replacement: 200, ID: "1", Part: "p1", Name: "g"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("redirects (-want +got):\n%s", d)
	}
}

func TestPageTables(t *testing.T) {
	physical := make([]byte, 0x600000)
	entry := func(table uint64, index int, value uint64) { le.PutUint64(physical[table+8*uint64(index):], value) }
	entry(0x1000, 511, 0x2000|pagePresent)
	entry(0x2000, 510, 0x3000|pagePresent)
	entry(0x3000, 8, 0x400000|pagePresent|pageLarge) // ffffffff81000000, 2 MiB
	entry(0x3000, 9, 0x4000|pagePresent)             // ffffffff81200000
	entry(0x4000, 3, 0x5000|pagePresent|1<<63|1<<47) // not executable, encrypted
	copy(physical[0x400123:], "large")
	copy(physical[0x5ffc:], "end")
	info := parseVmcoreinfo("SYMBOL(init_top_pgt)=ffffffff80001000\nNUMBER(phys_base)=0\nNUMBER(sme_mask)=140737488355328\n")
	c := &coreFile{machine: 62, virtual: newSegments(nil, nil),
		physical: newSegments(bytes.NewReader(physical), []segment{{address: 0, filesz: 0x600000, memsz: 0x600000}})}
	m, err := c.memory(info)
	if err != nil {
		t.Fatal(err)
	}
	for a, want := range map[uint64]string{0xffffffff81000123: "large", 0xffffffff81203ffc: "end"} {
		got := make([]byte, len(want))
		if err := m.ReadMemory(got, a); err != nil || string(got) != want {
			t.Errorf("%#x: %q, %v; want %q", a, got, err, want)
		}
	}
	for _, a := range []uint64{0xffffffff81203ffe, 0xffffffffc0000000, 0xffff888000000000} {
		if err := m.ReadMemory(make([]byte, 4), a); err == nil || !strings.Contains(err.Error(), "nothing is mapped there") {
			t.Errorf("%#x: %v", a, err)
		}
	}
	c.machine = 183 // AArch64
	if _, err := c.memory(info); err == nil || !strings.Contains(err.Error(), "page tables") {
		t.Errorf("another machine: %v", err)
	}
}

// smallBTF describes struct module {int state (offset 0); list (8)}.
func smallBTF() []byte {
	strings := "\x00module\x00state\x00list\x00"
	word := func(v ...uint32) (b []byte) {
		for _, x := range v {
			b = le.AppendUint32(b, x)
		}
		return b
	}
	types := append(word(0, 1<<24, 4, 32), word(1, btfStruct<<24|2, 24, 8, 1, 0, 14, 1, 64)...)
	b := append([]byte{0x9f, 0xeb, 1, 0}, word(24, 0, uint32(len(types)), uint32(len(types)), uint32(len(strings)))...)
	return append(append(b, types...), strings...)
}

func TestBTF(t *testing.T) {
	b, err := readBTF(smallBTF(), le)
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.structs("module", "other")
	if err != nil {
		t.Fatal(err)
	}
	if m := s["module"]; m.size != 24 || m.members["state"] != 0 || m.members["list"] != 8 || len(m.members) != 2 {
		t.Errorf("struct module is %+v", m)
	}
	if s["other"].size != 0 {
		t.Errorf("struct other is %+v", s["other"])
	}
}

func FuzzBTF(f *testing.F) {
	f.Add(smallBTF())
	f.Fuzz(func(t *testing.T, p []byte) {
		if b, err := readBTF(p, le); err == nil {
			b.structs("module")
		}
	})
}

func FuzzCore(f *testing.F) {
	f.Add(smallCore())
	f.Fuzz(func(t *testing.T, p []byte) {
		if k, err := coreOf(bytes.NewReader(p)); err == nil && k.Symbols.Len() == 0 {
			t.Error("a core without symbols")
		}
		imageOf(bytes.NewReader(p))
	})
}

// smallCore is an ELF core with a note and one segment, not enough to be a kernel's.
func smallCore() []byte {
	note := elfNote("VMCOREINFO", 0, "OSRELEASE=6.1\nSYMBOL(kallsyms_names)=ffffffff81000000\n")
	b := make([]byte, 64+2*56)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 4)
	le.PutUint16(b[18:], 62)
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 2)
	program := func(at int, typ uint32, offset, vaddr, paddr, size uint64) {
		le.PutUint32(b[at:], typ)
		for i, v := range []uint64{offset, vaddr, paddr, size, size} {
			le.PutUint64(b[at+8+8*i:], v)
		}
	}
	program(64, 4, uint64(len(b)), 0, 0, uint64(len(note)))
	program(120, 1, uint64(len(b)+len(note)), testBase, 0x1000000, 16)
	return append(append(b, note...), make([]byte, 16)...)
}

func TestIsCore(t *testing.T) {
	dir := t.TempDir()
	image := smallCore()
	image[16] = 2
	for name, c := range map[string]struct {
		content []byte
		want    bool
	}{"core": {smallCore(), true}, "image": {image, false}, "short": {[]byte("x"), false}, "bz": {bzImage(nil), false}} {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, c.content, 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := IsCore(p); got != c.want || err != nil {
			t.Errorf("IsCore(%s) = %v, %v", name, got, err)
		}
	}
	if _, err := Core(filepath.Join(dir, "core")); err == nil || !strings.Contains(err.Error(), "VMCOREINFO has no") {
		t.Errorf("Core of too little: %v", err)
	}
	if _, err := Image(filepath.Join(dir, "core")); !errors.Is(err, ErrFormat) {
		t.Errorf("Image of a core: %v", err)
	}
	if _, err := IsCore(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("IsCore of nothing: %v", err)
	}
}
