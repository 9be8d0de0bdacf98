// SPDX-License-Identifier: GPL-2.0
/*
 * Redirect by ftrace, for functions that hold a live site where the jump
 * would stand. The handler is registered before the stop and does nothing
 * until it is armed in it, so that the change is as atomic as a jump's.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ftrace.h>
#include <linux/module.h>

#include "compat.h"
#include "ksplice.h"

static void notrace handler(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	struct ksplice_function *f = container_of(ops, struct ksplice_function, ops);

	if (READ_ONCE(f->armed))
		ftrace_regs_set_instruction_pointer(fregs, f->replacement);
}

/* The function's entry will do: ftrace_set_filter_ip looks for the site in it (ftrace_location in kernel/trace). */
int ksplice_ftrace_add(struct ksplice_function *f)
{
	int err;

	f->armed = false;
	memset(&f->ops, 0, sizeof(f->ops));
	f->ops.func = handler;
	f->ops.flags = FTRACE_OPS_FL_DYNAMIC | FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT | KSPLICE_FTRACE_REGS;
	err = ftrace_set_filter_ip(&f->ops, f->code, 0, 0);
	if (err)
		return err;
	err = register_ftrace_function(&f->ops);
	if (err) {
		ftrace_free_filter(&f->ops);
		return err;
	}
	f->registered = true;
	return 0;
}

/* Returns when no thread is in the handler (unregister_ftrace_function waits for dynamic ops). */
void ksplice_ftrace_remove(struct ksplice_function *f)
{
	int err;

	if (!f->registered)
		return;
	err = unregister_ftrace_function(&f->ops);
	if (err)
		pr_err("%s: ftrace keeps the handler: %d\n", f->name, err);
	ftrace_free_filter(&f->ops);
	f->registered = false;
}
