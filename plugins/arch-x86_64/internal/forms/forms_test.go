package forms

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func code(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOneSided covers the forms that depend on run's bytes only.
func TestOneSided(t *testing.T) {
	for _, x := range []struct {
		name   string
		accept func([]byte) (Outcome, bool)
		run    string
		form   string // empty: refused
		target int64  // 0: none
	}{
		{"fentry", Fentry, "0f 1f 44 00 00", "nop", 0},
		{"fentry", Fentry, "e8 10 00 00 00", "call", 0x15},
		{"fentry", Fentry, "e9 10 00 00 00", "", 0},
		{"fentry", Fentry, "cc 1f 44 00 00", "", 0},
		{"fentry", Fentry, "66 90", "", 0},
		{"jump label", JumpLabel, "66 90", "nop", 0},
		{"jump label", JumpLabel, "0f 1f 44 00 00", "nop", 0},
		{"jump label", JumpLabel, "eb fe", "jmp", 0},
		{"jump label", JumpLabel, "eb 7f", "jmp", 0x81},
		{"jump label", JumpLabel, "e9 fb ff ff ff", "jmp", 0},
		{"jump label", JumpLabel, "e9 00 01 00 00", "jmp", 0x105},
		{"jump label", JumpLabel, "90 90", "", 0},
		{"jump label", JumpLabel, "e8 00 00 00 00", "", 0},
		{"return", Return, "c3 cc cc cc cc", "ret", 0},
		{"return", Return, "e9 00 10 00 00", "jmp", 0x1005},
		{"return", Return, "c3 90 90 90 90", "", 0},
		{"return", Return, "e8 00 00 00 00", "", 0},
		{"paravirt", Paravirt, "e8 00 00 00 00 90", "call", 5},
		{"paravirt", Paravirt, "e8 00 00 00 00 66 90", "call", 5},
		{"paravirt", Paravirt, "66 0f 1f 44 00 00", "nop", 0},
		{"paravirt", Paravirt, "ff 15 00 00 00 00", "", 0},
		{"paravirt", Paravirt, "e8 00 00 00 00 c3", "", 0},
		{"direct call", DirectCall, "e8 01 00 00 00 90", "call", 6},
		{"endbr", Endbr, "f3 0f 1e fa", "endbr64", 0},
		{"endbr", Endbr, "66 0f 1f 00", "sealed", 0},
		{"endbr", Endbr, "0f 1f 40 d6", "sealed", 0},
		{"endbr", Endbr, "0f 1f 40 00", "", 0},
		{"lock", SMPLock, "f0", "lock", 0},
		{"lock", SMPLock, "3e", "ds", 0},
		{"lock", SMPLock, "2e", "", 0},
		{"short jump", ShortJump, "eb 05 cc cc cc", "jmp", 7},
		{"short jump", ShortJump, "eb 05 0f 1f 00", "jmp", 7},
		{"short jump", ShortJump, "eb 05 90 90 cc", "", 0},
		{"short jump", ShortJump, "e9 05 00 00 00", "", 0},
	} {
		o, ok := x.accept(code(t, x.run))
		if ok != (x.form != "") || o.Form != x.form || o.HasTarget && o.Target != x.target || !o.HasTarget && x.target != 0 {
			t.Errorf("%s(%s) = %+v, %t, want form %q, target %#x", x.name, x.run, o, ok, x.form, x.target)
		}
	}
}

func TestStaticCall(t *testing.T) {
	const call, jmp, jne = "e8 00 00 00 00", "e9 00 00 00 00", "0f 85 00 00 00 00"
	for _, x := range []struct{ pre, run, form string }{
		{call, "e8 01 02 03 04", "call"},
		{call, "2e 2e 2e 31 c0", "xor"},
		{call, "66 66 48 31 c0", "xor"},
		{call, "0f 1f 44 00 00", "nop"},
		{call, "e9 01 02 03 04", ""},
		{call, "c3 cc cc cc cc", ""},
		{jmp, "e9 01 02 03 04", "jmp"},
		{jmp, "c3 cc cc cc cc", "ret"},
		{jmp, "0f 1f 44 00 00", ""},
		{jne, "0f 85 01 02 03 04", "jcc"},
		{jne, "0f 84 01 02 03 04", ""},
		{jne, "0f 85 01 02 03", ""},
	} {
		o, ok := StaticCall(code(t, x.pre), code(t, x.run))
		if ok != (x.form != "") || o.Form != x.form {
			t.Errorf("StaticCall(%s, %s) = %+v, %t, want %q", x.pre, x.run, o, ok, x.form)
		}
	}
}

func TestStaticTramp(t *testing.T) {
	for _, x := range []struct{ pre, run, form string }{
		{"e9 00 00 00 00", "e9 10 00 00 00", "jmp"},
		{"e9 00 00 00 00", "c3 cc cc cc cc", "ret"},
		{"2e 2e 2e 31 c0", "2e 2e 2e 31 c0", "unchanged"},
		{"e9 00 00 00 00", "e8 10 00 00 00", ""},
		{"e9 00 00 00 00", "e9 10", ""},
	} {
		o, ok := StaticTramp(code(t, x.pre), code(t, x.run))
		if ok != (x.form != "") || o.Form != x.form {
			t.Errorf("StaticTramp(%s, %s) = %+v, %t, want %q", x.pre, x.run, o, ok, x.form)
		}
	}
}

func TestRetpoline(t *testing.T) {
	const rax, r11 = 0, 11
	for _, x := range []struct {
		pre, run string
		reg      int
		form     string
	}{
		{"e8 00 00 00 00", "e8 11 22 33 44", rax, "call"},
		{"e8 00 00 00 00", "ff d0 0f 1f 00", rax, "inline"},
		{"e8 00 00 00 00", "ff d0 90 90 90", rax, "inline"},
		{"e8 00 00 00 00", "0f ae e8 ff d0", rax, "inline"},
		{"e8 00 00 00 00", "ff d1 0f 1f 00", rax, ""}, // another register
		{"e8 00 00 00 00", "ff e0 0f 1f 00", rax, ""}, // a jump for a call
		{"e8 00 00 00 00", "ff d0 cc 66 90", rax, ""}, // int3 behind a call
		{"e8 00 00 00 00", "41 ff d3 66 90", r11, "inline"},
		{"e9 00 00 00 00", "41 ff e3 cc 90", r11, "inline"},
		{"e9 00 00 00 00", "ff e0 cc 66 90", rax, "inline"},
		{"e9 00 00 00 00", "ff e0 0f 1f 00", rax, "inline"},
		{"e9 00 00 00 00", "e9 11 22 33 44", rax, "jmp"},
		{"2e e8 00 00 00 00", "2e e8 11 22 33 44", r11, "call"},
		{"2e e8 00 00 00 00", "0f ae e8 41 ff d3", r11, "inline"},
		{"2e e8 00 00 00 00", "41 ff d3 0f 1f 00", r11, "inline"},
		{"0f 85 00 00 00 00", "74 04 ff e0 cc 90", rax, "inline"},
		{"0f 85 00 00 00 00", "75 04 ff e0 cc 90", rax, ""}, // the condition is not inverted
		{"0f 85 00 00 00 00", "0f 85 11 22 33 44", rax, "jcc"},
		{"e8 00 00 00 00", "ff d0 0f 1f 00", 16, ""},
		{"90 90 90 90 90", "90 90 90 90 90", rax, ""},
	} {
		o, ok := Retpoline(code(t, x.pre), code(t, x.run), x.reg)
		if ok != (x.form != "") || o.Form != x.form {
			t.Errorf("Retpoline(%s, %s, %d) = %+v, %t, want %q", x.pre, x.run, x.reg, o, ok, x.form)
		}
	}
}

func TestRuntimeConst(t *testing.T) {
	const rax, r9 = "48 b8 efcdab8967452301", "49 b9 efcdab8967452301"
	for _, x := range []struct{ pre, run, form string }{
		{rax, "48 b8 0010203040506070", "immediate"},
		{rax, "48 bb 0010203040506070", ""},
		{rax, "48 8b 05 11223344 0f1f00", "load"},
		{rax, "48 8b 0d 11223344 0f1f00", ""},
		{rax, "48 8b 05 11223344 909090", ""},
		{r9, "4c 8b 0d 11223344 0f1f00", "load"},
		{r9, "48 8b 0d 11223344 0f1f00", ""},
		{"0c", "11", "immediate"},
		{"0c", "11 12", ""},
		{"0c0c", "1112", ""},
		{"efcdab8967452301", "0010203040506070", "immediate"},
	} {
		o, ok := RuntimeConst(code(t, x.pre), code(t, x.run))
		if ok != (x.form != "") || ok && o.Form != x.form || o.HasTarget != (x.form == "load") || o.HasTarget && o.Target != 7+0x44332211 {
			t.Errorf("RuntimeConst(%s, %s) = %+v, %t, want %q", x.pre, x.run, o, ok, x.form)
		}
	}
}

func TestNopFill(t *testing.T) {
	for _, x := range []struct {
		code string
		want bool
	}{
		{"", true}, {"90", true}, {"0f 1f 44 00 00 90", true}, {"2e 0f 1f 84 00 00 00 00 00", true},
		{"66 66 2e 0f 1f 84 00 00 00 00 00", true}, {"eb 0a" + strings.Repeat("cc", 10), true},
		{"eb 0b" + strings.Repeat("cc", 10), false}, {"eb 0a" + strings.Repeat("90", 10), false},
		{"e9 80 00 00 00" + strings.Repeat("cc", 128), true}, {"0f 1f", false}, {"f3 90", false}, {"cc", false},
	} {
		if got := NopFill(code(t, x.code)); got != x.want {
			t.Errorf("NopFill(%s) = %t, want %t", x.code, got, x.want)
		}
	}
}

func TestThunks(t *testing.T) {
	if got := ThunkRegister("__x86_indirect_thunk_r15"); got != 15 {
		t.Errorf("register of __x86_indirect_thunk_r15 is %d", got)
	}
	for _, n := range []string{"__x86_indirect_thunk_", "__x86_indirect_thunk_array", "__x86_return_thunk", "rax"} {
		if got := ThunkRegister(n); got != -1 {
			t.Errorf("register of %s is %d, want -1", n, got)
		}
	}
	if got := ITSThunk(3); !bytes.Equal(got, []byte{0xff, 0xe3, 0xcc}) {
		t.Errorf("ITSThunk(3) = % x", got)
	}
	if got := ITSThunk(11); !bytes.Equal(got, []byte{0x41, 0xff, 0xe3, 0xcc}) {
		t.Errorf("ITSThunk(11) = % x", got)
	}
	for _, n := range ThunkNames(11) {
		if !strings.HasSuffix(n, "_r11") {
			t.Errorf("thunk %s is not for r11", n)
		}
	}
}

// FuzzForms looks for panics, and for forms that are accepted but do not say where their branch is.
func FuzzForms(f *testing.F) {
	f.Add([]byte{0xe8, 0, 0, 0, 0}, []byte{0xff, 0xd0, 0x0f, 0x1f, 0x00}, 0)
	f.Add([]byte{0x2e, 0xe8, 0, 0, 0, 0}, []byte{0x0f, 0xae, 0xe8, 0x41, 0xff, 0xd3}, 11)
	f.Add([]byte{0x0f, 0x85, 0, 0, 0, 0}, []byte{0x74, 4, 0xff, 0xe0, 0xcc, 0x90}, 0)
	f.Add([]byte{0xe9, 0, 0, 0, 0}, []byte{0xeb, 5, 0xcc, 0xcc, 0xcc}, -1)
	f.Fuzz(func(t *testing.T, pre, run []byte, reg int) {
		check := func(name string, o Outcome, ok bool) {
			if !ok && o != (Outcome{}) {
				t.Errorf("%s refuses with an outcome: %+v", name, o)
			}
			if o.HasTarget && o.Target == 0 && len(run) == 0 {
				t.Errorf("%s finds a branch in nothing", name)
			}
		}
		for name, accept := range map[string]func([]byte) (Outcome, bool){"Fentry": Fentry, "JumpLabel": JumpLabel, "Return": Return,
			"Paravirt": Paravirt, "Endbr": Endbr, "SMPLock": SMPLock, "ShortJump": ShortJump} {
			o, ok := accept(run)
			check(name, o, ok)
		}
		o, ok := StaticCall(pre, run)
		check("StaticCall", o, ok)
		o, ok = StaticTramp(pre, run)
		check("StaticTramp", o, ok)
		RuntimeConst(pre, run)
		o, ok = Retpoline(pre, run, reg)
		check("Retpoline", o, ok)
		NopFill(run)
	})
}
