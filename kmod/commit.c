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
				/* Nor may it be one that goes now. */
				if (lower->busy || lower->stage != KSPLICE_APPLIED)
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

/* The function of an update which goes in the same stop that redirects this one now, or NULL. */
static struct ksplice_function *predecessor(struct ksplice_transaction *t, const struct ksplice_function *f)
{
	struct ksplice_function *old;
	struct ksplice_member *m;

	ksplice_for_each_member(m, t) {
		if (m->op != KSPLICE_OP_UNDO)
			continue;
		list_for_each_entry(old, &m->update->functions, node) {
			if (old->code == f->code && old->kind != KSPLICE_KIND_FRAGMENT)
				return old;
		}
	}
	return NULL;
}

/* Have a function take the place of what redirects it now: the same way, and at the same bytes. */
static int succeed(struct ksplice_transaction *t, struct ksplice_function *f)
{
	struct ksplice_function *old = predecessor(t, f);

	if (!old || f->kind == KSPLICE_KIND_FRAGMENT)
		return 0;
	if (old->kind != f->kind || (f->kind == KSPLICE_KIND_JUMP && (old->patch.address != f->patch.address ||
								      memcmp(old->patch.old, f->patch.old,
									     KSPLICE_JUMP_LEN)))) {
		ksplice_fail(&t->result, KSPLICE_WINDOW, -EINVAL, f->code,
			     "%s: the update to be replaced redirects it in another way", f->name);
		return -EINVAL;
	}
	f->over = old;
	old->heir = f;
	return 0;
}

static void forget_heirs(struct ksplice_transaction *t)
{
	struct ksplice_function *f;
	struct ksplice_member *m;

	ksplice_for_each_member(m, t) {
		list_for_each_entry(f, &m->update->functions, node) {
			f->over = NULL;
			f->heir = NULL;
		}
	}
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
		if (succeed(t, f))
			return -EINVAL;
	}
	if (!ksplice_check_all(t))
		return -EUCLEAN;
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

/* Does an update that stays applied stand on this one, which goes? Under ksplice_lock. */
static int check_upper(struct ksplice_transaction *t, struct ksplice_update *goes)
{
	struct ksplice_update *upper;
	struct ksplice_loaded *p;
	const char *name;

	upper = ksplice_writes_upper(goes, &name);
	if (upper) {
		ksplice_fail(&t->result, KSPLICE_DEPENDED_ON, -EBUSY, 0,
			     "update %s has set %s since %s did; undo that first", upper->id, name, goes->id);
		return -EBUSY;
	}
	list_for_each_entry(upper, &ksplice_updates, list) {
		/* Busy ones belong to this transaction, the only one that there is. */
		if (upper->busy || upper->stage != KSPLICE_APPLIED)
			continue;
		list_for_each_entry(p, &goes->parts, list) {
			if (!ksplice_holds(upper, p->mod))
				continue;
			ksplice_fail(&t->result, KSPLICE_DEPENDED_ON, -EBUSY, 0, "update %s stands on %s; undo that first",
				     upper->id, goes->id);
			return -EBUSY;
		}
	}
	return 0;
}

static int check_uppers(struct ksplice_transaction *t)
{
	struct ksplice_member *m;
	int err = 0;

	mutex_lock(&ksplice_lock);
	ksplice_for_each_member(m, t) {
		if (m->op == KSPLICE_OP_UNDO && !err)
			err = check_upper(t, m->update);
	}
	mutex_unlock(&ksplice_lock);
	return err;
}

static int map_patches(struct ksplice_transaction *t)
{
	struct ksplice_function *f;
	struct ksplice_member *m;

	ksplice_for_each_member(m, t) {
		list_for_each_entry(f, &m->update->functions, node) {
			if (f->kind == KSPLICE_KIND_JUMP && !f->heir && ksplice_patch_map(&f->patch)) {
				ksplice_fail(&t->result, KSPLICE_NOMEM, -ENOMEM, f->patch.address,
					     "%s: its text cannot be mapped for writing", f->name);
				return -ENOMEM;
			}
		}
	}
	return 0;
}

static void unmap_patches(struct ksplice_transaction *t)
{
	struct ksplice_function *f;
	struct ksplice_member *m;

	ksplice_for_each_member(m, t) {
		list_for_each_entry(f, &m->update->functions, node) {
			if (f->kind == KSPLICE_KIND_JUMP)
				ksplice_patch_unmap(&f->patch);
		}
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
		if (!ksplice_transfer_try(t))
			return;
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

static void set_stage(struct ksplice_transaction *t, struct ksplice_update *u, enum ksplice_stage stage)
{
	WRITE_ONCE(u->pause_ns, t->result.pause_ns);
	if (stage == KSPLICE_APPLIED) {
		WRITE_ONCE(u->applied_at, ktime_get_real_seconds());
		WRITE_ONCE(u->exposed_ns, ksplice_exposed(u->id));
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

/* Wait until no code of the updates that went can run, but by addresses that escaped. */
static void settle_undo(struct ksplice_transaction *t)
{
	struct ksplice_member *m;

	ksplice_for_each_member(m, t) {
		if (m->op == KSPLICE_OP_UNDO)
			remove_handlers(m->update);
	}
	/*
	 * No thread was in the parts in the stop or on its way there (ftrace.c),
	 * and none can enter; wait for what might still come back by another
	 * way: a thread preempted in a probe's copy of the parts' instructions
	 * (kernel/kprobes.c: kprobe_optimizer), and RCU callbacks.
	 */
	synchronize_rcu_tasks();
	rcu_barrier();
}

/* Let go of the updates that went. */
static void finish_undo(struct ksplice_transaction *t)
{
	struct ksplice_member *m;

	/* What their last hooks, or objects that these let go of, had called later. */
	rcu_barrier();
	ksplice_for_each_member(m, t) {
		if (m->op == KSPLICE_OP_UNDO && !m->update->stays)
			put_parts(m->update);
	}
}

/*
 * Say what was done to whom, for whoever reads an oops of later: the parts'
 * names in its list of modules and behind its symbols hold the same id. Before
 * anybody lets go of the parts, which takes their functions off the list.
 */
static void tell_done(const struct ksplice_transaction *t, const struct ksplice_member *m)
{
	struct ksplice_function *f;
	struct ksplice_loaded *p;
	u32 functions = 0, fields = 0;

	list_for_each_entry(f, &m->update->functions, node)
		functions += f->kind != KSPLICE_KIND_FRAGMENT;
	list_for_each_entry(p, &m->update->parts, list)
		fields += p->nr_writes;
	pr_info("update %s %s: %u function(s), %u field(s), the machine stood for %llu us\n", m->update->id,
		m->op == KSPLICE_OP_APPLY ? "applied" : "undone", functions, fields, t->result.pause_ns / NSEC_PER_USEC);
}

/* It is done: from here on nothing can fail. */
static void finish(struct ksplice_transaction *t)
{
	struct ksplice_function *f;
	struct ksplice_member *m;

	list_for_each_entry(f, &t->update->functions, node)
		ksplice_ftrace_settle(f);
	forget_heirs(t);
	t->update->transferred = t->op == KSPLICE_OP_APPLY && t->transfer;
	ksplice_for_each_member(m, t)
		set_stage(t, m->update, m->op == KSPLICE_OP_APPLY ? KSPLICE_APPLIED : KSPLICE_UNDONE);
	mutex_lock(&ksplice_lock);
	ksplice_spread_stay();
	ksplice_for_each_member(m, t)
		tell_done(t, m);
	mutex_unlock(&ksplice_lock);
	if (t->op == KSPLICE_OP_UNDO || t->nr_members > 1)
		settle_undo(t);
	ksplice_hooks_run(t, KSPLICE_HOOKS_POST);
	if (t->op == KSPLICE_OP_UNDO || t->nr_members > 1)
		finish_undo(t);
}

static bool prepare(struct ksplice_transaction *t)
{
	if (make_ranges(t) || check_uppers(t))
		return false;
	if (t->op == KSPLICE_OP_APPLY) {
		if (check_overlap(t) || !ksplice_carry_check(t) || prepare_apply(t))
			return false;
		if (ksplice_write_changes(t->update)) {
			ksplice_fail(&t->result, KSPLICE_NOMEM, -ENOMEM, 0, "the list of changes");
			return false;
		}
	} else if (!ksplice_check_all(t)) {
		return false;
	}
	/* What is no data of the kernel's is not looked at. */
	return ksplice_transfer_whole(t) && !ksplice_writes_map(t) && ksplice_writes_check(t) && !map_patches(t);
}

static void commit(struct ksplice_transaction *t)
{
	bool hooked = false;

	if (t->op == KSPLICE_OP_APPLY && hold_all(t)) {
		/* Parts that are not held may go: look at none of their functions. */
		ksplice_thaw(t);
		put_parts(t->update);
		return;
	}
	if (prepare(t)) {
		hooked = true;
		if (!ksplice_hooks_veto(t, KSPLICE_HOOKS_PRE) && !ksplice_transfer_prepare(t))
			attempts(t);
		ksplice_transfer_release(t);
	}
	ksplice_thaw(t);
	unmap_patches(t);
	ksplice_writes_unmap(t);
	if (t->result.cause == KSPLICE_OK) {
		finish(t);
		return;
	}
	forget_heirs(t);
	if (t->op == KSPLICE_OP_APPLY)
		remove_handlers(t->update);
	if (hooked)
		ksplice_hooks_run(t, KSPLICE_HOOKS_FAIL);
	if (t->op == KSPLICE_OP_APPLY)
		put_parts(t->update);
}

/*
 * Say that nothing was done, and why: in short, as others than root may read
 * the log; abort_cause (sysfs.c) has all of it. What has moved is tried again.
 */
static void tell_failed(const struct ksplice_transaction *t)
{
	const struct ksplice_result *r = &t->result;
	const char *rest = strstr(r->where, ": ");

	if (r->cause == KSPLICE_OK || r->cause == KSPLICE_MOVED)
		return;
	pr_info("update %s not %s: %s: %.*s\n", t->update->id, t->op == KSPLICE_OP_APPLY ? "applied" : "undone",
		ksplice_cause_word(r->cause), (int)(rest ? rest - r->where : strlen(r->where)), r->where);
}

int ksplice_commit_thread(void *data)
{
	struct ksplice_transaction *t = data;

	t->nr_found = 0;
	commit(t);
	ksplice_ranges_free(t);
	name_conflict(t);
	ksplice_set_abort(t->update, &t->result);
	tell_failed(t);

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
