/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the kernels that the module is built for, told apart by
 * what their headers have, since distributions port things back.
 */
#ifndef KSPLICE_COMPAT_H
#define KSPLICE_COMPAT_H

#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/rethook.h>
#include <linux/sched.h>
#include <linux/sched/task_stack.h>
#include <asm/msr.h>

#ifndef CONFIG_X86_64
#error "ksplice writes x86-64 jumps; it cannot be built for this architecture"
#endif
#ifndef CONFIG_UNWINDER_ORC
#error "ksplice judges stacks with the ORC unwinder; the kernel needs CONFIG_UNWINDER_ORC"
#endif
#ifndef CONFIG_HAVE_ARCH_PREL32_RELOCATIONS
#error "ksplice lends symbols as 32-bit offsets; the kernel needs CONFIG_HAVE_ARCH_PREL32_RELOCATIONS"
#endif
#if !defined(CONFIG_THREAD_INFO_IN_TASK) || !defined(CONFIG_SMP) || !defined(CONFIG_MODULE_UNLOAD)
#error "ksplice needs CONFIG_SMP, CONFIG_THREAD_INFO_IN_TASK and CONFIG_MODULE_UNLOAD"
#endif

/*
 * A module's memory. 6.4 made several regions of what was core_layout
 * (include/linux/module.h, enum mod_mem_type).
 */
struct ksplice_region {
	unsigned long start;
	unsigned long size;
};

static inline struct ksplice_region ksplice_module_text(const struct module *mod)
{
	struct ksplice_region r;

#ifdef for_class_mod_mem_type
	r.start = (unsigned long)mod->mem[MOD_TEXT].base;
	r.size = mod->mem[MOD_TEXT].size;
#else
	r.start = (unsigned long)mod->core_layout.base;
	r.size = mod->core_layout.text_size;
#endif
	return r;
}

/* The code of a module's init; gone, and size 0, some time after it has run (kernel/module/main.c:do_init_module). */
static inline struct ksplice_region ksplice_module_init_text(const struct module *mod)
{
	struct ksplice_region r;

#ifdef for_class_mod_mem_type
	r.start = (unsigned long)mod->mem[MOD_INIT_TEXT].base;
	r.size = mod->mem[MOD_INIT_TEXT].size;
#else
	r.start = (unsigned long)mod->init_layout.base;
	r.size = mod->init_layout.text_size;
#endif
	return r;
}

/* What a module may write to for all its life. */
static inline struct ksplice_region ksplice_module_data(const struct module *mod)
{
	struct ksplice_region r;

#ifdef for_class_mod_mem_type
	r.start = (unsigned long)mod->mem[MOD_DATA].base;
	r.size = mod->mem[MOD_DATA].size;
#else
	r.start = (unsigned long)mod->core_layout.base + mod->core_layout.ro_after_init_size;
	r.size = mod->core_layout.size - mod->core_layout.ro_after_init_size;
#endif
	return r;
}

/* The region of the module, init memory apart, that holds addr; size 0 where none does. */
static inline struct ksplice_region ksplice_module_region(const struct module *mod, unsigned long addr)
{
	struct ksplice_region r = { 0, 0 };
#ifdef for_class_mod_mem_type
	for_class_mod_mem_type(type, core) {
		unsigned long base = (unsigned long)mod->mem[type].base;

		if (addr - base < mod->mem[type].size) {
			r.start = base;
			r.size = mod->mem[type].size;
			break;
		}
	}
#else
	unsigned long base = (unsigned long)mod->core_layout.base;

	if (addr - base < mod->core_layout.size) {
		r.start = base;
		r.size = mod->core_layout.size;
	}
#endif
	return r;
}

/*
 * The part of a thread's shadow stack of return addresses (function-graph
 * tracing) that is in use. Until 6.11 it was an array of structures of which
 * curr_ret_stack was the last one in use; since then it is an array of words
 * of which curr_ret_stack is the first one free (kernel/trace/fgraph.c).
 */
static inline const unsigned long *ksplice_ret_stack(const struct task_struct *task, size_t *words)
{
	*words = 0;
#ifdef CONFIG_FUNCTION_GRAPH_TRACER
	{
		int top = READ_ONCE(task->curr_ret_stack);

		if (!task->ret_stack)
			return NULL;
		if (__same_type(task->ret_stack, unsigned long *)) {
			if (top > 0 && top <= PAGE_SIZE / sizeof(long))
				*words = top;
		} else if (top >= 0 && top < FTRACE_RETFUNC_DEPTH) {
			*words = (top + 1) * sizeof(struct ftrace_ret_stack) / sizeof(long);
		}
		return (const unsigned long *)task->ret_stack;
	}
#else
	return NULL;
#endif
}

/* The first of the return addresses that kretprobes hide, or NULL. */
static inline struct llist_node *ksplice_rethooks(const struct task_struct *task)
{
#ifdef CONFIG_RETHOOK
	return task->rethooks.first;
#else
	return NULL;
#endif
}

static inline unsigned long ksplice_rethook_address(struct llist_node *node)
{
#ifdef CONFIG_RETHOOK
	return container_of(node, struct rethook_node, llist)->ret_addr;
#else
	return 0;
#endif
}

/*
 * Flags of an ftrace_ops that sets the instruction pointer: with
 * HAVE_DYNAMIC_FTRACE_WITH_ARGS ftrace_regs is enough for that, else full
 * registers are wanted (kernel/livepatch/patch.c:klp_patch_func asks the same).
 */
#ifdef CONFIG_HAVE_DYNAMIC_FTRACE_WITH_ARGS
#define KSPLICE_FTRACE_REGS	0
#else
#define KSPLICE_FTRACE_REGS	FTRACE_OPS_FL_SAVE_REGS
#endif

/* Renamed in 6.3 (include/linux/ftrace.h, a macro in both). */
#ifndef ftrace_regs_set_instruction_pointer
#define ftrace_regs_set_instruction_pointer(fregs, ip)	ftrace_instruction_pointer_set(fregs, ip)
#endif

/* An address in .entry.text, as the CPU itself has it; 0 where it has none. */
static inline unsigned long ksplice_entry_address(void)
{
	u64 address = 0;

#ifdef MSR_IA32_FRED_CONFIG
	/* Since 6.9: with FRED, LSTAR is not set up (arch/x86/kernel/cpu/common.c:syscall_init). */
	if (boot_cpu_has(X86_FEATURE_FRED)) {
		if (rdmsrl_safe(MSR_IA32_FRED_CONFIG, &address))
			return 0;
		return address & PAGE_MASK;
	}
#endif
	if (rdmsrl_safe(MSR_LSTAR, &address))
		return 0;
	return address;
}

#endif /* KSPLICE_COMPAT_H */
