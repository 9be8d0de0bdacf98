// SPDX-License-Identifier: GPL-2.0
/*
 * getppid() as getppid-nop.patch makes it, put in by the kernel's own
 * livepatch: for comparing what a call costs, and for the test that a function
 * which livepatch has redirected is refused.
 *
 * Load it to patch. To take it out, write 0 to
 * /sys/kernel/livepatch/livepatch_getppid/enabled, wait until that directory
 * has gone, and unload it.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/ptrace.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>

static asmlinkage long livepatch_getppid(const struct pt_regs *regs)
{
	int pid;

	asm volatile("nop");
	rcu_read_lock();
	pid = task_tgid_vnr(rcu_dereference(current->real_parent));
	rcu_read_unlock();

	return pid;
}

/* System calls are named by include/asm/syscall_wrapper.h of the architecture. */
static struct klp_func funcs[] = {
	{
		.old_name = "__x64_sys_getppid",
		.new_func = livepatch_getppid,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* no name: the kernel proper */
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init livepatch_getppid_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit livepatch_getppid_exit(void)
{
}

module_init(livepatch_getppid_init);
module_exit(livepatch_getppid_exit);
MODULE_DESCRIPTION("getppid() patched by livepatch, for comparison with ksplice");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
