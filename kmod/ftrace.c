// SPDX-License-Identifier: GPL-2.0
/*
 * Redirect by ftrace, for functions that hold a live site where the jump
 * would stand. The handler is registered before the stop and does nothing
 * until it is given a function in it, so that the change is as atomic as a jump's.
 *
 * The handler decides while a thread is in the tracer's trampoline, where it
 * may be preempted. When the redirect is taken back in a stop, a thread that
 * the handler has decided for, and that still goes to the replacement, must
 * have got there: the replacement is freed afterwards. Waiting for RCU tasks,
 * as unregister_ftrace_function does, is not enough: that waits until a
 * preempted thread leaves its CPU of its own will (kernel/rcu/tasks.h:
 * rcu_tasks_pertask takes threads with on_rq alone), and the first time that
 * it does may be in a replacement that sleeps.
 *
 * So the stop refuses as long as any thread is in the trampoline at all. The
 * function calls it (arch/x86/kernel/ftrace_64.S: ftrace_caller,
 * ftrace_regs_caller, and the copies that arch/x86/kernel/ftrace.c:
 * create_trampoline makes of them), and that call's return address stands
 * above everything that the trampoline and its handlers push, until the
 * trampoline returns by it. There are two values that it can have: the address
 * behind the call in the function, and, from the moment when the trampoline
 * copies regs->ip to it, the replacement's entry. The first is a range of its
 * own in an undo, the second lies in the part's text, and both are return
 * addresses to the unwinder, which knows the trampolines
 * (arch/x86/kernel/unwind_orc.c: orc_ftrace_find); where it does not know
 * one, BPF's, the stack counts as one that cannot be judged (stacks.c). The
 * function-graph tracer does not hide this address: it takes that of the
 * function's caller. A thread of whose stack neither can be said has left the
 * trampoline, or has not entered it and will find no function to go to.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "compat.h"
#include "ksplice.h"

static void notrace handler(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	struct ksplice_handler *h = container_of(ops, struct ksplice_handler, ops);
	struct ksplice_function *f = READ_ONCE(h->function);

	if (f)
		ftrace_regs_set_instruction_pointer(fregs, f->replacement);
}

/*
 * The function's entry will do: ftrace_set_filter_ip looks for the site in it
 * (ftrace_location in kernel/trace). Only one handler that sets the instruction
 * pointer may be at a site, so that an update which goes leaves its own to what
 * takes its place.
 */
int ksplice_ftrace_add(struct ksplice_function *f)
{
	struct ksplice_handler *h;
	int err;

	if (f->over)
		return 0;
	h = kzalloc(sizeof(*h), GFP_KERNEL);
	if (!h)
		return -ENOMEM;
	h->ops.func = handler;
	h->ops.flags = FTRACE_OPS_FL_DYNAMIC | FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT | KSPLICE_FTRACE_REGS;
	err = ftrace_set_filter_ip(&h->ops, f->code, 0, 0);
	if (err)
		goto err;
	err = register_ftrace_function(&h->ops);
	if (err) {
		ftrace_free_filter(&h->ops);
		goto err;
	}
	f->handler = h;
	return 0;
err:
	kfree(h);
	return err;
}

/* In the stop: redirect, or cease to. */
void ksplice_ftrace_switch(struct ksplice_function *f, bool on)
{
	struct ksplice_handler *h = f->over ? f->over->handler : f->handler;

	WRITE_ONCE(h->function, on ? f : NULL);
}

/* After the stop: what has been taken over belongs to its heir. */
void ksplice_ftrace_settle(struct ksplice_function *f)
{
	if (f->over && f->kind == KSPLICE_KIND_FTRACE)
		swap(f->handler, f->over->handler);
}

/* Returns when no thread is in the handler (unregister_ftrace_function waits for dynamic ops). */
void ksplice_ftrace_remove(struct ksplice_function *f)
{
	struct ksplice_handler *h = f->handler;
	int err;

	if (!h)
		return;
	WRITE_ONCE(h->function, NULL);
	err = unregister_ftrace_function(&h->ops);
	f->handler = NULL;
	if (err) {
		/* It stays, and redirects nobody. */
		pr_err("%s: ftrace keeps the handler: %d\n", f->name, err);
		return;
	}
	ftrace_free_filter(&h->ops);
	kfree(h);
}
