// SPDX-License-Identifier: GPL-2.0
/*
 * The commit, in a thread of its own so that its caller is not in its own way.
 * It owns the update while it runs; ksplice_lock is taken only where others
 * look: for the list of updates, and to change the stage.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/rcupdate_wait.h>
#include <linux/sched.h>
#include <linux/timekeeping.h>

#include "compat.h"
#include "ksplice.h"

#define PRESCANS	4	/* before a stop that may be in vain */
#define PRESCAN_MS	3

static bool interrupted(struct ksplice_transaction *t, unsigned int ms)
{
	if (ms)
		wait_event_idle_timeout(t->wait, READ_ONCE(t->abort), msecs_to_jiffies(ms));
	return READ_ONCE(t->abort);
}

/* Hold all parts, which must have registered and be live. Under ksplice_lock. */
static int hold_parts(struct ksplice_transaction *t)
{
	struct ksplice_loaded *p;

	if (t->update->nr_parts != t->nr_parts) {
		ksplice_fail(&t->result, KSPLICE_PARTS, -ENOENT, 0, "%u of %u parts are loaded", t->update->nr_parts,
			     t->nr_parts);
		return -ENOENT;
	}
	list_for_each_entry(p, &t->update->parts, list) {
		if (READ_ONCE(p->mod->state) != MODULE_STATE_LIVE || !try_module_get(p->mod)) {
			ksplice_fail(&t->result, KSPLICE_PARTS, -ENOENT, 0, "part %s is on its way in or out",
				     p->mod->name);
			return -ENOENT;
		}
		p->held = true;
	}
	return 0;
}

/* Whoever unloads a part that was let go waits for the lock before it frees what we look at (ksplice_part_gone). */
static void put_parts(struct ksplice_update *u)
{
	struct ksplice_loaded *p;

	mutex_lock(&ksplice_lock);
	list_for_each_entry(p, &u->parts, list) {
		if (p->held)
			module_put(p->mod);
		p->held = false;
	}
	mutex_unlock(&ksplice_lock);
}

/*
 * The code must stay where it is for as long as the update does: it is the
 * kernel's own, a held module's or an applied update's. Under ksplice_lock.
 */
static int hold_code(struct ksplice_transaction *t, struct ksplice_function *f)
{
	struct ksplice_update *u = t->update, *lower;
	struct ksplice_loaded *p, *below = ksplice_part_at(f->code);
	int err;

	if (below) {
		list_for_each_entry(lower, &ksplice_updates, list) {
			list_for_each_entry(p, &lower->parts, list) {
				if (p != below)
					continue;
				if (lower == u || lower->stage != KSPLICE_APPLIED)
					goto invalid;
			}
		}
		err = ksplice_hold(u, below->mod);
		if (err) {
			ksplice_fail(&t->result, KSPLICE_INVALID, err, f->code, "%s: part %s cannot be held", f->name,
				     below->mod->name);
			return err;
		}
	}
	if (f->code < MODULES_VADDR || ksplice_in_held(u, f->code, f->size))
		return 0;
invalid:
	ksplice_fail(&t->result, KSPLICE_INVALID, -EINVAL, f->code,
		     "%s: its code lies in no module that the update holds", f->name);
	return -EINVAL;
}

static int make_ranges(struct ksplice_transaction *t)
{
	int err = ksplice_ranges_make(t);

	if (err)
		ksplice_fail(&t->result, KSPLICE_NOMEM, err, 0, "the list of ranges");
	return err;
}

/* No two functions of an update may share a byte of code. */
static int check_overlap(struct ksplice_transaction *t)
{
	u32 i;

	for (i = 1; i < t->ranges.nr; i++) {
		if (t->ranges.ranges[i].start < t->ranges.ranges[i - 1].end) {
			ksplice_fail(&t->result, KSPLICE_INVALID, -EINVAL, t->ranges.ranges[i].start,
				     "two functions of the update overlap");
			return -EINVAL;
		}
	}
	return 0;
}

static int prepare_apply(struct ksplice_transaction *t)
{
	struct ksplice_update *u = t->update;
	struct ksplice_loaded *p;
	struct ksplice_function *f;
	u32 i;
	int err;

	list_for_each_entry(f, &u->functions, node) {
		if (ksplice_forbidden(f)) {
			ksplice_fail(&t->result, KSPLICE_FORBIDDEN, -EPERM, f->code,
				     "%s: some thread always runs it, or the commit needs it; it cannot be replaced",
				     f->name);
			return -EPERM;
		}
		if (f->kind == KSPLICE_KIND_JUMP && !f->expected) {
			ksplice_fail(&t->result, KSPLICE_WINDOW, -EINVAL, f->patch.address,
				     "%s: nobody said which bytes stand under the jump", f->name);
			return -EINVAL;
		}
		if (!ksplice_check_function(f, t->op, &t->result))
			return -EUCLEAN;
	}
	list_for_each_entry(p, &u->parts, list) {
		for (i = 0; i < p->nr_copies; i++) {
			err = ksplice_write_text(p->copies[i].to, p->copies[i].from, p->copies[i].length);
			if (err) {
				ksplice_fail(&t->result, err == -EFAULT ? KSPLICE_INVALID : KSPLICE_NOMEM, err,
					     p->copies[i].from, "part %s: copy %u of run's bytes", p->mod->name, i);
				return err;
			}
		}
	}
	list_for_each_entry(f, &u->functions, node) {
		if (f->kind != KSPLICE_KIND_FTRACE)
			continue;
		err = ksplice_ftrace_add(f);
		if (err) {
			ksplice_fail(&t->result, KSPLICE_INVALID, err, f->code,
				     "%s: ftrace does not take a handler%s", f->name,
				     err == -EBUSY ? "; another one, as livepatch's, redirects it" : "");
			return err;
		}
	}
	return 0;
}

/* Does an applied update stand on this one? Under ksplice_lock. */
static int check_upper(struct ksplice_transaction *t)
{
	struct ksplice_update *upper;
	struct ksplice_loaded *p;

	list_for_each_entry(upper, &ksplice_updates, list) {
		if (upper == t->update || upper->stage != KSPLICE_APPLIED)
			continue;
		list_for_each_entry(p, &t->update->parts, list) {
			if (!ksplice_holds(upper, p->mod))
				continue;
			ksplice_fail(&t->result, KSPLICE_DEPENDED_ON, -EBUSY, 0, "update %s stands on it; undo that first",
				     upper->id);
			return -EBUSY;
		}
	}
	return 0;
}

static int prepare_undo(struct ksplice_transaction *t)
{
	struct ksplice_function *f;
	int err;

	mutex_lock(&ksplice_lock);
	err = check_upper(t);
	mutex_unlock(&ksplice_lock);
	if (err)
		return err;
	list_for_each_entry(f, &t->update->functions, node) {
		if (!ksplice_check_function(f, t->op, &t->result))
			return -EUCLEAN;
	}
	return 0;
}

static int map_patches(struct ksplice_transaction *t)
{
	struct ksplice_function *f;

	list_for_each_entry(f, &t->update->functions, node) {
		if (f->kind == KSPLICE_KIND_JUMP && ksplice_patch_map(&f->patch)) {
			ksplice_fail(&t->result, KSPLICE_NOMEM, -ENOMEM, f->patch.address,
				     "%s: its text cannot be mapped for writing", f->name);
			return -ENOMEM;
		}
	}
	return 0;
}

static void unmap_patches(struct ksplice_update *u)
{
	struct ksplice_function *f;

	list_for_each_entry(f, &u->functions, node) {
		if (f->kind == KSPLICE_KIND_JUMP)
			ksplice_patch_unmap(&f->patch);
	}
}

static void remove_handlers(struct ksplice_update *u)
{
	struct ksplice_function *f;

	list_for_each_entry(f, &u->functions, node) {
		if (f->kind == KSPLICE_KIND_FTRACE)
			ksplice_ftrace_remove(f);
	}
}

static void forget(struct ksplice_result *r)
{
	r->cause = KSPLICE_OK;
	r->error = 0;
	r->address = 0;
	r->where[0] = '\0';
}

/* Wait for stacks that look free of us; a stop is due after a while all the same, as only it can judge. */
static bool wait_for_stacks(struct ksplice_transaction *t)
{
	int i;

	for (i = 0; i < PRESCANS && !ksplice_prescan(t); i++) {
		if (interrupted(t, PRESCAN_MS))
			break;
	}
	return !READ_ONCE(t->abort);
}

/* Try until nobody is in the way, something else is wrong, or the attempts are used up. */
static void attempts(struct ksplice_transaction *t)
{
	struct ksplice_result *r = &t->result;
	u32 attempt;
	int err;

	for (attempt = 1; attempt <= t->attempts; attempt++) {
		if (interrupted(t, attempt > 1 ? t->interval_ms : 0))
			goto interrupted;
		r->attempts = attempt;
		cond_resched();
		if (attempt > 1 && ksplice_still_there(t))
			continue;
		if (!wait_for_stacks(t))
			goto interrupted;
		forget(r);
		err = ksplice_stop(t);
		if (err)
			ksplice_fail(r, KSPLICE_NOMEM, err, 0, "the machine cannot be stopped");
		ksplice_set_conflicts(t->update, t);
		if (r->cause != KSPLICE_CONFLICT && r->cause != KSPLICE_UNSAFE_STACK)
			return;
	}
	return;
interrupted:
	forget(r);
	ksplice_fail(r, KSPLICE_INTERRUPTED, -EINTR, 0, "the commit was interrupted before the stop");
}

/* Name in the result, too, which function somebody is in. */
static void name_conflict(struct ksplice_transaction *t)
{
	struct ksplice_result *r = &t->result;
	struct ksplice_conflict *c = &t->update->conflicts[0];

	r->nr_conflicts = min_t(u32, t->nr_found, KSPLICE_MAX_CONFLICTS);
	if (r->cause == KSPLICE_CONFLICT && r->nr_conflicts)
		snprintf(r->where, sizeof(r->where), "process %d (%.16s) is in %s", c->pid, c->comm, c->function);
}

/* One commit runs at a time. */
static u64 sequence;

static void set_stage(struct ksplice_transaction *t, enum ksplice_stage stage)
{
	struct ksplice_update *u = t->update;

	WRITE_ONCE(u->pause_ns, t->result.pause_ns);
	if (stage == KSPLICE_APPLIED) {
		WRITE_ONCE(u->applied_at, ktime_get_real_seconds());
		WRITE_ONCE(u->sequence, ++sequence);
	}
	WRITE_ONCE(u->stage, stage);
}

static int hold_all(struct ksplice_transaction *t)
{
	struct ksplice_function *f;
	int err;

	mutex_lock(&ksplice_lock);
	err = hold_parts(t);
	if (!err) {
		list_for_each_entry(f, &t->update->functions, node) {
			err = hold_code(t, f);
			if (err)
				goto out;
		}
	}
out:
	mutex_unlock(&ksplice_lock);
	return err;
}

static void apply(struct ksplice_transaction *t)
{
	struct ksplice_update *u = t->update;
	bool hooked = false;

	if (hold_all(t)) {
		/* Parts that are not held may go: look at none of their functions. */
		ksplice_thaw(t);
		put_parts(u);
		return;
	}
	if (make_ranges(t) || check_overlap(t) || prepare_apply(t) || map_patches(t))
		goto out;
	if (ksplice_write_changes(u)) {
		ksplice_fail(&t->result, KSPLICE_NOMEM, -ENOMEM, 0, "the list of changes");
		goto out;
	}
	hooked = true;
	if (!ksplice_hooks_veto(u, KSPLICE_HOOK_PRE_APPLY, &t->result))
		attempts(t);
out:
	ksplice_thaw(t);
	unmap_patches(u);
	if (t->result.cause == KSPLICE_OK) {
		set_stage(t, KSPLICE_APPLIED);
		ksplice_hooks_run(u, KSPLICE_HOOK_POST_APPLY);
		return;
	}
	remove_handlers(u);
	if (hooked)
		ksplice_hooks_run(u, KSPLICE_HOOK_FAIL_APPLY);
	put_parts(u);
}

static void undo(struct ksplice_transaction *t)
{
	struct ksplice_update *u = t->update;
	bool hooked = false;

	if (make_ranges(t) || prepare_undo(t) || map_patches(t))
		goto out;
	hooked = true;
	if (!ksplice_hooks_veto(u, KSPLICE_HOOK_PRE_REVERSE, &t->result))
		attempts(t);
out:
	ksplice_thaw(t);
	unmap_patches(u);
	if (t->result.cause != KSPLICE_OK) {
		if (hooked)
			ksplice_hooks_run(u, KSPLICE_HOOK_FAIL_REVERSE);
		return;
	}
	set_stage(t, KSPLICE_UNDONE);
	remove_handlers(u);
	ksplice_hooks_run(u, KSPLICE_HOOK_POST_REVERSE);
	/*
	 * No thread was in the parts in the stop, and none can enter; wait for
	 * what might still come back by another way: a thread preempted in an
	 * ftrace trampoline, and RCU callbacks.
	 */
	synchronize_rcu_tasks();
	rcu_barrier();
	if (!u->stays)
		put_parts(u);
}

int ksplice_commit_thread(void *data)
{
	struct ksplice_transaction *t = data;

	t->nr_found = 0;
	if (t->op == KSPLICE_OP_APPLY)
		apply(t);
	else
		undo(t);
	ksplice_ranges_free(t);
	name_conflict(t);
	ksplice_set_abort(t->update, &t->result);
	if (t->result.cause == KSPLICE_OK)
		pr_info("update %s %s, the machine stood for %llu ns\n", t->update->id,
			t->op == KSPLICE_OP_APPLY ? "applied" : "undone", t->result.pause_ns);
	else
		pr_info("update %s not %s: %s\n", t->update->id, t->op == KSPLICE_OP_APPLY ? "applied" : "undone",
			t->result.where);

	mutex_lock(&ksplice_lock);
	t->committed = t->result.cause == KSPLICE_OK;
	t->committing = false;
	t->result.done = 1;
	mutex_unlock(&ksplice_lock);
	complete_all(&t->done);

	/* The module's text must outlive us: stay until we are fetched. */
	set_current_state(TASK_IDLE);
	while (!kthread_should_stop()) {
		schedule();
		set_current_state(TASK_IDLE);
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}
