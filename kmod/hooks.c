// SPDX-License-Identifier: GPL-2.0
/*
 * Hooks of an update's own: part by part in the order of loading, and within a
 * part as listed; those that take back what others set up, the other way round.
 * What is undone comes before what is applied in its place, the latest first.
 */
#include <linux/build_bug.h>

#include "ksplice.h"

/* Types stand in the order of times, those of undo behind those of apply. */
static_assert(KSPLICE_HOOK_PRE_APPLY + KSPLICE_HOOKS_FAIL == KSPLICE_HOOK_FAIL_APPLY);
static_assert(KSPLICE_HOOK_PRE_REVERSE + KSPLICE_HOOKS_FAIL == KSPLICE_HOOK_FAIL_REVERSE);

static u32 type_of(const struct ksplice_member *m, enum ksplice_hook_time time)
{
	return time + (m->op == KSPLICE_OP_APPLY ? KSPLICE_HOOK_PRE_APPLY : KSPLICE_HOOK_PRE_REVERSE);
}

static bool backwards(u32 type)
{
	return type == KSPLICE_HOOK_POST_REVERSE || type == KSPLICE_HOOK_FAIL_APPLY ||
	       type == KSPLICE_HOOK_FAIL_REVERSE;
}

/* The update whose hooks run after its undo stays mapped. One commit runs at a time. */
bool ksplice_hooks_stay;

/* The member whose turn it is behind another, NULL for the first. */
static struct ksplice_member *following(struct ksplice_transaction *t, const struct ksplice_member *last)
{
	struct ksplice_member *m, *best = NULL;

	if (last && last->op == KSPLICE_OP_APPLY)
		return NULL;
	ksplice_for_each_member(m, t) {
		if (m->op != KSPLICE_OP_UNDO || (last && m->update->sequence >= last->update->sequence))
			continue;
		if (!best || m->update->sequence > best->update->sequence)
			best = m;
	}
	return best ?: t->op == KSPLICE_OP_APPLY ? &t->members[0] : NULL;
}

static int veto(const struct ksplice_loaded *p, u32 type, struct ksplice_result *r)
{
	u32 i;

	for (i = 0; i < p->nr_hooks; i++) {
		int (*hook)(void) = (int (*)(void))(unsigned long)p->hooks[i].function;
		int err;

		if (p->hooks[i].type != type)
			continue;
		err = hook();
		if (err) {
			ksplice_fail(r, KSPLICE_VETOED, err < 0 ? err : -EPERM, p->hooks[i].function,
				     "a hook of the part for %s said no (%d)", p->target, err);
			return -EPERM;
		}
	}
	return 0;
}

static void run(const struct ksplice_loaded *p, u32 type)
{
	u32 i;

	for (i = 0; i < p->nr_hooks; i++) {
		const struct ksplice_hook *h = &p->hooks[backwards(type) ? p->nr_hooks - 1 - i : i];
		void (*hook)(void) = (void (*)(void))(unsigned long)h->function;

		if (h->type == type)
			hook();
	}
}

/* Run hooks that may say no, until one does. */
int ksplice_hooks_veto(struct ksplice_transaction *t, enum ksplice_hook_time time)
{
	struct ksplice_member *m = NULL;
	struct ksplice_loaded *p;

	while ((m = following(t, m))) {
		list_for_each_entry(p, &m->update->parts, list) {
			if (veto(p, type_of(m, time), &t->result))
				return -EPERM;
		}
	}
	return 0;
}

static void run_member(const struct ksplice_member *m, enum ksplice_hook_time time)
{
	u32 type = type_of(m, time);
	struct ksplice_loaded *p;

	ksplice_hooks_stay = type == KSPLICE_HOOK_POST_REVERSE && m->update->stays;
	if (backwards(type)) {
		list_for_each_entry_reverse(p, &m->update->parts, list)
			run(p, type);
	} else {
		list_for_each_entry(p, &m->update->parts, list)
			run(p, type);
	}
	ksplice_hooks_stay = false;
}

void ksplice_hooks_run(struct ksplice_transaction *t, enum ksplice_hook_time time)
{
	struct ksplice_member *m = NULL, *order[KSPLICE_MAX_MEMBERS];
	u32 n = 0;

	while (n < KSPLICE_MAX_MEMBERS && (m = following(t, m)))
		order[n++] = m;
	if (time == KSPLICE_HOOKS_FAIL) {
		while (n--)
			run_member(order[n], time);
	} else {
		u32 i;

		for (i = 0; i < n; i++)
			run_member(order[i], time);
	}
}
