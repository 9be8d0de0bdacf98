package engine

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

func TestReadUpdates(t *testing.T) {
	root := t.TempDir()
	write := func(id string, files map[string]string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(root, id), 0o755); err != nil {
			t.Fatal(err)
		}
		for n, s := range files {
			if err := os.WriteFile(filepath.Join(root, id, n), []byte(s), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	common := map[string]string{"stage": "applied\n", "description": "a fix\n", "abort_cause": "\n", "applied_at": "100\n", "sequence": "2\n",
		"pause_ns": "310000\n", "parts": "ksplice_0123abcd_vmlinux\n", "stays_mapped": "0\n",
		"changes": "ffffffff81000010 64 ffffffffc0001000 9 jump ffffffff81000010 f ksplice_0123abcd_vmlinux\n" +
			"ffffffff82000010 4 0 0 data ffffffff82000010 ops.limit ksplice_0123abcd_vmlinux 0a000000\n"}
	write("0123abcd", common)
	early := map[string]string{}
	for k, v := range common {
		early[k] = v
	}
	early["sequence"], early["changes"] = "1\n", ""
	write("f0000001", early) // in the same second, and later in the directory
	got, err := readUpdates(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []Applied{
		{ID: "f0000001", Stage: "applied", Description: "a fix", Since: time.Unix(100, 0), Sequence: 1, Pause: 310000, Parts: []string{"ksplice_0123abcd_vmlinux"}},
		{ID: "0123abcd", Stage: "applied", Description: "a fix", Since: time.Unix(100, 0), Sequence: 2, Pause: 310000, Parts: []string{"ksplice_0123abcd_vmlinux"},
			Functions: []Change{{Name: "f", Kind: "jump", Part: "ksplice_0123abcd_vmlinux", Address: 0xffffffff81000010,
				Code: 0xffffffff81000010, Replacement: 0xffffffffc0001000, Size: 64, Window: 9}},
			Data: []Change{{Name: "ops.limit", Kind: "data", Part: "ksplice_0123abcd_vmlinux", Address: 0xffffffff82000010,
				Code: 0xffffffff82000010, Size: 4, Old: []byte{10, 0, 0, 0}}}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("readUpdates (-want +got):\n%s", d)
	}
	early["changes"] = "garbage\n"
	write("00000002", early)
	if _, err := readUpdates(root); err == nil {
		t.Error("a line of garbage in changes was accepted")
	}
}

func TestOrphans(t *testing.T) {
	modules := "ksplice 200 1 - Live 0x0\nksplice_0123abcd_vmlinux 1 1 - Live 0x0\nksplice_0123abcd_x 1 1 - Live 0x0\nksplice_ffffffff_x 1 0 - Live 0x0\nksplice_test 1 0 - Live 0x0\n"
	got := orphans(modules, []Applied{{ID: "0123abcd", Stage: "applied", Parts: []string{"ksplice_0123abcd_vmlinux"}}, {ID: "ffffffff", Stage: "undone", StaysMapped: true, Parts: []string{"ksplice_ffffffff_x"}}})
	if d := cmp.Diff([]string{"ksplice_0123abcd_x"}, got); d != "" {
		t.Errorf("orphans (-want +got):\n%s", d)
	}
}

func TestConflicts(t *testing.T) {
	got := parseConflicts("12 ep_poll ffffffff81000010 my shell\n13 x zz y\n14\n15 n_tty_read ffffffff81000020 bash\n16 pipe_read ffffffff810000")
	want := []Conflict{{PID: 12, Function: "ep_poll", Address: 0xffffffff81000010, Command: "my shell"},
		{PID: 15, Function: "n_tty_read", Address: 0xffffffff81000020, Command: "bash"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("parseConflicts (-want +got):\n%s", d)
	}
}

func TestPartName(t *testing.T) {
	if got, want := PartName("0123abcd", "snd-hda-intel"), "ksplice_0123abcd_snd_hda_intel"; got != want {
		t.Errorf("PartName = %q, want %q", got, want)
	}
	if got := PartName("0123abcd", "a_very_long_module_name_that_goes_on_and_on_and_on_and_on"); len(got) != 55 {
		t.Errorf("PartName is %d characters, want 55", len(got))
	}
}

// TestLayout holds the Go structures against the sizes that the C compiler gives those of kmod/ksplice_uapi.h.
func TestLayout(t *testing.T) {
	for _, c := range []struct {
		name string
		got  uintptr
		want uintptr
	}{
		{"info", unsafe.Sizeof(infoC{}), 48}, {"range", unsafe.Sizeof(rangeC{}), 32}, {"list", unsafe.Sizeof(listC{}), 16},
		{"begin", unsafe.Sizeof(beginC{}), 72}, {"window", unsafe.Sizeof(windowC{}), 32}, {"commit", unsafe.Sizeof(commitC{}), 24},
		{"result", unsafe.Sizeof(resultC{}), 296}, {"conflict", unsafe.Sizeof(conflictC{}), 160}, {"freeze", unsafe.Sizeof(freezeC{}), 8},
		{"also", unsafe.Sizeof(alsoC{}), 64}, {"carry", unsafe.Sizeof(carryC{}), 24}, {"arm", unsafe.Sizeof(armC{}), 408}, {"arrived", unsafe.Sizeof(arrivedC{}), 392},
	} {
		if c.got != c.want {
			t.Errorf("size of %s = %d, want %d", c.name, c.got, c.want)
		}
	}
}

// FuzzParseChange reads what the kernel module would never write: an error, or a change that says the same again.
func FuzzParseChange(f *testing.F) {
	f.Add("ffffffff81000000 120 ffffffffc0000000 5 jump ffffffff81000004 uptime_proc_show ksplice_1_vmlinux\n")
	f.Add("0 0 0 0 0 0 0")
	f.Add("-1 x 0 0 jump 0 a b")
	f.Add("10 64 20 5 jump 10 f ksplice_1_vmlinux 0f1f440000")
	f.Add("10 64 20 5 ftrace 10 f ksplice_1_vmlinux -")
	f.Fuzz(func(t *testing.T, line string) {
		c, err := parseChange(line)
		if err != nil {
			return
		}
		old := "-"
		if len(c.Old) > 0 {
			old = hex.EncodeToString(c.Old)
		}
		again, err := parseChange(fmt.Sprintf("%x %d %x %d %s %x %s %s %s", c.Code, c.Size, c.Replacement, c.Window, c.Kind, c.Address, c.Name, c.Part, old))
		if err != nil || !cmp.Equal(again, c) {
			t.Errorf("parseChange(%q) = %+v, then %+v, %v", line, c, again, err)
		}
	})
}

func TestParseArmed(t *testing.T) {
	got, err := parseArmed("0123abcd dummy live 10000 0 waits for the module\n0123abcd nf_tables init-or-refuse 2500 77 applied\n")
	want := []Armed{{ID: "0123abcd", Module: "dummy", When: WhenLive, Wait: 10 * time.Second, State: "waits for the module"},
		{ID: "0123abcd", Module: "nf_tables", When: WhenInitOrRefuse, Wait: 2500 * time.Millisecond, Live: true, State: "applied"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("parseArmed: %v (-want +got):\n%s", err, d)
	}
	for _, bad := range []string{"0123abcd dummy live 10000 0\n", "0123abcd dummy live x 0 s\n", "0123abcd dummy live 1 -1 s\n"} {
		if _, err := parseArmed(bad); err == nil {
			t.Errorf("parseArmed(%q): no error", bad)
		}
	}
}

func TestUpdateID(t *testing.T) {
	if got := UpdateID(LateID("0123abcd", "dummy")); got != "0123abcd" {
		t.Errorf("UpdateID = %q", got)
	}
	if got := UpdateID("0123abcd"); got != "0123abcd" {
		t.Errorf("UpdateID = %q", got)
	}
}
