// SPDX-License-Identifier: GPL-2.0
/*
 * Fields of run's data that an update gives another value: where a patch
 * changes the initialiser of a datum that exists. They are written in the same
 * stop as the redirects, and only where every one of them still has the value
 * that the update was made for; undo puts that back, and only where each still
 * has what the update wrote. Names and plain values lie under the part's
 * signature. Where a field lies, and values that are addresses, are slots,
 * which user space lends: so where the kernel is locked down none is written
 * but what undo puts back.
 */
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/pgtable.h>

#include "compat.h"
#include "ksplice.h"

#define MAX_WRITES	1024		/* of a part */
#define MAX_WRITTEN	PAGE_SIZE	/* of one, in bytes: an alias has two pages */
#define SHOWN		16		/* bytes of a value in a message */

static u8 *copy_of(const struct module *mod, u64 address, u64 length)
{
	const void *p = ksplice_in_part(mod, address, length, 1);

	return p ? kmemdup(p, length, GFP_KERNEL) : NULL;
}

static int write_of(struct ksplice_loaded *p, struct ksplice_write *w, const struct ksplice_datum_write *from)
{
	if (!from->length || from->length > MAX_WRITTEN || from->flags & ~(u64)KSPLICE_WRITE_ADDRESS)
		return -EINVAL;
	w->address = from->address;
	w->length = from->length;
	w->name = ksplice_string_of(p->mod, from->name, 128);
	if (IS_ERR(w->name)) {
		int err = PTR_ERR(w->name);

		w->name = NULL;
		return err;
	}
	w->old = copy_of(p->mod, from->old, from->length);
	w->new = copy_of(p->mod, from->new, from->length);
	return w->old && w->new ? 0 : -EINVAL;
}

static bool overlap(const struct ksplice_write *a, const struct ksplice_write *b)
{
	return a->address < b->address + b->length && b->address < a->address + a->length;
}

/* Take what a part's description says of writes. -EINVAL, -E2BIG, -ENOMEM. */
int ksplice_writes_of(struct ksplice_loaded *p, const struct ksplice_part *part)
{
	const struct ksplice_datum_write *from;
	u32 i, j;
	int err;

	if (!part->nr_writes)
		return 0;
	if (part->nr_writes > MAX_WRITES)
		return -E2BIG;
	from = ksplice_in_part(p->mod, part->writes, part->nr_writes, sizeof(*from));
	if (!from)
		return -EINVAL;
	p->writes = kvcalloc(part->nr_writes, sizeof(*p->writes), GFP_KERNEL);
	if (!p->writes)
		return -ENOMEM;
	p->nr_writes = part->nr_writes;
	for (i = 0; i < p->nr_writes; i++) {
		err = write_of(p, &p->writes[i], &from[i]);
		if (err)
			return err;
		for (j = 0; j < i; j++) {
			if (overlap(&p->writes[i], &p->writes[j]))
				return -EINVAL;
		}
	}
	return 0;
}

void ksplice_writes_free(struct ksplice_loaded *p)
{
	u32 i;

	for (i = 0; i < p->nr_writes && p->writes; i++) {
		kfree(p->writes[i].name);
		kfree(p->writes[i].old);
		kfree(p->writes[i].new);
	}
	kvfree(p->writes);
}

/*
 * Does the kernel's lockdown let the update that comes set its fields? Not for
 * what goes: that puts back what was there. -EPERM. Under ksplice_lock, so that
 * no part comes behind it.
 */
int ksplice_writes_allowed(const struct ksplice_transaction *t)
{
	struct ksplice_loaded *p;

	if (t->op != KSPLICE_OP_APPLY)
		return 0;
	list_for_each_entry(p, &t->update->parts, list) {
		if (p->nr_writes)
			return ksplice_may_write();
	}
	return 0;
}

/* Memory that exists and is no code. */
static bool mapped_data(unsigned long address, unsigned long length)
{
	unsigned long page;

	for (page = address & PAGE_MASK; page < address + length; page += PAGE_SIZE) {
		unsigned int level;
		pte_t *pte = lookup_address(page, &level);

		if (!pte || level == PG_LEVEL_NONE || !pte_present(*pte) || !(pte_flags(*pte) & _PAGE_NX))
			return false;
	}
	return true;
}

/* Is it data of the kernel proper, or of a module that the update holds? */
static bool in_data(struct ksplice_update *u, const struct ksplice_write *w)
{
	struct ksplice_held *h;

	if (w->address < __START_KERNEL_map || w->length > MODULES_END - w->address)
		return false;
	if (w->address + w->length <= MODULES_VADDR)
		return mapped_data(w->address, w->length);
	list_for_each_entry(h, &u->held, list) {
		struct ksplice_region r = ksplice_module_region(h->mod, w->address);

		if (r.size && w->length <= r.size - (w->address - r.start))
			return mapped_data(w->address, w->length);
	}
	return false;
}

/* Put over n bytes of run at an address what an update that goes in this stop gives back. */
static void give_back(const struct ksplice_loaded *p, unsigned long address, u8 *run, u64 n)
{
	u64 k, to;
	u32 i;

	for (i = 0; i < p->nr_writes; i++) {
		const struct ksplice_write *w = &p->writes[i];

		for (k = 0; k < n; k++) {
			to = address + k - w->address;
			if (to < w->length)
				run[k] = w->old[to];
		}
	}
}

/* Of the updates that go in this stop the one that was applied last before another one was; NULL: none. */
static struct ksplice_update *last_before(struct ksplice_transaction *t, u64 sequence)
{
	struct ksplice_update *last = NULL;
	struct ksplice_member *m;

	ksplice_for_each_member(m, t) {
		if (m->op == KSPLICE_OP_UNDO && m->update->sequence < sequence &&
		    (!last || m->update->sequence > last->sequence))
			last = m->update;
	}
	return last;
}

/*
 * Put over run's bytes what the updates give back that were applied after
 * another one and go in this stop: the last goes first.
 */
static void given_back(struct ksplice_transaction *t, u64 after, unsigned long address, u8 *run, u64 n)
{
	struct ksplice_update *u;
	struct ksplice_loaded *p;

	for (u = last_before(t, U64_MAX); u && u->sequence > after; u = last_before(t, u->sequence)) {
		list_for_each_entry(p, &u->parts, list)
			give_back(p, address, run, n);
	}
}

typedef int (*visit_write)(struct ksplice_transaction *t, struct ksplice_member *m, struct ksplice_write *w);

/* Visit all writes of a transaction, until a visit fails. */
static int each_write(struct ksplice_transaction *t, visit_write visit)
{
	struct ksplice_member *m;
	struct ksplice_loaded *p;
	int err = 0;
	u32 i;

	ksplice_for_each_member(m, t) {
		list_for_each_entry(p, &m->update->parts, list) {
			for (i = 0; i < p->nr_writes && !err; i++)
				err = visit(t, m, &p->writes[i]);
		}
	}
	return err;
}

/* Will run have what the write begins with, when what goes before it is gone? */
static int check_write(struct ksplice_transaction *t, struct ksplice_member *m, struct ksplice_write *w)
{
	bool apply = m->op == KSPLICE_OP_APPLY;
	const u8 *want = apply ? w->old : w->new;
	u8 run[SHOWN];
	u64 at, n;

	for (at = 0; at < w->length; at += n) {
		n = min_t(u64, sizeof(run), w->length - at);
		if (copy_from_kernel_nofault(run, (const void *)(w->address + at), n)) {
			ksplice_fail(&t->result, KSPLICE_CHANGED, -EFAULT, w->address + at, "%s: cannot be read", w->name);
			return -EFAULT;
		}
		given_back(t, apply ? 0 : m->update->sequence, w->address + at, run, n);
		if (!memcmp(run, want + at, n))
			continue;
		ksplice_fail(&t->result, KSPLICE_CHANGED, -EUCLEAN, w->address + at, "%s: has %*phN, expected %*phN%s",
			     w->name, (int)n, run, (int)n, want + at,
			     apply ? "" : "; somebody set it after the update did");
		return -EUCLEAN;
	}
	return 0;
}

/* Check all writes of a transaction; in the stop or outside. */
bool ksplice_writes_check(struct ksplice_transaction *t)
{
	return !each_write(t, check_write);
}

/* What of q lies over something of p; NULL: nothing. */
static const struct ksplice_write *over(const struct ksplice_loaded *p, const struct ksplice_loaded *q)
{
	u32 i, k;

	for (i = 0; i < p->nr_writes; i++) {
		for (k = 0; k < q->nr_writes; k++) {
			if (overlap(&p->writes[i], &q->writes[k]))
				return &q->writes[k];
		}
	}
	return NULL;
}

/* The applied update, outside of the transaction, that wrote over what u did, later; or NULL. Under ksplice_lock. */
struct ksplice_update *ksplice_writes_upper(struct ksplice_update *u, const char **name)
{
	const struct ksplice_write *w;
	struct ksplice_update *upper;
	struct ksplice_loaded *p, *q;

	list_for_each_entry(upper, &ksplice_updates, list) {
		if (upper->busy || upper->stage != KSPLICE_APPLIED || upper->sequence < u->sequence)
			continue;
		list_for_each_entry(p, &u->parts, list) {
			list_for_each_entry(q, &upper->parts, list) {
				w = over(p, q);
				if (!w)
					continue;
				*name = w->name;
				return upper;
			}
		}
	}
	return NULL;
}

static int map_write(struct ksplice_transaction *t, struct ksplice_member *m, struct ksplice_write *w)
{
	if (!in_data(m->update, w)) {
		ksplice_fail(&t->result, KSPLICE_INVALID, -EFAULT, w->address,
			     "%s: is no data of the kernel or of a module that the update holds", w->name);
		return -EFAULT;
	}
	if (ksplice_transfer_sets(t, w->address, w->length)) {
		ksplice_fail(&t->result, KSPLICE_INVALID, -EINVAL, w->address,
			     "%s: the update sets it, and a state transfer does", w->name);
		return -EINVAL;
	}
	w->alias = ksplice_alias(w->address, w->length, &w->mapping);
	if (!w->alias) {
		ksplice_fail(&t->result, KSPLICE_NOMEM, -ENOMEM, w->address, "%s: cannot be mapped for writing",
			     w->name);
		return -ENOMEM;
	}
	return 0;
}

/* Map what will be written, which may be read-only. Before the stop; whatever comes of it, unmapping follows. */
int ksplice_writes_map(struct ksplice_transaction *t)
{
	return each_write(t, map_write);
}

static int unmap_write(struct ksplice_transaction *t, struct ksplice_member *m, struct ksplice_write *w)
{
	if (w->alias)
		vunmap(w->mapping);
	w->alias = NULL;
	return 0;
}

void ksplice_writes_unmap(struct ksplice_transaction *t)
{
	each_write(t, unmap_write);
}

/* A word at once: an NMI may look. */
static void put(const struct ksplice_write *w, const u8 *value)
{
	u64 word;

	if (w->length != sizeof(word) || w->address % sizeof(word)) {
		memcpy(w->alias, value, w->length);
		return;
	}
	memcpy(&word, value, sizeof(word));
	WRITE_ONCE(*(u64 *)w->alias, word);
}

static void put_all(struct ksplice_update *u, bool apply)
{
	struct ksplice_loaded *p;
	u32 i;

	list_for_each_entry(p, &u->parts, list) {
		for (i = 0; i < p->nr_writes; i++)
			put(&p->writes[i], apply ? p->writes[i].new : p->writes[i].old);
	}
}

/* In the stop, after the check: what was applied last goes first, and what comes in its place after all of them. */
void ksplice_writes_do(struct ksplice_transaction *t)
{
	struct ksplice_update *u;

	for (u = last_before(t, U64_MAX); u; u = last_before(t, u->sequence))
		put_all(u, false);
	if (t->op == KSPLICE_OP_APPLY)
		put_all(t->update, true);
}
