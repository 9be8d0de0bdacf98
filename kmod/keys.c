// SPDX-License-Identifier: GPL-2.0
/*
 * Private copies of static keys that lie in memory which is read-only for
 * good. The loader writes to every key that a module's jump table names
 * (kernel/jump_label.c:jump_label_add_module, 6.1), and such a key can never
 * change again, so a copy says the same. Copies lie in this module's data
 * because a slot's value must lie within 2 GiB.
 */
#include <linux/jump_label.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "ksplice.h"

/* Under ksplice_lock. A key without an owner is free. */
static struct {
	struct static_key key;
	unsigned long source;
	struct ksplice_update *owner;
} keys[KSPLICE_NR_KEYS];

/*
 * JUMP_TYPE_TRUE: the key began as true. The other bits and the pointer are
 * links to sites, of which the copy has none yet.
 */
#define TYPE_BIT	1UL

/* Where key has been copied for u already, that copy. */
int ksplice_key_copy(struct ksplice_update *u, unsigned long key, unsigned long *copy)
{
	struct static_key k;
	int i, free = -1;

	for (i = 0; i < KSPLICE_NR_KEYS; i++) {
		if (!keys[i].owner && free < 0)
			free = i;
		if (keys[i].owner == u && keys[i].source == key) {
			*copy = (unsigned long)&keys[i].key;
			return 0;
		}
	}
	if (free < 0)
		return -ENOSPC;
	if (key % sizeof(long))
		return -EINVAL;
	if (copy_from_kernel_nofault(&k, (const void *)key, sizeof(k)))
		return -EFAULT;
	/* An enabled count of -1 is a key in the middle of a change: then it is not read-only. */
	if (atomic_read(&k.enabled) < 0)
		return -EINVAL;
	memset(&keys[free].key, 0, sizeof(keys[free].key));
	atomic_set(&keys[free].key.enabled, atomic_read(&k.enabled));
	keys[free].key.type = k.type & TYPE_BIT;
	keys[free].source = key;
	keys[free].owner = u;
	*copy = (unsigned long)&keys[free].key;
	return 0;
}

void ksplice_keys_free(struct ksplice_update *u)
{
	int i;

	for (i = 0; i < KSPLICE_NR_KEYS; i++) {
		if (keys[i].owner == u)
			keys[i].owner = NULL;
	}
}
