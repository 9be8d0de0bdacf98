package decode

import (
	"errors"
	"testing"
)

// FuzzDecode looks for panics, for lengths and fields outside of the bytes, and for instructions whose meaning depends on
// what follows them.
func FuzzDecode(f *testing.F) {
	for _, b := range [][]byte{{0xf3, 0x0f, 0x1e, 0xfa}, {0xc5, 0xf8, 0x77}, {0x65, 0x48, 0xc1, 0x3d, 0, 0, 0, 0, 5}, {0x0f, 0x85, 1, 2, 3, 4},
		{0x62, 0xf1, 0x7c, 0x48, 0x10, 5, 1, 2, 3, 4}, {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}, {0xc7, 0xf8, 1, 2, 3, 4}, {0x66, 0xe9, 0, 0}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, code []byte) {
		in, err := Decode(code)
		if err != nil {
			if !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrUnknown) {
				t.Errorf("error %v is neither of the two", err)
			}
			return
		}
		if in.Len < 1 || in.Len > len(code) || in.Len > MaxLen {
			t.Fatalf("% x: length %d", code, in.Len)
		}
		for _, x := range [][2]int{{in.PCRelOff, in.PCRelSize}, {in.DispOff, in.DispSize}, {in.ImmOff, in.ImmSize}} {
			if x[0] < 0 || x[1] < 0 || x[0]+x[1] > in.Len {
				t.Errorf("% x: a field at %d of %d bytes in %d", in.Bytes(), x[0], x[1], in.Len)
			}
		}
		in.Text(0x1000)
		again, err := Decode(code[:in.Len])
		if err != nil || again.Len != in.Len || again.Class != in.Class {
			t.Errorf("% x alone: length %d, class %d, %v; with more behind it: %d, %d", code[:in.Len], again.Len, again.Class, err, in.Len, in.Class)
		}
	})
}
