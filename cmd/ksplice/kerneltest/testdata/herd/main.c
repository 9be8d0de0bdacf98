// SPDX-License-Identifier: GPL-2.0
/* A module with as many objects on a list as its parameter says. Reading "sum" shows the sum of what is in them. */
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>

struct sheep {
	struct list_head herd;
	unsigned int number;
	/* a gap */
	u64 wool;
};

static LIST_HEAD(herd);
static unsigned int size = 1000;
module_param(size, uint, 0444);

static int show(char *buffer, const struct kernel_param *kp)
{
	struct sheep *s;
	u64 sum = 0;

	list_for_each_entry(s, &herd, herd)
		sum += s->number;
	return scnprintf(buffer, PAGE_SIZE, "%llu\n", sum);
}

static const struct kernel_param_ops ops = { .get = show };
module_param_cb(sum, &ops, NULL, 0444);

static void slaughter(void)
{
	struct sheep *s, *next;

	list_for_each_entry_safe(s, next, &herd, herd)
		kfree(s);
}

static int __init herd_init(void)
{
	unsigned int i;

	for (i = 0; i < size; i++) {
		struct sheep *s = kzalloc(sizeof(*s), GFP_KERNEL);

		if (!s) {
			slaughter();
			return -ENOMEM;
		}
		s->number = i;
		list_add_tail(&s->herd, &herd);
	}
	return 0;
}
module_init(herd_init);
module_exit(slaughter);

MODULE_DESCRIPTION("many objects");
MODULE_LICENSE("GPL");
