/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What user space and the ksplice module say to each other through
 * /dev/ksplice. core/engine mirrors these structures in Go.
 *
 * A module may be older than the tools, since it cannot be exchanged while an
 * update is applied. What is added has a number of its own, and a bit in
 * features. KSPLICE_ABI changes when something that is here changes. Tools apply
 * with a module of their own ABI only, but undo with every one: INFO, BEGIN with
 * KSPLICE_OP_UNDO, ALSO, TRANSFER, FREEZE, COMMIT, WAIT, CONFLICTS, READ, DISARM
 * and ARRIVED, and what sysfs.c draws, stay what they are in all ABIs.
 *
 * A transaction belongs to the open file that began it, one at a time on the
 * machine. Closing the file drops it unless it was committed.
 */
#ifndef KSPLICE_UAPI_H
#define KSPLICE_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define KSPLICE_ABI		1
#define KSPLICE_ID_LEN		64	/* with its NUL */
#define KSPLICE_MODNAME_LEN	64	/* with its NUL */
#define KSPLICE_TEXT_LEN	256	/* with its NUL */

/* KSPLICE_IOC_INFO: what this module can do. Needs no transaction. */
struct ksplice_info {
	__u32 abi;
	__u32 nr_slots;		/* how many ksplice_slot_%04x there are */
	__u32 nr_key_copies;	/* how many private key copies there can be */
	__u32 features;		/* KSPLICE_FEATURE_* */
	__u64 reserved[4];
};

#define KSPLICE_FEATURE_FTRACE	0x1	/* redirect by ftrace is possible */
#define KSPLICE_FEATURE_FREEZE	0x2	/* KSPLICE_IOC_FREEZE is there */
#define KSPLICE_FEATURE_ALSO	0x4	/* KSPLICE_IOC_ALSO and KSPLICE_IOC_CARRY are there */
#define KSPLICE_FEATURE_ARM	0x8	/* KSPLICE_IOC_ARM and its likes are there */
#define KSPLICE_FEATURE_TRANSFER 0x10	/* KSPLICE_IOC_TRANSFER is there */

/* KSPLICE_IOC_READ: copy kernel memory, fault-safe. Needs no transaction. */
struct ksplice_range {
	__u64 address;		/* kernel address */
	__u64 buffer;		/* user address */
	__u64 length;		/* bytes */
	__u64 done;		/* out: bytes copied before the first fault */
};

struct ksplice_read {
	__u64 ranges;		/* user address of struct ksplice_range[] */
	__u32 nr;
	__u32 reserved;
};

/*
 * KSPLICE_IOC_BEGIN: begin a transaction. -EBUSY while another one is open;
 * -EPERM: apply, where the kernel's lockdown lets nobody read its memory.
 * An id is at least eight lowercase hexadecimal digits; of what is applied to a
 * module that came later, the same with a colon and the module's name behind.
 */
#define KSPLICE_OP_APPLY	1
#define KSPLICE_OP_UNDO		2
struct ksplice_begin {
	char id[KSPLICE_ID_LEN];
	__u32 op;		/* KSPLICE_OP_* */
	__u32 nr_parts;		/* apply: how many parts will register */
};

/* KSPLICE_IOC_PIN: hold a module for as long as the update's parts are in. */
struct ksplice_pin {
	char module[KSPLICE_MODNAME_LEN];
};

/*
 * KSPLICE_IOC_KEY_COPY: a private copy of a static key that lies in memory
 * the kernel has made read-only for good (__ro_after_init). The copy lives as
 * long as the update's parts.
 */
struct ksplice_key_copy {
	__u64 key;		/* run address of the key */
	__u64 copy;		/* out: address of the copy */
};

/* KSPLICE_IOC_SLOTS: values of slots 0..nr-1 for the next part to load. */
struct ksplice_slots {
	__u64 values;		/* user address of __u64[] */
	__u32 nr;
	__u32 reserved;
};

/*
 * KSPLICE_IOC_EXPECT: the bytes that matching saw where a jump will be
 * written; compared exactly inside the stop. One for every function that is
 * redirected by a jump, by the address of the window itself.
 */
struct ksplice_window {
	__u64 address;
	__u32 length;
	__u8 bytes[16];
	__u32 reserved;
};

struct ksplice_expect {
	__u64 windows;		/* user address of struct ksplice_window[] */
	__u32 nr;
	__u32 reserved;
};

/*
 * KSPLICE_IOC_COMMIT: start the commit in a kernel thread; returns at once.
 * -EPERM: the update sets fields of data, and the kernel is locked down.
 */
struct ksplice_commit {
	__u32 attempts;		/* how often to try while stacks conflict, >= 1 */
	__u32 interval_ms;	/* wait between attempts */
	__u64 reserved[2];
};

/* KSPLICE_IOC_WAIT: wait for the commit, killable. */
enum ksplice_cause {
	KSPLICE_OK = 0,
	KSPLICE_CONFLICT,	/* a stack holds an affected function */
	KSPLICE_CHANGED,	/* run text is not pre; match again */
	KSPLICE_WINDOW,		/* the redirect's bytes are not as expected */
	KSPLICE_FORBIDDEN,	/* the function may never be replaced */
	KSPLICE_DEPENDED_ON,	/* undo: another update stands on this one */
	KSPLICE_PROBED,		/* undo: somebody changed our bytes */
	KSPLICE_VETOED,		/* a hook said no */
	KSPLICE_NOMEM,
	KSPLICE_INVALID,	/* the part's description is not valid */
	KSPLICE_PARTS,		/* not all parts have registered */
	KSPLICE_INTERRUPTED,	/* owner died, suspend began */
	KSPLICE_UNSAFE_STACK,	/* a stack cannot be judged */
	KSPLICE_MOVED,		/* what a transfer has read is not so any more; read and say it again, and commit again */
	KSPLICE_CAUSES
};

struct ksplice_result {
	__u32 timeout_ms;	/* in: how long to wait at most */
	__u32 done;		/* out: 0 while the commit still runs */
	__s32 error;		/* out: 0 or a negative errno */
	__u32 cause;		/* out: enum ksplice_cause */
	__u32 attempts;		/* out: how often the stop was tried */
	__u32 nr_conflicts;	/* out */
	__u64 pause_ns;		/* out: how long the machine stood */
	__u64 address;		/* out: where, for CHANGED, WINDOW, PROBED */
	char where[KSPLICE_TEXT_LEN];	/* out: function, and what is wrong */
};

/* KSPLICE_IOC_CONFLICTS: who was in the way at the last attempt. */
struct ksplice_conflict {
	__s32 pid;
	__u32 reserved;
	__u64 address;		/* the word on the stack */
	char comm[16];
	char function[128];
};

struct ksplice_conflicts {
	__u64 conflicts;	/* user address of struct ksplice_conflict[] */
	__u32 nr;		/* in: room; out: how many were copied */
	__u32 reserved;
};

/*
 * KSPLICE_IOC_FREEZE: cgroup.freeze of a cgroup with processes that are in the
 * way, open for writing. "1" is written to it now, and "0" as soon as the
 * commit is decided or the transaction dropped. -EALREADY: it is decided.
 */
struct ksplice_freeze {
	__s32 fd;
	__u32 reserved;
};

/*
 * KSPLICE_IOC_ALSO: an applied update that is undone in the same stop; what it
 * redirects, the update that is applied may redirect in its place.
 */
struct ksplice_also {
	char id[KSPLICE_ID_LEN];
};

/*
 * KSPLICE_IOC_CARRY: what a variable of an update holds that goes in the same
 * stop is copied into one of the transaction's own. Both lie in what their
 * parts can write to; 64 KiB in all.
 */
struct ksplice_carry {
	__u64 from;		/* kernel addresses */
	__u64 to;
	__u64 length;		/* bytes */
};

/*
 * KSPLICE_IOC_ARM: when the module comes, run HELPER arrive ID MODULE, which
 * applies the update's part for it and says so by KSPLICE_IOC_ARRIVED: once it
 * is live, or before its init, for which the module then waits timeout_ms at
 * most. Needs no transaction. /sys/kernel/ksplice/armed lists what is armed.
 */
#define KSPLICE_ARM_BEFORE_INIT	0x1
#define KSPLICE_ARM_REFUSE	0x2	/* with it: without the update the module is not loaded */
#define KSPLICE_ARM_FLAGS	0x3
#define KSPLICE_MAX_WAIT_MS	600000
struct ksplice_arm {
	char id[KSPLICE_ID_LEN];
	char module[KSPLICE_MODNAME_LEN];
	char helper[KSPLICE_TEXT_LEN];
	__u32 flags;		/* KSPLICE_ARM_* */
	__u32 timeout_ms;	/* 1 .. KSPLICE_MAX_WAIT_MS */
	__u64 reserved[2];
};

/* KSPLICE_IOC_DISARM: all that is armed of an update. -EBUSY: a module waits for it now. */
struct ksplice_disarm {
	char id[KSPLICE_ID_LEN];
};

/* KSPLICE_IOC_ARRIVED: how it went. */
struct ksplice_arrived {
	char id[KSPLICE_ID_LEN];
	char module[KSPLICE_MODNAME_LEN];
	char text[KSPLICE_TEXT_LEN];	/* one line for people */
	__s32 error;		/* 0: it is applied */
	__u32 reserved;
};

/*
 * KSPLICE_IOC_TRANSFER: what is written into data of the running kernel in the
 * stop, all of it or nothing. It comes in the place of what an earlier call of
 * the transaction said, and may be said anew after a commit that ended with
 * KSPLICE_MOVED, which may then be tried again.
 *
 * Guards are all that was read to come to it: every byte is compared in the
 * stop. Sets lie inside of them. Guards and sets are in order of address, and
 * none lies over another of its kind. Attachments give objects shadow fields,
 * which an applied update or this one must have; an object that has the field
 * keeps what it has, and constructors do not run. Memory that is read-only or code is not written, nor
 * what the update's own parts write. What an update has transferred is taken
 * back by a transfer of its undo, without which it is not undone.
 */
#define KSPLICE_MAX_GUARDS	0x200000
#define KSPLICE_MAX_SETS	0x100000
#define KSPLICE_MAX_ATTACHES	0x100000
#define KSPLICE_MAX_FIELDS	64
#define KSPLICE_MAX_TRANSFER	0x8000000	/* bytes of all values */
#define KSPLICE_MAX_PIECE	4096		/* bytes of one guard or set */
#define KSPLICE_FIELD_LEN	128		/* of a shadow field's name, with its NUL */

struct ksplice_piece {
	__u64 address;
	__u32 length;		/* bytes, >= 1 */
	__u32 reserved;
};

struct ksplice_attach {
	__u64 object;
	__u32 field;		/* which of the names */
	__u32 length;		/* bytes: the field's size */
};

struct ksplice_transfer {
	__u64 guards;		/* user address of struct ksplice_piece[] */
	__u64 sets;		/* the same */
	__u64 attaches;		/* user address of struct ksplice_attach[] */
	__u64 fields;		/* user address of char[][KSPLICE_FIELD_LEN] */
	__u64 values;		/* user address of what guards, sets and attachments hold, in this order without gaps */
	__u64 nr_values;	/* bytes of that */
	__u32 nr_guards;
	__u32 nr_sets;
	__u32 nr_attaches;
	__u32 nr_fields;
};

#define KSPLICE_IOC_INFO	_IOR('K', 0x00, struct ksplice_info)
#define KSPLICE_IOC_READ	_IOWR('K', 0x01, struct ksplice_read)
#define KSPLICE_IOC_BEGIN	_IOW('K', 0x02, struct ksplice_begin)
#define KSPLICE_IOC_PIN		_IOW('K', 0x03, struct ksplice_pin)
#define KSPLICE_IOC_KEY_COPY	_IOWR('K', 0x04, struct ksplice_key_copy)
#define KSPLICE_IOC_SLOTS	_IOW('K', 0x05, struct ksplice_slots)
#define KSPLICE_IOC_EXPECT	_IOW('K', 0x06, struct ksplice_expect)
#define KSPLICE_IOC_COMMIT	_IOW('K', 0x07, struct ksplice_commit)
#define KSPLICE_IOC_WAIT	_IOWR('K', 0x08, struct ksplice_result)
#define KSPLICE_IOC_CONFLICTS	_IOWR('K', 0x09, struct ksplice_conflicts)
#define KSPLICE_IOC_FREEZE	_IOW('K', 0x0a, struct ksplice_freeze)
#define KSPLICE_IOC_ALSO	_IOW('K', 0x0b, struct ksplice_also)
#define KSPLICE_IOC_ARM		_IOW('K', 0x0c, struct ksplice_arm)
#define KSPLICE_IOC_DISARM	_IOW('K', 0x0d, struct ksplice_disarm)
#define KSPLICE_IOC_ARRIVED	_IOW('K', 0x0e, struct ksplice_arrived)
#define KSPLICE_IOC_CARRY	_IOW('K', 0x0f, struct ksplice_carry)
#define KSPLICE_IOC_TRANSFER	_IOW('K', 0x10, struct ksplice_transfer)

#endif /* KSPLICE_UAPI_H */
