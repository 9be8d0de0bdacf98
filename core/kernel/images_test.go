package kernel

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// images returns the kernel images that KSPLICE_TEST_IMAGES names, separated by ':'.
func images(t *testing.T) []string {
	t.Helper()
	list := os.Getenv("KSPLICE_TEST_IMAGES")
	if list == "" {
		if os.Getenv("KSPLICE_TEST_KERNEL") == "1" {
			t.Fatal("KSPLICE_TEST_IMAGES is not set: it names kernel images (vmlinuz or vmlinux), separated by ':'")
		}
		t.Skip("SKIPPED: KSPLICE_TEST_IMAGES names no kernel images (vmlinuz or vmlinux, separated by ':')")
	}
	return strings.Split(list, ":")
}

// TestImages reads real images. An image may have behind it, after '=', the gzipped /proc/kallsyms of a boot of it: every
// symbol of the kernel proper must be in it, at the image's address moved by one and the same offset.
func TestImages(t *testing.T) {
	for _, entry := range images(t) {
		path, kallsyms, _ := strings.Cut(entry, "=")
		t.Run(filepath.Base(path), func(t *testing.T) {
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
			if kallsyms != "" {
				compareKallsyms(t, k.Symbols, readKallsyms(t, kallsyms))
			}
		})
	}
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
