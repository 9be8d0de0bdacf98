# The source of unit.o: gcc -c unit.S. A little of all that a kernel object has.
	.section .text.f,"ax",@progbits
	.skip 16, 0x90
	.globl f
	.type f, @function
f:	endbr64
1:	.byte 0x0f, 0x1f, 0x44, 0x00, 0x00
2:	.byte 0x66, 0x90
	mov datum(%rip), %rax
	mov $.Ls, %rdi
	incl %gs:counter(%rip)
3:	call *ops(%rip)
	lock incl datum(%rip)
4:	jmp __x86_return_thunk
	int3
	.size f, .-f
	.section .text.unlikely.f,"ax",@progbits
	.type f.cold, @function
f.cold:	ud2
	.size f.cold, .-f.cold
	.section __mcount_loc,"a"
	.quad 1b
	.section __jump_table,"aw"
	.long 2b - ., f.cold - .
	.quad key + 1 - .
	.section .return_sites,"a"
	.long 4b - .
	.section .altinstructions,"a"
	.long 3b - ., 5f - .
	.short 3, 2
	.byte 6, 5
	.section .altinstr_replacement,"ax"
5:	call BUG_func
	.section .rodata.str1.1,"aMS",@progbits,1
.Ls:	.string "hello"
	.section .data..percpu,"aw"
counter:	.long 0
	.section .data,"aw"
datum:	.quad f
	.size datum, 8
	.section .orc_unwind_ip,"a"
	.long f - .
	.section .orc_unwind,"a"
	.skip 6
