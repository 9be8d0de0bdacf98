// SPDX-License-Identifier: GPL-2.0
/*
 * State transfer: data of the running kernel that an update has to change
 * besides its code. User space walks the data, computes, and says what it has
 * read (guards) and what is to be written (sets, attachments); here nothing is
 * believed but that. In the stop, when nothing moves, every byte that was read
 * is compared, and only when all are as they were is anything written.
 */
#include <linux/err.h>
#include <linux/ktime.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "ksplice.h"

#define MAX_STOP_NS	(2 * NSEC_PER_SEC)	/* an emulated machine is some twenty times slower than a real one */

/* A transaction's transfer. */
struct ksplice_transferred {
	struct ksplice_piece *guards;
	struct ksplice_piece *sets;
	struct ksplice_attach *attaches;
	char (*fields)[KSPLICE_FIELD_LEN];
	u8 *values;
	u8 *set_values;		/* where those of the sets begin */
	u8 *attach_values;
	u32 nr_guards, nr_sets, nr_attaches, nr_fields;
	struct ksplice_entry **entries;	/* of the attachments, from before the stop until after it */
};

static void free_transferred(struct ksplice_transferred *x)
{
	if (!x)
		return;
	kvfree(x->guards);
	kvfree(x->sets);
	kvfree(x->attaches);
	kvfree(x->fields);
	kvfree(x->values);
	kvfree(x->entries);
	kfree(x);
}

void ksplice_transfer_free(struct ksplice_transaction *t)
{
	free_transferred(t->transfer);
	t->transfer = NULL;
}

/* Copy an array from user space; none where it is empty. */
static int copy_array(void *to, u64 from, size_t n, size_t size)
{
	void *p;

	if (!n)
		return 0;
	p = vmemdup_user(u64_to_user_ptr(from), array_size(n, size));
	if (IS_ERR(p))
		return PTR_ERR(p);
	*(void **)to = p;
	return 0;
}

/* Do pieces lie in order, apart, and within bounds? Adds up their lengths. */
static int check_pieces(const struct ksplice_piece *p, u32 n, u64 *bytes)
{
	u64 end = 0;
	u32 i;

	for (i = 0; i < n; i++) {
		if (!p[i].length || p[i].length > KSPLICE_MAX_PIECE || p[i].reserved)
			return -EINVAL;
		if (p[i].address < TASK_SIZE_MAX || p[i].address + p[i].length < p[i].address)
			return -EFAULT;
		if (p[i].address < end)
			return -EINVAL;
		end = p[i].address + p[i].length;
		*bytes += p[i].length;
	}
	return 0;
}

/* Only what was read is written: each set lies in guards without a gap. */
static int check_inside(const struct ksplice_transferred *x)
{
	u32 i, g = 0;

	for (i = 0; i < x->nr_sets; i++) {
		u64 at = x->sets[i].address, end = at + x->sets[i].length;

		while (at < end) {
			while (g < x->nr_guards && x->guards[g].address + x->guards[g].length <= at)
				g++;
			if (g == x->nr_guards || at < x->guards[g].address)
				return -ERANGE;
			at = x->guards[g].address + x->guards[g].length;
		}
	}
	return 0;
}

static int check_attaches(const struct ksplice_transferred *x, u64 *bytes)
{
	u32 i;

	for (i = 0; i < x->nr_fields; i++) {
		if (strnlen(x->fields[i], KSPLICE_FIELD_LEN) == KSPLICE_FIELD_LEN)
			return -ENAMETOOLONG;
	}
	for (i = 0; i < x->nr_attaches; i++) {
		if (x->attaches[i].field >= x->nr_fields || x->attaches[i].length > KSPLICE_MAX_PIECE)
			return -EINVAL;
		*bytes += x->attaches[i].length;
	}
	return 0;
}

static int take(struct ksplice_transferred *x, const struct ksplice_transfer *arg)
{
	u64 guards = 0, sets = 0, all;
	int err;

	x->nr_guards = arg->nr_guards;
	x->nr_sets = arg->nr_sets;
	x->nr_attaches = arg->nr_attaches;
	x->nr_fields = arg->nr_fields;
	err = copy_array(&x->guards, arg->guards, x->nr_guards, sizeof(*x->guards)) ?:
	      copy_array(&x->sets, arg->sets, x->nr_sets, sizeof(*x->sets)) ?:
	      copy_array(&x->attaches, arg->attaches, x->nr_attaches, sizeof(*x->attaches)) ?:
	      copy_array(&x->fields, arg->fields, x->nr_fields, sizeof(*x->fields)) ?:
	      copy_array(&x->values, arg->values, arg->nr_values, 1);
	err = err ?: check_pieces(x->guards, x->nr_guards, &guards) ?:
	      check_pieces(x->sets, x->nr_sets, &sets) ?: check_inside(x);
	if (err)
		return err;
	all = guards + sets;
	err = check_attaches(x, &all);
	if (err)
		return err;
	if (all != arg->nr_values)
		return -EINVAL;
	x->set_values = x->values + guards;
	x->attach_values = x->set_values + sets;
	return 0;
}

/*
 * Take what is to be transferred. -EINVAL: it contradicts itself; -EFAULT: an
 * address is none of the kernel's; -ERANGE: something is to be written that was
 * not read; -E2BIG; -ENAMETOOLONG; -ENOMEM. Under ksplice_lock.
 */
int ksplice_transfer_take(struct ksplice_transaction *t, const struct ksplice_transfer *arg)
{
	struct ksplice_transferred *x;
	int err;

	if (arg->nr_guards > KSPLICE_MAX_GUARDS || arg->nr_sets > KSPLICE_MAX_SETS ||
	    arg->nr_attaches > KSPLICE_MAX_ATTACHES || arg->nr_fields > KSPLICE_MAX_FIELDS ||
	    arg->nr_values > KSPLICE_MAX_TRANSFER)
		return -E2BIG;
	/* What an update brings goes with it: there is nothing to attach to when it goes. */
	if (arg->nr_attaches && t->op != KSPLICE_OP_APPLY)
		return -EINVAL;
	x = kzalloc(sizeof(*x), GFP_KERNEL);
	if (!x)
		return -ENOMEM;
	err = take(x, arg);
	if (err) {
		free_transferred(x);
		return err;
	}
	ksplice_transfer_free(t);
	t->transfer = x;
	return 0;
}

static bool moved(struct ksplice_transaction *t, unsigned long address, const char *what)
{
	ksplice_fail(&t->result, KSPLICE_MOVED, -EAGAIN, address, "what was read: at %lx it %s", address, what);
	return false;
}

/* The first of n bytes that differ. */
static size_t differ(const u8 *a, const u8 *b, size_t n)
{
	size_t i;

	for (i = 0; i < n && a[i] == b[i]; i++)
		;
	return i;
}

/* Is what was read still there? A page is looked up once: guards are in order. */
static bool check_guards(struct ksplice_transaction *t, bool stopped)
{
	const struct ksplice_transferred *x = t->transfer;
	const u8 *want = x->values;
	unsigned long known = 0;
	u8 run[64];
	u32 i;

	for (i = 0; i < x->nr_guards; i++) {
		unsigned long address = x->guards[i].address, end = address + x->guards[i].length;

		while (address < end) {
			unsigned long page = address & PAGE_MASK;
			size_t n = min3(end - address, page + PAGE_SIZE - address, sizeof(run));

			if (page != known && !ksplice_is_memory(address))
				return moved(t, address, "is no memory any more");
			known = page;
			if (copy_from_kernel_nofault(run, (const void *)address, n))
				return moved(t, address, "cannot be read any more");
			if (memcmp(run, want, n))
				return moved(t, address + differ(run, want, n), "has changed since");
			address += n;
			want += n;
		}
		if (!stopped && !(i & 0xfff))
			cond_resched();
	}
	return true;
}

/* May all be written that is to be? */
static bool check_sets(struct ksplice_transaction *t)
{
	const struct ksplice_transferred *x = t->transfer;
	unsigned long known = 0;
	u32 i;

	for (i = 0; i < x->nr_sets; i++) {
		unsigned long page, end = x->sets[i].address + x->sets[i].length;

		for (page = x->sets[i].address & PAGE_MASK; page < end; page += PAGE_SIZE) {
			if (page != known && !ksplice_is_writable(page)) {
				ksplice_fail(&t->result, KSPLICE_INVALID, -EACCES, x->sets[i].address,
					     "what a transfer sets: %u bytes at %llx are code, or read-only, or no memory",
					     x->sets[i].length, x->sets[i].address);
				return false;
			}
			known = page;
		}
	}
	return true;
}

/* In the stop. */
bool ksplice_transfer_check(struct ksplice_transaction *t)
{
	return !t->transfer || (check_guards(t, true) && check_sets(t));
}

/* Before the stop, which it might be in vain, or too long: what is done here is done there again, and no more. */
bool ksplice_transfer_try(struct ksplice_transaction *t)
{
	u64 start = ktime_get_ns(), took;

	if (!t->transfer)
		return true;
	if (!check_guards(t, false) || !check_sets(t))
		return false;
	took = ktime_get_ns() - start;
	if (took > MAX_STOP_NS) {
		ksplice_fail(&t->result, KSPLICE_INVALID, -EFBIG, 0,
			     "the machine would stand for more than %llu ms to compare what was read", took / NSEC_PER_MSEC);
		return false;
	}
	return true;
}

/* Is something set that lies over an address? */
bool ksplice_transfer_sets(const struct ksplice_transaction *t, unsigned long address, unsigned long length)
{
	const struct ksplice_transferred *x = t->transfer;
	u32 low = 0, high = x ? x->nr_sets : 0;

	while (low < high) {
		u32 mid = low + (high - low) / 2;

		if (x->sets[mid].address + x->sets[mid].length <= address)
			low = mid + 1;
		else
			high = mid;
	}
	return x && low < x->nr_sets && x->sets[low].address < address + length;
}

/*
 * Does the transaction say what becomes of the state that its updates have
 * transferred? Without ksplice_lock: they are busy.
 */
bool ksplice_transfer_whole(struct ksplice_transaction *t)
{
	struct ksplice_member *m;

	ksplice_for_each_member(m, t) {
		if (m->op != KSPLICE_OP_UNDO || !m->update->transferred)
			continue;
		if (t->op == KSPLICE_OP_UNDO && t->transfer)
			continue;
		ksplice_fail(&t->result, KSPLICE_INVALID, -EINVAL, 0,
			     "update %s has transferred state, and nothing says how that is taken back", m->update->id);
		return false;
	}
	return true;
}

/* Have memory for what is attached: the fields must be there. Before the stop. */
int ksplice_transfer_prepare(struct ksplice_transaction *t)
{
	struct ksplice_transferred *x = t->transfer;
	const u8 *value;
	u32 i;

	if (!x || !x->nr_attaches)
		return 0;
	x->entries = kvcalloc(x->nr_attaches, sizeof(*x->entries), GFP_KERNEL);
	if (!x->entries) {
		ksplice_fail(&t->result, KSPLICE_NOMEM, -ENOMEM, 0, "memory for %u shadow fields", x->nr_attaches);
		return -ENOMEM;
	}
	value = x->attach_values;
	for (i = 0; i < x->nr_attaches; i++) {
		const struct ksplice_attach *a = &x->attaches[i];
		const char *name = x->fields[a->field];
		struct ksplice_entry *e = ksplice_shadow_prepare(name, a->object, value, a->length);

		if (IS_ERR(e)) {
			int err = PTR_ERR(e);

			ksplice_fail(&t->result, err == -ENOMEM ? KSPLICE_NOMEM : KSPLICE_INVALID, err, a->object,
				     err == -ENOENT ? "no update has a shadow field %s" :
				     "shadow field %s has another size, or there is no memory", name);
			return err;
		}
		x->entries[i] = e;
		value += a->length;
		cond_resched();
	}
	return 0;
}

/* Let go of what was not attached. */
void ksplice_transfer_release(struct ksplice_transaction *t)
{
	struct ksplice_transferred *x = t->transfer;
	u32 i;

	if (!x || !x->entries)
		return;
	for (i = 0; i < x->nr_attaches; i++)
		ksplice_shadow_discard(x->entries[i]);
	kvfree(x->entries);
	x->entries = NULL;
}

/* An aligned number or address at once: an NMI may look. */
static void put(unsigned long address, const u8 *value, u32 length)
{
	u64 whole = 0;

	if (length > sizeof(whole) || !is_power_of_2(length) || !IS_ALIGNED(address, length)) {
		memcpy((void *)address, value, length);
		return;
	}
	memcpy(&whole, value, length);
	switch (length) {
	case 1:
		WRITE_ONCE(*(u8 *)address, whole);
		break;
	case 2:
		WRITE_ONCE(*(u16 *)address, whole);
		break;
	case 4:
		WRITE_ONCE(*(u32 *)address, whole);
		break;
	case 8:
		WRITE_ONCE(*(u64 *)address, whole);
		break;
	}
}

/* In the stop, after the check. */
void ksplice_transfer_do(struct ksplice_transaction *t)
{
	struct ksplice_transferred *x = t->transfer;
	const u8 *value;
	u32 i;

	if (!x)
		return;
	value = x->set_values;
	for (i = 0; i < x->nr_sets; i++) {
		put(x->sets[i].address, value, x->sets[i].length);
		value += x->sets[i].length;
	}
	for (i = 0; i < x->nr_attaches; i++) {
		if (ksplice_shadow_put(x->entries[i]))
			x->entries[i] = NULL;
	}
}
