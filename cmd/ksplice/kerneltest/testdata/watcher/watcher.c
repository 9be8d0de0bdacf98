// SPDX-License-Identifier: GPL-2.0
/* Queues for the module notifiers' semaphore as writer, which keeps new readers out. */
#include <linux/module.h>
#include <linux/notifier.h>

static int watch(struct notifier_block *nb, unsigned long event, void *data)
{
	return NOTIFY_DONE;
}

static struct notifier_block block = { .notifier_call = watch };

static int __init watcher_init(void)
{
	return register_module_notifier(&block);
}

static void __exit watcher_exit(void)
{
	unregister_module_notifier(&block);
}

module_init(watcher_init);
module_exit(watcher_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Registers a module notifier");
