// SPDX-License-Identifier: GPL-2.0
/* Hooks of an update's own: part by part in the order of loading, and within a part as listed. */
#include "ksplice.h"

/* Run hooks that may say no, until one does. */
int ksplice_hooks_veto(struct ksplice_update *u, u32 type, struct ksplice_result *r)
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

void ksplice_hooks_run(struct ksplice_update *u, u32 type)
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
