package part

import (
	"fmt"
	"slices"
	"strings"
)

// glue is the part's own C source. Imports of the extracted code are named in it, so that modpost records their versions: a
// module with versions for some imports must have them for all (kernel/module/version.c, check_version).
func (b *builder) glue(sealed string) string {
	var s strings.Builder
	s.WriteString(`/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/init.h>
#include <linux/module.h>

struct ksplice_part;
extern struct ksplice_part ` + descriptionSymbol + `;
int ksplice_part_register(struct module *mod, struct ksplice_part *part);
void ksplice_part_unregister(struct module *mod, struct ksplice_part *part);

`)
	names := make([]string, 0, len(b.imports))
	for n := range b.imports {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		fmt.Fprintf(&s, "asm(\".pushsection .discard.ksplice_imports,\\\"a\\\"\\n\\t.quad %s\\n\\t.popsection\");\n", n)
	}
	fmt.Fprintf(&s, `
static int __init ksplice_glue_init(void)
{
	return ksplice_part_register(THIS_MODULE, &%[1]s);
}

static void __exit ksplice_glue_exit(void)
{
	ksplice_part_unregister(THIS_MODULE, &%[1]s);
}

module_init(ksplice_glue_init);
module_exit(ksplice_glue_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION(%[2]s);
MODULE_INFO(%[3]s, "%[4]s");
`, descriptionSymbol, quote(fmt.Sprintf("Ksplice update %s for %s: %s", b.in.ID, b.in.Target, b.in.Description)), sealKey, sealed)
	return s.String()
}

// quote makes a C string literal. Bytes outside printable ASCII become octal escapes, which end after three digits.
func quote(text string) string {
	var s strings.Builder
	s.WriteByte('"')
	for _, c := range []byte(text) {
		switch {
		case c == '"' || c == '\\' || c == '?':
			s.WriteByte('\\')
			s.WriteByte(c)
		case c < ' ' || c > '~':
			fmt.Fprintf(&s, "\\%03o", c)
		default:
			s.WriteByte(c)
		}
	}
	s.WriteByte('"')
	return s.String()
}

// script is the linker script: each section name once, since the module loader takes the first or the last of several
// (kernel/module/main.c:find_sec, arch/x86/kernel/module.c:module_finalize).
func (b *builder) script() string {
	names := map[string]bool{descriptionSection: true}
	for _, u := range b.units {
		for _, s := range u.out.Sections[1:] {
			names[s.Name] = true
		}
	}
	delete(names, ".text")
	sorted := make([]string, 0, len(names))
	for n := range names {
		sorted = append(sorted, n)
	}
	slices.Sort(sorted)
	var s strings.Builder
	s.WriteString("SECTIONS {\n\t/DISCARD/ : { *(.discard) *(.discard.*) }\n\t.text 0 : { *(.text .text.*) }\n")
	for _, n := range sorted {
		fmt.Fprintf(&s, "\t%[1]s 0 : { *(%[1]s) }\n", n)
	}
	s.WriteString("}\n")
	return s.String()
}
