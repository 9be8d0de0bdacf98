// SPDX-License-Identifier: GPL-2.0
/*
 * Does a thread stand in code that is about to go? Every return address and
 * interrupted instruction pointer of a thread that is switched out is a word
 * between its stack pointer and the top of its stack, or, where function-graph
 * tracing or a kretprobe has hidden it, in the thread's shadow stack or among
 * its rethooks. So no word in the affected ranges is a proof, at memory speed,
 * and only a hit asks the ORC unwinder whether it is a frame or an old value.
 *
 * In the stop each CPU runs its stopper, which stands in functions that are
 * never replaced (check.c), and its idle thread waits in the idle loop, as
 * little. All other threads are switched out.
 */
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/uaccess.h>
#include <asm/ibt.h>
#include <asm/unwind.h>

#include "compat.h"
#include "ksplice.h"

#define PRESCAN_WORDS	(PAGE_SIZE / sizeof(long))

static int by_start(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;

	return x < y ? -1 : x > y;
}

/* Where the call of the tracer at a function's entry returns to. */
static unsigned long behind_tracer(const struct ksplice_function *f)
{
	u32 first = 0;

	memcpy(&first, f->image, min_t(unsigned long, sizeof(first), f->size));
	return f->code + (is_endbr(first) ? sizeof(first) : 0) + MCOUNT_INSN_SIZE;
}

/* Does an update that is applied in this stop have ranges for the function? */
static bool taken_over(struct ksplice_transaction *t, const struct ksplice_function *f)
{
	struct ksplice_member *m;
	struct ksplice_function *heir;

	ksplice_for_each_member(m, t) {
		if (m->op != KSPLICE_OP_APPLY)
			continue;
		list_for_each_entry(heir, &m->update->functions, node) {
			if (heir->code == f->code)
				return true;
		}
	}
	return false;
}

/*
 * Apply: the old code behind its window. A thread whose next instruction is
 * the window or before it runs into the jump, which is as good as not having
 * entered; not so where ftrace redirects, as that may be over for it.
 * Undo: all text of the parts, from its first byte on; and where ftrace
 * redirects, threads on their way through the tracer (ftrace.c says why).
 */
static void add_ranges(struct ksplice_transaction *t, const struct ksplice_member *m)
{
	struct ksplice_range_set *s = &t->ranges;
	struct ksplice_loaded *p;
	struct ksplice_function *f;

	if (m->op == KSPLICE_OP_APPLY) {
		list_for_each_entry(f, &m->update->functions, node) {
			s->ranges[s->nr].start = f->code + (f->kind == KSPLICE_KIND_JUMP ? f->window : 0);
			s->ranges[s->nr++].end = f->code + f->size;
		}
		return;
	}
	list_for_each_entry(p, &m->update->parts, list) {
		struct ksplice_region r = ksplice_module_text(p->mod);

		s->ranges[s->nr].start = r.start - 1;
		s->ranges[s->nr++].end = r.start + r.size;
	}
	list_for_each_entry(f, &m->update->functions, node) {
		if (f->kind != KSPLICE_KIND_FTRACE || taken_over(t, f))
			continue;
		s->ranges[s->nr].start = behind_tracer(f) - 1;
		s->ranges[s->nr++].end = behind_tracer(f);
	}
}

int ksplice_ranges_make(struct ksplice_transaction *t)
{
	struct ksplice_range_set *s = &t->ranges;
	struct ksplice_member *m;
	struct ksplice_loaded *p;
	u32 n = 0;

	ksplice_for_each_member(m, t) {
		list_for_each_entry(p, &m->update->parts, list)
			n += p->nr_functions + 1;
	}
	s->ranges = kvcalloc(n, sizeof(*s->ranges), GFP_KERNEL);
	if (!s->ranges)
		return -ENOMEM;
	s->nr = 0;
	ksplice_for_each_member(m, t)
		add_ranges(t, m);
	sort(s->ranges, s->nr, sizeof(*s->ranges), by_start, NULL);
	s->low = s->ranges[0].start;
	s->high = 0;
	for (n = 0; n < s->nr; n++)
		s->high = max(s->high, s->ranges[n].end);
	return 0;
}

void ksplice_ranges_free(struct ksplice_transaction *t)
{
	kvfree(t->ranges.ranges);
	t->ranges.ranges = NULL;
	t->ranges.nr = 0;
}

/* Functions do not overlap (commit.c), so the last range that starts before the word is the only one to ask. */
static bool in_ranges(const struct ksplice_range_set *s, unsigned long word)
{
	u32 low = 0, high = s->nr;

	if (word <= s->low || word > s->high)
		return false;
	while (high - low > 1) {
		u32 mid = low + (high - low) / 2;

		if (s->ranges[mid].start < word)
			low = mid;
		else
			high = mid;
	}
	return s->ranges[low].start < word && word <= s->ranges[low].end;
}

static unsigned long first_hit(const struct ksplice_range_set *s, const unsigned long *words, size_t n)
{
	for (; n; n--, words++) {
		unsigned long word = READ_ONCE_NOCHECK(*words);

		if (in_ranges(s, word))
			return word;
	}
	return 0;
}

static unsigned long switches(const struct task_struct *task)
{
	return READ_ONCE(task->nvcsw) + READ_ONCE(task->nivcsw);
}

static void found(struct ksplice_transaction *t, struct task_struct *task, unsigned long address, bool unsafe)
{
	struct ksplice_found *f;

	if (t->nr_found++ >= KSPLICE_MAX_CONFLICTS)
		return;
	f = &t->found[t->nr_found - 1];
	memset(f, 0, sizeof(*f));
	f->pid = task_pid_nr(task);
	memcpy(f->comm, task->comm, sizeof(f->comm));
	f->comm[sizeof(f->comm) - 1] = '\0';
	f->address = address;
	f->unsafe = unsafe;
	f->start_time = task->start_time;
	f->switches = switches(task);
}

/*
 * Judge a hit, as arch_stack_walk_reliable does: is there a frame in the
 * ranges? A stack that cannot be walked to its end is judged as one that has.
 * A user thread's ends where it entered the kernel, and nowhere else: in 6.1
 * the code that function-graph tracing returns to says that it is the end
 * (arch/x86/kernel/ftrace_64.S:return_to_handler).
 */
static void judge(struct ksplice_transaction *t, struct task_struct *task, unsigned long hit)
{
	struct unwind_state state;
	struct pt_regs *regs;

	for (unwind_start(&state, task, NULL, NULL); !unwind_done(&state) && !unwind_error(&state);
	     unwind_next_frame(&state)) {
		unsigned long address;

		regs = unwind_get_entry_regs(&state, NULL);
		if (regs && user_mode(regs))
			return;	/* the end of a user thread's stack */
		address = unwind_get_return_address(&state);
		if (!address)
			break;
		if (in_ranges(&t->ranges, address)) {
			found(t, task, address, false);
			return;
		}
	}
	if (unwind_error(&state) || !unwind_done(&state) || !(task->flags & (PF_KTHREAD | PF_IO_WORKER)))
		found(t, task, hit, true);
}

/* In the stop: scan one thread that is switched out. */
static void scan_task(struct ksplice_transaction *t, struct task_struct *task)
{
	unsigned long stack, sp, hit;
	const unsigned long *shadow;
	struct llist_node *node;
	size_t words;

	/* A dead thread's stack may have been freed (kernel/fork.c:put_task_stack). */
	if (!refcount_read(&task->stack_refcount))
		return;
	stack = (unsigned long)task_stack_page(task);
	if (!stack)
		return;
	sp = task->thread.sp;
	if (sp < stack || sp > stack + THREAD_SIZE || sp % sizeof(long)) {
		found(t, task, sp, true);
		return;
	}
	/* What is hidden is a return address for certain, and the unwinder may stumble over it: no need to ask. */
	shadow = ksplice_ret_stack(task, &words);
	hit = first_hit(&t->ranges, shadow, words);
	for (node = ksplice_rethooks(task); !hit && node; node = node->next) {
		if (in_ranges(&t->ranges, ksplice_rethook_address(node)))
			hit = ksplice_rethook_address(node);
	}
	if (hit) {
		found(t, task, hit, false);
		return;
	}
	hit = first_hit(&t->ranges, (const unsigned long *)sp, (stack + THREAD_SIZE - sp) / sizeof(long));
	if (hit)
		judge(t, task, hit);
}

/*
 * In the stop: scan all threads. Nobody changes the list of threads, as that
 * is done with interrupts off (write_lock_irq of tasklist_lock).
 */
void ksplice_scan(struct ksplice_transaction *t)
{
	struct task_struct *g, *task;

	t->nr_found = 0;
	for_each_process_thread(g, task) {
		if (!task->on_cpu)
			scan_task(t, task);
		else if (!(task->flags & PF_KTHREAD))
			found(t, task, task->thread.sp, true);
	}
}

/* Without the stop: one thread's stack, by reads that cannot fault, since it may run, or go, meanwhile. */
static bool prescan_task(const struct ksplice_range_set *s, const struct task_struct *task, unsigned long *buffer)
{
	unsigned long stack = (unsigned long)READ_ONCE(task->stack), sp = READ_ONCE(task->thread.sp);

	if (!stack || READ_ONCE(task->on_cpu) || sp < stack || sp > stack + THREAD_SIZE || sp % sizeof(long))
		return false;
	while (sp < stack + THREAD_SIZE) {
		size_t n = min_t(size_t, PAGE_SIZE, stack + THREAD_SIZE - sp);

		if (copy_from_kernel_nofault(buffer, (const void *)sp, n))
			return false;
		if (first_hit(s, buffer, n / sizeof(long)))
			return true;
		sp += n;
	}
	return false;
}

/*
 * Is a stop likely to succeed? False where a word on some stack names the
 * ranges. Only the stop can judge it.
 */
bool ksplice_prescan(struct ksplice_transaction *t)
{
	unsigned long *buffer = kmalloc_array(PRESCAN_WORDS, sizeof(long), GFP_KERNEL);
	struct task_struct *g, *task;
	bool hit = false;

	if (!buffer)
		return true;
	rcu_read_lock();
	for_each_process(g) {
		for_each_thread(g, task) {
			hit = prescan_task(&t->ranges, task, buffer);
			if (hit)
				goto out;
		}
	}
out:
	rcu_read_unlock();
	kfree(buffer);
	return !hit;
}

/*
 * Has one of the threads that the last stop found not run since? Then it is
 * still in the way, and there is no need to stop the machine to see that. The
 * owner's threads do not count: it waits for the others to leave (thaw.c).
 */
bool ksplice_still_there(const struct ksplice_transaction *t)
{
	u32 i;

	for (i = 0; i < min_t(u32, t->nr_found, KSPLICE_MAX_CONFLICTS); i++) {
		const struct ksplice_found *f = &t->found[i];
		struct pid *pid = find_get_pid(f->pid);
		struct task_struct *task = get_pid_task(pid, PIDTYPE_PID);
		bool there;

		put_pid(pid);
		if (!task)
			continue;
		there = task_tgid_nr(task) != t->tgid && task->start_time == f->start_time &&
			switches(task) == f->switches && !READ_ONCE(task->on_cpu);
		put_task_struct(task);
		if (there)
			return true;
	}
	return false;
}
