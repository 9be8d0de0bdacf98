// SPDX-License-Identifier: GPL-2.0
/*
 * Slots: symbols ksplice_slot_0000 ... whose values user space lends for the
 * load of one part. The module loader looks symbols up in the tables of every
 * module (kernel/module/main.c:find_symbol), so this module points its own
 * gpl_syms at a table of its own, in which the slots follow the functions that
 * parts call. No symbol has a CRC (kernel/module/version.c:check_version
 * accepts that).
 *
 * While no part is being loaded the table ends behind the functions: a module
 * that names slots then fails to load, instead of being relocated with values
 * that are not its own. The owner of the transaction arms the table before it
 * loads a part; the part's COMING notification, which comes after relocation
 * and before any table of the part is read, disarms it. A module that is
 * loaded by somebody else meanwhile and names slots is refused in its own
 * COMING notification (transaction.c).
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/string.h>

#include "compat.h"
#include "include/ksplice.h"
#include "ksplice.h"

/*
 * struct kernel_symbol with CONFIG_HAVE_ARCH_PREL32_RELOCATIONS: offsets from
 * the field itself. Private to the loader since 6.12
 * (kernel/module/internal.h); ksplice_slots_init proves that this is it.
 */
struct ksplice_symbol {
	int value_offset;
	int name_offset;
	int namespace_offset;
};

/* What parts call: sorted, and before the slots. */
#define FIXED(function) { #function, function }
static const struct {
	const char *name;
	const void *function;
} fixed[] = {
	FIXED(ksplice_part_register),
	FIXED(ksplice_part_unregister),
	FIXED(ksplice_shadow_arrive),
	FIXED(ksplice_shadow_attach),
	FIXED(ksplice_shadow_detach),
	FIXED(ksplice_shadow_drop_all),
	FIXED(ksplice_shadow_get),
	FIXED(ksplice_shadow_get_or_attach),
	FIXED(ksplice_shadow_leave),
	FIXED(ksplice_shadow_of),
};

#define NR_FIXED	ARRAY_SIZE(fixed)
#define NAME_LEN	sizeof("ksplice_slot_0000")

static struct ksplice_symbol table[NR_FIXED + KSPLICE_NR_SLOTS];
static char names[KSPLICE_NR_SLOTS][NAME_LEN];
static const struct kernel_symbol *saved_syms;
static unsigned int saved_num;
static const s32 *saved_crcs;

static bool set_offset(int *field, unsigned long target)
{
	long distance = target - (unsigned long)field;

	if (distance != (int)distance)
		return false;
	WRITE_ONCE(*field, (int)distance);
	return true;
}

static const void *offset_target(const int *field)
{
	return (const void *)((unsigned long)field + *field);
}

/* The loader's own table must read as what we take it for. */
static bool layout_known(const struct ksplice_symbol *own, unsigned int nr)
{
	unsigned int i;

	if (nr != NR_FIXED)
		return false;
	for (i = 0; i < NR_FIXED; i++) {
		if (!within_module((unsigned long)offset_target(&own[i].name_offset), THIS_MODULE) ||
		    strcmp(offset_target(&own[i].name_offset), fixed[i].name) ||
		    offset_target(&own[i].value_offset) != fixed[i].function)
			return false;
	}
	return true;
}

int ksplice_slots_init(void)
{
	const struct ksplice_symbol *own = (const void *)THIS_MODULE->gpl_syms;
	unsigned int i;

	if (!layout_known(own, THIS_MODULE->num_gpl_syms)) {
		pr_err("this kernel lays out struct kernel_symbol in a way that is not known\n");
		return -ENOEXEC;
	}
	for (i = 0; i < NR_FIXED; i++) {
		if (!set_offset(&table[i].value_offset, (unsigned long)offset_target(&own[i].value_offset)) ||
		    !set_offset(&table[i].name_offset, (unsigned long)offset_target(&own[i].name_offset)))
			return -ERANGE;
	}
	for (i = 0; i < KSPLICE_NR_SLOTS; i++) {
		snprintf(names[i], NAME_LEN, "ksplice_slot_%04x", i);
		if (!set_offset(&table[NR_FIXED + i].name_offset, (unsigned long)names[i]))
			return -ERANGE;
	}
	saved_syms = THIS_MODULE->gpl_syms;
	saved_num = THIS_MODULE->num_gpl_syms;
	saved_crcs = THIS_MODULE->gpl_crcs;
	/*
	 * find_symbol reads these without a lock that we could take, but nobody
	 * resolves against us before we are LIVE (ref_module refuses), and each
	 * of the intermediate states is a table that is sorted and in bounds.
	 */
	THIS_MODULE->gpl_crcs = NULL;
	WRITE_ONCE(THIS_MODULE->gpl_syms, (const struct kernel_symbol *)table);
	return 0;
}

void ksplice_slots_exit(void)
{
	WRITE_ONCE(THIS_MODULE->num_gpl_syms, saved_num);
	WRITE_ONCE(THIS_MODULE->gpl_syms, saved_syms);
	THIS_MODULE->gpl_crcs = saved_crcs;
}

/* Hide all slots, and forget their values. Under ksplice_lock. */
void ksplice_slots_disarm(void)
{
	unsigned int n = THIS_MODULE->num_gpl_syms;

	WRITE_ONCE(THIS_MODULE->num_gpl_syms, NR_FIXED);
	while (n-- > NR_FIXED)
		WRITE_ONCE(table[n].value_offset, 0);
}

/*
 * Lend nr values. Under ksplice_lock. The number is published after the
 * values: whoever sees a slot sees its value (x86 keeps the order of stores;
 * the loader takes module_mutex or disables preemption, which gives us nothing
 * to pair a barrier with).
 */
int ksplice_slots_arm(const u64 *values, u32 nr)
{
	u32 i;

	ksplice_slots_disarm();
	if (nr > KSPLICE_NR_SLOTS)
		return -E2BIG;
	for (i = 0; i < nr; i++) {
		if (!set_offset(&table[NR_FIXED + i].value_offset, values[i])) {
			while (i--)
				WRITE_ONCE(table[NR_FIXED + i].value_offset, 0);
			return -ERANGE;
		}
	}
	/* Values before their number; see above. */
	smp_wmb();
	WRITE_ONCE(THIS_MODULE->num_gpl_syms, NR_FIXED + nr);
	return 0;
}
