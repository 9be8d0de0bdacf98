// SPDX-License-Identifier: GPL-2.0
/* A module that is built outside of the kernel's source: reading its parameter adds to a sum, and shows it with the name of this file. */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "tally.h"

static int sum = TALLY_START;

static int show(char *buffer, const struct kernel_param *kp)
{
	sum = tally_add(sum);
	return scnprintf(buffer, PAGE_SIZE, "%s %d\n", __FILE__, sum);
}

static const struct kernel_param_ops ops = { .get = show };
module_param_cb(sum, &ops, NULL, 0444);

MODULE_DESCRIPTION("a sum");
MODULE_LICENSE("GPL");
