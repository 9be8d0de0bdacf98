/* More sections than a symbol has numbers for (SHN_LORESERVE is 65280): the last ones need extended numbers. */
	.macro unit
	.section .text.f\@,"ax",@progbits
	.globl f\@
f\@:	ret
	.endm
	.rept 65300
	unit
	.endr
	.section .data.last,"aw"
local:	.quad f65299, local
