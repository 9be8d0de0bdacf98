package x86

import (
	"os"
	"testing"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/object"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/objtest"
)

// BenchmarkDescribe describes the object that KSPLICE_BENCH_OBJECT names.
func BenchmarkDescribe(b *testing.B) {
	path := os.Getenv("KSPLICE_BENCH_OBJECT")
	if path == "" {
		b.Skip("SKIPPED, missing: KSPLICE_BENCH_OBJECT (a kernel object)")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	target := objtest.Target("CONFIG_X86_KERNEL_IBT", "y", "CONFIG_FUNCTION_PADDING_BYTES", "16", "CONFIG_DEBUG_BUGVERBOSE", "y")
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		o, err := object.Parse(data)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := describe.New(o, target); err != nil {
			b.Fatal(err)
		}
	}
}
