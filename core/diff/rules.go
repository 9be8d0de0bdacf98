package diff

import (
	"debug/elf"
	"strings"

	"github.com/ksplice/ksplice/core/objfile"
)

// rule says how a section is compared and carried.
type rule uint8

const (
	// ruleIgnore: the section is not part of the kernel (debug information, notes).
	ruleIgnore rule = iota
	// ruleCode: functions.
	ruleCode
	// ruleForbidden: code that cannot be replaced.
	ruleForbidden
	// ruleData: data by symbol.
	ruleData
	// ruleMerged: strings or constants that the linker merges; they count by content.
	ruleMerged
	// ruleTable: entries that belong to places in code.
	ruleTable
	// ruleDrop: it counts only when the kernel boots or a module loads, or names what run has already; never carried.
	ruleDrop
	// ruleQuiet: like ruleDrop, and its changes say nothing to anybody.
	ruleQuiet
	// ruleHooks: what the patch says with <ksplice.h> (hooks.go).
	ruleHooks
	// ruleUnknown: nobody knows what a change of it means.
	ruleUnknown
)

// dropped are prefixes of section names under ruleDrop. Sources: include/asm-generic/vmlinux.lds.h (INIT_*, EXIT_*, DISCARDS),
// include/linux/export.h, moduleparam.h, module.h, tracepoint.h, scripts/mod/modpost.c.
var dropped = []string{
	".init.", ".exit.", ".initcall", ".con_initcall", ".init_array", ".head.text", ".meminit.", ".memexit.", ".cpuinit.", ".cpuexit.",
	".ref.text.exit", "__param", ".modinfo", "__mod_",
	"__tracepoints", "_ftrace_events", "_ftrace_eval_map", "__bpf_raw_tp_map", "__syscalls_metadata", ".gnu.linkonce.this_module",
	".BTF_ids",
}

// initSections are prefixes of the sections that hold a module's init: its functions, and the data that only those use.
var initSections = []string{".init.text", ".init.data", ".init.rodata"}

// noteDropped notes that something under ruleDrop differs, of a module's init or exit.
func (r *Result) noteDropped(section string) {
	r.Init = r.Init || hasPrefix(section, initSections)
	r.Exit = r.Exit || strings.HasPrefix(section, ".exit.")
}

// quiet are prefixes under ruleQuiet: inputs of objtool and of the linker, seals of entries (a replacement may stay unsealed),
// lists of runtime constants (the code is fixed up instead), printk's index of messages with their lines, and what is exported (core/create says it).
var quiet = []string{
	".discard.", ".ibt_endbr_seal", "__patchable_function_entries", "runtime_", ".printk_index", ".static_call_tramp_key",
	".cfi_sites", ".kcfi_traps", ".note", ".llvm", "___ksymtab", "__ksymtab", "___kcrctab", "__kcrctab", ".export_symbol",
}

// debugSection holds the descriptors of dynamic debug messages: data by symbol, although it is also a table
// (include/linux/dynamic_debug.h).
const debugSection = "__dyndbg"

// dataPrefixes begin the names of sections under ruleData. The one of tracepoint_string (include/linux/tracepoint.h) lists strings for
// programs that read raw traces: a module's are ordinary data (kernel/trace/trace_printk.c knows the kernel proper's only).
var dataPrefixes = []string{".data", ".bss", ".rodata", ".ref.data", ".lrodata", "__tracepoint_str"}

// ruleOf says how a section is treated. table says that the architecture described entries in it, init that what init uses counts.
func ruleOf(s *objfile.Section, table, init bool) rule {
	// An empty section of data counts: an object without size has an address (struct lock_class_key).
	if s.Flags&elf.SHF_ALLOC == 0 || s.Size == 0 && !hasPrefix(s.Name, dataPrefixes) {
		return ruleIgnore
	}
	n := s.Name
	switch {
	case n == hookSection, n == rodataSection, n == claimSection:
		return ruleHooks
	case hasPrefix(n, quiet):
		return ruleQuiet
	case hasPrefix(n, dropped) && !(init && hasPrefix(n, initSections)):
		return ruleDrop
	case n == debugSection:
		return ruleData
	case table:
		return ruleTable
	case s.Flags&elf.SHF_EXECINSTR != 0:
		// With page-table isolation the entry code runs on page tables that do not map modules.
		if strings.HasPrefix(n, ".entry.text") {
			return ruleForbidden
		}
		return ruleCode
	case merged(s):
		return ruleMerged
	case hasPrefix(n, dataPrefixes), hasPrefix(n, initSections):
		return ruleData
	}
	return ruleUnknown
}

// merged says that the linker may merge equal entries of the section with those of other objects.
func merged(s *objfile.Section) bool {
	return s.Flags&elf.SHF_MERGE != 0 && s.EntSize != 0 && len(s.Relocs) == 0
}

func hasPrefix(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) || name == strings.TrimSuffix(p, ".") {
			return true
		}
	}
	return false
}

// codeClass is a code section's name without what -ffunction-sections and the compiler's guess of its temperature add.
func codeClass(name string) string {
	if strings.HasPrefix(name, ".text.") {
		return ".text"
	}
	return name
}
