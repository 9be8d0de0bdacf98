// SPDX-License-Identifier: GPL-2.0
/*
 * Updates for modules that are not loaded yet. User space arms them; when such
 * a module comes, a helper of user space matches and applies its part as it
 * would any other, in a transaction whose id is the update's with the module's
 * name behind a colon.
 *
 * By default that is once the module is live, and its loader does not wait.
 * Before its init on demand: then the module's init function is ours for the
 * moment (gate), which waits for the helper a bounded time and goes on to the
 * module's own. Nothing is held in there that loading a part needs: a notifier
 * would hold the chain's semaphore. The module is all there by then, in sysfs
 * too (kernel/module/main.c:load_module, do_init_module), and runs nowhere.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/jump_label.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/static_call.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/umh.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "ksplice.h"

#define MAX_ARMED	1024
#define SETTLE_MS	10	/* time between two looks */
#define SETTLE_LOOKS	1000	/* at parts that have no transaction any more */

/* All under ksplice_lock. Each holds a reference on us. */
struct armed {
	struct list_head list;	/* in the order of arming */
	struct ksplice_arm arg;
	u64 live_ns;		/* when its module went live; 0: it is not */
	bool due;		/* the helper is to run */
	bool told;		/* the helper that runs or ran last has said how it went */
	bool waited_for;	/* a gate waits */
	struct completion answered;
	char state[KSPLICE_TEXT_LEN];
};

/* A module whose init is ours, from COMING until it has been called. */
struct gate {
	struct list_head list;
	struct module *mod;
	struct task_struct *task;	/* its loader: who calls init */
	int (*init)(void);
	bool waiting;		/* its init has been called, and waits */
};

static LIST_HEAD(all_armed);
static LIST_HEAD(gates);
static u32 nr_armed;

static void run_helpers(struct work_struct *work);
static DECLARE_WORK(helpers, run_helpers);

static struct armed *find_armed(const char *id, const char *module)
{
	struct armed *a;

	list_for_each_entry(a, &all_armed, list) {
		if (!strcmp(a->arg.id, id) && !strcmp(a->arg.module, module))
			return a;
	}
	return NULL;
}

/* The id under which a module's part is applied. */
static void late_id(const struct armed *a, char *id, size_t size)
{
	snprintf(id, size, "%s:%s", a->arg.id, a->arg.module);
}

static bool is_applied(const struct armed *a)
{
	char id[KSPLICE_ID_LEN + KSPLICE_MODNAME_LEN];
	struct ksplice_update *u;

	late_id(a, id, sizeof(id));
	u = ksplice_find(id);
	return u && u->stage == KSPLICE_APPLIED;
}

/**
 * ksplice_exposed - how long has a module been live without its part?
 * @id: of the part's transaction
 *
 * Return: nanoseconds; 0 where the module is not live, or nothing was armed.
 */
u64 ksplice_exposed(const char *id)
{
	char late[KSPLICE_ID_LEN + KSPLICE_MODNAME_LEN];
	struct armed *a;
	u64 ns = 0;

	mutex_lock(&ksplice_lock);
	list_for_each_entry(a, &all_armed, list) {
		late_id(a, late, sizeof(late));
		if (!strcmp(late, id) && a->live_ns)
			ns = ktime_get_ns() - a->live_ns;
	}
	mutex_unlock(&ksplice_lock);
	return ns;
}

/*
 * Arm. -EEXIST: it is; -ENAMETOOLONG: a text has no end, or the two names are
 * too long for one id; -EINVAL, -ENOSPC. Under ksplice_lock.
 */
int ksplice_arm(const struct ksplice_arm *arg)
{
	struct armed *a;

	if (strnlen(arg->id, sizeof(arg->id)) == sizeof(arg->id) ||
	    strnlen(arg->module, sizeof(arg->module)) == sizeof(arg->module) ||
	    strnlen(arg->helper, sizeof(arg->helper)) == sizeof(arg->helper) ||
	    strlen(arg->id) + 1 + strlen(arg->module) >= KSPLICE_ID_LEN)
		return -ENAMETOOLONG;
	if (!ksplice_valid_id(arg->id) || strchr(arg->id, ':') || !ksplice_valid_module(arg->module) ||
	    arg->helper[0] != '/' || arg->flags & ~KSPLICE_ARM_FLAGS || !arg->timeout_ms ||
	    arg->timeout_ms > KSPLICE_MAX_WAIT_MS)
		return -EINVAL;
	if (find_armed(arg->id, arg->module))
		return -EEXIST;
	if (nr_armed == MAX_ARMED)
		return -ENOSPC;
	a = kzalloc(sizeof(*a), GFP_KERNEL);
	if (!a)
		return -ENOMEM;
	a->arg = *arg;
	init_completion(&a->answered);
	strscpy(a->state, "waits for the module", sizeof(a->state));
	/* The caller has our device open, which holds us. */
	__module_get(THIS_MODULE);
	list_add_tail(&a->list, &all_armed);
	nr_armed++;
	return 0;
}

static void disarm(struct armed *a)
{
	list_del(&a->list);
	nr_armed--;
	kfree(a);
	module_put(THIS_MODULE);
}

/*
 * Disarm all of an update. -ENOENT: nothing is armed; -EBUSY: a module waits
 * for it at this moment. Under ksplice_lock.
 */
int ksplice_disarm(const char *id)
{
	struct armed *a, *next;
	int err = -ENOENT;

	list_for_each_entry(a, &all_armed, list) {
		if (!strcmp(a->arg.id, id) && a->waited_for)
			return -EBUSY;
	}
	list_for_each_entry_safe(a, next, &all_armed, list) {
		if (strcmp(a->arg.id, id))
			continue;
		disarm(a);
		err = 0;
	}
	return err;
}

/* A helper that ran for the module as it came before answers nothing for one that waits for the next. Under ksplice_lock. */
static void answer(struct armed *a)
{
	if (!a->due)
		complete_all(&a->answered);
}

/* The helper says how it went. Under ksplice_lock. */
int ksplice_arrived(const struct ksplice_arrived *arg)
{
	struct armed *a;
	char *c;

	if (strnlen(arg->id, sizeof(arg->id)) == sizeof(arg->id) ||
	    strnlen(arg->module, sizeof(arg->module)) == sizeof(arg->module) ||
	    strnlen(arg->text, sizeof(arg->text)) == sizeof(arg->text))
		return -ENAMETOOLONG;
	a = find_armed(arg->id, arg->module);
	if (!a)
		return -ENOENT;
	strscpy(a->state, arg->text, sizeof(a->state));
	/* It goes into a line. */
	for (c = a->state; *c; c++) {
		if ((unsigned char)*c < ' ')
			*c = ' ';
	}
	/* Not the text: it may tell addresses and bytes, and others than root may read the log. */
	if (arg->error)
		pr_warn("update %s is not applied to module %s: /sys/kernel/ksplice/armed has the reason\n", a->arg.id,
			a->arg.module);
	a->told = true;
	answer(a);
	return 0;
}

/* One helper after the other, in the order of arming: a later update may stand on an earlier one. */
static void run_helpers(struct work_struct *work)
{
	static char *envp[] = { "HOME=/", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	struct ksplice_arm arg;
	struct armed *a;
	bool found;
	int err;

	for (;;) {
		found = false;
		mutex_lock(&ksplice_lock);
		list_for_each_entry(a, &all_armed, list) {
			if (!a->due)
				continue;
			a->due = false;
			a->told = false;
			arg = a->arg;
			found = true;
			break;
		}
		mutex_unlock(&ksplice_lock);
		if (!found)
			return;
		err = call_usermodehelper(arg.helper, (char *[]){ arg.helper, "arrive", arg.id, arg.module, NULL }, envp,
					  UMH_WAIT_PROC);
		mutex_lock(&ksplice_lock);
		a = find_armed(arg.id, arg.module);
		if (a && !a->told) {
			snprintf(a->state, sizeof(a->state), err < 0 ? "its helper cannot be started (%d)" :
				 "its helper ended without a word (%d)", err);
			pr_warn("update %s is not applied to module %s: %s\n", arg.id, arg.module, a->state);
			answer(a);
		}
		mutex_unlock(&ksplice_lock);
	}
}

static void start_helper(struct armed *a)
{
	reinit_completion(&a->answered);
	a->due = true;
	queue_work(system_unbound_wq, &helpers);
}

/* Is this update's module in our gate, so that it stays where it is although it is not live? Under ksplice_lock. */
bool ksplice_waits(const struct ksplice_update *u, const struct module *mod)
{
	const char *name = strchr(u->id, ':');
	struct gate *g;

	list_for_each_entry(g, &gates, list) {
		if (g->mod == mod)
			return g->waiting && name && !strcmp(name + 1, mod->name);
	}
	return false;
}

/*
 * The gate opens. A transaction for the part may have been left half-way: it
 * may not go on once the module runs, as init may fail and take the module's
 * memory with it. What can still happen in it is bounded: a part that is being
 * loaded waits for nothing of ours. Its owner then takes its parts away; those
 * of an owner that has died stay until somebody does, see target_gone.
 */
static void expire(const char *id)
{
	struct ksplice_transaction *t;
	struct ksplice_update *u;
	bool busy;
	int look;

	for (look = 0;; look++) {
		mutex_lock(&ksplice_lock);
		t = ksplice_open;
		u = ksplice_find(id);
		busy = u && u->stage != KSPLICE_APPLIED && !list_empty(&u->parts) && look < SETTLE_LOOKS;
		if (t && t->update == u && !t->committed) {
			t->expired = true;
			ksplice_give_up(t);
			busy |= t->committing || u->coming;
		}
		mutex_unlock(&ksplice_lock);
		if (!busy)
			return;
		msleep(SETTLE_MS);
	}
}

static bool concerns(struct ksplice_transaction *t, const struct module *mod)
{
	struct ksplice_member *m;

	ksplice_for_each_member(m, t) {
		if (ksplice_holds(m->update, mod))
			return true;
	}
	return false;
}

/*
 * Have the open transaction give up that holds a module: memory that it would
 * write to goes. Wait for its commit, where that runs; and where it applies,
 * on @whole, for a part on its way in, which nothing goes on with then.
 */
static void end_transactions(const struct module *mod, bool whole)
{
	struct ksplice_transaction *t;
	bool busy;

	do {
		mutex_lock(&ksplice_lock);
		t = ksplice_open;
		busy = false;
		if (t && !t->committed && concerns(t, mod)) {
			busy = t->committing;
			if (whole && t->op == KSPLICE_OP_APPLY) {
				t->expired = true;
				busy |= !!t->update->coming;
			}
			if (busy || t->expired)
				ksplice_give_up(t);
		}
		mutex_unlock(&ksplice_lock);
		if (busy)
			msleep(SETTLE_MS);
	} while (busy);
}

/* Wait for one armed update; 0 where the module may go on. */
static int wait_for(struct armed *a)
{
	char id[KSPLICE_ID_LEN + KSPLICE_MODNAME_LEN];
	u32 flags = a->arg.flags;
	bool applied;
	long left;

	/* While it is waited for, nobody disarms it. */
	left = wait_for_completion_killable_timeout(&a->answered, msecs_to_jiffies(a->arg.timeout_ms));
	late_id(a, id, sizeof(id));
	expire(id);

	mutex_lock(&ksplice_lock);
	a->waited_for = false;
	applied = is_applied(a);
	if (!applied && !left) {
		snprintf(a->state, sizeof(a->state), "no answer within %u ms", a->arg.timeout_ms);
		pr_warn("update %s is not applied to module %s before its init: %s\n", a->arg.id, a->arg.module, a->state);
	}
	mutex_unlock(&ksplice_lock);
	if (left < 0)
		return -EINTR;
	return applied || !(flags & KSPLICE_ARM_REFUSE) ? 0 : -EPERM;
}

static struct armed *next_to_wait_for(const struct module *mod)
{
	struct armed *a;

	list_for_each_entry(a, &all_armed, list) {
		if (a->waited_for && !strcmp(a->arg.module, mod->name))
			return a;
	}
	return NULL;
}

/* A module's init, until the updates that want to be there first are. */
static int gate(void)
{
	struct gate *g, *mine = NULL;
	struct module *mod;
	int (*init)(void);
	struct armed *a;
	int err = 0;

	mutex_lock(&ksplice_lock);
	list_for_each_entry(g, &gates, list) {
		if (g->task == current && g->mod->state == MODULE_STATE_COMING)
			mine = g;
	}
	if (WARN_ON_ONCE(!mine)) {
		mutex_unlock(&ksplice_lock);
		return -EINVAL;
	}
	mod = mine->mod;
	init = mine->init;
	mod->init = init;
	mine->waiting = true;
	list_for_each_entry(a, &all_armed, list) {
		if (strcmp(a->arg.module, mod->name) || !(a->arg.flags & KSPLICE_ARM_BEFORE_INIT))
			continue;
		a->waited_for = true;
		start_helper(a);
	}
	for (;;) {
		a = next_to_wait_for(mod);
		if (!a)
			break;
		mutex_unlock(&ksplice_lock);
		err = wait_for(a) ?: err;
		mutex_lock(&ksplice_lock);
	}
	/* From here on nobody can hold it as one that waits; who does, for an update that came too late, gives up. */
	mine->waiting = false;
	mutex_unlock(&ksplice_lock);
	end_transactions(mod, true);
	if (err) {
		pr_err("module %s is not loaded: an update that was to come before its init did not (%d)\n", mod->name, err);
		return err;
	}
	return init ? init() : 0;
}

/* A module comes. Its init is ours if an update wants to be there before. */
void ksplice_module_coming(struct module *mod)
{
	struct armed *a;
	struct gate *g;

	mutex_lock(&ksplice_lock);
	list_for_each_entry(a, &all_armed, list) {
		if (strcmp(a->arg.module, mod->name) || !(a->arg.flags & KSPLICE_ARM_BEFORE_INIT))
			continue;
		g = kzalloc(sizeof(*g), GFP_KERNEL);
		if (!g) {
			pr_err("no memory to wait for the update of module %s\n", mod->name);
			break;
		}
		__module_get(THIS_MODULE);	/* armed ones hold us */
		g->mod = mod;
		g->task = current;
		g->init = mod->init;
		mod->init = gate;
		list_add_tail(&g->list, &gates);
		break;
	}
	mutex_unlock(&ksplice_lock);
}

/* In a notification of the module's own loader, which has left the gate; its chain keeps us until it is over. */
static void close_gate(const struct module *mod)
{
	struct gate *g;

	list_for_each_entry(g, &gates, list) {
		if (g->mod != mod)
			continue;
		list_del(&g->list);
		kfree(g);
		module_put(THIS_MODULE);
		return;
	}
}

/* Does a part's table name a key that lies in mod, or in its init alone? The loader reads it when the part goes. */
static bool names_keys_of(const struct module *part, const struct module *mod,
			  bool (*within)(unsigned long address, const struct module *mod))
{
	unsigned int i;

#ifdef CONFIG_JUMP_LABEL
	for (i = 0; i < part->num_jump_entries; i++) {
		if (within((unsigned long)jump_entry_key(&part->jump_entries[i]), mod))
			return true;
	}
#endif
#ifdef CONFIG_HAVE_STATIC_CALL_INLINE
	for (i = 0; i < part->num_static_call_sites; i++) {
		const struct static_call_site *s = &part->static_call_sites[i];

		if (within(((unsigned long)&s->key + s->key) & ~STATIC_CALL_SITE_FLAGS, mod))
			return true;
	}
#endif
	return false;
}

/* What an update replaced of a module's init goes with that. Under ksplice_lock. */
static void forget_init(struct ksplice_update *u, const struct module *mod)
{
	struct ksplice_loaded *p;

	if (!ksplice_forget_init(u, mod))
		return;
	list_for_each_entry(p, &u->parts, list) {
		if (names_keys_of(p->mod, mod, within_module_init))
			u->stays = true;
	}
	if (ksplice_write_changes(u))
		pr_err("update %s: no memory to tell that init of module %s is over: its functions stay in the list\n",
		       u->id, mod->name);
}

/*
 * The module's init has run, and its memory goes (kernel/module/main.c:
 * do_init_module): what lay there is nobody's any more. First of all handlers,
 * as a later one may end the chain.
 */
void ksplice_init_over(const struct module *mod)
{
	struct ksplice_update *u;

	end_transactions(mod, false);
	mutex_lock(&ksplice_lock);
	list_for_each_entry(u, &ksplice_updates, list) {
		if (ksplice_holds(u, mod))
			forget_init(u, mod);
	}
	mutex_unlock(&ksplice_lock);
}

void ksplice_module_live(struct module *mod)
{
	struct armed *a;

	mutex_lock(&ksplice_lock);
	close_gate(mod);
	list_for_each_entry(a, &all_armed, list) {
		if (strcmp(a->arg.module, mod->name))
			continue;
		a->live_ns = ktime_get_ns();
		if (!is_applied(a))
			start_helper(a);
	}
	mutex_unlock(&ksplice_lock);
}

/*
 * A module goes although an update holds it: its init has failed, which frees
 * it whatever is held (kernel/module/main.c:do_init_module). Nothing is written
 * back, as its text goes too. A part that names keys of it stays for good, and
 * one whose code may be called later, by addresses that escaped or by what its
 * hooks set up.
 */
static void target_gone(struct ksplice_update *u, struct module *mod)
{
	struct ksplice_function *f;
	struct ksplice_loaded *p;

	if (!ksplice_forget_held(u, mod))
		return;
	list_for_each_entry(f, &u->functions, node)
		ksplice_ftrace_remove(f);
	list_for_each_entry(p, &u->parts, list) {
		if (u->stays || p->nr_hooks || names_keys_of(p->mod, mod, within_module)) {
			u->stays = true;
			p->held = p->held || try_module_get(p->mod);
		} else if (p->held) {
			module_put(p->mod);
			p->held = false;
		}
	}
	if (u->stage != KSPLICE_APPLIED)
		return;
	WRITE_ONCE(u->stage, KSPLICE_GONE);
	pr_warn("module %s went in its init; update %s went with it%s\n", mod->name, u->id,
		u->stays ? ", and its part stays loaded" : "");
}

/* All handlers of the kernel's have let go of the module. */
void ksplice_module_gone(struct module *mod)
{
	struct ksplice_update *u;
	struct armed *a;

	end_transactions(mod, false);
	mutex_lock(&ksplice_lock);
	close_gate(mod);
	list_for_each_entry(a, &all_armed, list) {
		if (!strcmp(a->arg.module, mod->name)) {
			a->live_ns = 0;
			strscpy(a->state, "waits for the module", sizeof(a->state));
		}
	}
	list_for_each_entry(u, &ksplice_updates, list)
		target_gone(u, mod);
	mutex_unlock(&ksplice_lock);
}

/* A line for each: id module when timeout_ms live_ns state. */
static ssize_t armed_read(struct file *file, struct kobject *kobj, struct bin_attribute *attr, char *buf, loff_t off,
			  size_t count)
{
	struct armed *a;
	size_t size = 1, n = 0;
	ssize_t done;
	char *text;

	mutex_lock(&ksplice_lock);
	list_for_each_entry(a, &all_armed, list)
		size += KSPLICE_ID_LEN + KSPLICE_MODNAME_LEN + KSPLICE_TEXT_LEN + 64;
	text = kvmalloc(size, GFP_KERNEL);
	if (!text) {
		mutex_unlock(&ksplice_lock);
		return -ENOMEM;
	}
	list_for_each_entry(a, &all_armed, list)
		n += scnprintf(text + n, size - n, "%s %s %s %u %llu %s\n", a->arg.id, a->arg.module,
			       !(a->arg.flags & KSPLICE_ARM_BEFORE_INIT) ? "live" :
			       a->arg.flags & KSPLICE_ARM_REFUSE ? "init-or-refuse" : "init",
			       a->arg.timeout_ms, a->live_ns, is_applied(a) ? "applied" : a->state);
	mutex_unlock(&ksplice_lock);
	done = memory_read_from_buffer(buf, count, &off, text, n);
	kvfree(text);
	return done;
}

static struct bin_attribute armed_attr = {
	.attr = { .name = "armed", .mode = 0400 },
	.read = armed_read,
};

int ksplice_arrive_init(void)
{
	return sysfs_create_bin_file(ksplice_kobj, &armed_attr);
}

/* Nothing is armed: what is holds us. */
void ksplice_arrive_exit(void)
{
	sysfs_remove_bin_file(ksplice_kobj, &armed_attr);
	flush_work(&helpers);
}
