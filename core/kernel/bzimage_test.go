package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// text is what the fixtures text.* were packed from.
func text() []byte {
	var b bytes.Buffer
	for i := range 500 {
		fmt.Fprintf(&b, "line %d of a kernel\n", i)
	}
	return b.Bytes()
}

// withSize appends the unpacked size as scripts/Makefile.lib: size_append does.
func withSize(packed, plain []byte) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(packed), uint32(len(plain)))
}

// bzImage puts a packed kernel into a bzImage with two setup sectors.
func bzImage(packed []byte) []byte {
	b := make([]byte, 3*512)
	b[0x1f1] = 2
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(b[0x248:], 16)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(packed)))
	return append(append(b, make([]byte, 16)...), packed...)
}

func TestUnpackBzImage(t *testing.T) {
	code := fixture(t, "x86.bin")
	for _, c := range []struct {
		file string
		want []byte
	}{{"text.gz", text()}, {"text.zst", text()}, {"text.bz2", text()}, {"text.lzma", text()}, {"text.lz4", text()},
		{"x86.xz", code}, {"x86-blocks.xz", code}} {
		packed := fixture(t, c.file)
		if c.file != "text.gz" {
			packed = withSize(packed, c.want)
		}
		got, err := unpackBzImage(bzImage(packed))
		if err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %d bytes, %v; want %d", c.file, len(got), err, len(c.want))
		}
		for _, n := range []int{len(packed) / 2, len(packed) - 9, 9} {
			if _, err := decompress(packed[:n]); err == nil {
				t.Errorf("%s: accepted when cut to %d of %d bytes", c.file, n, len(packed))
			}
		}
		if c.file != "text.gz" {
			packed[len(packed)-1]++
			if _, err := decompress(packed); !errors.Is(err, ErrFormat) {
				t.Errorf("%s: a wrong size gives %v", c.file, err)
			}
		}
	}
}

func TestUnpackBzImageRefused(t *testing.T) {
	good := bzImage(fixture(t, "text.gz"))
	change := func(at int, b ...byte) []byte {
		p := bytes.Clone(good)
		copy(p[at:], b)
		return p
	}
	for name, c := range map[string]struct {
		image []byte
		want  string
	}{
		"empty":         {nil, "neither an ELF file nor an x86 bzImage"},
		"no header":     {change(0x202, 'X'), "neither an ELF file nor an x86 bzImage"},
		"old protocol":  {change(0x206, 7, 2), "boot protocol 2.07"},
		"cut off":       {good[:len(good)-1], "cut off"},
		"odd payload":   {change(0x248, 17), "cut off"},
		"unknown magic": {change(3*512+16, 'X'), "unknown compression"},
		"lzo":           {change(3*512+16, 0x89, 'L', 'Z', 'O'), "LZO is not supported"},
	} {
		if _, err := unpackBzImage(c.image); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestXZDamaged changes bytes, those of the headers and every seventh of the rest: each change is
// refused, or, in padding and unused fields, without effect.
func TestXZDamaged(t *testing.T) {
	packed, want := fixture(t, "x86.xz"), fixture(t, "x86.bin")
	for i := range packed {
		if i > 40 && i < len(packed)-40 && i%7 != 0 {
			continue
		}
		p := bytes.Clone(packed)
		p[i] ^= 0x10
		if got, err := unpackXZ(p); err == nil && !bytes.Equal(got, want) {
			t.Fatalf("byte %d changed: accepted with another content", i)
		}
	}
}

func FuzzUnpackBzImage(f *testing.F) {
	for _, name := range []string{"text.gz", "text.zst", "text.bz2", "text.lzma", "text.lz4", "x86.xz"} {
		f.Add(bzImage(withSize(fixture(f, name), text())))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := unpackBzImage(b); err == nil && len(out) > maxImage {
			t.Errorf("unpacked to %d bytes", len(out))
		}
	})
}
