// SPDX-License-Identifier: GPL-2.0
/*
 * Is a part's description what was written? By its sums (ksplice_part.h): a
 * size or a mask that was damaged would otherwise only make the check of run a
 * weaker one. And by names, for what no sum goes over since it is relocated.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kallsyms.h>
#include <linux/module.h>
#include <linux/string.h>

#include "compat.h"
#include "ksplice.h"

static u64 add_bytes(u64 sum, const u8 *p, size_t n)
{
	while (n--)
		sum = (sum ^ *p++) * KSPLICE_SUM_PRIME;
	return sum;
}

static u64 add_word(u64 sum, u64 v)
{
	int i;

	for (i = 0; i < 64; i += 8)
		sum = (sum ^ (u8)(v >> i)) * KSPLICE_SUM_PRIME;
	return sum;
}

/* A string in the part's memory; false where it has no end there. */
static bool add_string(u64 *sum, const struct module *mod, u64 address)
{
	struct ksplice_region r = ksplice_module_region(mod, address);
	const u8 *s = (const u8 *)(unsigned long)address;
	size_t room, n;

	if (!r.size)
		return false;
	room = r.size - (address - r.start);
	n = strnlen(s, room);
	*sum = add_bytes(*sum, s, n);
	return n < room;
}

static bool function_right(const struct module *mod, const struct ksplice_func *f)
{
	const u8 *pre = ksplice_in_part(mod, f->pre, f->size, 1);
	const u8 *mask = ksplice_in_part(mod, f->mask, f->size, 1);
	const struct ksplice_reloc *r = NULL;
	u64 sum = KSPLICE_SUM_START;
	u32 i;

	if (f->nr_relocs)
		r = ksplice_in_part(mod, f->relocs, f->nr_relocs, sizeof(*r));
	if (!pre || !mask || (f->nr_relocs && !r) || !add_string(&sum, mod, f->name))
		return false;
	sum = add_word(sum, f->size);
	sum = add_word(sum, f->nr_relocs);
	sum = add_word(sum, f->kind);
	sum = add_word(sum, f->window);
	sum = add_word(sum, f->window_len);
	sum = add_bytes(sum, pre, f->size);
	sum = add_bytes(sum, mask, f->size);
	for (i = 0; i < f->nr_relocs; i++) {
		sum = add_word(sum, r[i].addend);
		sum = add_word(sum, r[i].offset);
		sum = add_word(sum, r[i].type);
	}
	return sum == f->sum;
}

static bool add_write(u64 *sum, const struct module *mod, const struct ksplice_datum_write *w)
{
	const u8 *old = ksplice_in_part(mod, w->old, w->length, 1);
	const u8 *new = ksplice_in_part(mod, w->new, w->length, 1);

	if (!old || !new || !add_string(sum, mod, w->name))
		return false;
	*sum = add_word(*sum, w->length);
	*sum = add_word(*sum, w->flags);
	if (!(w->flags & KSPLICE_WRITE_ADDRESS)) {
		*sum = add_bytes(*sum, old, w->length);
		*sum = add_bytes(*sum, new, w->length);
	}
	return true;
}

static bool part_right(const struct module *mod, const struct ksplice_part *part)
{
	const struct ksplice_func *f = NULL;
	const struct ksplice_copy *c = NULL;
	const struct ksplice_hook *h = NULL;
	const struct ksplice_datum_write *w = NULL;
	u64 i, sum = KSPLICE_SUM_START;

	if (part->nr_funcs)
		f = ksplice_in_part(mod, part->funcs, part->nr_funcs, sizeof(*f));
	if (part->nr_copies)
		c = ksplice_in_part(mod, part->copies, part->nr_copies, sizeof(*c));
	if (part->nr_hooks)
		h = ksplice_in_part(mod, part->hooks, part->nr_hooks, sizeof(*h));
	if (part->nr_writes)
		w = ksplice_in_part(mod, part->writes, part->nr_writes, sizeof(*w));
	if ((part->nr_funcs && !f) || (part->nr_copies && !c) || (part->nr_hooks && !h) || (part->nr_writes && !w))
		return false;
	sum = add_word(sum, part->flags);
	sum = add_word(sum, part->nr_funcs);
	sum = add_word(sum, part->nr_copies);
	sum = add_word(sum, part->nr_hooks);
	sum = add_word(sum, part->nr_writes);
	if (!add_string(&sum, mod, part->id) || !add_string(&sum, mod, part->target) ||
	    !add_string(&sum, mod, part->description))
		return false;
	for (i = 0; i < part->nr_funcs; i++) {
		if (!function_right(mod, &f[i]))
			return false;
		sum = add_word(sum, f[i].sum);
	}
	for (i = 0; i < part->nr_copies; i++)
		sum = add_word(sum, c[i].length);
	for (i = 0; i < part->nr_hooks; i++)
		sum = add_word(sum, h[i].type);
	for (i = 0; i < part->nr_writes; i++) {
		if (!add_write(&sum, mod, &w[i]))
			return false;
	}
	return sum == part->sum && !part->reserved;
}

/* Is the description as it was written? Only reads; what it says is checked elsewhere. */
bool ksplice_sums_right(const struct module *mod, const struct ksplice_part *part)
{
	bool right = part_right(mod, part);

	if (!right)
		pr_err("%s: its description was damaged\n", mod->name);
	return right;
}

/*
 * Does a symbol of this name begin there, or one whose name ends so? A
 * replacement has two symbols (core/part: extract.go), of which kallsyms gives
 * the first.
 */
bool ksplice_begins(unsigned long address, const char *name, const char *suffix)
{
	char symbol[KSYM_SYMBOL_LEN];
	const char *end;
	size_t n = suffix ? strlen(suffix) : 0;

	sprint_symbol(symbol, address);
	end = strstr(symbol, "+0x0/");
	if (!end)
		return false;
	if (end - symbol == strlen(name) && !strncmp(symbol, name, end - symbol))
		return true;
	/* The pad before a replacement has its name, too. */
	if (str_has_prefix(symbol, "__pfx_"))
		return false;
	return n && end - symbol > n && !strncmp(end - n, suffix, n);
}
