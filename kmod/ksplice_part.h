/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a part says of itself. core/part writes these structures into the part
 * as data (section .ksplice), with relocations where an address stands; the
 * stock loader fills the addresses in, so that all of it lies under the part's
 * signature except the values of slots. All pointers are 64-bit words so that
 * the layout is the same for C and for the writer in Go.
 */
#ifndef KSPLICE_PART_H
#define KSPLICE_PART_H

#include <linux/types.h>

#define KSPLICE_PART_MAGIC	0x4b53504cU	/* "KSPL" */
#define KSPLICE_PART_VERSION	3

/* How a function is redirected. */
#define KSPLICE_KIND_JUMP	1	/* a jump over the window */
#define KSPLICE_KIND_FTRACE	2	/* an ftrace handler: a live site is in the window */
#define KSPLICE_KIND_FRAGMENT	3	/* checked and kept free of threads, not redirected (NAME.cold) */

/*
 * One relocation of a pre function outside every site: value is S (a slot,
 * filled in by the loader), type an ELF relocation type (R_X86_64_64, 32, 32S,
 * PC32, PLT32, PC64). With KSPLICE_RELOC_CALL it is the field of a direct call
 * that call depth tracking may have led to the padding before the callee
 * (arch/x86/kernel/callthunks.c:patch_call): a site, but for whom it calls.
 */
#define KSPLICE_RELOC_CALL	0x80000000U
#define KSPLICE_PADDING		16	/* the most that a callee has, in bytes */
struct ksplice_reloc {
	__u64 value;
	__s64 addend;
	__u32 offset;		/* of the field, from the function's start */
	__u32 type;
};

struct ksplice_func {
	__u64 name;		/* const char * */
	__u64 address;		/* the function's address in run: its symbol's value */
	__u64 code;		/* where its code lies now: address, or a lower update's replacement */
	__u64 replacement;	/* in this part; 0 for a fragment */
	__u64 size;		/* of pre and run, in bytes */
	__u64 pre;		/* const u8[size]: pre's bytes, relocation fields zero */
	__u64 mask;		/* const u8[size]: 0 compare, 1 inside a site */
	__u64 relocs;		/* const struct ksplice_reloc[nr_relocs] */
	__u32 nr_relocs;
	__u32 kind;		/* KSPLICE_KIND_* */
	__u32 window;		/* offset of the jump from code, behind endbr and ftrace's nop */
	__u32 window_len;	/* 5 on x86-64 */
	__u64 sum;		/* see below */
	__u64 reserved;		/* 0 */
};

/* Bytes of this part that are taken from run before the commit (runtime constants). */
struct ksplice_copy {
	__u64 to;		/* in this part */
	__u64 from;		/* in run: a slot */
	__u64 length;
};

/*
 * A field of run's data that gets another value in the stop, where it still has
 * the old one. KSPLICE_WRITE_ADDRESS: a value is an address, which the loader
 * fills in, so that no sum goes over the two. Its own address is a slot, too:
 * under lockdown a part that has one of these is not committed (writes.c).
 */
#define KSPLICE_WRITE_ADDRESS	0x1
struct ksplice_datum_write {
	__u64 name;		/* const char *: the datum and the member */
	__u64 address;		/* in run */
	__u64 length;		/* in bytes */
	__u64 old;		/* const u8[length]: what run must have */
	__u64 new;		/* const u8[length] */
	__u64 flags;		/* KSPLICE_WRITE_* */
};

/* Hooks of the update's own. Types in the order they run. */
#define KSPLICE_HOOK_PRE_APPLY		0	/* may sleep, may veto */
#define KSPLICE_HOOK_CHECK_APPLY	1	/* machine stopped, may veto */
#define KSPLICE_HOOK_APPLY		2	/* machine stopped */
#define KSPLICE_HOOK_POST_APPLY		3	/* may sleep */
#define KSPLICE_HOOK_FAIL_APPLY		4	/* may sleep */
#define KSPLICE_HOOK_PRE_REVERSE	5
#define KSPLICE_HOOK_CHECK_REVERSE	6
#define KSPLICE_HOOK_REVERSE		7
#define KSPLICE_HOOK_POST_REVERSE	8
#define KSPLICE_HOOK_FAIL_REVERSE	9
struct ksplice_hook {
	__u64 type;
	__u64 function;		/* int (*)(void) for pre and check, void (*)(void) else */
};

#define KSPLICE_PART_STAYS	0x1	/* addresses of new code or data escape: stays mapped after undo */

struct ksplice_part {
	__u32 magic;
	__u32 version;
	__u32 size;		/* sizeof(struct ksplice_part) */
	__u32 flags;		/* KSPLICE_PART_* */
	__u64 id;		/* const char *: the update's id, hex digits */
	__u64 target;		/* const char *: "vmlinux" or a module's name */
	__u64 description;	/* const char *: one line for people */
	__u64 funcs;		/* struct ksplice_func[] */
	__u64 nr_funcs;
	__u64 copies;		/* struct ksplice_copy[] */
	__u64 nr_copies;
	__u64 hooks;		/* struct ksplice_hook[] */
	__u64 nr_hooks;
	__u64 private;		/* the ksplice module's own, 0 in the file */
	__u64 sum;		/* see below */
	__u64 writes;		/* struct ksplice_datum_write[] */
	__u64 nr_writes;
	__u64 reserved;		/* 0 */
};

/*
 * Sums find a description that was damaged; they are no signature. They go
 * over what does not depend on where things are loaded, word by word, strings
 * up to their NUL and arrays byte by byte: FNV-1a, 64 bits.
 *
 * A function's: name, size, nr_relocs, kind, window, window_len, pre, mask,
 * and each relocation's addend, offset and type.
 * The part's: flags, nr_funcs, nr_copies, nr_hooks, nr_writes, id, target,
 * description, each function's sum, each copy's length, each hook's type, and
 * each write's name, length, flags and, without an address in them, its values.
 */
#define KSPLICE_SUM_START	0xcbf29ce484222325ULL
#define KSPLICE_SUM_PRIME	0x100000001b3ULL

struct module;

/* Called by the part's glue: init and exit. */
int ksplice_part_register(struct module *mod, struct ksplice_part *part);
void ksplice_part_unregister(struct module *mod, struct ksplice_part *part);

#endif /* KSPLICE_PART_H */
