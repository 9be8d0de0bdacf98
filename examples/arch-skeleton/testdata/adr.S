// An address of another function's that the assembler resolves.
	.text
	.type	one, %function
one:
	adr	x0, two
	ret
	.size	one, . - one
	.type	two, %function
two:
	ret
	.size	two, . - two
