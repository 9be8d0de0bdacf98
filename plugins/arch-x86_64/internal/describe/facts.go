package describe

import (
	"fmt"

	"github.com/ksplice/ksplice/sdk/arch"
)

// Names of the facts. Sizes and offsets in bytes.
const (
	factAltSize        = "alt_instr.size"
	factAltLen         = "alt_instr.instrlen"
	factAltReplLen     = "alt_instr.replacementlen"
	factJumpSize       = "jump_entry.size"
	factJumpTarget     = "jump_entry.target"
	factJumpKey        = "jump_entry.key"
	factStaticCallSize = "static_call_site.size"
	factStaticCallKey  = "static_call_site.key"
	factExtableSize    = "exception_table_entry.size"
	factBugSize        = "bug_entry.size"
	factBugLine        = "bug_entry.line"
	factOrcSize        = "orc_entry.size"
	factInjectionSize  = "error_injection_entry.size"
	factDebugSize      = "_ddebug.size"
	factDebugLine      = "_ddebug.line"
)

// FactExpressions lists the structure sizes and offsets that the tables of a kernel's objects are read with.
func FactExpressions() []arch.FactExpression {
	return []arch.FactExpression{
		{Name: factAltSize, Includes: []string{"asm/alternative.h"}, Expression: "sizeof(struct alt_instr)"},
		{Name: factAltLen, Includes: []string{"asm/alternative.h"}, Expression: "offsetof(struct alt_instr, instrlen)"},
		{Name: factAltReplLen, Includes: []string{"asm/alternative.h"}, Expression: "offsetof(struct alt_instr, replacementlen)"},
		{Name: factJumpSize, Includes: []string{"linux/jump_label.h"}, Expression: "sizeof(struct jump_entry)", If: "CONFIG_JUMP_LABEL"},
		{Name: factJumpTarget, Includes: []string{"linux/jump_label.h"}, Expression: "offsetof(struct jump_entry, target)", If: "CONFIG_JUMP_LABEL"},
		{Name: factJumpKey, Includes: []string{"linux/jump_label.h"}, Expression: "offsetof(struct jump_entry, key)", If: "CONFIG_JUMP_LABEL"},
		{Name: factStaticCallSize, Includes: []string{"linux/static_call.h"}, Expression: "sizeof(struct static_call_site)", If: "CONFIG_HAVE_STATIC_CALL_INLINE"},
		{Name: factStaticCallKey, Includes: []string{"linux/static_call.h"}, Expression: "offsetof(struct static_call_site, key)", If: "CONFIG_HAVE_STATIC_CALL_INLINE"},
		{Name: factExtableSize, Includes: []string{"linux/extable.h", "asm/extable.h"}, Expression: "sizeof(struct exception_table_entry)"},
		{Name: factBugSize, Includes: []string{"linux/bug.h"}, Expression: "sizeof(struct bug_entry)", If: "CONFIG_GENERIC_BUG"},
		{Name: factBugLine, Includes: []string{"linux/bug.h"}, Expression: "offsetof(struct bug_entry, line)", If: "CONFIG_DEBUG_BUGVERBOSE"},
		{Name: factOrcSize, Includes: []string{"asm/orc_types.h"}, Expression: "sizeof(struct orc_entry)", If: "CONFIG_UNWINDER_ORC"},
		{Name: factInjectionSize, Includes: []string{"linux/types.h", "asm-generic/error-injection.h"}, Expression: "sizeof(struct error_injection_entry)", If: "CONFIG_FUNCTION_ERROR_INJECTION"},
		{Name: factDebugSize, Includes: []string{"linux/dynamic_debug.h"}, Expression: "sizeof(struct _ddebug)", If: "CONFIG_DYNAMIC_DEBUG_CORE"},
		{Name: factDebugLine, Includes: []string{"linux/dynamic_debug.h"}, Expression: "offsetof(struct _ddebug, format) + sizeof(char *)", If: "CONFIG_DYNAMIC_DEBUG_CORE"},
	}
}

// fact returns a fact that a table needs; the error names both.
func (t *tables) fact(table, name string) (uint64, error) {
	v, ok := t.unit.Target.Facts[name]
	if !ok || v < 0 || v > 1<<16 {
		return 0, fmt.Errorf("table %s needs the fact %s of the kernel's tree, found %d (known: %t): probe the tree again", table, name, v, ok)
	}
	return uint64(v), nil
}

// ConfigSymbols are the configuration symbols that a description depends on.
var ConfigSymbols = []string{"CONFIG_FUNCTION_PADDING_BYTES", "CONFIG_X86_KERNEL_IBT", "CONFIG_DEBUG_BUGVERBOSE"}
