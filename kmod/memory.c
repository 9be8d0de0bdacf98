// SPDX-License-Identifier: GPL-2.0
/* What lies at a kernel address, by the kernel's own page table. */
#include <linux/mm.h>
#include <asm/pgtable.h>

#include "ksplice.h"

/* Where a mapped address lies in physical memory, in pages, and the flags of its mapping. */
static bool lookup(unsigned long address, unsigned long *pfn, unsigned long *flags)
{
	unsigned int level;
	pte_t *pte = lookup_address(address, &level);

	if (!pte || !pte_present(*pte))
		return false;
	*flags = pte_flags(*pte);
	/* Large entries keep their frame's number where a small one does; bits of it below their size are flags. */
	switch (level) {
	case PG_LEVEL_4K:
		*pfn = pte_pfn(*pte);
		return true;
	case PG_LEVEL_2M:
		*pfn = pmd_pfn(*(pmd_t *)pte) + ((address & ~PMD_MASK) >> PAGE_SHIFT);
		return true;
	case PG_LEVEL_1G:
		*pfn = pud_pfn(*(pud_t *)pte) + ((address & ~PUD_MASK) >> PAGE_SHIFT);
		return true;
	}
	return false;
}

/*
 * Is there ordinary memory behind this page? Reading a device's registers may
 * change its state. The kernel's image and modules are memory for certain.
 */
bool ksplice_is_memory(unsigned long address)
{
	unsigned long pfn, flags;

	if (address < TASK_SIZE_MAX)
		return false;
	if (address >= __START_KERNEL_map && address < MODULES_END)
		return true;
	/* The direct mapping has memory only; what is not mapped in it faults. */
	if (virt_addr_valid((void *)address))
		return true;
	return lookup(address, &pfn, &flags) && page_is_ram(pfn);
}

/*
 * Is this page ordinary memory that the kernel may write to through this very
 * address, and does it hold no code? What is code, or read-only, is so in the
 * direct mapping, too (arch/x86/mm/pat/set_memory.c: cpa_process_alias); it is
 * never executable there, so the image is asked besides.
 */
bool ksplice_is_writable(unsigned long address)
{
	unsigned long pfn, flags, image;

	if (address < TASK_SIZE_MAX || !lookup(address, &pfn, &flags))
		return false;
	if (!virt_addr_valid((void *)address) && !page_is_ram(pfn))
		return false;
	if (!(flags & _PAGE_RW) || !(flags & _PAGE_NX))
		return false;
	image = __START_KERNEL_map + (pfn << PAGE_SHIFT) - phys_base;
	return image < __START_KERNEL_map || image >= MODULES_VADDR || ksplice_is_text(image, 1) != 0;
}
