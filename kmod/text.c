// SPDX-License-Identifier: GPL-2.0
/*
 * Writing text. Kernel text is read-only, so it is written through a second
 * mapping of the same pages, made before the stop and gone after it.
 *
 * In the stop every other CPU waits with interrupts off, but may still take an
 * NMI and run a function whose bytes are being changed. So the order is int3
 * over the first byte, then the tail, then the first byte, with every CPU
 * serialising in between (stop.c), and a die notifier that sends whoever meets
 * the int3 to the replacement: an NMI that does is over before its CPU goes on.
 */
#include <linux/kdebug.h>
#include <linux/mm.h>
#include <linux/ptrace.h>
#include <linux/vmalloc.h>
#include <asm/pgtable.h>

#include "ksplice.h"

#define INT3	0xcc

/* The transaction whose windows are being written; NULL when none is. Set with the machine running, before and after. */
static struct ksplice_transaction *writing;

static struct page *page_of(unsigned long address)
{
	if (address >= MODULES_VADDR && address < MODULES_END)
		return vmalloc_to_page((const void *)address);
	if (address >= __START_KERNEL_map && address < MODULES_VADDR)
		return pfn_to_page(slow_virt_to_phys((void *)address) >> PAGE_SHIFT);
	return NULL;
}

/* Map at most two pages writable; returns where address is in the mapping. */
u8 *ksplice_alias(unsigned long address, unsigned long length, void **mapping)
{
	struct page *pages[2];
	unsigned long first = address & PAGE_MASK;
	int i, n = ((address + length - 1) >> PAGE_SHIFT) - (address >> PAGE_SHIFT) + 1;

	if (!length || n > ARRAY_SIZE(pages))
		return NULL;
	for (i = 0; i < n; i++) {
		pages[i] = page_of(first + i * PAGE_SIZE);
		if (!pages[i])
			return NULL;
	}
	*mapping = vmap(pages, n, VM_MAP, PAGE_KERNEL);
	if (!*mapping)
		return NULL;
	return *mapping + offset_in_page(address);
}

int ksplice_patch_map(struct ksplice_patch *p)
{
	p->alias = ksplice_alias(p->address, p->length, &p->mapping);
	if (!p->alias)
		return -ENOMEM;
	/* It must be the same memory. */
	if (memcmp(p->alias, (const void *)p->address, p->length)) {
		ksplice_patch_unmap(p);
		return -EFAULT;
	}
	return 0;
}

void ksplice_patch_unmap(struct ksplice_patch *p)
{
	if (p->alias)
		vunmap(p->mapping);
	p->alias = NULL;
}

/* Copy into text that nobody runs yet. */
int ksplice_write_text(unsigned long to, unsigned long from, unsigned long length)
{
	void *mapping;
	u8 *alias = ksplice_alias(to, length, &mapping);
	int err = 0;

	if (!alias)
		return -ENOMEM;
	if (copy_from_kernel_nofault(alias, (const void *)from, length))
		err = -EFAULT;
	vunmap(mapping);
	return err;
}

static int on_die(struct notifier_block *nb, unsigned long event, void *data)
{
	struct die_args *args = data;
	struct ksplice_transaction *t = READ_ONCE(writing);
	struct ksplice_function *f;
	struct ksplice_member *m;

	if (event != DIE_INT3 || !t || user_mode(args->regs))
		return NOTIFY_DONE;
	ksplice_for_each_member(m, t) {
		list_for_each_entry(f, &m->update->functions, node) {
			if (f->kind == KSPLICE_KIND_JUMP && !f->heir && args->regs->ip == f->patch.address + 1) {
				args->regs->ip = f->patch.forward;
				return NOTIFY_STOP;
			}
		}
	}
	return NOTIFY_DONE;
}

static struct notifier_block die_block = {
	.notifier_call = on_die,
	.priority = INT_MAX,
};

int ksplice_text_init(void)
{
	return register_die_notifier(&die_block);
}

void ksplice_text_exit(void)
{
	unregister_die_notifier(&die_block);
}

/*
 * From here until ksplice_text_end the notifier acts. Parts do not come or go
 * meanwhile: the commit holds them.
 */
void ksplice_text_begin(struct ksplice_transaction *t)
{
	WRITE_ONCE(writing, t);
}

void ksplice_text_end(void)
{
	WRITE_ONCE(writing, NULL);
}

static void step_update(const struct ksplice_member *m, int step)
{
	struct ksplice_function *f;

	list_for_each_entry(f, &m->update->functions, node) {
		const u8 *bytes = m->op == KSPLICE_OP_APPLY ? f->patch.new : f->patch.old;

		if (f->heir)
			continue;	/* the heir writes over it */
		if (f->kind == KSPLICE_KIND_FTRACE && step == KSPLICE_TEXT_STEPS - 1)
			ksplice_ftrace_switch(f, m->op == KSPLICE_OP_APPLY);
		if (f->kind != KSPLICE_KIND_JUMP)
			continue;
		switch (step) {
		case 0:
			WRITE_ONCE(f->patch.alias[0], INT3);
			break;
		case 1:
			memcpy(f->patch.alias + 1, bytes + 1, f->patch.length - 1);
			break;
		case 2:
			WRITE_ONCE(f->patch.alias[0], bytes[0]);
			break;
		}
	}
}

/* One step of three for all windows; the caller has every CPU serialise after each. */
void ksplice_text_step(struct ksplice_transaction *t, int step)
{
	struct ksplice_member *m;

	ksplice_for_each_member(m, t)
		step_update(m, step);
}
