/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a patch may say to Ksplice: create puts this file into the patched tree
 * as <ksplice.h>. Nothing of it changes code that does not use it.
 */
#ifndef KSPLICE_PATCH_H
#define KSPLICE_PATCH_H

#include <linux/compiler.h>
#include <linux/gfp.h>
#include <linux/types.h>

/*
 * Hooks: functions of the patch's own that run around the change, in the order
 * in which they are written here:
 *
 *   ksplice_pre_apply      may sleep; not 0: the update is refused
 *   ksplice_check_apply    the machine stands; not 0: refused
 *   ksplice_apply          the machine stands, and it is certain
 *   ksplice_post_apply     may sleep; the new code runs
 *   ksplice_fail_apply     may sleep; the update was refused after all
 *
 * and the same five of undo: ksplice_pre_reverse, ksplice_check_reverse,
 * ksplice_reverse, ksplice_post_reverse, ksplice_fail_reverse. Those of pre and
 * check are int hook(void), the others void hook(void). Several of a kind run as
 * they are written, those of post_reverse and of the two fails the other way
 * round: what was set up last goes first. A check may run more than once, where
 * the machine is stopped again; a fail hook may run where its pre hook did not.
 *
 * While the machine stands nothing may sleep, wait for another CPU or take a
 * mutex, which a thread may hold. Spinlocks are free, as is GFP_ATOMIC memory;
 * interrupts are off and stay so: spin_unlock_bh and spin_unlock_irq would have
 * others run (kernel/softirq.c: __local_bh_enable_ip).
 *
 * A hook that runs while the old code does (all of apply but post_apply, and
 * post_reverse) may not call a function that the patch changes: create refuses
 * that.
 *
 *   static void fill(void) { for_each_possible_cpu(...) ... }
 *   ksplice_apply(fill);
 */
#define ksplice_pre_apply(hook)		KSPLICE_HOOK_(0, int, hook)
#define ksplice_check_apply(hook)	KSPLICE_HOOK_(1, int, hook)
#define ksplice_apply(hook)		KSPLICE_HOOK_(2, void, hook)
#define ksplice_post_apply(hook)	KSPLICE_HOOK_(3, void, hook)
#define ksplice_fail_apply(hook)	KSPLICE_HOOK_(4, void, hook)
#define ksplice_pre_reverse(hook)	KSPLICE_HOOK_(5, int, hook)
#define ksplice_check_reverse(hook)	KSPLICE_HOOK_(6, int, hook)
#define ksplice_reverse(hook)		KSPLICE_HOOK_(7, void, hook)
#define ksplice_post_reverse(hook)	KSPLICE_HOOK_(8, void, hook)
#define ksplice_fail_reverse(hook)	KSPLICE_HOOK_(9, void, hook)

/* One for create to read: kmod/ksplice_part.h has the numbers. */
#define KSPLICE_HOOK_(kind, type, hook) \
	static const struct { \
		u32 when; \
		u32 order; \
		typeof(type(void)) *function; \
	} __UNIQUE_ID(ksplice_hook) __used __aligned(8) __section(".ksplice.hooks") = { kind, __COUNTER__, hook }

/*
 * Take a change of what existing data mean upon the patch: the item's ID is as
 * create's report has it, the text says how it is carried.
 *
 *   ksplice_claim("layout:net/can/j1939/j1939-priv.h:j1939_sock", "the lock is a shadow field");
 *
 * What an update below says in the same words is said for that update only.
 */
#define ksplice_claim(item, because) \
	static_assert(sizeof(because "") > 1, "ksplice_claim(\"ITEM\", \"HOW\")"); \
	static const char __UNIQUE_ID(ksplice_claim)[] __used __section(".ksplice.claims") = item ""

/*
 * Have a transform plugin change data of the running kernel when the update is
 * applied, and back when it is undone, where neither a layout nor an initialiser
 * tells that it must be: the plugin's name, and what it is asked for.
 *
 *   ksplice_transfer("acme", "every open session counts its users");
 *
 * The plugin is asked for an item "transfer:acme:every open ..." whose name is
 * the text. Where it is not installed, or does not take that, create refuses.
 */
#define ksplice_transfer(plugin, what) \
	static const char __UNIQUE_ID(ksplice_transfer)[] __used __section(".ksplice.claims") = "transfer:" plugin ":" what

/*
 * An object of static duration, named at file scope, may be rewritten: where
 * the patch changes its initialiser, the running kernel's gets the new value in
 * the stop, if it still has the old one, and undo puts that back. For what no
 * transform plugin carries, as such values say what goes on, and the author
 * knows better.
 *
 *   ksplice_assume_rodata(my_default_limits);
 */
#define ksplice_assume_rodata(object) \
	static const void *const __UNIQUE_ID(ksplice_rodata) __used __section(".ksplice.rodata") = &(object)

/*
 * Shadow fields: data that the patch keeps beside objects whose structure has
 * no room for it. Objects that were born before the update have them as well,
 * once somebody attached them; when the last update that has a field of the
 * name is undone, all of them go.
 *
 *   static int begin(void *object, void *data, void *arg)
 *   {
 *           spin_lock_init((spinlock_t *)data);
 *           return 0;
 *   }
 *   KSPLICE_SHADOW(filters_lock, "j1939_sock.filters_lock", spinlock_t, begin, NULL);
 *
 *   spinlock_t *lock = ksplice_shadow_get_or_attach(&filters_lock, jsk, NULL, GFP_KERNEL);
 *   ...
 *   ksplice_shadow_detach(&filters_lock, jsk);	// before kfree(jsk)
 *
 * The constructor makes zeroed data ready before anybody sees it, and fails
 * with another value than 0; the destructor ends it. Both run in their caller's
 * context, and either may be NULL. kmod/shadow.c says what each function may do
 * where.
 */
struct ksplice_field;
struct ksplice_shadow {
	const char *name;
	size_t size;	/* of the data, in bytes; aligned to 8 */
	int (*ctor)(void *object, void *data, void *arg);
	void (*dtor)(void *object, void *data);
	struct ksplice_field *field;	/* the kernel module's own */
};

#define KSPLICE_SHADOW_MAX	65536	/* bytes */

#define KSPLICE_SHADOW(variable, field_name, type, constructor, destructor) \
	static struct ksplice_shadow variable __used __section(".data..ksplice_shadow") = { \
		.name = (field_name), .size = sizeof(type), .ctor = (constructor), .dtor = (destructor) \
	}; \
	static int variable##_arrive(void) \
	{ \
		return ksplice_shadow_arrive(&variable); \
	} \
	static void variable##_leave(void) \
	{ \
		ksplice_shadow_leave(&variable); \
	} \
	ksplice_pre_apply(variable##_arrive); \
	ksplice_fail_apply(variable##_leave); \
	ksplice_post_reverse(variable##_leave)

void *ksplice_shadow_get(struct ksplice_shadow *s, const void *object);
void *ksplice_shadow_attach(struct ksplice_shadow *s, void *object, void *arg, gfp_t gfp);
void *ksplice_shadow_get_or_attach(struct ksplice_shadow *s, void *object, void *arg, gfp_t gfp);
void *ksplice_shadow_of(struct ksplice_shadow *s, const void *object);
void ksplice_shadow_detach(struct ksplice_shadow *s, void *object);
void ksplice_shadow_drop_all(struct ksplice_shadow *s);
int ksplice_shadow_arrive(struct ksplice_shadow *s);
void ksplice_shadow_leave(struct ksplice_shadow *s);

#endif /* KSPLICE_PATCH_H */
