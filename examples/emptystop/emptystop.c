// SPDX-License-Identifier: GPL-2.0
/*
 * How long this machine stands when a stop has nothing to do: the floor under
 * the pause of an update. Loading measures rounds stops in which every CPU runs
 * the callback and synchronises its core, from the first arrival to the last
 * departure, as an update's pause is measured. /sys/module/emptystop/parameters
 * then has the median and the extremes in nanoseconds.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/sort.h>
#include <linux/stop_machine.h>
#include <asm/sync_core.h>

#define MAX_ROUNDS 1000

static unsigned int rounds = 50;
module_param(rounds, uint, 0444);
static unsigned long median_ns;
module_param(median_ns, ulong, 0444);
static unsigned long min_ns;
module_param(min_ns, ulong, 0444);
static unsigned long max_ns;
module_param(max_ns, ulong, 0444);

static u64 pauses[MAX_ROUNDS];
static atomic64_t first, last;

static int stop(void *unused)
{
	s64 none = 0, now = ktime_get_ns();

	atomic64_try_cmpxchg(&first, &none, now);
	sync_core();
	now = ktime_get_ns();
	none = atomic64_read(&last);
	while (none < now && !atomic64_try_cmpxchg(&last, &none, now))
		cpu_relax();
	return 0;
}

static int compare(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

static int __init emptystop_init(void)
{
	unsigned int i;

	if (!rounds || rounds > MAX_ROUNDS)
		return -EINVAL;
	for (i = 0; i < rounds; i++) {
		int err;

		atomic64_set(&first, 0);
		atomic64_set(&last, 0);
		err = stop_machine(stop, NULL, cpu_online_mask);
		if (err)
			return err;
		pauses[i] = atomic64_read(&last) - atomic64_read(&first);
	}
	sort(pauses, rounds, sizeof(pauses[0]), compare, NULL);
	min_ns = pauses[0];
	median_ns = pauses[rounds / 2];
	max_ns = pauses[rounds - 1];
	return 0;
}

static void __exit emptystop_exit(void)
{
}

module_init(emptystop_init);
module_exit(emptystop_exit);
MODULE_DESCRIPTION("The pause of a stop_machine that does nothing");
MODULE_LICENSE("GPL");
