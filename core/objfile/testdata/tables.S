/* What compilers make seldom: groups, absolute and common symbols, tables that belong to code, alignments. */
	.file "tables.S"
	.section .text.one,"axG",@progbits,one,comdat
	.weak one
	.type one,@function
one:	call two
	lea string+4(%rip), %rdi
	ret
	.size one, .-one

	.section .data.one,"awG",@progbits,one,comdat
	.quad one + 8
	.quad absolute

	.section .text.plain,"axG",@progbits,plain_group
	ret

	.text
	.p2align 12
	.globl two
	.type two,@function
two:	jmp common
	.reloc ., R_X86_64_NONE, two
	ret
	.size two, .-two

	.section __entries,"awo",@progbits,.text
	.quad two

	.section .rodata.str1.1,"aMS",@progbits,1
string:	.string "a merged string"
	.section .rodata.str4.4,"aMS",@progbits,4
	.long 65, 66, 0
	.section .rodata.cst8,"aM",@progbits,8
	.quad 0x4142434445464748

	.bss
	.p2align 6
	.skip 100
	.section .note.test,"a",@note
	.long 4, 4, 1
	.string "kpl"
	.long 7
	.section .empty,"a"
	.hidden hidden_one
	.globl hidden_one
	.set absolute, 0x1234
	.globl absolute
	.comm common,32,16
	.section .data.hidden,"aw"
hidden_one: .quad hidden_one, .text.plain - .
	.section .note.GNU-stack,"",@progbits
