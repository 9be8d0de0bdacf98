package decode

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// TestDecode has what x86asm gets wrong or does not know, and one of each class.
func TestDecode(t *testing.T) {
	for _, x := range []struct {
		code  string // of one instruction
		class Class
		name  string // begins the text
		pcrel int    // offset of the pc-relative field, 0: none
	}{
		{"f3 0f 1e fa", None, "endbr64", 0},
		{"c5 f8 77", None, "vzeroupper", 0},
		{"c5 fc 77", None, "vzeroall", 0},
		{"0f 01 cb", None, "stac", 0},
		{"0f 01 ca", None, "clac", 0},
		{"66 0f ae 30", None, "clwb", 0},
		{"66 0f ae 38", None, "clflushopt", 0},
		{"f3 0f c7 f8", None, "rdpid", 0},
		{"0f 01 e8", None, "serialize", 0},
		{"0f 01 c2", None, "vmlaunch", 0},
		{"c5 f9 6f 05 11 22 33 44", None, "", 4},
		{"62 f1 7c 48 10 05 11 22 33 44", None, "", 6},
		{"48 8b 05 11 22 33 44", None, "mov", 3},
		{"c7 05 11 22 33 44 01 00 00 00", None, "mov", 2},
		{"65 48 c1 3d 11 22 33 44 05", None, "sar", 4},
		{"48 b8 11 22 33 44 55 66 77 88", None, "mov", 0},
		{"e8 11 22 33 44", Call, "call", 1},
		{"e9 11 22 33 44", Jmp, "jmp", 1},
		{"eb 11", Jmp, "jmp", 1},
		{"75 11", Jcc, "jne", 1},
		{"0f 84 11 22 33 44", Jcc, "je", 2},
		{"e3 11", Jcc, "", 1},
		{"c7 f8 11 22 33 44", Jcc, "xbegin", 2},
		{"c3", Ret, "ret", 0},
		{"48 cf", Ret, "iret", 0},
		{"ff d0", IndirectCall, "call", 0},
		{"ff 15 11 22 33 44", IndirectCall, "call", 2},
		{"41 ff e3", IndirectJmp, "jmp", 0},
		{"cc", Trap, "int", 0},
		{"0f 0b", Trap, "ud2", 0},
		{"0f b9 cc", Trap, "ud1", 0},
	} {
		code, err := hex.DecodeString(strings.ReplaceAll(x.code, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		in, err := Decode(append(code, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc))
		if err != nil {
			t.Errorf("%s: %v", x.code, err)
			continue
		}
		if in.Len != len(code) || in.Class != x.class || !strings.HasPrefix(in.Text(0), x.name) || in.PCRelOff != x.pcrel {
			t.Errorf("%s: %q, length %d, class %d, pc-relative field at %d; want %q, %d, %d, %d", x.code, in.Text(0), in.Len, in.Class, in.PCRelOff,
				x.name, len(code), x.class, x.pcrel)
		}
		for n := range code {
			if in, err := Decode(code[:n]); err == nil && in.Len > n {
				t.Errorf("%s: %d bytes of it have length %d", x.code, n, in.Len)
			}
		}
	}
}

// TestUnknown has bytes that are no instruction, or of whose length processors disagree.
func TestUnknown(t *testing.T) {
	for _, x := range []string{"06", "0f 0a", "66 e9 11 22 33 44", "d6", "48 66 90", "9a 11 22 33 44 55 66", "ff f8", "62"} {
		code, err := hex.DecodeString(strings.ReplaceAll(x, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if in, err := Decode(code); !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrTruncated) {
			t.Errorf("%s: length %d, error %v; want an error", x, in.Len, err)
		}
	}
}

func TestTarget(t *testing.T) {
	for _, x := range []struct {
		code []byte
		want uint64
	}{
		{[]byte{0xeb, 0xfe}, 0x1000}, {[]byte{0xe8, 0xfb, 0xff, 0xff, 0xff}, 0x1000}, {[]byte{0x74, 0x7f}, 0x1081},
		{[]byte{0x0f, 0x85, 0, 1, 0, 0}, 0x1106}, {[]byte{0x90}, 0x1001},
	} {
		in, err := Decode(x.code)
		if err != nil || in.Target(0x1000) != x.want {
			t.Errorf("% x leads to %#x, %v; want %#x", x.code, in.Target(0x1000), err, x.want)
		}
	}
}

func TestIndexed(t *testing.T) {
	for code, want := range map[string]bool{
		"48 8b 04 c5 00 00 00 00":    true,  // mov 0x0(,%rax,8),%rax
		"48 8b 04 25 00 00 00 00":    false, // mov 0x0,%rax
		"65 48 8b 04 25 00 00 00 00": false, // mov %gs:0x0,%rax
		"48 8b 80 00 00 00 00":       true,  // mov 0x0(%rax),%rax
		"48 8b 84 24 78 00 00 00":    true,  // mov 0x78(%rsp),%rax
		"48 8d 04 85 00 00 00 00":    true,  // lea 0x0(,%rax,4),%rax
		"48 8b 05 f9 ff ff ff":       false, // mov -0x7(%rip),%rax
		"48 c7 c0 00 00 00 00":       false, // mov $0x0,%rax
		"48 8b 03":                   false, // mov (%rbx),%rax
		"8f 84 05 00 00 00 00":       true,  // pop 0x0(%rbp,%rax,1)
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(code, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		in, err := Decode(b)
		if err != nil || in.Indexed() != want {
			t.Errorf("%s: %t, %v; want %t", code, in.Indexed(), err, want)
		}
	}
}

// TestText wants displacements as people know them.
func TestText(t *testing.T) {
	for code, want := range map[string]string{
		"48 8b 85 78 ff ff ff":    "mov -0x88(%rbp),%rax",
		"48 8b 45 f8":             "mov -0x8(%rbp),%rax",
		"48 8b 05 f9 ff ff ff":    "mov -0x7(%rip),%rax",
		"48 8b 84 24 78 00 00 00": "mov 0x78(%rsp),%rax",
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(code, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		in, err := Decode(b)
		if err != nil || in.Text(0) != want {
			t.Errorf("%s: %q, %v; want %q", code, in.Text(0), err, want)
		}
	}
}
