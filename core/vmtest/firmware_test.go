package vmtest

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// volume is a firmware volume with a store of variables that is empty.
func volume(size int) []byte {
	b := bytes.Repeat([]byte{0xff}, size)
	clear(b[:100])
	binary.LittleEndian.PutUint16(b[48:], 72)
	var id bytes.Buffer
	_ = binary.Write(&id, binary.LittleEndian, variableStore)
	copy(b[72:], id.Bytes())
	binary.LittleEndian.PutUint32(b[72+16:], uint32(size-72))
	return b
}

// TestSecureVars reads the variables back as edk2 walks over them, and refuses what is no empty store.
func TestSecureVars(t *testing.T) {
	certs := [][]byte{[]byte("the kernel's signer"), []byte("a vendor")}
	out, err := secureVars(volume(4096), certs)
	if err != nil {
		t.Fatal(err)
	}
	at := 100
	for _, want := range []struct {
		name  string
		holds int
	}{{"P\x00K\x00\x00\x00", 1}, {"K\x00E\x00K\x00\x00\x00", 1}, {"d\x00b\x00\x00\x00", 2}} {
		var h variableHeader
		if err := binary.Read(bytes.NewReader(out[at:]), binary.LittleEndian, &h); err != nil || h.Start != 0x55aa || h.State != 0x3f {
			t.Fatalf("at %d there is no variable: %+v (%v)", at, h, err)
		}
		at += binary.Size(h)
		if name := string(out[at : at+int(h.NameSize)]); name != want.name {
			t.Errorf("a variable %q, want %q", name, want.name)
		}
		data := out[at+int(h.NameSize) : at+int(h.NameSize)+int(h.DataSize)]
		for i, c := range certs {
			if got := bytes.Contains(data, c); got != (i < want.holds) {
				t.Errorf("%q holds certificate %d: %v", want.name, i, got)
			}
		}
		for n := 0; n < want.holds; n++ { // each list says its own length
			size := int(binary.LittleEndian.Uint32(data[16:]))
			if int(binary.LittleEndian.Uint32(data[24:])) != size-28 || size > len(data) {
				t.Fatalf("%q: a list of %d bytes in %d", want.name, size, len(data))
			}
			data = data[size:]
		}
		if len(data) > 0 {
			t.Errorf("%q: %d bytes behind its lists", want.name, len(data))
		}
		at = (at + int(h.NameSize) + int(h.DataSize) + 3) &^ 3
	}
	if !bytes.Equal(out[at:], volume(4096)[at:]) {
		t.Error("something follows the variables")
	}

	used := volume(4096)
	used[100] = 0xaa
	for words, c := range map[string]struct {
		template []byte
		certs    [][]byte
	}{
		"no firmware volume": {[]byte("x"), certs}, "no empty store": {make([]byte, 4096), certs}, "holds no empty store": {used, certs},
		"do not fit": {volume(4096), [][]byte{make([]byte, 2000)}},
	} {
		if _, err := secureVars(c.template, c.certs); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("want %q: %v", words, err)
		}
	}
}
