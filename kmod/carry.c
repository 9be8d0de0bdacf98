// SPDX-License-Identifier: GPL-2.0
/*
 * What an update that is replaced keeps in variables of its own, carried over
 * into those of the update that takes its place. User space says which is
 * which; here it is only seen to that nothing else is read or written: from
 * data of a part that goes to data of one that comes, while the machine stands.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "compat.h"
#include "ksplice.h"

#define MAX_CARRIES	1024
#define MAX_CARRIED	(64 * 1024)	/* bytes in all: the machine stands meanwhile */

/* Note a variable to be carried. -EINVAL, -E2BIG, -ENOMEM. Under ksplice_lock. */
int ksplice_carry(struct ksplice_transaction *t, const struct ksplice_carry *c)
{
	struct ksplice_carry *all;

	if (t->op != KSPLICE_OP_APPLY || !c->length)
		return -EINVAL;
	if (t->nr_carries == MAX_CARRIES || c->length > MAX_CARRIED - t->carried)
		return -E2BIG;
	all = krealloc(t->carries, (t->nr_carries + 1) * sizeof(*all), GFP_KERNEL);
	if (!all)
		return -ENOMEM;
	t->carries = all;
	all[t->nr_carries++] = *c;
	t->carried += c->length;
	return 0;
}

static bool in_data(struct ksplice_update *u, u64 address, u64 length)
{
	struct ksplice_loaded *p;

	list_for_each_entry(p, &u->parts, list) {
		struct ksplice_region r = ksplice_module_data(p->mod);

		if (address >= r.start && address - r.start < r.size && length <= r.size - (address - r.start))
			return true;
	}
	return false;
}

static bool goes(struct ksplice_transaction *t, u64 address, u64 length)
{
	struct ksplice_member *m;

	ksplice_for_each_member(m, t) {
		if (m->op == KSPLICE_OP_UNDO && in_data(m->update, address, length))
			return true;
	}
	return false;
}

/* Before the stop, when all parts are held. */
bool ksplice_carry_check(struct ksplice_transaction *t)
{
	u32 i;

	for (i = 0; i < t->nr_carries; i++) {
		const struct ksplice_carry *c = &t->carries[i];

		if (goes(t, c->from, c->length) && in_data(t->update, c->to, c->length))
			continue;
		ksplice_fail(&t->result, KSPLICE_INVALID, -EINVAL, c->from,
			     "what is to be carried over is not a variable of a part that goes and one of a part that comes");
		return false;
	}
	return true;
}

/* In the stop. */
void ksplice_carry_all(struct ksplice_transaction *t)
{
	u32 i;

	for (i = 0; i < t->nr_carries; i++) {
		const struct ksplice_carry *c = &t->carries[i];

		memcpy((void *)(unsigned long)c->to, (const void *)(unsigned long)c->from, c->length);
	}
}
