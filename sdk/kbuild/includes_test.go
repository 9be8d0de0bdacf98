package kbuild

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestScanIncludes(t *testing.T) {
	text := `#include <linux/list.h>
  #  include "local.h"
/* #include "comment.h" */
int x; #include "not.h"
#ifdef X
#include	<asm/x.h>
#endif
#define GENL_MAGIC_INCLUDE_FILE <linux/drbd_genl.h>
#define OTHER "data.bin"
#define NAME(x) "x.h"
#include MACRO
#include "unclosed
#include <>
#include`
	want := []string{"<linux/list.h", `"local.h`, "<asm/x.h", "<linux/drbd_genl.h"}
	if diff := cmp.Diff(want, scanIncludes([]byte(text))); diff != "" {
		t.Errorf("scanIncludes: (-want +got)\n%s", diff)
	}
}

func TestScanMakefile(t *testing.T) {
	text := `obj-y += a.o
$(obj)/i915-display/%.o: $(srctree)/drivers/gpu/drm/i915/display/%.c FORCE
	$(call if_changed_rule,cc_o_c)
$(obj)/relo_core.o: $(srctree)/tools/lib/relo_core.c FORCE
$(obj)/b.o: $(src)/../other/b.c
$(obj)/own.o: $(src)/own.c
$(obj)/gen.o: $(obj)/gen.h
ccflags-y += -include $(srctree)/include/linux/hidden.h -include $(src)/mine.h
-include include/config/auto.conf
`
	want := []string{
		"=\tdrivers/xe/i915-display/%.o\tdrivers/gpu/drm/i915/display/%.c",
		"=\tdrivers/xe/relo_core.o\ttools/lib/relo_core.c",
		"=\tdrivers/xe/b.o\tdrivers/other/b.c",
		"-\tinclude/linux/hidden.h",
		"-\tdrivers/xe/mine.h",
	}
	if diff := cmp.Diff(want, scanMakefile("drivers/xe/Makefile", text)); diff != "" {
		t.Errorf("scanMakefile: (-want +got)\n%s", diff)
	}
	r := sourceRule{"drivers/xe/i915-display/%.o", "drivers/i915/display/%.c"}
	if o, ok := r.object("drivers/i915/display/intel_dp.c"); !ok || o != "drivers/xe/i915-display/intel_dp.o" {
		t.Errorf("object = %q, %t", o, ok)
	}
	if s, ok := r.from("drivers/xe/i915-display/intel_dp.o"); !ok || s != "drivers/i915/display/intel_dp.c" {
		t.Errorf("from = %q, %t", s, ok)
	}
	if o, ok := r.object("drivers/i915/display/.c"); ok {
		t.Errorf("object of an empty stem = %q", o)
	}
}

func TestIncluders(t *testing.T) {
	x := &includes{files: map[string]bool{}, byBase: map[string][]include{}}
	x.paths("-Iarch/x86/include -Iinclude -include include/linux/kconfig.h")
	for _, line := range []string{
		"include/linux/a.h\t<linux/b.h",
		"include/linux/b.h",
		"fs/x/a.c\t\"local.h",
		"fs/x/local.h\t<linux/a.h",
		"fs/y/b.c\t\"local.h", // of an -I of its makefile, or of nobody
		"fs/y/c.c\t\"../x/local.h",
		"fs/z/d.c\t<linux/b.h",
		"drivers/e.c\t<asm/b.h",
		"arch/x86/include/asm/b.h",
		"drivers/f.c\t\"b.c",
		"drivers/b.c",
		"-\tinclude/linux/hidden.h",
		"=\tdrivers/o.o\tlib/o.c",
	} {
		x.add(strings.Split(line, "\t"))
	}
	for _, tt := range []struct {
		target     string
		want       []string
		everything bool
	}{
		{"include/linux/b.h", []string{"fs/x/a.c", "fs/x/local.h", "fs/y/b.c", "fs/y/c.c", "fs/z/d.c", "include/linux/a.h"}, false},
		{"fs/x/local.h", []string{"fs/x/a.c", "fs/y/b.c", "fs/y/c.c"}, false},
		{"arch/x86/include/asm/b.h", []string{"drivers/e.c"}, false},
		{"drivers/b.c", []string{"drivers/f.c"}, false},
		{"include/linux/kconfig.h", nil, true},
		{"include/linux/hidden.h", nil, true},
		{"include/linux/new.h", nil, false},
	} {
		got, everything := x.includers(tt.target)
		if diff := cmp.Diff(tt.want, got); diff != "" || everything != tt.everything {
			t.Errorf("includers(%s): everything %t, want %t (-want +got)\n%s", tt.target, everything, tt.everything, diff)
		}
	}
	if len(x.rules) != 1 {
		t.Errorf("the rules are %v", x.rules)
	}
}

// FuzzScanIncludes wants every include to be a name that is in the text.
func FuzzScanIncludes(f *testing.F) {
	f.Add([]byte("#include <a.h>\n# include \"b.h\"\n#define X_INCLUDE_FILE <c.h>\n"))
	f.Add([]byte("#include <\n#include \"\\\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, i := range scanIncludes(text) {
			if len(i) < 2 || i[0] != '<' && i[0] != '"' || !strings.Contains(string(text), i[1:]) {
				t.Errorf("scanIncludes(%q) gives %q", text, i)
			}
		}
	})
}

// FuzzScanMakefile wants every line to be a rule or an include of local names, so that none leads out of the tree.
func FuzzScanMakefile(f *testing.F) {
	f.Add("$(obj)/%.o: $(srctree)/a/%.c FORCE\nccflags-y += -include $(src)/mine.h\n")
	f.Add("$(obj)/../../../%.o: $(src)/../../../x/%.c\n-include ../../y.h\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, line := range scanMakefile("drivers/xe/Makefile", text) {
			parts := strings.Split(line, "\t")
			if len(parts) < 2 || parts[0] != "=" && parts[0] != "-" || parts[0] == "=" && len(parts) != 3 {
				t.Errorf("scanMakefile(%q) gives %q", text, line)
			}
		}
	})
}
