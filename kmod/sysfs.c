// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/ksplice/
 *   armed		what waits for modules: arrive.c
 *   <id>/		an update
 *     stage		preparing, applied, undone, dropped or gone
 *     description	one line
 *     abort_cause	why the last commit failed, or empty; root's, since it
 *			may tell addresses and bytes of the kernel's
 *     applied_at	seconds since the epoch, 0 if never
 *     sequence		counts applied updates: the higher is the later
 *     pause_ns		how long the machine stood for it
 *     exposed_ns		how long its module had been live without it, 0 if not at all
 *     parts		module names, one a line
 *     stays_mapped	1: the parts stay loaded after undo
 *     changes		a line a function: code size replacement window kind
 *			address name part old; addresses hexadecimal; old is
 *			what stood under the jump, - where there is none
 *     conflicts	a line a thread in the way at the last attempt: pid
 *			function address comm
 *
 * core/engine reads it. Readers take text_lock at most, never ksplice_lock:
 * a directory is removed under ksplice_lock and waits for its readers.
 */
#include <linux/kobject.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "ksplice.h"

static struct ksplice_update *to_update(struct kobject *kobj)
{
	return container_of(kobj, struct ksplice_update, kobj);
}

static ssize_t stage_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	static const char * const words[] = {
		[KSPLICE_PREPARING] = "preparing",
		[KSPLICE_APPLIED] = "applied",
		[KSPLICE_UNDONE] = "undone",
		[KSPLICE_DROPPED] = "dropped",
		[KSPLICE_GONE] = "gone",
	};

	return sysfs_emit(buf, "%s\n", words[READ_ONCE(to_update(kobj)->stage)]);
}

static ssize_t description_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct ksplice_update *u = to_update(kobj);
	ssize_t n;

	mutex_lock(&u->text_lock);
	n = sysfs_emit(buf, "%s\n", u->description ?: "");
	mutex_unlock(&u->text_lock);
	return n;
}

static ssize_t abort_cause_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct ksplice_update *u = to_update(kobj);
	ssize_t n;

	mutex_lock(&u->text_lock);
	n = sysfs_emit(buf, "%s\n", u->abort_cause);
	mutex_unlock(&u->text_lock);
	return n;
}

static ssize_t applied_at_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lld\n", READ_ONCE(to_update(kobj)->applied_at));
}

static ssize_t sequence_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", READ_ONCE(to_update(kobj)->sequence));
}

static ssize_t pause_ns_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", READ_ONCE(to_update(kobj)->pause_ns));
}

static ssize_t exposed_ns_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", READ_ONCE(to_update(kobj)->exposed_ns));
}

static ssize_t parts_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct ksplice_update *u = to_update(kobj);
	ssize_t n;

	mutex_lock(&u->text_lock);
	n = sysfs_emit(buf, "%s\n", u->part_names ?: "");
	mutex_unlock(&u->text_lock);
	strreplace(buf, ' ', '\n');
	return n;
}

static ssize_t stays_mapped_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct ksplice_update *u = to_update(kobj);
	enum ksplice_stage stage = READ_ONCE(u->stage);

	return sysfs_emit(buf, "%d\n", u->stays && stage != KSPLICE_PREPARING);
}

static ssize_t conflicts_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct ksplice_update *u = to_update(kobj);
	int n = 0;
	u32 i;

	mutex_lock(&u->text_lock);
	for (i = 0; i < u->nr_conflicts; i++)
		n += sysfs_emit_at(buf, n, "%d %s %llx %.16s\n", u->conflicts[i].pid, u->conflicts[i].function,
				   u->conflicts[i].address, u->conflicts[i].comm);
	mutex_unlock(&u->text_lock);
	return n;
}

/* Longer than a page for a large update, so it is not an ordinary attribute. */
static ssize_t changes_read(struct file *file, struct kobject *kobj, struct bin_attribute *attr, char *buf, loff_t off,
			    size_t count)
{
	struct ksplice_update *u = to_update(kobj);
	ssize_t n = 0;

	mutex_lock(&u->text_lock);
	if (u->changes)
		n = memory_read_from_buffer(buf, count, &off, u->changes, u->changes_len);
	mutex_unlock(&u->text_lock);
	return n;
}

static struct kobj_attribute stage_attr = __ATTR_RO(stage);
static struct kobj_attribute description_attr = __ATTR_RO(description);
static struct kobj_attribute abort_cause_attr = __ATTR_RO_MODE(abort_cause, 0400);
static struct kobj_attribute applied_at_attr = __ATTR_RO(applied_at);
static struct kobj_attribute sequence_attr = __ATTR_RO(sequence);
static struct kobj_attribute pause_ns_attr = __ATTR_RO(pause_ns);
static struct kobj_attribute exposed_ns_attr = __ATTR_RO(exposed_ns);
static struct kobj_attribute parts_attr = __ATTR_RO(parts);
static struct kobj_attribute stays_mapped_attr = __ATTR_RO(stays_mapped);
static struct kobj_attribute conflicts_attr = __ATTR_RO_MODE(conflicts, 0400);
static struct bin_attribute changes_attr = {
	.attr = { .name = "changes", .mode = 0400 },
	.read = changes_read,
};

static struct attribute *update_attrs[] = {
	&stage_attr.attr,
	&description_attr.attr,
	&abort_cause_attr.attr,
	&applied_at_attr.attr,
	&sequence_attr.attr,
	&pause_ns_attr.attr,
	&exposed_ns_attr.attr,
	&parts_attr.attr,
	&stays_mapped_attr.attr,
	&conflicts_attr.attr,
	NULL
};

static struct bin_attribute *update_bin_attrs[] = {
	&changes_attr,
	NULL
};

static const struct attribute_group update_group = {
	.attrs = update_attrs,
	.bin_attrs = update_bin_attrs,
};

static const struct attribute_group *update_groups[] = {
	&update_group,
	NULL
};

static void update_release(struct kobject *kobj)
{
	struct ksplice_update *u = to_update(kobj);

	kfree(u->description);
	kfree(u->part_names);
	kvfree(u->changes);
	kfree(u->conflicts);
	kfree(u);
}

const struct kobj_type ksplice_update_type = {
	.release = update_release,
	.sysfs_ops = &kobj_sysfs_ops,
	.default_groups = update_groups,
};

/* The cause in a word or two. */
const char *ksplice_cause_word(u32 cause)
{
	static const char * const words[] = {
		[KSPLICE_OK] = "",
		[KSPLICE_CONFLICT] = "conflict",
		[KSPLICE_CHANGED] = "changed",
		[KSPLICE_WINDOW] = "window",
		[KSPLICE_FORBIDDEN] = "forbidden",
		[KSPLICE_DEPENDED_ON] = "depended on",
		[KSPLICE_PROBED] = "probed",
		[KSPLICE_VETOED] = "vetoed",
		[KSPLICE_NOMEM] = "no memory",
		[KSPLICE_INVALID] = "invalid",
		[KSPLICE_PARTS] = "parts",
		[KSPLICE_INTERRUPTED] = "interrupted",
		[KSPLICE_UNSAFE_STACK] = "unsafe stack",
		[KSPLICE_MOVED] = "moved",
	};

	static_assert(ARRAY_SIZE(words) == KSPLICE_CAUSES);
	return words[cause];
}

/* Note why the last commit failed; result 0 clears it. */
void ksplice_set_abort(struct ksplice_update *u, const struct ksplice_result *r)
{
	mutex_lock(&u->text_lock);
	if (r->cause == KSPLICE_OK)
		u->abort_cause[0] = '\0';
	else
		snprintf(u->abort_cause, sizeof(u->abort_cause), "%s: %s", ksplice_cause_word(r->cause), r->where);
	mutex_unlock(&u->text_lock);
}

/* Nobody has been in the way of a new transaction yet. */
void ksplice_forget_conflicts(struct ksplice_update *u)
{
	mutex_lock(&u->text_lock);
	u->nr_conflicts = 0;
	mutex_unlock(&u->text_lock);
}

/* Note who was in the way at the last attempt. */
void ksplice_set_conflicts(struct ksplice_update *u, const struct ksplice_transaction *t)
{
	u32 i, n = min_t(u32, t->nr_found, KSPLICE_MAX_CONFLICTS);

	mutex_lock(&u->text_lock);
	memset(u->conflicts, 0, KSPLICE_MAX_CONFLICTS * sizeof(*u->conflicts));
	for (i = 0; i < n; i++) {
		const struct ksplice_found *f = &t->found[i];
		char name[KSYM_SYMBOL_LEN];

		u->conflicts[i].pid = f->pid;
		u->conflicts[i].address = f->address;
		memcpy(u->conflicts[i].comm, f->comm, sizeof(f->comm));
		/* It goes into a line; whoever it belongs to chose it. */
		strreplace(u->conflicts[i].comm, '\n', ' ');
		/* As unwinders do: a return address may lie behind a call that ends its function. */
		sprint_symbol_no_offset(name, f->address - 1);
		strreplace(name, ' ', '\0');
		strscpy(u->conflicts[i].function, name, sizeof(u->conflicts[i].function));
	}
	u->nr_conflicts = n;
	mutex_unlock(&u->text_lock);
}

static size_t write_line(char *text, size_t size, const struct ksplice_write *w, const char *part)
{
	size_t n = scnprintf(text, size, "%lx %llu 0 0 data %lx %s %s ", w->address, w->length, w->address, w->name, part);

	if (2 * w->length + 2 > size - n)
		return 0;
	bin2hex(text + n, w->old, w->length);
	n += 2 * w->length;
	text[n++] = '\n';
	text[n] = '\0';
	return n;
}

/* Write the lines of "changes": before the commit, and when some of what it changed is gone. */
int ksplice_write_changes(struct ksplice_update *u)
{
	static const char * const kinds[] = {
		[KSPLICE_KIND_JUMP] = "jump",
		[KSPLICE_KIND_FTRACE] = "ftrace",
		[KSPLICE_KIND_FRAGMENT] = "fragment",
	};
	struct ksplice_function *f;
	struct ksplice_loaded *p;
	size_t size = 1, n = 0;
	char *text;
	u32 i;

	list_for_each_entry(f, &u->functions, node)
		size += strlen(f->name) + strlen(f->part->mod->name) + 128;
	list_for_each_entry(p, &u->parts, list) {
		for (i = 0; i < p->nr_writes; i++)
			size += strlen(p->writes[i].name) + strlen(p->mod->name) + 2 * p->writes[i].length + 128;
	}
	text = kvmalloc(size, GFP_KERNEL);
	if (!text)
		return -ENOMEM;
	text[0] = '\0';
	list_for_each_entry(f, &u->functions, node) {
		n += scnprintf(text + n, size - n, "%lx %lu %lx %u %s %lx %s %s ", f->code, f->size, f->replacement,
			       f->window, kinds[f->kind], f->address, f->name, f->part->mod->name);
		if (f->kind == KSPLICE_KIND_JUMP)
			n += scnprintf(text + n, size - n, "%*phN\n", KSPLICE_JUMP_LEN, f->patch.old);
		else
			n += scnprintf(text + n, size - n, "-\n");
	}
	list_for_each_entry(p, &u->parts, list) {
		for (i = 0; i < p->nr_writes; i++)
			n += write_line(text + n, size - n, &p->writes[i], p->mod->name);
	}
	mutex_lock(&u->text_lock);
	kvfree(u->changes);
	u->changes = text;
	u->changes_len = n;
	mutex_unlock(&u->text_lock);
	return 0;
}
