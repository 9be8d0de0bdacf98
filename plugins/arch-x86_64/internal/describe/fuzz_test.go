package describe_test

import (
	"os"
	"testing"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/describe"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/object"
	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/objtest"
)

// FuzzDescribe describes damaged objects: no panics, and nothing outside of its section.
func FuzzDescribe(f *testing.F) {
	b, err := os.ReadFile("../object/testdata/unit.o")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := object.Parse(data)
		if err != nil {
			return
		}
		u, err := describe.New(o, objtest.Target("CONFIG_X86_KERNEL_IBT", "y", "CONFIG_FUNCTION_PADDING_BYTES", "16", "CONFIG_DEBUG_BUGVERBOSE", "y"))
		if err != nil {
			return
		}
		for _, s := range u.Desc.Sites {
			if n := uint64(len(o.Sections[s.Section].Data)); s.At > n || s.Length > n-s.At {
				t.Errorf("site outside: %+v", s)
			}
		}
		for _, fn := range u.Desc.Functions {
			if n := o.Sections[fn.Section].Size; fn.Offset > n || fn.Size > n-fn.Offset || fn.Pad > fn.Offset {
				t.Errorf("function outside: %+v", fn)
			}
		}
	})
}
