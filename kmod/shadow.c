// SPDX-License-Identifier: GPL-2.0
/*
 * Shadow fields: data that an update keeps beside objects whose structure has
 * no room for it. One hash table by object and field; looking one up takes no
 * lock, so that any context may, an NMI too. A field is a name: what updates
 * that stand in each other's place keep under it goes from one to the next,
 * and when the last one is undone all of it goes.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/sysfs.h>
#include <linux/workqueue.h>

#include "ksplice.h"
#include "include/ksplice.h"

#define BUCKET_BITS	16
#define LOCK_BITS	6
#define RESERVE		128	/* entries of a field that are there when there is no memory, */
#define RESERVE_BYTES	65536	/* up to so many bytes */

/* A field, for as long as a part that has it is loaded. */
struct ksplice_field {
	struct list_head list;
	char *name;
	size_t size;
	unsigned long salt;	/* so that fields of one object lie apart */
	struct list_head holders;	/* struct holder: the last one's destructor counts */
	atomic_long_t count;
	raw_spinlock_t lock;	/* of all below */
	struct ksplice_entry *reserve;
	u32 nr_reserve;
	struct ksplice_entry *spare;	/* of all objects for which there was no memory */
	bool spared;
	struct work_struct refill;
};

struct holder {
	struct list_head list;
	struct ksplice_shadow *shadow;	/* in a part */
	bool left;		/* its part was undone, and stays mapped */
};

struct ksplice_entry {
	struct hlist_node node;
	struct rcu_head rcu;
	struct ksplice_entry *next;	/* of those that are dropped together: readers may still follow node */
	const void *object;
	struct ksplice_field *field;
	u64 data[];
};

static LIST_HEAD(fields);
static DEFINE_MUTEX(fields_lock);
static struct hlist_head *buckets;	/* while there are fields */
static raw_spinlock_t locks[1 << LOCK_BITS];

static struct hlist_head *bucket_of(const struct ksplice_field *f, const void *object)
{
	return &buckets[hash_long((unsigned long)object ^ f->salt, BUCKET_BITS)];
}

static raw_spinlock_t *lock_of(const struct hlist_head *bucket)
{
	return &locks[(bucket - buckets) & ((1 << LOCK_BITS) - 1)];
}

static struct ksplice_entry *find(const struct ksplice_field *f, const struct hlist_head *bucket, const void *object)
{
	struct ksplice_entry *e;

	hlist_for_each_entry_rcu(e, bucket, node, lockdep_is_held(lock_of(bucket))) {
		if (e->object == object && e->field == f)
			return e;
	}
	return NULL;
}

static void destroy(struct ksplice_field *f, struct ksplice_entry *e, void (*dtor)(void *object, void *data))
{
	if (dtor)
		dtor((void *)e->object, e->data);
	atomic_long_dec(&f->count);
	kfree_rcu(e, rcu);
}

/**
 * ksplice_shadow_get - an object's shadow field
 * @s: the field
 * @object: what it is of; never followed
 *
 * Any context. What it returns lives until it is detached.
 *
 * Return: its data, NULL where the object has none.
 */
void *ksplice_shadow_get(struct ksplice_shadow *s, const void *object)
{
	struct ksplice_entry *e;

	if (!s->field)
		return NULL;
	rcu_read_lock();
	e = find(s->field, bucket_of(s->field, object), object);
	rcu_read_unlock();
	return e ? e->data : NULL;
}
EXPORT_SYMBOL_GPL(ksplice_shadow_get);

static struct ksplice_entry *new_entry(const struct ksplice_field *f, gfp_t gfp)
{
	struct ksplice_entry *e;

	return kzalloc(struct_size(e, data, DIV_ROUND_UP(f->size, sizeof(u64))), gfp);
}

/* Fill the reserve. */
static void refill(struct work_struct *work)
{
	struct ksplice_field *f = container_of(work, struct ksplice_field, refill);
	struct ksplice_entry *e = NULL;
	unsigned long flags;

	do {
		if (!e)
			e = new_entry(f, GFP_KERNEL);
		if (!e)
			return;
		raw_spin_lock_irqsave(&f->lock, flags);
		if (f->nr_reserve < min_t(u32, RESERVE, RESERVE_BYTES / f->size)) {
			e->next = f->reserve;
			f->reserve = e;
			f->nr_reserve++;
			e = NULL;
		}
		raw_spin_unlock_irqrestore(&f->lock, flags);
	} while (!e);
	kfree(e);
}

static struct ksplice_entry *from_reserve(struct ksplice_field *f)
{
	struct ksplice_entry *e;
	unsigned long flags;

	raw_spin_lock_irqsave(&f->lock, flags);
	e = f->reserve;
	if (e) {
		f->reserve = e->next;
		e->next = NULL;
		f->nr_reserve--;
	}
	raw_spin_unlock_irqrestore(&f->lock, flags);
	schedule_work(&f->refill);
	return e;
}

/*
 * What objects share for which there is no memory at all. From then on all new
 * ones do: whoever has taken a lock there must find it there again. Under the
 * object's bucket lock.
 */
static struct ksplice_entry *spare(struct ksplice_shadow *s, void *object)
{
	struct ksplice_field *f = s->field;

	raw_spin_lock(&f->lock);
	if (!f->spared && s->ctor)
		s->ctor(object, f->spare->data, NULL);
	f->spared = true;
	raw_spin_unlock(&f->lock);
	pr_err_ratelimited("shadow field %s: no memory, objects share one\n", f->name);
	return f->spare;
}

/* Memory for an object's field, made ready; NULL where there is none. */
static struct ksplice_entry *prepare(struct ksplice_shadow *s, void *object, void *arg, gfp_t gfp, bool always)
{
	struct ksplice_field *f = s->field;
	struct ksplice_entry *e = new_entry(f, gfp);

	if (!e && always)
		e = from_reserve(f);
	if (!e)
		return NULL;
	e->object = object;
	e->field = f;
	if (s->ctor && s->ctor(object, e->data, arg)) {
		kfree(e);
		return NULL;
	}
	atomic_long_inc(&f->count);
	return e;
}

static void *attach(struct ksplice_shadow *s, void *object, void *arg, gfp_t gfp, bool get, bool always)
{
	struct ksplice_field *f = s->field;
	struct hlist_head *bucket;
	struct ksplice_entry *e, *old;
	unsigned long flags;

	if (get) {
		void *data = ksplice_shadow_get(s, object);

		if (data)
			return data;
	}
	if (!f)
		return NULL;
	bucket = bucket_of(f, object);
	e = prepare(s, object, arg, gfp, always);
	if (!e && !always)
		return NULL;
	raw_spin_lock_irqsave(lock_of(bucket), flags);
	old = find(f, bucket, object);
	if (!old && always && (!e || READ_ONCE(f->spared)))
		old = spare(s, object);
	if (!old)
		hlist_add_head_rcu(&e->node, bucket);
	raw_spin_unlock_irqrestore(lock_of(bucket), flags);
	if (!old)
		return e->data;
	if (e)
		destroy(f, e, s->dtor);
	return get ? old->data : NULL;
}

/**
 * ksplice_shadow_attach - give an object a shadow field
 * @s: the field
 * @object: what it is of
 * @arg: for the constructor
 * @gfp: how memory is to be had: GFP_ATOMIC where nothing may sleep
 *
 * The data are zero, then the constructor's. Not from an NMI.
 *
 * Return: the data; NULL where the object has the field already, where there is
 * no memory, and where the constructor fails.
 */
void *ksplice_shadow_attach(struct ksplice_shadow *s, void *object, void *arg, gfp_t gfp)
{
	return attach(s, object, arg, gfp, false, false);
}
EXPORT_SYMBOL_GPL(ksplice_shadow_attach);

/**
 * ksplice_shadow_get_or_attach - an object's shadow field, a new one where it has none
 * @s: the field
 * @object: what it is of
 * @arg: for the constructor
 * @gfp: how memory is to be had
 *
 * Of several callers at once all get the same data; the constructor may have
 * run for some that were then destroyed.
 *
 * Return: the data; NULL where there is no memory or the constructor fails.
 */
void *ksplice_shadow_get_or_attach(struct ksplice_shadow *s, void *object, void *arg, gfp_t gfp)
{
	return attach(s, object, arg, gfp, true, false);
}
EXPORT_SYMBOL_GPL(ksplice_shadow_get_or_attach);

/**
 * ksplice_shadow_of - an object's shadow field, always
 * @s: the field; its constructor may not fail or sleep
 * @object: what it is of
 *
 * For code that has no way to fail, as where a member of the structure would
 * be. Memory is taken atomically, then from a reserve; when that is used up, too,
 * all further objects share one, and the kernel's log says so. Not from an NMI.
 *
 * Return: the data, never NULL.
 */
void *ksplice_shadow_of(struct ksplice_shadow *s, const void *object)
{
	return attach(s, (void *)object, NULL, GFP_ATOMIC | __GFP_NOWARN, true, true);
}
EXPORT_SYMBOL_GPL(ksplice_shadow_of);

/**
 * ksplice_shadow_detach - take an object's shadow field away
 * @s: the field
 * @object: what it is of
 *
 * For where the object is freed: another one at the same place would have the
 * field, else. Nothing happens where it has none. Not from an NMI.
 */
void ksplice_shadow_detach(struct ksplice_shadow *s, void *object)
{
	struct hlist_head *bucket;
	struct ksplice_entry *e;
	unsigned long flags;

	if (!s->field)
		return;
	bucket = bucket_of(s->field, object);
	raw_spin_lock_irqsave(lock_of(bucket), flags);
	e = find(s->field, bucket, object);
	if (e)
		hlist_del_rcu(&e->node);
	raw_spin_unlock_irqrestore(lock_of(bucket), flags);
	if (e)
		destroy(s->field, e, s->dtor);
}
EXPORT_SYMBOL_GPL(ksplice_shadow_detach);

/* Take those of a field out of one bucket. */
static struct ksplice_entry *take(struct ksplice_field *f, struct hlist_head *bucket)
{
	struct ksplice_entry *e, *taken = NULL;
	struct hlist_node *next;
	unsigned long flags;

	raw_spin_lock_irqsave(lock_of(bucket), flags);
	hlist_for_each_entry_safe(e, next, bucket, node) {
		if (e->field != f)
			continue;
		hlist_del_rcu(&e->node);
		e->next = taken;
		taken = e;
	}
	raw_spin_unlock_irqrestore(lock_of(bucket), flags);
	return taken;
}

static void drop_all(struct ksplice_field *f, void (*dtor)(void *object, void *data))
{
	struct ksplice_entry *e, *next;
	u32 i;

	for (i = 0; i < 1 << BUCKET_BITS; i++) {
		if (hlist_empty(&buckets[i]))
			continue;
		for (e = take(f, &buckets[i]); e; e = next) {
			next = e->next;
			destroy(f, e, dtor);
		}
	}
}

/**
 * ksplice_shadow_drop_all - take a shadow field away from all objects
 * @s: the field
 *
 * Undoing the last update that has the field does so. Not from an NMI.
 */
void ksplice_shadow_drop_all(struct ksplice_shadow *s)
{
	if (s->field)
		drop_all(s->field, s->dtor);
}
EXPORT_SYMBOL_GPL(ksplice_shadow_drop_all);

static struct ksplice_field *field_of(const char *name)
{
	struct ksplice_field *f;

	list_for_each_entry(f, &fields, list) {
		if (!strcmp(f->name, name))
			return f;
	}
	return NULL;
}

static struct ksplice_field *new_field(const struct ksplice_shadow *s)
{
	struct ksplice_field *f;

	if (!buckets)
		buckets = kvcalloc(1 << BUCKET_BITS, sizeof(*buckets), GFP_KERNEL);
	f = kzalloc(sizeof(*f), GFP_KERNEL);
	if (!buckets || !f)
		goto err;
	f->size = s->size;
	f->salt = hash_ptr(f, BITS_PER_LONG);
	f->name = kstrdup(s->name, GFP_KERNEL);
	f->spare = new_entry(f, GFP_KERNEL);
	if (!f->name || !f->spare)
		goto err;
	INIT_LIST_HEAD(&f->holders);
	raw_spin_lock_init(&f->lock);
	INIT_WORK(&f->refill, refill);
	refill(&f->refill);
	list_add_tail(&f->list, &fields);
	return f;
err:
	if (f) {
		kfree(f->name);
		kfree(f->spare);
	}
	kfree(f);
	if (list_empty(&fields)) {
		kvfree(buckets);
		buckets = NULL;
	}
	return NULL;
}

/* Nobody can look anything up any more once the last field goes. */
static void free_field(struct ksplice_field *f)
{
	struct ksplice_entry *e;

	list_del(&f->list);
	cancel_work_sync(&f->refill);
	while ((e = f->reserve)) {
		f->reserve = e->next;
		kfree(e);
	}
	kfree(f->spare);
	kfree(f->name);
	kfree(f);
	if (!list_empty(&fields))
		return;
	synchronize_rcu();
	kvfree(buckets);
	buckets = NULL;
}

/**
 * ksplice_shadow_arrive - a part's shadow field can be used from here on
 * @s: the field, in the part's memory
 *
 * A part calls it in a hook before it is applied. May sleep.
 *
 * Return: 0; -EEXIST where another update has a field of that name and another
 * size; -EINVAL; -ENOMEM.
 */
int ksplice_shadow_arrive(struct ksplice_shadow *s)
{
	struct ksplice_field *f;
	struct holder *h;
	int err = 0;

	if (!s->name || !s->name[0] || !s->size || s->size > KSPLICE_SHADOW_MAX || s->field)
		return -EINVAL;
	h = kmalloc(sizeof(*h), GFP_KERNEL);
	if (!h)
		return -ENOMEM;
	h->shadow = s;
	h->left = false;
	mutex_lock(&fields_lock);
	f = field_of(s->name);
	if (f && f->size != s->size) {
		pr_err("shadow field %s has %zu bytes, not %zu\n", s->name, f->size, s->size);
		err = -EEXIST;
	} else {
		f = f ?: new_field(s);
		err = f ? 0 : -ENOMEM;
	}
	if (err) {
		kfree(h);
	} else {
		list_add_tail(&h->list, &f->holders);
		s->field = f;
	}
	mutex_unlock(&fields_lock);
	return err;
}
EXPORT_SYMBOL_GPL(ksplice_shadow_arrive);

static void leave(struct ksplice_shadow *s, bool stays)
{
	struct ksplice_field *f = s->field;
	struct holder *h, *next;
	bool used = false;

	list_for_each_entry_safe(h, next, &f->holders, list) {
		if (h->shadow != s) {
			used = used || !h->left;
			continue;
		}
		/* Code of a part that stays may run yet, by an address that somebody holds. */
		if (stays) {
			h->left = true;
			continue;
		}
		list_del(&h->list);
		kfree(h);
		s->field = NULL;
	}
	if (used)
		return;
	drop_all(f, s->dtor);
	if (list_empty(&f->holders))
		free_field(f);
}

/**
 * ksplice_shadow_leave - a part no longer uses its shadow field
 * @s: the field
 *
 * A part calls it in a hook after it was undone, or could not be applied. Where
 * it is the last that has the field, all objects lose it. A part that stays
 * mapped keeps the field, too. May sleep.
 */
void ksplice_shadow_leave(struct ksplice_shadow *s)
{
	mutex_lock(&fields_lock);
	if (s->field)
		leave(s, ksplice_hooks_stay);
	mutex_unlock(&fields_lock);
}
EXPORT_SYMBOL_GPL(ksplice_shadow_leave);

/* A part goes whose hooks did not run: its module's init had failed. */
void ksplice_shadow_forget(const struct module *mod)
{
	struct ksplice_field *f;
	struct holder *h;

	mutex_lock(&fields_lock);
again:
	list_for_each_entry(f, &fields, list) {
		list_for_each_entry(h, &f->holders, list) {
			if (within_module((unsigned long)h->shadow, mod)) {
				leave(h->shadow, false);
				goto again;
			}
		}
	}
	mutex_unlock(&fields_lock);
}

/*
 * An entry for an object, not in the table yet: what a transfer attaches. Its
 * data are complete, so that no constructor runs: outside of the stop the
 * object may be gone. -ENOENT: no such field; -EINVAL: it has another size;
 * -ENOMEM. May sleep. It must be put or discarded before the field's parts go.
 */
struct ksplice_entry *ksplice_shadow_prepare(const char *name, unsigned long object, const void *data, size_t size)
{
	struct ksplice_entry *e;
	struct ksplice_field *f;

	mutex_lock(&fields_lock);
	f = field_of(name);
	if (!f)
		e = ERR_PTR(-ENOENT);
	else if (f->size != size)
		e = ERR_PTR(-EINVAL);
	else
		e = new_entry(f, GFP_KERNEL) ?: ERR_PTR(-ENOMEM);
	mutex_unlock(&fields_lock);
	if (IS_ERR(e))
		return e;
	e->object = (const void *)object;
	e->field = f;
	memcpy(e->data, data, size);
	return e;
}

/*
 * In the stop, where nobody holds a bucket's lock, as no interrupts were off.
 * False where the object has the field, or may share one with others: it keeps
 * what it has.
 */
bool ksplice_shadow_put(struct ksplice_entry *e)
{
	struct hlist_head *bucket = bucket_of(e->field, e->object);
	struct ksplice_entry *old;

	if (e->field->spared)
		return false;
	hlist_for_each_entry(old, bucket, node) {
		if (old->object == e->object && old->field == e->field)
			return false;
	}
	hlist_add_head_rcu(&e->node, bucket);
	atomic_long_inc(&e->field->count);
	return true;
}

/* Nobody has seen it. */
void ksplice_shadow_discard(struct ksplice_entry *e)
{
	kfree(e);
}

/* A line a field: name, bytes, objects that have it. */
ssize_t ksplice_shadow_list(char *buf)
{
	struct ksplice_field *f;
	int n = 0;

	mutex_lock(&fields_lock);
	list_for_each_entry(f, &fields, list)
		n += sysfs_emit_at(buf, n, "%s %zu %ld\n", f->name, f->size, atomic_long_read(&f->count));
	mutex_unlock(&fields_lock);
	return n;
}

void ksplice_shadow_init(void)
{
	u32 i;

	for (i = 0; i < ARRAY_SIZE(locks); i++)
		raw_spin_lock_init(&locks[i]);
}
