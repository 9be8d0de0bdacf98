// SPDX-License-Identifier: GPL-2.0
/* /dev/ksplice: what ksplice_uapi.h says. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "ksplice.h"

#define MAX_RANGES	4096
#define MAX_LENGTH	0x40000000UL	/* of a range, in bytes */
#define MAX_WINDOWS	(KSPLICE_MAX_PARTS * KSPLICE_MAX_FUNCS)

static int copy_in(void *to, unsigned long arg, size_t size)
{
	return copy_from_user(to, (const void __user *)arg, size) ? -EFAULT : 0;
}

static int copy_out(unsigned long arg, const void *from, size_t size)
{
	return copy_to_user((void __user *)arg, from, size) ? -EFAULT : 0;
}

static int do_info(unsigned long arg)
{
	struct ksplice_info info = {
		.abi = KSPLICE_ABI,
		.nr_slots = KSPLICE_NR_SLOTS,
		.nr_key_copies = KSPLICE_NR_KEYS,
		.features = KSPLICE_FEATURE_FTRACE | KSPLICE_FEATURE_FREEZE | KSPLICE_FEATURE_ALSO | KSPLICE_FEATURE_ARM |
			    KSPLICE_FEATURE_TRANSFER,
	};

	return copy_out(arg, &info, sizeof(info));
}

/* Copy one range, page by page, since that is how memory can be missing; says how far it came. */
static int read_range(struct ksplice_range *r, u8 *buffer)
{
	r->done = 0;
	if (r->length > MAX_LENGTH || r->address + r->length < r->address)
		return -EINVAL;
	while (r->done < r->length) {
		unsigned long address = r->address + r->done;
		size_t n = min_t(u64, PAGE_SIZE - offset_in_page(address), r->length - r->done);

		if (!ksplice_is_memory(address) || copy_from_kernel_nofault(buffer, (const void *)address, n))
			return 0;
		if (copy_to_user(u64_to_user_ptr(r->buffer + r->done), buffer, n))
			return -EFAULT;
		r->done += n;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

/*
 * Reading kernel memory tells as much as /proc/kcore, so the same rule of the
 * kernel's lockdown holds for it: refused where confidentiality is asked for.
 * security_locked_down is exported to modules.
 */
static int may_read(void)
{
	return security_locked_down(LOCKDOWN_KCORE);
}

static int do_read(unsigned long arg)
{
	struct ksplice_read read;
	struct ksplice_range __user *ranges;
	u8 *buffer;
	u32 i;
	int err;

	if (!capable(CAP_SYS_RAWIO))
		return -EPERM;
	err = may_read();
	if (err)
		return err;
	if (copy_in(&read, arg, sizeof(read)))
		return -EFAULT;
	if (read.nr > MAX_RANGES)
		return -E2BIG;
	buffer = (u8 *)__get_free_page(GFP_KERNEL);
	if (!buffer)
		return -ENOMEM;
	ranges = u64_to_user_ptr(read.ranges);
	for (i = 0; i < read.nr && !err; i++) {
		struct ksplice_range r;

		if (copy_from_user(&r, &ranges[i], sizeof(r))) {
			err = -EFAULT;
			break;
		}
		err = read_range(&r, buffer);
		if (!err && put_user(r.done, &ranges[i].done))
			err = -EFAULT;
	}
	free_page((unsigned long)buffer);
	return err;
}

/* Why an update does not fit tells what lies where its slots lead: who applies one must be allowed to read. */
static int do_begin(struct file *file, unsigned long arg)
{
	struct ksplice_transaction *t;
	struct ksplice_begin begin;
	int err;

	if (!capable(CAP_SYS_MODULE))
		return -EPERM;
	if (copy_in(&begin, arg, sizeof(begin)))
		return -EFAULT;
	err = begin.op == KSPLICE_OP_APPLY ? may_read() : 0;
	if (err)
		return err;
	mutex_lock(&ksplice_lock);
	if (file->private_data)
		t = ERR_PTR(-EBUSY);
	else
		t = ksplice_begin(&begin);
	if (!IS_ERR(t))
		file->private_data = t;
	mutex_unlock(&ksplice_lock);
	return PTR_ERR_OR_ZERO(t);
}

/*
 * The transaction of this file, if it may still be prepared: undo knows nothing
 * but what else goes and what is written; what is written may be said anew when
 * what was read has moved. Under ksplice_lock.
 */
static struct ksplice_transaction *preparing(struct file *file, unsigned int cmd)
{
	struct ksplice_transaction *t = file->private_data;

	if (!t || (t->op != KSPLICE_OP_APPLY && cmd != KSPLICE_IOC_ALSO && cmd != KSPLICE_IOC_TRANSFER))
		return ERR_PTR(-EINVAL);
	if (cmd == KSPLICE_IOC_TRANSFER && ksplice_moved(t))
		return t;
	if (t->committing || t->committed || t->thread)
		return ERR_PTR(-EBUSY);
	return t;
}

static int do_pin(struct ksplice_transaction *t, unsigned long arg)
{
	struct ksplice_pin pin;

	if (copy_in(&pin, arg, sizeof(pin)))
		return -EFAULT;
	if (strnlen(pin.module, sizeof(pin.module)) == sizeof(pin.module))
		return -ENAMETOOLONG;
	return ksplice_pin(t->update, pin.module);
}

static int do_key_copy(struct ksplice_transaction *t, unsigned long arg)
{
	struct ksplice_key_copy c;
	unsigned long copy;
	int err;

	if (copy_in(&c, arg, sizeof(c)))
		return -EFAULT;
	if (c.key < TASK_SIZE_MAX)
		return -EINVAL;
	err = ksplice_key_copy(t->update, c.key, &copy);
	if (err)
		return err;
	c.copy = copy;
	return copy_out(arg, &c, sizeof(c));
}

static int do_slots(struct ksplice_transaction *t, unsigned long arg)
{
	struct ksplice_slots slots;
	u64 *values;
	int err;

	if (copy_in(&slots, arg, sizeof(slots)))
		return -EFAULT;
	if (slots.nr > KSPLICE_NR_SLOTS)
		return -E2BIG;
	if (!slots.nr)
		return ksplice_slots_arm(NULL, 0);
	values = vmemdup_user(u64_to_user_ptr(slots.values), slots.nr * sizeof(*values));
	if (IS_ERR(values))
		return PTR_ERR(values);
	err = ksplice_slots_arm(values, slots.nr);
	kvfree(values);
	return err;
}

static int do_expect(struct ksplice_transaction *t, unsigned long arg)
{
	struct ksplice_window __user *windows;
	struct ksplice_expect expect;
	u32 i;
	int err = 0;

	if (copy_in(&expect, arg, sizeof(expect)))
		return -EFAULT;
	if (expect.nr > MAX_WINDOWS)
		return -E2BIG;
	windows = u64_to_user_ptr(expect.windows);
	for (i = 0; i < expect.nr && !err; i++) {
		struct ksplice_window w;

		if (copy_from_user(&w, &windows[i], sizeof(w)))
			return -EFAULT;
		err = ksplice_expect(t, &w);
	}
	return err;
}

static int do_commit(struct ksplice_transaction *t, unsigned long arg)
{
	struct ksplice_commit commit;

	if (!t)
		return -EINVAL;
	if (copy_in(&commit, arg, sizeof(commit)))
		return -EFAULT;
	return ksplice_commit_start(t, &commit);
}

static int do_wait(struct ksplice_transaction *t, unsigned long arg)
{
	struct ksplice_result result;
	long left;

	if (!t)
		return -EINVAL;
	if (copy_in(&result, arg, sizeof(result)))
		return -EFAULT;
	if (!READ_ONCE(t->thread))
		return -EINVAL;
	left = wait_for_completion_killable_timeout(&t->done, msecs_to_jiffies(min_t(u32, result.timeout_ms, 60000)));
	if (left < 0)
		return left;
	/* When it is done nobody writes to the result any more. */
	if (left || completion_done(&t->done))
		result = t->result;
	else
		memset(&result, 0, sizeof(result));
	return copy_out(arg, &result, sizeof(result));
}

static int do_conflicts(struct ksplice_transaction *t, unsigned long arg)
{
	struct ksplice_conflicts c;
	struct ksplice_update *u;
	int err = 0;

	if (!t || !completion_done(&t->done))
		return -EINVAL;
	if (copy_in(&c, arg, sizeof(c)))
		return -EFAULT;
	u = t->update;
	c.nr = min(c.nr, u->nr_conflicts);
	if (copy_to_user(u64_to_user_ptr(c.conflicts), u->conflicts, c.nr * sizeof(*u->conflicts)))
		err = -EFAULT;
	return err ?: copy_out(arg, &c, sizeof(c));
}

/* While the commit runs, too: it is that which tells who is in the way. */
static int do_freeze(struct ksplice_transaction *t, unsigned long arg)
{
	struct ksplice_freeze freeze;
	int err;

	if (!t)
		return -EINVAL;
	if (copy_in(&freeze, arg, sizeof(freeze)))
		return -EFAULT;
	mutex_lock(&ksplice_lock);
	err = ksplice_freeze(t, freeze.fd);
	mutex_unlock(&ksplice_lock);
	return err;
}

static int do_also(struct ksplice_transaction *t, unsigned long arg)
{
	struct ksplice_also also;

	if (copy_in(&also, arg, sizeof(also)))
		return -EFAULT;
	return ksplice_also(t, also.id);
}

/*
 * What may be written where nobody's signature stands behind it is the
 * kernel's lockdown to say, as for /dev/mem. What is carried is a part's own,
 * but which of its bytes go where, user space says; and of a datum that an
 * update sets it says where it lies (writes.c).
 */
int ksplice_may_write(void)
{
	return security_locked_down(LOCKDOWN_DEV_MEM);
}

static int do_carry(struct ksplice_transaction *t, unsigned long arg)
{
	struct ksplice_carry carry;
	int err = ksplice_may_write();

	if (err)
		return err;
	if (copy_in(&carry, arg, sizeof(carry)))
		return -EFAULT;
	return ksplice_carry(t, &carry);
}

static int do_transfer(struct ksplice_transaction *t, unsigned long arg)
{
	struct ksplice_transfer transfer;
	int err = ksplice_may_write();

	if (err)
		return err;
	if (copy_in(&transfer, arg, sizeof(transfer)))
		return -EFAULT;
	return ksplice_transfer_take(t, &transfer);
}

static int do_arm(unsigned long arg)
{
	struct ksplice_arm *arm;
	int err;

	if (!capable(CAP_SYS_MODULE))
		return -EPERM;
	arm = memdup_user((const void __user *)arg, sizeof(*arm));
	if (IS_ERR(arm))
		return PTR_ERR(arm);
	mutex_lock(&ksplice_lock);
	err = ksplice_arm(arm);
	mutex_unlock(&ksplice_lock);
	kfree(arm);
	return err;
}

static int do_disarm(unsigned long arg)
{
	struct ksplice_disarm d;
	int err;

	if (!capable(CAP_SYS_MODULE))
		return -EPERM;
	if (copy_in(&d, arg, sizeof(d)))
		return -EFAULT;
	if (strnlen(d.id, sizeof(d.id)) == sizeof(d.id))
		return -ENAMETOOLONG;
	mutex_lock(&ksplice_lock);
	err = ksplice_disarm(d.id);
	mutex_unlock(&ksplice_lock);
	return err;
}

static int do_arrived(unsigned long arg)
{
	struct ksplice_arrived *arrived;
	int err;

	if (!capable(CAP_SYS_MODULE))
		return -EPERM;
	arrived = memdup_user((const void __user *)arg, sizeof(*arrived));
	if (IS_ERR(arrived))
		return PTR_ERR(arrived);
	mutex_lock(&ksplice_lock);
	err = ksplice_arrived(arrived);
	mutex_unlock(&ksplice_lock);
	kfree(arrived);
	return err;
}

/* What prepares a transaction, under ksplice_lock. */
static long prepare(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct ksplice_transaction *t;
	int err;

	mutex_lock(&ksplice_lock);
	t = preparing(file, cmd);
	if (IS_ERR(t)) {
		err = PTR_ERR(t);
		goto out;
	}
	switch (cmd) {
	case KSPLICE_IOC_PIN:
		err = do_pin(t, arg);
		break;
	case KSPLICE_IOC_KEY_COPY:
		err = do_key_copy(t, arg);
		break;
	case KSPLICE_IOC_SLOTS:
		err = do_slots(t, arg);
		break;
	case KSPLICE_IOC_ALSO:
		err = do_also(t, arg);
		break;
	case KSPLICE_IOC_CARRY:
		err = do_carry(t, arg);
		break;
	case KSPLICE_IOC_TRANSFER:
		err = do_transfer(t, arg);
		break;
	default:
		err = do_expect(t, arg);
		break;
	}
out:
	mutex_unlock(&ksplice_lock);
	return err;
}

static long device_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	/*
	 * Set once, by BEGIN, and alive until the file is released, which waits
	 * for this call.
	 */
	struct ksplice_transaction *t = READ_ONCE(file->private_data);

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	switch (cmd) {
	case KSPLICE_IOC_INFO:
		return do_info(arg);
	case KSPLICE_IOC_READ:
		return do_read(arg);
	case KSPLICE_IOC_BEGIN:
		return do_begin(file, arg);
	case KSPLICE_IOC_PIN:
	case KSPLICE_IOC_KEY_COPY:
	case KSPLICE_IOC_SLOTS:
	case KSPLICE_IOC_EXPECT:
	case KSPLICE_IOC_ALSO:
	case KSPLICE_IOC_CARRY:
	case KSPLICE_IOC_TRANSFER:
		return prepare(file, cmd, arg);
	case KSPLICE_IOC_COMMIT:
		return do_commit(t, arg);
	case KSPLICE_IOC_WAIT:
		return do_wait(t, arg);
	case KSPLICE_IOC_CONFLICTS:
		return do_conflicts(t, arg);
	case KSPLICE_IOC_FREEZE:
		return do_freeze(t, arg);
	case KSPLICE_IOC_ARM:
		return do_arm(arg);
	case KSPLICE_IOC_DISARM:
		return do_disarm(arg);
	case KSPLICE_IOC_ARRIVED:
		return do_arrived(arg);
	}
	return -ENOTTY;
}

static int device_open(struct inode *inode, struct file *file)
{
	file->private_data = NULL;	/* misc_open leaves its own pointer there */
	return nonseekable_open(inode, file);
}

static int device_release(struct inode *inode, struct file *file)
{
	if (file->private_data)
		ksplice_drop(file->private_data);
	return 0;
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,
	.open = device_open,
	.release = device_release,
	.unlocked_ioctl = device_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

struct miscdevice ksplice_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "ksplice",
	.fops = &device_fops,
	.mode = 0600,
};
