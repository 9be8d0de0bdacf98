// SPDX-License-Identifier: GPL-2.0
/*
 * Hooks of an update's own: part by part in the order of loading, and within a
 * part as listed. What is undone comes before what is applied in its place.
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

static int veto(struct ksplice_update *u, u32 type, struct ksplice_result *r)
{
	struct ksplice_loaded *p;
	u32 i;

	list_for_each_entry(p, &u->parts, list) {
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
	}
	return 0;
}

static void run(struct ksplice_update *u, u32 type)
{
	struct ksplice_loaded *p;
	u32 i;

	list_for_each_entry(p, &u->parts, list) {
		for (i = 0; i < p->nr_hooks; i++) {
			void (*hook)(void) = (void (*)(void))(unsigned long)p->hooks[i].function;

			if (p->hooks[i].type == type)
				hook();
		}
	}
}

/* Run hooks that may say no, until one does. */
int ksplice_hooks_veto(struct ksplice_transaction *t, enum ksplice_hook_time time)
{
	u32 i;

	for (i = t->nr_members; i--;) {
		if (veto(t->members[i].update, type_of(&t->members[i], time), &t->result))
			return -EPERM;
	}
	return 0;
}

void ksplice_hooks_run(struct ksplice_transaction *t, enum ksplice_hook_time time)
{
	u32 i;

	for (i = t->nr_members; i--;)
		run(t->members[i].update, type_of(&t->members[i], time));
}
