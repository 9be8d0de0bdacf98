// SPDX-License-Identifier: GPL-2.0
/*
 * ksplice: the part of Ksplice that lives in the kernel. It serves memory,
 * lends symbols to the parts of updates, checks that run is what an update was
 * made for, and swaps functions while the machine stands still.
 *
 * User space proves, this checks: nothing in here decodes instructions.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/build_bug.h>
#include <linux/init.h>
#include <linux/kobject.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/notifier.h>
#include <linux/suspend.h>

#include "compat.h"
#include "ksplice.h"

/* Sizes that core/part and core/engine write and read. */
static_assert(sizeof(struct ksplice_part) == 128);
static_assert(sizeof(struct ksplice_func) == 96);
static_assert(sizeof(struct ksplice_reloc) == 24);
static_assert(sizeof(struct ksplice_copy) == 24);
static_assert(sizeof(struct ksplice_hook) == 16);
static_assert(sizeof(struct ksplice_window) == 32);
static_assert(sizeof(struct ksplice_result) == 296);
static_assert(sizeof(struct ksplice_conflict) == 160);
static_assert(sizeof(struct ksplice_arm) == 408);
static_assert(sizeof(struct ksplice_arrived) == 392);

/*
 * Read by the ksplice command, on the kernel's command line: the module itself
 * does nothing else then. Of a word that it does not know the loader would warn.
 */
static bool disable;
module_param(disable, bool, 0444);
MODULE_PARM_DESC(disable, "on the kernel's command line: persistent updates are not applied at boot");

struct kobject *ksplice_kobj;

/*
 * First of all handlers: a module that was relocated with values that are not
 * its own must go before any of its tables is read, and what redirects a
 * module's init before that goes.
 */
static int module_first(struct notifier_block *nb, unsigned long event, void *data)
{
	struct module *mod = data;

	if (event == MODULE_STATE_GOING)
		ksplice_part_going(mod);
	if (event == MODULE_STATE_LIVE)
		ksplice_init_over(mod);
	if (event != MODULE_STATE_COMING || !ksplice_uses_us(mod))
		return NOTIFY_DONE;
	return notifier_from_errno(ksplice_part_coming(mod));
}

/*
 * Last of all handlers: those of jump labels and static calls read the keys
 * that a part names, which lie in modules that we let go of here.
 */
static int module_last(struct notifier_block *nb, unsigned long event, void *data)
{
	struct module *mod = data;

	switch (event) {
	case MODULE_STATE_COMING:
		ksplice_module_coming(mod);
		break;
	case MODULE_STATE_LIVE:
		ksplice_module_live(mod);
		break;
	case MODULE_STATE_GOING:
		ksplice_part_gone(mod);
		ksplice_module_gone(mod);
		break;
	}
	return NOTIFY_DONE;
}

static int pm(struct notifier_block *nb, unsigned long event, void *data)
{
	switch (event) {
	case PM_SUSPEND_PREPARE:
	case PM_HIBERNATION_PREPARE:
	case PM_RESTORE_PREPARE:
		return notifier_from_errno(ksplice_suspend(true));
	case PM_POST_SUSPEND:
	case PM_POST_HIBERNATION:
	case PM_POST_RESTORE:
		ksplice_suspend(false);
		break;
	}
	return NOTIFY_DONE;
}

static struct notifier_block first_block = { .notifier_call = module_first, .priority = INT_MAX };
static struct notifier_block last_block = { .notifier_call = module_last, .priority = INT_MIN };
static struct notifier_block pm_block = { .notifier_call = pm };

/* Shadow fields: a line each, its name, bytes, and how many objects have it. */
static ssize_t shadows_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return ksplice_shadow_list(buf);
}

static struct kobj_attribute shadows_attr = __ATTR_RO_MODE(shadows, 0400);

static int __init ksplice_init(void)
{
	int err;

	ksplice_kobj = kobject_create_and_add("ksplice", kernel_kobj);
	if (!ksplice_kobj)
		return -ENOMEM;
	ksplice_shadow_init();
	err = sysfs_create_file(ksplice_kobj, &shadows_attr.attr);
	if (err)
		goto err_kobject;
	err = ksplice_slots_init();
	if (err)
		goto err_kobject;
	err = ksplice_arrive_init();
	if (err)
		goto err_slots;
	err = ksplice_text_init();
	if (err)
		goto err_arrive;
	err = register_module_notifier(&first_block);
	if (err)
		goto err_text;
	err = register_module_notifier(&last_block);
	if (err)
		goto err_first;
	err = register_pm_notifier(&pm_block);
	if (err)
		goto err_last;
	/* Last: from here on somebody may ask for something. */
	err = misc_register(&ksplice_device);
	if (err)
		goto err_pm;
	return 0;

err_pm:
	unregister_pm_notifier(&pm_block);
err_last:
	unregister_module_notifier(&last_block);
err_first:
	unregister_module_notifier(&first_block);
err_text:
	ksplice_text_exit();
err_arrive:
	ksplice_arrive_exit();
err_slots:
	ksplice_slots_exit();
err_kobject:
	kobject_put(ksplice_kobj);
	return err;
}

/* Nobody has the device open, and no part is loaded: both hold this module. */
static void __exit ksplice_exit(void)
{
	misc_deregister(&ksplice_device);
	unregister_pm_notifier(&pm_block);
	unregister_module_notifier(&last_block);
	unregister_module_notifier(&first_block);
	ksplice_text_exit();
	ksplice_arrive_exit();
	ksplice_slots_exit();
	kobject_put(ksplice_kobj);
}

module_init(ksplice_init);
module_exit(ksplice_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Ksplice: rebootless kernel updates");
MODULE_VERSION("0.1.0");
