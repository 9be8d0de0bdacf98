// SPDX-License-Identifier: GPL-2.0
/*
 * Is run what the update was made for? Every byte outside sites must be equal
 * to what pre, its relocations and the slots' values give; the bytes under the
 * jump must be those that matching saw. Run before the stop and again in it.
 */
#include <linux/kallsyms.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/stdarg.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <asm/pgtable.h>

#include "compat.h"
#include "ksplice.h"

#define INT3	0xcc

/*
 * Functions that some thread is always in, or that the commit itself runs
 * through: in the stop each CPU runs a stopper, its idle thread has been
 * switched out in the idle loop, and the commit's thread waits. The last
 * group runs after a thread has left the list of threads, so that a scan does
 * not see it (kernel/exit.c:exit_notify, do_task_dead).
 */
static const char * const forbidden[] = {
	"schedule", "__schedule", "schedule_idle", "preempt_schedule_common", "preempt_schedule",
	"preempt_schedule_notrace", "preempt_schedule_irq", "preempt_schedule_thunk", "preempt_schedule_notrace_thunk",
	"__cond_resched", "dynamic_cond_resched", "_cond_resched", "context_switch", "finish_task_switch",
	"__switch_to", "__switch_to_asm", "schedule_tail", "ret_from_fork", "ret_from_fork_asm",
	"do_idle", "cpu_startup_entry", "cpuidle_idle_call", "default_idle_call", "default_idle", "arch_cpu_idle",
	"cpu_idle_poll", "call_cpuidle", "cpuidle_enter", "cpuidle_enter_state", "play_idle_precise",
	"rest_init", "start_secondary", "arch_call_rest_init", "start_kernel",
	"multi_cpu_stop", "cpu_stopper_thread", "stop_machine", "stop_machine_cpuslocked", "stop_cpus", "__stop_cpus",
	"queue_stop_cpus_work", "cpu_stop_queue_work", "cpu_stop_signal_done", "smpboot_thread_fn",
	"stop_machine_yield", "kthread",
	"text_poke", "__text_poke", "text_poke_bp", "text_poke_bp_batch", "text_poke_finish", "text_poke_queue",
	"text_poke_copy", "text_poke_kgdb", "text_poke_early", "text_poke_sync", "text_poke_memcpy", "do_sync_core",
	"poke_int3_handler", "patch_cmp", "text_poke_loc_init",
	"exc_int3", "do_int3", "exc_nmi", "default_do_nmi", "notify_die", "atomic_notifier_call_chain",
	"notifier_call_chain", "kprobe_int3_handler", "get_kprobe", "kgdb_ll_trap", "irqentry_nmi_enter",
	"irqentry_nmi_exit", "irqentry_enter", "irqentry_exit", "ct_nmi_enter", "ct_nmi_exit", "ct_kernel_enter",
	"ct_kernel_exit", "ct_kernel_enter_state", "ct_kernel_exit_state", "__rcu_read_lock", "__rcu_read_unlock",
	"exit_notify", "release_task", "__exit_signal", "proc_exit_connector", "proc_flush_pid", "put_task_struct_rcu_user",
	"delayed_put_task_struct", "exit_task_stack_account", "check_stack_usage", "exit_rcu", "lockdep_free_task",
	"do_task_dead", "make_task_dead", "do_exit", "mpol_put_task_policy", "put_task_stack", "__put_task_struct",
};

/*
 * Record the first failure; later ones do not matter. Up to the first ": " the
 * text says whom it is about, and is for the log, too (commit.c:tell_failed):
 * addresses and bytes of the kernel's stand behind that.
 */
void ksplice_fail(struct ksplice_result *r, u32 cause, int error, unsigned long address, const char *fmt, ...)
{
	va_list args;

	if (r->cause != KSPLICE_OK)
		return;
	r->cause = cause;
	r->error = error;
	r->address = address;
	va_start(args, fmt);
	vsnprintf(r->where, sizeof(r->where), fmt, args);
	va_end(args);
}

/*
 * .entry.text has no exported bounds, but on x86-64 it begins and ends on a
 * boundary of PMD_SIZE (arch/x86/kernel/vmlinux.lds.S:ALIGN_ENTRY_TEXT_BEGIN)
 * and the CPU knows an address in it. It is one such block, or two where
 * speculation thunks of AMD share it: those two are told apart by name below.
 */
static bool in_entry_text(unsigned long address)
{
	unsigned long entry = ksplice_entry_address();

	return entry && (address & PMD_MASK) == (entry & PMD_MASK);
}

static bool named_forbidden(const char *name)
{
	size_t n;
	int i;

	for (i = 0; i < ARRAY_SIZE(forbidden); i++) {
		n = strlen(forbidden[i]);
		/* Also what the compiler split off: NAME.cold, NAME.isra.0 */
		if (!strncmp(name, forbidden[i], n) && (!name[n] || name[n] == '.'))
			return true;
	}
	return str_has_prefix(name, "entry_") || str_has_prefix(name, "asm_") || str_has_prefix(name, "srso_") ||
	       str_has_prefix(name, "retbleed_") || str_has_prefix(name, "__x86_");
}

/*
 * By the name that the part gives and by the one that kallsyms has for the
 * address: names are not exported to us, but sprint_symbol is.
 */
bool ksplice_forbidden(struct ksplice_function *f)
{
	char name[KSYM_SYMBOL_LEN];

	if (in_entry_text(f->code) || in_entry_text(f->code + f->size - 1))
		return true;
	sprint_symbol_no_offset(name, f->address);
	if (strchr(name, '['))
		return false;	/* a module's */
	return named_forbidden(name) || named_forbidden(f->name);
}

/* 0 where every page of the range is mapped and executable for the kernel. */
int ksplice_is_text(unsigned long address, unsigned long size)
{
	unsigned long page;

	if (address < __START_KERNEL_map || address >= MODULES_END || !size || size > MODULES_END - address)
		return -EFAULT;
	for (page = address & PAGE_MASK; page < address + size; page += PAGE_SIZE) {
		unsigned int level;
		pte_t *pte = lookup_address(page, &level);

		if (!pte || level == PG_LEVEL_NONE || !pte_present(*pte) || pte_flags(*pte) & _PAGE_NX)
			return -EFAULT;
	}
	return 0;
}

/*
 * An int3 where an instruction of pre has another byte, outside the window and
 * outside relocations, is a probe: user space has compared it with the list of
 * probes, and the redirect cuts it off. It is nothing else that could run.
 */
static bool probe(const struct ksplice_function *f, unsigned long at, u8 run)
{
	return run == INT3 && f->classes[at] == KSPLICE_COMPARE && at - f->window >= f->window_len;
}

/*
 * Where call depth tracking leads calls: code in the padding before a function
 * which counts and goes on into it (INCREMENT_CALL_DEPTH in
 * arch/x86/include/asm/nospec-branch.h begins with sarq %gs:).
 */
static bool counts_calls(unsigned long at, unsigned long function)
{
	static const u8 sarq[] = { 0x65, 0x48, 0xc1 };
	u8 run[sizeof(sarq)];

	return function - at <= KSPLICE_PADDING && !copy_from_kernel_nofault(run, (const void *)at, sizeof(run)) &&
	       !memcmp(run, sarq, sizeof(sarq));
}

/* Calls lead to where pre's do, or to what counts them on the way there. */
static bool check_calls(struct ksplice_function *f, bool skip_window, struct ksplice_result *r)
{
	unsigned long end = f->window + f->window_len, at, next;
	s32 run, want;

	for (at = 0; at < f->size; at++) {
		if (f->classes[at] != KSPLICE_CALL)
			continue;
		if (skip_window && at < end && at + sizeof(run) > f->window) {
			at += sizeof(run) - 1;
			continue;
		}
		next = f->code + at + sizeof(run);
		memcpy(&want, f->image + at, sizeof(want));
		if (copy_from_kernel_nofault(&run, (const void *)(f->code + at), sizeof(run)) ||
		    (run != want && !counts_calls(next + run, next + want))) {
			ksplice_fail(r, KSPLICE_CHANGED, -EUCLEAN, f->code + at,
				     "%s+%#lx: run calls another function than the update expects", f->name, at);
			return false;
		}
		at += sizeof(run) - 1;
	}
	return true;
}

static bool check_image(struct ksplice_function *f, bool skip_window, struct ksplice_result *r)
{
	u8 run[128];
	unsigned long at, n, i;

	for (at = 0; at < f->size; at += n) {
		n = min_t(unsigned long, sizeof(run), f->size - at);
		if (copy_from_kernel_nofault(run, (const void *)(f->code + at), n)) {
			ksplice_fail(r, KSPLICE_CHANGED, -EFAULT, f->code + at, "%s+%#lx: cannot be read", f->name, at);
			return false;
		}
		for (i = 0; i < n; i++) {
			if (f->classes[at + i] == KSPLICE_SITE || f->classes[at + i] == KSPLICE_CALL)
				continue;
			if (run[i] == f->image[at + i] || probe(f, at + i, run[i]))
				continue;
			if (skip_window && at + i - f->window < f->window_len)
				continue;
			ksplice_fail(r, KSPLICE_CHANGED, -EUCLEAN, f->code + at + i,
				     "%s+%#lx: run has %02x, the update expects %02x%s", f->name, at + i, run[i],
				     f->image[at + i],
				     run[i] == 0xe9 ? "; an optimised probe, or another update" : "");
			return false;
		}
	}
	return true;
}

/* Check one function; in the stop or outside. */
bool ksplice_check_function(struct ksplice_function *f, u32 op, struct ksplice_result *r)
{
	u8 run[KSPLICE_JUMP_LEN];
	bool jumped;

	/* What stands under its jump now is another's, which is checked for itself. */
	if (f->kind == KSPLICE_KIND_JUMP && !f->over) {
		const u8 *want = op == KSPLICE_OP_APPLY ? f->patch.old : f->patch.new;

		if (copy_from_kernel_nofault(run, (const void *)f->patch.address, sizeof(run)) ||
		    memcmp(run, want, sizeof(run))) {
			ksplice_fail(r, op == KSPLICE_OP_APPLY ? KSPLICE_WINDOW : KSPLICE_PROBED, -EUCLEAN,
				     f->patch.address, "%s+%#x: has %*phN, expected %*phN%s", f->name, f->window,
				     KSPLICE_JUMP_LEN, run, KSPLICE_JUMP_LEN, want,
				     run[0] == INT3 ? "; remove the probe that stands there" : "");
			return false;
		}
	}
	jumped = f->kind == KSPLICE_KIND_JUMP && (op == KSPLICE_OP_UNDO || f->over);
	return check_image(f, jumped, r) && check_calls(f, jumped, r);
}

/* Check all functions of a transaction; in the stop or outside. */
bool ksplice_check_all(struct ksplice_transaction *t)
{
	struct ksplice_function *f;
	struct ksplice_member *m;

	ksplice_for_each_member(m, t) {
		list_for_each_entry(f, &m->update->functions, node) {
			if (!ksplice_check_function(f, m->op, &t->result))
				return false;
		}
	}
	return true;
}
