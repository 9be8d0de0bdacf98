// SPDX-License-Identifier: GPL-2.0
/* Updates, and the modules that they hold. Everything here is under ksplice_lock. */
#include <linux/module.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "compat.h"
#include "ksplice.h"

LIST_HEAD(ksplice_updates);

struct ksplice_update *ksplice_find(const char *id)
{
	struct ksplice_update *u;

	list_for_each_entry(u, &ksplice_updates, list) {
		if (!strcmp(u->id, id))
			return u;
	}
	return NULL;
}

struct ksplice_update *ksplice_new_update(const char *id)
{
	struct ksplice_update *u = kzalloc(sizeof(*u), GFP_KERNEL);
	int err;

	if (!u)
		return ERR_PTR(-ENOMEM);
	INIT_LIST_HEAD(&u->list);
	INIT_LIST_HEAD(&u->parts);
	INIT_LIST_HEAD(&u->functions);
	INIT_LIST_HEAD(&u->held);
	mutex_init(&u->text_lock);
	strscpy(u->id, id, sizeof(u->id));
	u->stage = KSPLICE_PREPARING;
	u->conflicts = kcalloc(KSPLICE_MAX_CONFLICTS, sizeof(*u->conflicts), GFP_KERNEL);
	if (!u->conflicts) {
		kfree(u);
		return ERR_PTR(-ENOMEM);
	}
	/* From here on the update is the kobject's to free (sysfs.c). */
	err = kobject_init_and_add(&u->kobj, &ksplice_update_type, ksplice_kobj, "%s", u->id);
	if (err) {
		kobject_put(&u->kobj);
		return ERR_PTR(err);
	}
	list_add_tail(&u->list, &ksplice_updates);
	return u;
}

/* Free an update that has no parts and no transaction; lets go of the modules it held. */
void ksplice_free_update(struct ksplice_update *u)
{
	struct ksplice_held *h, *next;

	list_del(&u->list);
	list_for_each_entry_safe(h, next, &u->held, list) {
		list_del(&h->list);
		module_put(h->mod);
		kfree(h);
	}
	ksplice_keys_free(u);
	/* Waits for readers of the attributes, which take text_lock only. */
	kobject_del(&u->kobj);
	kobject_put(&u->kobj);
}

bool ksplice_holds(struct ksplice_update *u, const struct module *mod)
{
	struct ksplice_held *h;

	list_for_each_entry(h, &u->held, list) {
		if (h->mod == mod)
			return true;
	}
	return false;
}

/* Hold a module until the update's parts have gone. The caller knows that mod exists. */
int ksplice_hold(struct ksplice_update *u, struct module *mod)
{
	struct ksplice_held *h;

	if (ksplice_holds(u, mod))
		return 0;
	h = kzalloc(sizeof(*h), GFP_KERNEL);
	if (!h)
		return -ENOMEM;
	if (!try_module_get(mod)) {
		kfree(h);
		return -ENOENT;
	}
	if (READ_ONCE(mod->state) != MODULE_STATE_LIVE && !ksplice_waits(u, mod)) {
		module_put(mod);
		kfree(h);
		return -EAGAIN;
	}
	h->mod = mod;
	list_add_tail(&h->list, &u->held);
	return 0;
}

/* A module has been freed under us: there is nothing to let go of. */
bool ksplice_forget_held(struct ksplice_update *u, const struct module *mod)
{
	struct ksplice_held *h;

	list_for_each_entry(h, &u->held, list) {
		if (h->mod != mod)
			continue;
		list_del(&h->list);
		kfree(h);
		return true;
	}
	return false;
}

/*
 * What a part that stays mapped refers to stays with it: keys in a lower
 * part's data that its jump table names, a lower part's code.
 */
void ksplice_spread_stay(void)
{
	struct ksplice_update *u, *lower;
	struct ksplice_loaded *p;
	bool more;

	do {
		more = false;
		list_for_each_entry(u, &ksplice_updates, list) {
			if (!u->stays || u->stage == KSPLICE_PREPARING || u->stage == KSPLICE_DROPPED)
				continue;
			list_for_each_entry(lower, &ksplice_updates, list) {
				list_for_each_entry(p, &lower->parts, list) {
					if (lower->stays || !ksplice_holds(u, p->mod))
						continue;
					lower->stays = true;
					more = true;
				}
			}
		}
	} while (more);
}

/*
 * Modules are found by their kobject, since find_module is not exported. The
 * reference on the kobject keeps struct module: free_module waits for the
 * kobject to go (kernel/module/sysfs.c:mod_kobject_put).
 */
int ksplice_pin(struct ksplice_update *u, const char *name)
{
	struct kobject *kobj = kset_find_obj(THIS_MODULE->mkobj.kobj.kset, name);
	struct module *mod;
	int err;

	if (!kobj)
		return -ENOENT;
	mod = container_of(kobj, struct module_kobject, kobj)->mod;
	if (!mod)
		err = -ENOENT;	/* built in: /sys/module has its parameters */
	else if (mod == THIS_MODULE)
		err = 0;	/* every part depends on us */
	else
		err = ksplice_hold(u, mod);
	kobject_put(kobj);
	return err;
}

/* The part whose text holds address. */
struct ksplice_loaded *ksplice_part_at(unsigned long address)
{
	struct ksplice_update *u;
	struct ksplice_loaded *p;

	list_for_each_entry(u, &ksplice_updates, list) {
		list_for_each_entry(p, &u->parts, list) {
			struct ksplice_region r = ksplice_module_text(p->mod);

			if (address - r.start < r.size)
				return p;
		}
	}
	return NULL;
}

/* Is this where an update has put the code of the function at an address? Under ksplice_lock. */
bool ksplice_replaces(unsigned long code, unsigned long address)
{
	struct ksplice_loaded *p = ksplice_part_at(code);
	u32 i;

	for (i = 0; p && i < p->nr_functions; i++) {
		if (p->functions[i].replacement == code && p->functions[i].address == address)
			return true;
	}
	return false;
}

static bool within(struct ksplice_region r, unsigned long address, unsigned long size)
{
	return address - r.start < r.size && size <= r.size - (address - r.start);
}

/* Is this the text of a module that the update holds? Of its init only while that waits for the update. */
bool ksplice_in_held(struct ksplice_update *u, unsigned long address, unsigned long size)
{
	struct ksplice_held *h;

	list_for_each_entry(h, &u->held, list) {
		if (within(ksplice_module_text(h->mod), address, size) ||
		    (ksplice_waits(u, h->mod) && within(ksplice_module_init_text(h->mod), address, size)))
			return true;
	}
	return false;
}

/* The functions of a module's init go with it: they are not the update's any more. Returns how many those were. */
u32 ksplice_forget_init(struct ksplice_update *u, const struct module *mod)
{
	struct ksplice_function *f, *next;
	u32 n = 0;

	list_for_each_entry_safe(f, next, &u->functions, node) {
		if (!within(ksplice_module_init_text(mod), f->address, 1))
			continue;
		ksplice_ftrace_remove(f);
		list_del_init(&f->node);
		n++;
	}
	return n;
}

void ksplice_free_loaded(struct ksplice_loaded *p)
{
	u32 i;

	for (i = 0; i < p->nr_functions && p->functions; i++) {
		if (p->functions[i].part)
			list_del(&p->functions[i].node);
		kfree(p->functions[i].name);
		kvfree(p->functions[i].image);
		kvfree(p->functions[i].classes);
	}
	kvfree(p->functions);
	kvfree(p->copies);
	kvfree(p->hooks);
	ksplice_writes_free(p);
	kfree(p->target);
	kfree(p);
}
