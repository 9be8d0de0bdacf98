// SPDX-License-Identifier: GPL-2.0
/*
 * Frozen processes. User space puts those that are in the way into cgroups of
 * its own, itself perhaps among them, and gives us the files that freeze them:
 * the kernel writes to these now, and again as soon as the commit is decided,
 * whatever has become of who asked.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>

#include "ksplice.h"

/*
 * Freeze by the caller's file, of a cgroup and open for writing. -EALREADY: the
 * commit is decided; -EINVAL: none runs, so that nobody would thaw. Under ksplice_lock, so that it is not decided meanwhile.
 */
int ksplice_freeze(struct ksplice_transaction *t, int fd)
{
	struct file *file;
	loff_t pos = 0;
	ssize_t n;

	if (t->thawed)
		return -EALREADY;
	if (!t->committing)
		return -EINVAL;
	if (t->nr_thaw == KSPLICE_MAX_THAW)
		return -ENOSPC;
	file = fget(fd);
	if (!file)
		return -EBADF;
	/* Another file system could keep us waiting for ever. */
	if (!(file->f_mode & FMODE_WRITE) || !(file->f_mode & FMODE_CAN_WRITE) || !S_ISREG(file_inode(file)->i_mode) ||
	    file_inode(file)->i_sb->s_magic != CGROUP2_SUPER_MAGIC) {
		fput(file);
		return -EBADF;
	}
	n = kernel_write(file, "1\n", 2, &pos);
	if (n < 0) {
		fput(file);
		return n;
	}
	t->thaw[t->nr_thaw++] = file;
	return 0;
}

/* Thaw all, once. Without ksplice_lock: the write takes locks of the cgroups'. */
void ksplice_thaw(struct ksplice_transaction *t)
{
	u32 i;

	mutex_lock(&ksplice_lock);
	t->thawed = true;
	mutex_unlock(&ksplice_lock);
	/* From here on nobody adds any. */
	for (i = 0; i < t->nr_thaw; i++) {
		loff_t pos = 0;
		ssize_t n = kernel_write(t->thaw[i], "0\n", 2, &pos);

		if (n < 0)
			pr_warn("frozen processes could not be thawed: %zd\n", n);
		fput(t->thaw[i]);
	}
	t->nr_thaw = 0;
}
