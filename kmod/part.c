// SPDX-License-Identifier: GPL-2.0
/*
 * What a part says of itself, checked and copied. A part's description lies
 * under its signature, slots apart; all the same nothing in it is believed
 * before it has been seen to lie in the part's own memory and to be in bounds.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/elf.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/elf.h>

#include "compat.h"
#include "ksplice.h"

/* An array in the part's own memory, or NULL. */
const void *ksplice_in_part(const struct module *mod, u64 address, u64 nr, size_t size)
{
	struct ksplice_region r = ksplice_module_region(mod, address);
	u64 room;

	if (!r.size)
		return NULL;
	room = r.size - (address - r.start);
	if (nr > room / size)
		return NULL;
	return (const void *)(unsigned long)address;
}

/* A copy of a string in the part's own memory of at most max bytes with its NUL. */
char *ksplice_string_of(const struct module *mod, u64 address, size_t max)
{
	struct ksplice_region r = ksplice_module_region(mod, address);
	const char *s = (const char *)(unsigned long)address;
	size_t room, n;
	char *copy;

	if (!r.size)
		return ERR_PTR(-EINVAL);
	room = min_t(u64, max, r.size - (address - r.start));
	n = strnlen(s, room);
	if (n == room)
		return ERR_PTR(-EINVAL);
	copy = kmemdup_nul(s, n, GFP_KERNEL);
	if (!copy)
		return ERR_PTR(-ENOMEM);
	/* It goes into lines of sysfs: one word or one line each. */
	for (n = 0; copy[n]; n++) {
		if ((unsigned char)copy[n] < ' ')
			copy[n] = ' ';
	}
	return copy;
}

/* A copy of an array in the part's own memory. */
static void *array_of(const struct module *mod, u64 address, u64 nr, size_t size, u64 max)
{
	const void *p;
	void *copy;

	if (nr > max)
		return ERR_PTR(-E2BIG);
	if (!nr)
		return NULL;
	p = ksplice_in_part(mod, address, nr, size);
	if (!p)
		return ERR_PTR(-EINVAL);
	copy = kvmalloc(nr * size, GFP_KERNEL);
	if (!copy)
		return ERR_PTR(-ENOMEM);
	return memcpy(copy, p, nr * size);
}

static bool in_text(const struct module *mod, unsigned long address)
{
	struct ksplice_region r = ksplice_module_text(mod);

	return address - r.start < r.size;
}

/*
 * Put a relocation's value where run must have it: the formulas of the x86-64
 * psABI, 4.4.1, with P in run. A value that does not fit cannot be in run.
 */
static int relocate(struct ksplice_function *f, const struct ksplice_reloc *r)
{
	bool call = r->type & KSPLICE_RELOC_CALL;
	u32 type = r->type & ~KSPLICE_RELOC_CALL;
	u64 v = r->value + r->addend;
	size_t width;

	if (call && type != R_X86_64_PC32 && type != R_X86_64_PLT32)
		return -ENOEXEC;
	switch (type) {
	case R_X86_64_64:
		width = 8;
		break;
	case R_X86_64_PC64:
		width = 8;
		v -= f->code + r->offset;
		break;
	case R_X86_64_32:
		width = 4;
		if (v != (u32)v)
			return -ERANGE;
		break;
	case R_X86_64_32S:
		width = 4;
		if ((s64)v != (s32)v)
			return -ERANGE;
		break;
	case R_X86_64_PC32:
	case R_X86_64_PLT32:
		/* No overflow check: per-cpu offsets wrap (arch/x86/kernel/module.c has none either). */
		width = 4;
		v -= f->code + r->offset;
		break;
	default:
		return -ENOEXEC;
	}
	if (r->offset > f->size || width > f->size - r->offset)
		return -EINVAL;
	memcpy(f->image + r->offset, &v, width);
	memset(f->classes + r->offset, call ? KSPLICE_CALL : KSPLICE_FIELD, width);
	return 0;
}

/* The image that run must be equal to, outside sites. */
static int make_image(const struct module *mod, struct ksplice_function *f, const struct ksplice_func *from)
{
	const u8 *pre = ksplice_in_part(mod, from->pre, from->size, 1);
	const u8 *mask = ksplice_in_part(mod, from->mask, from->size, 1);
	const struct ksplice_reloc *relocs = NULL;
	unsigned long i;
	int err;

	if (from->nr_relocs) {
		relocs = ksplice_in_part(mod, from->relocs, from->nr_relocs, sizeof(*relocs));
		if (!relocs || from->nr_relocs > KSPLICE_MAX_RELOCS)
			return -EINVAL;
	}
	if (!pre || !mask)
		return -EINVAL;
	f->image = kvmalloc(f->size, GFP_KERNEL);
	f->classes = kvmalloc(f->size, GFP_KERNEL);
	if (!f->image || !f->classes)
		return -ENOMEM;
	memcpy(f->image, pre, f->size);
	for (i = 0; i < f->size; i++)
		f->classes[i] = mask[i] ? KSPLICE_SITE : KSPLICE_COMPARE;
	for (i = 0; i < from->nr_relocs; i++) {
		err = relocate(f, &relocs[i]);
		if (err)
			return err;
	}
	return 0;
}

/* The jump, and where it is written. */
static int make_patch(struct ksplice_function *f)
{
	struct ksplice_patch *p = &f->patch;
	long distance;

	if (f->window_len != KSPLICE_JUMP_LEN)
		return -EINVAL;
	p->address = f->code + f->window;
	p->length = KSPLICE_JUMP_LEN;
	p->forward = f->replacement;
	distance = f->replacement - (p->address + KSPLICE_JUMP_LEN);
	if (distance != (s32)distance)
		return -ERANGE;
	p->new[0] = 0xe9;	/* jmp rel32 */
	memcpy(p->new + 1, &(s32){ distance }, sizeof(s32));
	return 0;
}

static int function_of(const struct module *mod, struct ksplice_function *f, const struct ksplice_func *from, u32 nr)
{
	char name[32];
	int err;

	f->name = ksplice_string_of(mod, from->name, 128);
	if (IS_ERR(f->name)) {
		err = PTR_ERR(f->name);
		f->name = NULL;
		return err;
	}
	if (!f->name[0] || strchr(f->name, ' '))
		return -EINVAL;
	f->address = from->address;
	f->code = from->code;
	f->replacement = from->replacement;
	f->size = from->size;
	f->kind = from->kind;
	f->window = from->window;
	f->window_len = from->window_len;
	if (!f->size || f->size > KSPLICE_MAX_SIZE)
		return -EINVAL;
	if (f->window > f->size || f->window_len > f->size - f->window)
		return -EINVAL;
	if (within_module(f->code, mod) || from->reserved)
		return -EINVAL;
	/* Its code lies elsewhere only where an update has replaced it. */
	if (f->address != f->code && !ksplice_replaces(f->code, f->address))
		return -EINVAL;
	err = ksplice_is_text(f->code, f->size);
	if (err)
		return err;
	switch (f->kind) {
	case KSPLICE_KIND_JUMP:
	case KSPLICE_KIND_FTRACE:
		snprintf(name, sizeof(name), "ksplice_new_%04x", nr);
		if (!in_text(mod, f->replacement) || !ksplice_begins(f->replacement, name, ".ksplice"))
			return -EINVAL;
		break;
	case KSPLICE_KIND_FRAGMENT:
		if (f->replacement)
			return -EINVAL;
		break;
	default:
		return -EINVAL;
	}
	if (f->kind == KSPLICE_KIND_JUMP) {
		err = make_patch(f);
		if (err)
			return err;
	}
	return make_image(mod, f, from);
}

/* Does a function before have the same replacement? */
static bool doubled(const struct ksplice_loaded *p, u32 nr)
{
	u32 i;

	for (i = 0; i < nr; i++) {
		if (p->functions[nr].replacement && p->functions[i].replacement == p->functions[nr].replacement)
			return true;
	}
	return false;
}

static int functions_of(struct ksplice_loaded *p, const struct ksplice_part *part)
{
	const struct ksplice_func *from;
	u32 i;
	int err;

	if (part->nr_funcs > KSPLICE_MAX_FUNCS || (!part->nr_funcs && !part->nr_writes && !part->nr_hooks))
		return -EINVAL;
	if (!part->nr_funcs)
		return 0;
	from = ksplice_in_part(p->mod, part->funcs, part->nr_funcs, sizeof(*from));
	if (!from)
		return -EINVAL;
	p->functions = kvcalloc(part->nr_funcs, sizeof(*p->functions), GFP_KERNEL);
	if (!p->functions)
		return -ENOMEM;
	p->nr_functions = part->nr_funcs;
	for (i = 0; i < p->nr_functions; i++) {
		err = function_of(p->mod, &p->functions[i], &from[i], i);
		if (!err && doubled(p, i))
			err = -EINVAL;
		if (err) {
			pr_err("%s: function %u (%s) of its description is not valid: %d\n", p->mod->name, i,
			       p->functions[i].name ?: "no name", err);
			return err;
		}
	}
	return 0;
}

static int extras_of(struct ksplice_loaded *p, const struct ksplice_part *part)
{
	char name[32];
	void *a;
	u32 i;

	a = array_of(p->mod, part->copies, part->nr_copies, sizeof(*p->copies), KSPLICE_MAX_COPIES);
	if (IS_ERR(a))
		return PTR_ERR(a);
	p->copies = a;
	p->nr_copies = part->nr_copies;
	for (i = 0; i < p->nr_copies; i++) {
		snprintf(name, sizeof(name), "ksplice_copy_%04x", i);
		if (!p->copies[i].length || p->copies[i].length > PAGE_SIZE ||
		    !ksplice_begins(p->copies[i].to, name, NULL) ||
		    !ksplice_in_part(p->mod, p->copies[i].to, p->copies[i].length, 1))
			return -EINVAL;
	}
	a = array_of(p->mod, part->hooks, part->nr_hooks, sizeof(*p->hooks), KSPLICE_MAX_HOOKS);
	if (IS_ERR(a))
		return PTR_ERR(a);
	p->hooks = a;
	p->nr_hooks = part->nr_hooks;
	for (i = 0; i < p->nr_hooks; i++) {
		if (p->hooks[i].type > KSPLICE_HOOK_FAIL_REVERSE || !in_text(p->mod, p->hooks[i].function))
			return -EINVAL;
	}
	return 0;
}

/* The part's names, for people: description of the update, list of its parts. */
static int note_texts(struct ksplice_update *u, const struct module *mod, char *description)
{
	char *names = kasprintf(GFP_KERNEL, "%s%s%s", u->part_names ?: "", u->part_names ? " " : "", mod->name);

	if (!names)
		return -ENOMEM;
	mutex_lock(&u->text_lock);
	kfree(u->part_names);
	u->part_names = names;
	if (!u->description)
		swap(u->description, description);
	mutex_unlock(&u->text_lock);
	kfree(description);
	return 0;
}

/* A part names its update; what is applied to a module that came later has the module's name behind. */
static bool is_of(const char *id, const char *whole)
{
	return !strncmp(id, whole, strlen(id)) && (!whole[strlen(id)] || whole[strlen(id)] == ':');
}

static int register_locked(struct module *mod, struct ksplice_part *part)
{
	struct ksplice_transaction *t = ksplice_open;
	struct ksplice_loaded *p;
	char *id, *description;
	u32 i;
	int err;

	if (!t || t->op != KSPLICE_OP_APPLY || t->update->coming != mod || t->committing || t->committed)
		return -EPERM;
	t->update->coming = NULL;
	if (!ksplice_in_part(mod, (unsigned long)part, 1, sizeof(*part)) || (unsigned long)part % __alignof__(*part))
		return -EINVAL;
	if (part->magic != KSPLICE_PART_MAGIC || part->version != KSPLICE_PART_VERSION || part->size != sizeof(*part) ||
	    part->flags & ~KSPLICE_PART_STAYS || part->private || !ksplice_sums_right(mod, part))
		return -EINVAL;
	if (t->update->nr_parts >= t->nr_parts)
		return -EPERM;
	id = ksplice_string_of(mod, part->id, KSPLICE_ID_LEN);
	if (IS_ERR(id))
		return PTR_ERR(id);
	err = is_of(id, t->update->id) ? 0 : -EPERM;
	if (err)
		pr_err("%s belongs to update %s, not to %s\n", mod->name, id, t->update->id);
	kfree(id);
	if (err)
		return err;

	p = kzalloc(sizeof(*p), GFP_KERNEL);
	if (!p)
		return -ENOMEM;
	p->mod = mod;
	p->flags = part->flags;
	p->target = ksplice_string_of(mod, part->target, MODULE_NAME_LEN);
	if (IS_ERR(p->target)) {
		err = PTR_ERR(p->target);
		p->target = NULL;
		goto err;
	}
	err = functions_of(p, part);
	if (!err)
		err = extras_of(p, part);
	if (!err)
		err = ksplice_writes_of(p, part);
	if (err)
		goto err;
	description = ksplice_string_of(mod, part->description, 1024);
	if (IS_ERR(description)) {
		err = PTR_ERR(description);
		goto err;
	}
	err = note_texts(t->update, mod, description);
	if (err) {
		kfree(description);
		goto err;
	}
	if (p->flags & KSPLICE_PART_STAYS)
		t->update->stays = true;
	list_add_tail(&p->list, &t->update->parts);
	for (i = 0; i < p->nr_functions; i++) {
		p->functions[i].part = p;
		list_add_tail(&p->functions[i].node, &t->update->functions);
	}
	t->update->nr_parts++;
	return 0;
err:
	ksplice_free_loaded(p);
	return err;
}

/**
 * ksplice_part_register - a part's init
 * @mod: the part
 * @part: its description, in its own memory
 *
 * Takes the part into the open transaction, which must be of its own update
 * and must have been waiting for it.
 *
 * Return: 0; -EPERM where no transaction waits for this part; -EINVAL, -E2BIG,
 * -ERANGE or -ENOEXEC where the description is not valid; -EFAULT where a
 * function's code is not kernel text; -ENOMEM.
 */
int ksplice_part_register(struct module *mod, struct ksplice_part *part)
{
	int err;

	mutex_lock(&ksplice_lock);
	err = register_locked(mod, part);
	mutex_unlock(&ksplice_lock);
	if (err)
		pr_err("%s: refused: %d\n", mod->name, err);
	return err;
}
EXPORT_SYMBOL_GPL(ksplice_part_register);

/**
 * ksplice_part_unregister - a part's exit
 * @mod: the part
 * @part: its description
 *
 * The part is let go later, in its GOING notification, when the handlers of
 * jump labels and static calls have let go of the keys that it named.
 * A part of an applied update cannot come here, as its module is held; only
 * a forced unload does, against which there is no help.
 */
void ksplice_part_unregister(struct module *mod, struct ksplice_part *part)
{
	struct ksplice_update *u;
	struct ksplice_loaded *p;

	mutex_lock(&ksplice_lock);
	list_for_each_entry(u, &ksplice_updates, list) {
		list_for_each_entry(p, &u->parts, list) {
			if (p->mod == mod && p->held)
				pr_emerg("%s is being removed by force while its code is in use\n", mod->name);
		}
	}
	mutex_unlock(&ksplice_lock);
}
EXPORT_SYMBOL_GPL(ksplice_part_unregister);
