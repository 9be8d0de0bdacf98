package update

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sample() *Update {
	part, pre, patch := []byte("part bytes"), bytes.Repeat([]byte("pre "), 1000), []byte("--- a\n+++ b\n")
	return &Update{
		Manifest: Manifest{
			ID:          ID(part, pre, patch),
			Description: "an example",
			Kernel:      Kernel{Release: "6.1.0-1-amd64", Version: "#1 SMP", Banner: "Example 6.1", Machine: 62},
			Facts:       map[string]int64{"sizeof_alt_instr": 12},
			Config:      map[string]string{"CONFIG_SMP": "y"},
			Patch:       Patch{File: "patch.diff", SHA256: Digest(patch), Files: []PatchFile{{Path: "a.c", Added: 1}}},
			Units:       []Unit{{Source: "a.c", Object: "a.o", Pre: "pre/a.o", SHA256: Digest(pre)}},
			Parts: []Part{{
				Target: "vmlinux", Name: "ksplice_x", File: "parts/x.ko", SHA256: Digest(part), Size: int64(len(part)),
				Functions: []Function{{Name: "f", Unit: 0, Symbol: 3, Size: 12}},
				Slots:     []Slot{{Kind: SlotSymbol, Name: "f", Unit: 0, Symbol: 3}},
			}},
		},
		Files: map[string][]byte{"parts/x.ko": part, "pre/a.o": pre, "patch.diff": patch},
	}
}

func encode(t testing.TB, u *Update) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := u.Write(&b); err != nil {
		t.Fatalf("Write: %v", err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	u := sample()
	b := encode(t, u)
	if !bytes.Equal(b, encode(t, sample())) {
		t.Error("two writes of the same update differ")
	}
	got, err := Read(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	if d := cmp.Diff(u, got); d != "" {
		t.Errorf("update after a round trip (-want +got):\n%s", d)
	}
}

// TestEveryByte flips every byte of a file, and cuts it at every length: each must be refused.
func TestEveryByte(t *testing.T) {
	b := encode(t, sample())
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 0x40
		if _, err := Read(bytes.NewReader(c)); err == nil {
			t.Errorf("a file with byte %d flipped was accepted", i)
		}
		_, err := Read(bytes.NewReader(b[:i]))
		if !errors.Is(err, ErrTruncated) && (i > 0 || !errors.Is(err, ErrForeign)) {
			t.Errorf("a file cut to %d bytes: got %v, want %v", i, err, ErrTruncated)
		}
	}
	if _, err := Read(bytes.NewReader(append(bytes.Clone(b), 0))); !errors.Is(err, ErrAltered) {
		t.Errorf("a file with a byte behind its end: got %v, want %v", err, ErrAltered)
	}
	if _, err := Read(bytes.NewReader([]byte("\x7fELF and more of it"))); !errors.Is(err, ErrForeign) {
		t.Errorf("an ELF file: got %v, want %v", err, ErrForeign)
	}
}

// another gives the first part's target another part.
func another(u *Update, init bool) {
	p, n := u.Manifest.Parts[0], len(u.Manifest.Parts)
	p.Name, p.Init, p.File = fmt.Sprintf("%s_%d", p.Name, n), init, fmt.Sprintf("%s.%d", p.File, n)
	u.Files[p.File] = u.Files[u.Manifest.Parts[0].File]
	u.Manifest.Parts = append(u.Manifest.Parts, p)
}

// TestInitPart: a module may have a part for before its init besides.
func TestInitPart(t *testing.T) {
	u := sample()
	u.Manifest.Parts[0].Target = "sch_qfq"
	another(u, true)
	if err := u.Write(&bytes.Buffer{}); err != nil {
		t.Error(err)
	}
	another(u, true)
	if err := u.Write(&bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "target sch_qfq has two parts") {
		t.Errorf("two parts for before init: %v", err)
	}
}

func TestManifestRefused(t *testing.T) {
	tests := map[string]func(*Update){
		"digest of a part":      func(u *Update) { u.Files["parts/x.ko"] = []byte("other") },
		"missing member":        func(u *Update) { delete(u.Files, "pre/a.o") },
		"member nobody names":   func(u *Update) { u.Files["extra"] = nil },
		"id":                    func(u *Update) { u.Manifest.ID = "../../x" },
		"unit out of range":     func(u *Update) { u.Manifest.Parts[0].Slots[0].Unit = 1 },
		"function out of range": func(u *Update) { u.Manifest.Parts[0].Functions[0].Unit = -1 },
		"slot kind":             func(u *Update) { u.Manifest.Parts[0].Slots[0].Kind = "magic" },
		"part name":             func(u *Update) { u.Manifest.Parts[0].Name = "a/b" },
		"member name":           func(u *Update) { u.Manifest.Parts[0].File = "../x" },
		"no parts":              func(u *Update) { u.Manifest.Parts = nil },
		"init of vmlinux":       func(u *Update) { u.Manifest.Parts[0].Target, u.Manifest.Parts[0].Init = "vmlinux", true },
		"two parts of a target": func(u *Update) { another(u, false) },
	}
	for name, spoil := range tests {
		u := sample()
		spoil(u)
		if err := u.Write(&bytes.Buffer{}); err == nil {
			t.Errorf("%s: an update with it spoilt was written", name)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add(signed(f, sample()).Bytes())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, err := Read(bytes.NewReader(b)); err == nil && u.check() != nil {
			t.Error("Read gave an update that its own check refuses")
		}
	})
}

// FuzzDecode fuzzes what lies behind the digest.
func FuzzDecode(f *testing.F) {
	f.Add(encode(f, sample())[headerSize:])
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = decode(b) })
}
