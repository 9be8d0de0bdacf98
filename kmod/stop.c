// SPDX-License-Identifier: GPL-2.0
/*
 * The stop. stop_machine with a mask runs the callback on every CPU, each with
 * interrupts off; here the first CPU works while the others spin, and have
 * every CPU serialise after each step of writing.
 */
#include <linux/cpumask.h>
#include <linux/ktime.h>
#include <linux/smp.h>
#include <linux/stop_machine.h>
#include <linux/timekeeping.h>
#include <asm/sync_core.h>

#include "ksplice.h"

#define LEAVE	-1

struct stop {
	struct ksplice_transaction *t;
	atomic_t arrived;
	atomic64_t first;	/* when the first CPU arrived, in nanoseconds */
	int phase;		/* counts steps; LEAVE at the end */
	atomic_t acked;		/* CPUs that have serialised, over all phases */
};

static void follow(struct stop *s)
{
	int seen = 0;

	for (;;) {
		/* Pairs with smp_store_release in next_phase and lead: text written before is visible after. */
		int phase = smp_load_acquire(&s->phase);

		if (phase != seen) {
			sync_core();
			if (phase == LEAVE)
				return;
			seen = phase;
			atomic_inc(&s->acked);
		}
		cpu_relax();
	}
}

/* Have every CPU serialise, and wait until each has. */
static void next_phase(struct stop *s, int phase)
{
	/* Pairs with smp_load_acquire in follow. */
	smp_store_release(&s->phase, phase);
	sync_core();
	while (atomic_read(&s->acked) < phase * ((int)num_online_cpus() - 1))
		cpu_relax();
}

/* Look at everything once more, now that nothing moves. */
static bool check(struct ksplice_transaction *t)
{
	u32 i;

	if (!ksplice_check_all(t) || !ksplice_writes_check(t))
		return false;
	ksplice_scan(t);
	if (t->nr_found) {
		u32 cause = KSPLICE_UNSAFE_STACK;

		for (i = 0; i < min_t(u32, t->nr_found, KSPLICE_MAX_CONFLICTS); i++) {
			if (!t->found[i].unsafe)
				cause = KSPLICE_CONFLICT;
		}
		ksplice_fail(&t->result, cause, -EBUSY, t->found[0].address, "%.16s (%d) %s", t->found[0].comm,
			     t->found[0].pid,
			     cause == KSPLICE_CONFLICT ? "is in code that is to go" : "has a stack that cannot be judged");
		return false;
	}
	return ksplice_transfer_check(t) && !ksplice_hooks_veto(t, KSPLICE_HOOKS_CHECK);
}

static void lead(struct stop *s)
{
	struct ksplice_transaction *t = s->t;
	int step;

	while (atomic_read(&s->arrived) < num_online_cpus())
		cpu_relax();
	if (check(t)) {
		ksplice_carry_all(t);
		ksplice_writes_do(t);
		ksplice_transfer_do(t);
		ksplice_hooks_run(t, KSPLICE_HOOKS_CHANGE);
		for (step = 0; step < KSPLICE_TEXT_STEPS; step++) {
			ksplice_text_step(t, step);
			next_phase(s, step + 1);
		}
	}
	t->result.pause_ns = ktime_get_mono_fast_ns() - atomic64_read(&s->first);
	/* Pairs with smp_load_acquire in follow. */
	smp_store_release(&s->phase, LEAVE);
	sync_core();
}

static int on_each(void *data)
{
	struct stop *s = data;

	/* Never 0 here: the clock has run since boot. */
	atomic64_cmpxchg(&s->first, 0, ktime_get_mono_fast_ns());
	atomic_inc(&s->arrived);
	if (smp_processor_id() == cpumask_first(cpu_online_mask))
		lead(s);
	else
		follow(s);
	return 0;
}

/*
 * One attempt: the outcome is in t->result, its pause the time from the first
 * CPU's arrival to the release. An error is stop_machine's own.
 */
int ksplice_stop(struct ksplice_transaction *t)
{
	struct stop s = { .t = t };
	int err;

	ksplice_text_begin(t);
	err = stop_machine(on_each, &s, cpu_online_mask);
	ksplice_text_end();
	return err;
}
