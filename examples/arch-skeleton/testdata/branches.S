// Branches that the assembler resolves, within functions and between them, and data among code.
	.text
	.globl	first
	.type	first, %function
first:
	cbz	x0, 1f			// within
	tbnz	x0, #3, second		// leaves
	b.eq	second			// leaves
	cbnz	w1, third		// leaves
	b	second			// leaves
1:	ret
	.size	first, . - first

	.type	second, %function
second:
	bl	third			// leaves
	ret
	.xword	0x1400000014000000	// data that look like branches
	.size	second, . - second

	.type	third, %function
third:
	ret
	.size	third, . - third

	.section placeholder_of_the_name_of_a_table, "a"
	.xword	0
