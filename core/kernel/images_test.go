package kernel

import (
	"compress/gzip"
	"io"
	"os"
	"testing"
)

// testImage reads a real image. Every symbol of the kernel proper must be in the /proc/kallsyms of a boot of it, at the image's
// address moved by one and the same offset.
func testImage(t *testing.T, path string, booted *Symbols) {
	k, err := Image(path)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	t.Logf("%+v, %d symbols", k.Identity, k.Symbols.Len())
	if k.Identity.BuildID == "" || k.Identity.Release == "" || k.Identity.Version == "" || k.Booted {
		t.Errorf("%+v, booted %v", k.Identity, k.Booted)
	}
	checkSites(t, k, "")
	compareKallsyms(t, k.Symbols, booted)
}

// readKallsyms reads a gzipped /proc/kallsyms.
func readKallsyms(t *testing.T, path string) *Symbols {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseKallsyms(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// proper returns the symbols of one module.
func proper(s *Symbols, module string) []Symbol {
	var out []Symbol
	for _, y := range s.All() {
		if y.Module == module {
			out = append(out, y)
		}
	}
	return out
}

func compareKallsyms(t *testing.T, image, booted *Symbols) {
	t.Helper()
	moved := booted.LookupIn("", "_text")[0].Address - image.LookupIn("", "_text")[0].Address
	a, b := proper(image, ""), proper(booted, "")
	if len(a) != len(b) {
		t.Fatalf("%d symbols, the booted kernel has %d", len(a), len(b))
	}
	for i := range a {
		want := b[i]
		if want.Address >= 1<<63 {
			want.Address -= moved
		}
		if a[i] != want {
			t.Fatalf("symbol %d is %+v, the booted kernel's %+v, moved by %#x", i, a[i], b[i], moved)
		}
	}
	t.Logf("%d symbols equal those of the booted kernel, moved by %#x", len(a), moved)
}
