package kernel

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const kallsymsText = "0000000000000000 A __per_cpu_start\n" +
	"0000000000035000 A __per_cpu_end\n" +
	"ffffffff81000000 T _text\n" +
	"ffffffff81000010 t twice\n" +
	"ffffffff81000010 t alias\n" +
	"ffffffff81000040 t twice\n" +
	"ffffffff82000000 B _end\n" +
	"ffffffff81000010 u alias\t[mod_a]\n" + // its init has not run yet
	"ffffffffc0100000 t twice\t[mod_a]\n" +
	"ffffffffc0100080 d __this_module\t[mod_a]\n" +
	"ffffffffc0002000 t bpf_prog_6deef7357e7b4530\t[bpf]\n"

func TestSymbols(t *testing.T) {
	s, err := parseKallsyms(kallsymsText)
	if err != nil {
		t.Fatal(err)
	}
	k := &Kernel{Symbols: s, Modules: map[string]Module{"mod_a": {Name: "mod_a",
		Ranges: []Range{{0xffffffffc0100000, 0xffffffffc0101000}}}}}
	k.setRanges()
	if s.Len() != 10 {
		t.Errorf("Len = %d, want 10", s.Len())
	}
	names := func(list []Symbol) string {
		var out []string
		for _, y := range list {
			out = append(out, strings.TrimPrefix(y.Module+":"+y.Name, ":"))
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ what, got, want string }{
		{"Lookup(twice)", names(s.Lookup("twice")), "twice twice mod_a:twice"},
		{"LookupIn(,twice)", names(s.LookupIn("", "twice")), "twice twice"},
		{"LookupIn(mod_a,twice)", names(s.LookupIn("mod_a", "twice")), "mod_a:twice"},
		{"LookupIn(mod_a,alias)", names(s.LookupIn("mod_a", "alias")), ""},
		{"Lookup(none)", names(s.Lookup("none")), ""},
		{"At", names(s.At(0xffffffff81000010)), "twice alias"},
		{"At+1", names(s.At(0xffffffff81000011)), ""},
	} {
		if c.got != c.want {
			t.Errorf("%s = %q, want %q", c.what, c.got, c.want)
		}
	}
	for _, c := range []struct {
		address uint64
		name    string
		offset  uint64
		ok      bool
	}{
		{0x20, "__per_cpu_start", 0x20, true},
		{0x40000, "", 0, false},
		{0x7fff12345678, "", 0, false},
		{0xffffffff81000013, "twice", 3, true},
		{0xffffffff81ffffff, "twice", 0xffffbf, true},
		{0xffffffff82000000, "_end", 0, true},
		{0xffffffff82000001, "", 0, false},
		{0xffffffffc0002010, "bpf_prog_6deef7357e7b4530", 0x10, true},
		{0xffffffffc01000ff, "__this_module", 0x7f, true},
		{0xffffffffc0101000, "", 0, false},
		{^uint64(0), "", 0, false},
	} {
		y, offset, ok := s.Covering(c.address)
		if ok != c.ok || ok && (y.Name != c.name || offset != c.offset) {
			t.Errorf("Covering(%#x) = %s+%#x, %v; want %s+%#x, %v", c.address, y.Name, offset, ok, c.name, c.offset, c.ok)
		}
	}
	if m, ok := k.Owner(0xffffffffc0100fff); m != "mod_a" || !ok {
		t.Errorf("Owner = %q, %v", m, ok)
	}
	if m, ok := k.Owner(0xffffffff81000010); ok {
		t.Errorf("Owner of the kernel proper = %q", m)
	}
}

func TestParseKallsymsRefused(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{"", ErrFormat},
		{"0000000000000000 T _text\n0000000000000000 t f\t[m]\n", ErrHidden},
		{"ffffffff81000000 T\n", ErrFormat},
		{"ffffffff81000000  _text\n", ErrFormat},
		{"xyz T _text\n", ErrFormat},
		{"ffffffff81000000 T _text\tm\n", ErrFormat},
		{"\n", ErrFormat},
	} {
		if _, err := parseKallsyms(c.text); !errors.Is(err, c.want) {
			t.Errorf("parseKallsyms(%q): %v, want %v", c.text, err, c.want)
		}
	}
}

func FuzzParseKallsyms(f *testing.F) {
	f.Add(kallsymsText)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseKallsyms(text)
		if err != nil {
			return
		}
		for i, y := range s.All() {
			if i > 0 && s.All()[i-1].Address > y.Address {
				t.Fatalf("symbol %d is out of order", i)
			}
			if len(s.LookupIn(y.Module, y.Name)) == 0 || len(s.At(y.Address)) == 0 {
				t.Fatalf("%+v is not found", y)
			}
		}
	})
}

const modulesText = "mod_a 16384 1 mod_b, Live 0xffffffffc0100000\n" +
	"mod_b 20480 0 - Live 0xffffffffc0200000 (OE)\n" +
	"tables 28672 1 mod_a, Live 0x0000000000000000\n" +
	"coming 4096 1 - Loading 0xffffffffc0300000\n"

func TestParseModules(t *testing.T) {
	got, err := parseModules(modulesText, "")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Module{
		"mod_a":  {Name: "mod_a", Base: 0xffffffffc0100000, Size: 16384, Ranges: []Range{{0xffffffffc0100000, 0xffffffffc0104000}}},
		"tables": {Name: "tables", Size: 28672},
		"mod_b":  {Name: "mod_b", Base: 0xffffffffc0200000, Size: 20480, Ranges: []Range{{0xffffffffc0200000, 0xffffffffc0205000}}},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(Module{})); d != "" {
		t.Errorf("parseModules (-want +got):\n%s", d)
	}
	for _, c := range []struct {
		text string
		want error
	}{
		{"m 16384 0 - Live 0x0000000000000000\n", ErrHidden},
		{"m 16384 0 - Live\n", ErrFormat},
		{"m 16384 0 - Live ffffffffc0100000\n", ErrFormat},
	} {
		if _, err := parseModules(c.text, ""); !errors.Is(err, c.want) {
			t.Errorf("parseModules(%q): %v, want %v", c.text, err, c.want)
		}
	}
}

func FuzzParseModules(f *testing.F) {
	f.Add(modulesText)
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseModules(text, "")
		for name, m := range list {
			if err == nil && (m.Name != name || (m.Base == 0) != (m.Ranges == nil)) {
				t.Errorf("%q: %+v", name, m)
			}
		}
	})
}

func TestParseKprobes(t *testing.T) {
	got, err := parseKprobes("ffffffff81000040  r  twice+0x0    [DISABLED][FTRACE]\nffffffff81000010  k  alias+0x4  \n" +
		"ffffffffc0100000  k  twice+0x0  mod_a [GONE]\n")
	if d := cmp.Diff([]uint64{0xffffffff81000010, 0xffffffff81000040}, got); d != "" || err != nil {
		t.Errorf("parseKprobes: %v (-want +got):\n%s", err, d)
	}
	if _, err := parseKprobes("0000000000000000  k  alias+0x4  \n"); !errors.Is(err, ErrHidden) {
		t.Errorf("hidden address: %v", err)
	}
	if _, err := parseKprobes("no address\n"); !errors.Is(err, ErrFormat) {
		t.Errorf("no address: %v", err)
	}
}

func TestParseBanner(t *testing.T) {
	r, v, err := parseBanner("Linux version 6.1.0-56-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, " +
		"GNU ld (GNU Binutils for Debian) 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)\n")
	if r != "6.1.0-56-amd64" || v != "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)" || err != nil {
		t.Errorf("parseBanner = %q, %q, %v", r, v, err)
	}
	for _, s := range []string{"", "Linux version 6.1", "Linux version 6.1 (a@b) gcc #1\n", "Linux version 6.1 (a@b (c) #1\n", "Minix"} {
		if r, v, err := parseBanner(s); !errors.Is(err, ErrFormat) {
			t.Errorf("parseBanner(%q) = %q, %q, %v", s, r, v, err)
		}
	}
}

// elfNote makes a note.
func elfNote(name string, typ uint32, desc string) []byte {
	pad := func(s string) string { return s + strings.Repeat("\x00", -len(s)&3) }
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(name)+1))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(desc)))
	b = binary.LittleEndian.AppendUint32(b, typ)
	return append(b, pad(name+"\x00")+pad(desc)...)
}

func TestNotes(t *testing.T) {
	b := append(elfNote("Xen", 6, "linux"), elfNote("GNU", 3, "\x01\x02\xfe")...)
	list, err := notes(b, binary.LittleEndian)
	if err != nil || len(list) != 2 || list[0].name != "Xen" || string(list[0].desc) != "linux" {
		t.Errorf("notes = %+v, %v", list, err)
	}
	if got := buildID(list); got != "0102fe" {
		t.Errorf("buildID = %q", got)
	}
	if _, err := notes(b[:len(b)-5], binary.LittleEndian); !errors.Is(err, ErrFormat) {
		t.Errorf("cut note: %v", err)
	}
}

func FuzzNotes(f *testing.F) {
	f.Add(append(elfNote("Xen", 6, "linux"), elfNote("GNU", 3, "\x01\x02\xfe")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := notes(b, binary.LittleEndian); err == nil {
			buildID(list)
		}
	})
}

// FuzzParseKprobes wants sorted addresses, none of them 0, or an error that says why.
func FuzzParseKprobes(f *testing.F) {
	f.Add("ffffffff81000040  r  twice+0x0    [DISABLED][FTRACE]\nffffffff81000010  k  alias+0x4  \n")
	f.Add("0  k  a\n")
	f.Add("ffffffffc0000000  k  a+0x4 m [GONE]\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseKprobes(text)
		if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrHidden) {
			t.Errorf("parseKprobes(%q): %v", text, err)
		}
		if !slices.IsSorted(list) || slices.Contains(list, 0) {
			t.Errorf("parseKprobes(%q) = %#x", text, list)
		}
	})
}
