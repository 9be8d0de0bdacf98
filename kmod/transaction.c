// SPDX-License-Identifier: GPL-2.0
/* The one open transaction. All but its commit is under ksplice_lock. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ctype.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "compat.h"
#include "ksplice.h"

/* What it guards: see ksplice.h. */
DEFINE_MUTEX(ksplice_lock);
struct ksplice_transaction *ksplice_open;

/* Between the beginning of a suspend or hibernation and its end. */
static bool suspended;

/* As the kernel has it: words of /proc/modules. */
bool ksplice_valid_module(const char *name)
{
	if (!*name)
		return false;
	for (; *name; name++) {
		if (!isalnum(*name) && !strchr("_-.", *name))
			return false;
	}
	return true;
}

/*
 * At least eight hexadecimal digits, and a module's name perhaps behind a
 * colon: it becomes the name of a directory.
 */
bool ksplice_valid_id(const char *id)
{
	size_t n;

	if (strnlen(id, KSPLICE_ID_LEN) == KSPLICE_ID_LEN)
		return false;
	for (n = 0; id[n] && id[n] != ':'; n++) {
		if (!isxdigit(id[n]) || isupper(id[n]))
			return false;
	}
	return n >= 8 && (!id[n] || ksplice_valid_module(id + n + 1));
}

static void add_member(struct ksplice_transaction *t, struct ksplice_update *u, u32 op)
{
	u->busy = true;
	t->members[t->nr_members++] = (struct ksplice_member){ .update = u, .op = op };
}

/*
 * Begin. -EBUSY: another one is open; -EAGAIN: the machine is about to sleep;
 * -EEXIST: applied already; -ENOENT: undo of what is not applied;
 * -EADDRINUSE: parts of the same id are still loaded.
 */
struct ksplice_transaction *ksplice_begin(const struct ksplice_begin *arg)
{
	struct ksplice_transaction *t;
	struct ksplice_update *u;

	if (!ksplice_valid_id(arg->id))
		return ERR_PTR(-EINVAL);
	if (ksplice_open)
		return ERR_PTR(-EBUSY);
	if (suspended)
		return ERR_PTR(-EAGAIN);
	t = kzalloc(sizeof(*t), GFP_KERNEL);
	if (!t)
		return ERR_PTR(-ENOMEM);
	u = ksplice_find(arg->id);
	if (u && list_empty(&u->parts) && !u->busy && !u->coming) {
		/* Nothing of it is left. */
		ksplice_free_update(u);
		u = NULL;
	}
	switch (arg->op) {
	case KSPLICE_OP_APPLY:
		if (!arg->nr_parts || arg->nr_parts > KSPLICE_MAX_PARTS)
			u = ERR_PTR(-EINVAL);
		else if (u)
			u = ERR_PTR(u->stage == KSPLICE_APPLIED ? -EEXIST : -EADDRINUSE);
		else
			u = ksplice_new_update(arg->id);
		break;
	case KSPLICE_OP_UNDO:
		if (!u || u->stage != KSPLICE_APPLIED)
			u = ERR_PTR(-ENOENT);
		break;
	default:
		u = ERR_PTR(-EINVAL);
	}
	if (IS_ERR(u)) {
		kfree(t);
		return ERR_CAST(u);
	}
	ksplice_forget_conflicts(u);
	t->update = u;
	t->op = arg->op;
	add_member(t, u, t->op);
	t->nr_parts = arg->nr_parts;
	t->tgid = task_tgid_nr(current);
	init_completion(&t->done);
	init_waitqueue_head(&t->wait);
	ksplice_open = t;
	return t;
}

/* Fetch the thread of an earlier commit. Without ksplice_lock, which it takes until it has said that it is done. */
static void fetch_thread(struct ksplice_transaction *t)
{
	if (!t->thread)
		return;
	kthread_stop(t->thread);
	put_task_struct(t->thread);
	t->thread = NULL;
}

/*
 * End the transaction: its file is closed, so nobody else has it. A commit
 * that runs is told to stop trying and waited for. Without ksplice_lock.
 */
void ksplice_drop(struct ksplice_transaction *t)
{
	struct ksplice_member *m;

	ksplice_give_up(t);
	fetch_thread(t);
	ksplice_thaw(t);

	mutex_lock(&ksplice_lock);
	ksplice_slots_disarm();
	ksplice_open = NULL;
	ksplice_for_each_member(m, t) {
		struct ksplice_update *u = m->update;

		u->busy = false;
		if (u->stage == KSPLICE_PREPARING)
			WRITE_ONCE(u->stage, KSPLICE_DROPPED);
		/* A part that is on its way in has been relocated with what the update holds. */
		if (list_empty(&u->parts) && !u->coming)
			ksplice_free_update(u);
	}
	mutex_unlock(&ksplice_lock);
	ksplice_transfer_free(t);
	kfree(t->carries);
	kfree(t);
}

/*
 * Have an applied update undone in the same stop. -ENOENT: it is not applied;
 * -EEXIST: the transaction has it already; -E2BIG: it has too many.
 */
int ksplice_also(struct ksplice_transaction *t, const char *id)
{
	struct ksplice_update *u;

	if (strnlen(id, KSPLICE_ID_LEN) == KSPLICE_ID_LEN)
		return -EINVAL;
	u = ksplice_find(id);
	if (!u || u->stage != KSPLICE_APPLIED)
		return -ENOENT;
	if (u->busy)
		return -EEXIST;
	if (t->nr_members == KSPLICE_MAX_MEMBERS)
		return -E2BIG;
	add_member(t, u, KSPLICE_OP_UNDO);
	return 0;
}

/* Note which bytes matching saw under a jump. */
int ksplice_expect(struct ksplice_transaction *t, const struct ksplice_window *w)
{
	struct ksplice_function *f;
	int err = -ENOENT;

	if (w->length != KSPLICE_JUMP_LEN)
		return -EINVAL;
	list_for_each_entry(f, &t->update->functions, node) {
		if (f->kind != KSPLICE_KIND_JUMP || f->patch.address != w->address)
			continue;
		memcpy(f->patch.old, w->bytes, KSPLICE_JUMP_LEN);
		f->expected = true;
		err = 0;
	}
	return err;
}

/*
 * Has a commit ended because what was read for a transfer had moved? It may be
 * tried again with what is read then. Under ksplice_lock.
 */
bool ksplice_moved(const struct ksplice_transaction *t)
{
	return t->thread && !t->committing && !t->committed && t->result.cause == KSPLICE_MOVED;
}

/* Make a transaction whose commit ended so as if it had not been tried. Under ksplice_lock. */
static void again(struct ksplice_transaction *t)
{
	fetch_thread(t);
	reinit_completion(&t->done);
	memset(&t->result, 0, sizeof(t->result));
	t->thawed = false;
}

/*
 * Start the commit's thread. -EPERM: the update sets data, which the kernel's
 * lockdown forbids. Without ksplice_lock; the caller's file keeps the
 * transaction.
 */
int ksplice_commit_start(struct ksplice_transaction *t, const struct ksplice_commit *arg)
{
	struct task_struct *thread;
	int err = 0;

	if (!arg->attempts || arg->attempts > 100000 || arg->interval_ms > 60000)
		return -EINVAL;
	mutex_lock(&ksplice_lock);
	if (ksplice_moved(t))
		again(t);
	if (t->committing || t->committed || t->thread)
		err = -EBUSY;
	else if (suspended)
		err = -EAGAIN;
	else if (t->expired)
		err = -ETIMEDOUT;
	else
		err = ksplice_writes_allowed(t);
	if (err)
		goto out;
	ksplice_slots_disarm();
	t->attempts = arg->attempts;
	t->interval_ms = arg->interval_ms;
	thread = kthread_create(ksplice_commit_thread, t, "ksplice");
	if (IS_ERR(thread)) {
		err = PTR_ERR(thread);
		goto out;
	}
	get_task_struct(thread);
	t->thread = thread;
	t->committing = true;
	wake_up_process(thread);
out:
	mutex_unlock(&ksplice_lock);
	return err;
}

/* Does mod import symbols of ours? Its list of imports is its loader's own until it is live. */
bool ksplice_uses_us(struct module *mod)
{
	struct module_use *use;

	list_for_each_entry(use, &mod->target_list, target_list) {
		if (use->target == THIS_MODULE)
			return true;
	}
	return false;
}

/*
 * A module that imports from us has been relocated and nothing of it has run
 * yet. It is welcome where the owner of the open transaction loads it.
 */
int ksplice_part_coming(struct module *mod)
{
	struct ksplice_transaction *t;
	int err = -EPERM;

	mutex_lock(&ksplice_lock);
	t = ksplice_open;
	if (t && t->op == KSPLICE_OP_APPLY && !t->committing && !t->committed && !t->expired &&
	    t->tgid == task_tgid_nr(current)) {
		t->update->coming = mod;
		ksplice_slots_disarm();
		err = 0;
	}
	mutex_unlock(&ksplice_lock);
	if (err)
		pr_err("%s: refused: no transaction of this process waits for a part\n", mod->name);
	return err;
}

/*
 * A module begins to go. Where another handler refused it, ours that comes
 * last is not told (kernel/notifier.c: notifier_call_chain_robust).
 */
void ksplice_part_going(struct module *mod)
{
	struct ksplice_update *u;

	mutex_lock(&ksplice_lock);
	list_for_each_entry(u, &ksplice_updates, list) {
		if (u->coming == mod)
			u->coming = NULL;
	}
	mutex_unlock(&ksplice_lock);
}

/* A module goes; all handlers of the kernel's have let go of it. */
void ksplice_part_gone(struct module *mod)
{
	struct ksplice_update *u, *next_update;
	struct ksplice_loaded *p, *next;

	ksplice_shadow_forget(mod);
	mutex_lock(&ksplice_lock);
	list_for_each_entry_safe(u, next_update, &ksplice_updates, list) {
		list_for_each_entry_safe(p, next, &u->parts, list) {
			if (p->mod != mod)
				continue;
			list_del(&p->list);
			u->nr_parts--;
			ksplice_free_loaded(p);
		}
		if (list_empty(&u->parts) && !u->busy && !u->coming)
			ksplice_free_update(u);
	}
	mutex_unlock(&ksplice_lock);
}

/*
 * The machine is about to sleep, or is back. A commit that runs is told to
 * stop trying, and this attempt to sleep is refused.
 */
int ksplice_suspend(bool begin)
{
	int err = 0;

	mutex_lock(&ksplice_lock);
	suspended = begin;
	if (begin && ksplice_open && ksplice_open->committing) {
		ksplice_give_up(ksplice_open);
		suspended = false;
		err = -EBUSY;
	}
	mutex_unlock(&ksplice_lock);
	return err;
}
