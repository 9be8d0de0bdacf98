// SPDX-License-Identifier: GPL-2.0
/* Bears the name of a module of the kernel's, and functions of its names, and is not it. */
#include <linux/module.h>

static noinline int null_add_dev(int n)
{
	pr_info("this is not the disk nullb%d\n", n);
	return 0;
}

static noinline int null_report_zones(int n)
{
	return n + 1;
}

static int __init other_init(void)
{
	return null_add_dev(null_report_zones(0));
}

static void __exit other_exit(void)
{
	null_add_dev(null_report_zones(1));
}

module_init(other_init);
module_exit(other_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Another module of the same name");
