package kernel

import (
	"os"
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

func TestImages(t *testing.T) {
	for _, path := range images(t) {
		t.Run(path, func(t *testing.T) {
			k, err := Image(path)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			t.Logf("%+v, %d symbols", k.Identity, k.Symbols.Len())
			for _, name := range []string{"_text", "_end", "schedule", "init_task", "__start___jump_table", "__per_cpu_start", "__per_cpu_end"} {
				t.Log(name, k.Symbols.Lookup(name))
			}
			j, err := k.JumpKeys("")
			if err != nil {
				t.Fatal(err)
			}
			s, err := k.StaticCallKeys("")
			if err != nil {
				t.Fatal(err)
			}
			t.Log(len(j), len(s))
		})
	}
}
