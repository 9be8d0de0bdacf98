/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of the ksplice module share. */
#ifndef KSPLICE_H
#define KSPLICE_H

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/ftrace.h>
#include <linux/kobject.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mutex.h>
#include <linux/types.h>
#include <linux/wait.h>

#include "ksplice_part.h"
#include "ksplice_uapi.h"

#define KSPLICE_NR_SLOTS	8192	/* core/create: maxSlots */
#define KSPLICE_NR_KEYS		1024
#define KSPLICE_MAX_PARTS	64	/* of an update */
#define KSPLICE_MAX_FUNCS	4096	/* of a part */
#define KSPLICE_MAX_SIZE	0x100000	/* of a function, in bytes */
#define KSPLICE_MAX_RELOCS	65536	/* of a function */
#define KSPLICE_MAX_COPIES	4096	/* of a part */
#define KSPLICE_MAX_HOOKS	256	/* of a part */
#define KSPLICE_MAX_CONFLICTS	64
#define KSPLICE_MAX_THAW	64
#define KSPLICE_MAX_MEMBERS	64	/* updates of a transaction */
#define KSPLICE_JUMP_LEN	5	/* e9 and a 32-bit distance */

/*
 * Everything that a transaction or an update consists of, the list of updates
 * and the one open transaction are guarded by ksplice_lock. While a commit
 * runs (transaction->committing), the update that it is about belongs to the
 * commit's thread, which then goes without the lock: everybody else only
 * looks at the update's stage and lists, and changes neither.
 */
extern struct mutex ksplice_lock;
extern struct list_head ksplice_updates;	/* struct ksplice_update.list, oldest first */
extern struct ksplice_transaction *ksplice_open;
extern struct kobject *ksplice_kobj;
extern struct miscdevice ksplice_device;

/* A write to text: at most one window. */
struct ksplice_patch {
	unsigned long address;
	u8 *alias;		/* the same bytes, writable; NULL outside of a commit */
	void *mapping;		/* what vmap gave */
	unsigned long forward;	/* where an int3 met on the way continues */
	u8 length;
	u8 old[KSPLICE_JUMP_LEN];
	u8 new[KSPLICE_JUMP_LEN];
};

/* Values of ksplice_function.classes. */
#define KSPLICE_COMPARE		0
#define KSPLICE_SITE		1	/* the kernel rewrites it: not compared */
#define KSPLICE_FIELD		2	/* part of a relocation's field */
#define KSPLICE_CALL		3	/* the field of a call that may lead to the callee's padding */

struct ksplice_function {
	struct list_head node;	/* in ksplice_update.functions */
	struct ksplice_loaded *part;
	char *name;
	unsigned long address;
	unsigned long code;
	unsigned long replacement;
	unsigned long size;
	u32 kind;
	u32 window;		/* offset from code */
	u32 window_len;
	u8 *image;		/* u8[size]: what run must hold, from pre, relocations and slots */
	u8 *classes;		/* u8[size]: KSPLICE_COMPARE ... */
	bool expected;		/* patch.old has been given by user space */
	struct ksplice_function *over;	/* what redirects it now, and goes in the same stop */
	struct ksplice_function *heir;	/* the other way round: what takes this one's place */
	struct ksplice_patch patch;
	struct ksplice_handler *handler;	/* ftrace only */
};

/* An ftrace handler. Outlives its function where another update takes it over. */
struct ksplice_handler {
	struct ftrace_ops ops;
	struct ksplice_function *function;	/* whom it redirects; NULL: nobody. Changed while the machine stands */
};

/* A field of run's data that the update sets: struct ksplice_datum_write, checked and copied. */
struct ksplice_write {
	char *name;
	unsigned long address;
	u64 length;
	u8 *old;
	u8 *new;
	u8 *alias;		/* the same bytes, writable; NULL outside of a commit */
	void *mapping;		/* what vmap gave */
};

/* A loaded part. Lives from registration until the module's GOING notification. */
struct ksplice_loaded {
	struct list_head list;	/* in ksplice_update.parts */
	struct module *mod;
	char *target;
	u32 flags;
	bool held;		/* we hold a reference on mod */
	struct ksplice_function *functions;
	u32 nr_functions;
	struct ksplice_copy *copies;
	u32 nr_copies;
	struct ksplice_hook *hooks;
	u32 nr_hooks;
	struct ksplice_write *writes;
	u32 nr_writes;
};

/* A reference on a module that the update's values lie in. */
struct ksplice_held {
	struct list_head list;
	struct module *mod;
};

enum ksplice_stage {
	KSPLICE_PREPARING,	/* its transaction is open */
	KSPLICE_APPLIED,
	KSPLICE_UNDONE,
	KSPLICE_DROPPED,	/* never applied; its parts are not gone yet */
	KSPLICE_GONE,		/* was applied to a module whose init failed then */
};

struct ksplice_update {
	struct kobject kobj;
	struct list_head list;
	char id[KSPLICE_ID_LEN];
	enum ksplice_stage stage;
	struct list_head parts;	/* struct ksplice_loaded */
	struct list_head functions;	/* struct ksplice_function, of all parts */
	struct list_head held;	/* struct ksplice_held */
	u32 nr_parts;		/* registered */
	struct module *coming;	/* the part that is being loaded */
	bool busy;		/* a transaction refers to it */
	bool stays;		/* a part of it stays mapped */
	bool transferred;	/* state was transferred when it was applied */
	u64 pause_ns;
	u64 exposed_ns;		/* how long its module had been live by then; 0: not at all */
	s64 applied_at;		/* seconds since the epoch */
	u64 sequence;		/* counts commits; 0 if never applied */
	/* Guards the texts below. Taken alone: sysfs waits for readers when a directory goes. */
	struct mutex text_lock;
	char *description;
	char *part_names;
	char *changes;
	size_t changes_len;
	char abort_cause[KSPLICE_TEXT_LEN + 32];
	struct ksplice_conflict *conflicts;	/* [KSPLICE_MAX_CONFLICTS] */
	u32 nr_conflicts;
};

/* Addresses that no thread may stand at: start < word <= end, by start. */
struct ksplice_range_set {
	struct {
		unsigned long start;
		unsigned long end;
	} *ranges;
	u32 nr;
	unsigned long low;	/* the least start */
	unsigned long high;	/* the greatest end */
};

/* A thread that a stop found in the way; enough to see later that it has not run since. */
struct ksplice_found {
	pid_t pid;
	char comm[16];
	unsigned long address;
	bool unsafe;		/* its stack could not be judged */
	u64 start_time;
	unsigned long switches;
};

/* An update of a transaction, and what becomes of it: KSPLICE_OP_*. */
struct ksplice_member {
	struct ksplice_update *update;
	u32 op;
};

struct ksplice_transaction {
	struct ksplice_update *update;	/* the one that it began with: members[0] */
	u32 op;
	struct ksplice_member members[KSPLICE_MAX_MEMBERS];	/* the others are undone in the same stop */
	u32 nr_members;
	struct ksplice_carry *carries;
	u32 nr_carries;
	u32 carried;		/* bytes, in all of them */
	struct ksplice_transferred *transfer;	/* NULL: none */
	u32 nr_parts;		/* expected */
	pid_t tgid;		/* who may load parts */
	bool committing;	/* the commit's thread owns the update */
	bool committed;
	struct task_struct *thread;
	struct completion done;
	wait_queue_head_t wait;	/* for abort */
	bool abort;
	bool expired;		/* the module that it is for waits no longer */
	u32 attempts;
	u32 interval_ms;
	struct ksplice_result result;
	struct file *thaw[KSPLICE_MAX_THAW];
	u32 nr_thaw;
	bool thawed;		/* no more may be added */
	/* The commit's thread only, and the stop that it asked for. */
	struct ksplice_range_set ranges;
	struct ksplice_found found[KSPLICE_MAX_CONFLICTS];
	u32 nr_found;		/* may exceed the room */
};

/* The commit of a transaction ends at its next look, unless the machine stands already. */
static inline void ksplice_give_up(struct ksplice_transaction *t)
{
	WRITE_ONCE(t->abort, true);
	wake_up_all(&t->wait);
}

#define ksplice_for_each_member(m, t) \
	for ((m) = (t)->members; (m) < (t)->members + (t)->nr_members; (m)++)

/* When hooks run; which type that is follows from what becomes of their update. */
enum ksplice_hook_time {
	KSPLICE_HOOKS_PRE,
	KSPLICE_HOOKS_CHECK,
	KSPLICE_HOOKS_CHANGE,
	KSPLICE_HOOKS_POST,
	KSPLICE_HOOKS_FAIL,
};

/* device.c: ksplice_device */
int ksplice_may_write(void);

/* transaction.c */
struct ksplice_transaction *ksplice_begin(const struct ksplice_begin *arg);
void ksplice_drop(struct ksplice_transaction *t);
int ksplice_commit_start(struct ksplice_transaction *t, const struct ksplice_commit *arg);
int ksplice_also(struct ksplice_transaction *t, const char *id);
int ksplice_expect(struct ksplice_transaction *t, const struct ksplice_window *w);
bool ksplice_moved(const struct ksplice_transaction *t);
bool ksplice_uses_us(struct module *mod);
int ksplice_part_coming(struct module *mod);
void ksplice_part_going(struct module *mod);
void ksplice_part_gone(struct module *mod);
int ksplice_suspend(bool begin);
bool ksplice_valid_id(const char *id);
bool ksplice_valid_module(const char *name);

/* carry.c */
int ksplice_carry(struct ksplice_transaction *t, const struct ksplice_carry *c);
bool ksplice_carry_check(struct ksplice_transaction *t);
void ksplice_carry_all(struct ksplice_transaction *t);

/* writes.c */
int ksplice_writes_of(struct ksplice_loaded *p, const struct ksplice_part *part);
void ksplice_writes_free(struct ksplice_loaded *p);
int ksplice_writes_allowed(const struct ksplice_transaction *t);
bool ksplice_writes_check(struct ksplice_transaction *t);
struct ksplice_update *ksplice_writes_upper(struct ksplice_update *u, const char **name);
int ksplice_writes_map(struct ksplice_transaction *t);
void ksplice_writes_unmap(struct ksplice_transaction *t);
void ksplice_writes_do(struct ksplice_transaction *t);

/* transfer.c */
int ksplice_transfer_take(struct ksplice_transaction *t, const struct ksplice_transfer *arg);
void ksplice_transfer_free(struct ksplice_transaction *t);
int ksplice_transfer_prepare(struct ksplice_transaction *t);
void ksplice_transfer_release(struct ksplice_transaction *t);
bool ksplice_transfer_try(struct ksplice_transaction *t);
bool ksplice_transfer_check(struct ksplice_transaction *t);
bool ksplice_transfer_sets(const struct ksplice_transaction *t, unsigned long address, unsigned long length);
bool ksplice_transfer_whole(struct ksplice_transaction *t);
void ksplice_transfer_do(struct ksplice_transaction *t);

/* memory.c */
bool ksplice_is_memory(unsigned long address);
bool ksplice_is_writable(unsigned long address);

/* arrive.c */
int ksplice_arrive_init(void);
void ksplice_arrive_exit(void);
int ksplice_arm(const struct ksplice_arm *arg);
int ksplice_disarm(const char *id);
int ksplice_arrived(const struct ksplice_arrived *arg);
u64 ksplice_exposed(const char *id);
bool ksplice_waits(const struct ksplice_update *u, const struct module *mod);
void ksplice_module_coming(struct module *mod);
void ksplice_init_over(const struct module *mod);
void ksplice_module_live(struct module *mod);
void ksplice_module_gone(struct module *mod);

/* update.c */
struct ksplice_update *ksplice_find(const char *id);
struct ksplice_update *ksplice_new_update(const char *id);
void ksplice_free_update(struct ksplice_update *u);
int ksplice_hold(struct ksplice_update *u, struct module *mod);
int ksplice_pin(struct ksplice_update *u, const char *name);
bool ksplice_holds(struct ksplice_update *u, const struct module *mod);
void ksplice_spread_stay(void);
bool ksplice_forget_held(struct ksplice_update *u, const struct module *mod);
struct ksplice_loaded *ksplice_part_at(unsigned long address);
bool ksplice_replaces(unsigned long code, unsigned long address);
bool ksplice_in_held(struct ksplice_update *u, unsigned long address, unsigned long size);
u32 ksplice_forget_init(struct ksplice_update *u, const struct module *mod);
void ksplice_free_loaded(struct ksplice_loaded *p);

/* part.c */
char *ksplice_string_of(const struct module *mod, u64 address, size_t max);
const void *ksplice_in_part(const struct module *mod, u64 address, u64 nr, size_t size);

/* sum.c */
bool ksplice_sums_right(const struct module *mod, const struct ksplice_part *part);
bool ksplice_begins(unsigned long address, const char *name, const char *suffix);

/* sysfs.c */
extern const struct kobj_type ksplice_update_type;
const char *ksplice_cause_word(u32 cause);
void ksplice_set_abort(struct ksplice_update *u, const struct ksplice_result *r);
void ksplice_forget_conflicts(struct ksplice_update *u);
void ksplice_set_conflicts(struct ksplice_update *u, const struct ksplice_transaction *t);
int ksplice_write_changes(struct ksplice_update *u);

/* slots.c */
int ksplice_slots_init(void);
void ksplice_slots_exit(void);
int ksplice_slots_arm(const u64 *values, u32 nr);
void ksplice_slots_disarm(void);

/* keys.c */
int ksplice_key_copy(struct ksplice_update *u, unsigned long key, unsigned long *copy);
void ksplice_keys_free(struct ksplice_update *u);

/* check.c */
bool ksplice_forbidden(struct ksplice_function *f);
int ksplice_is_text(unsigned long address, unsigned long size);
bool ksplice_check_function(struct ksplice_function *f, u32 op, struct ksplice_result *r);
bool ksplice_check_all(struct ksplice_transaction *t);
void ksplice_fail(struct ksplice_result *r, u32 cause, int error, unsigned long address, const char *fmt, ...)
	__printf(5, 6);

/* text.c */
u8 *ksplice_alias(unsigned long address, unsigned long length, void **mapping);
int ksplice_patch_map(struct ksplice_patch *p);
void ksplice_patch_unmap(struct ksplice_patch *p);
int ksplice_write_text(unsigned long to, unsigned long from, unsigned long length);
int ksplice_text_init(void);
void ksplice_text_exit(void);
void ksplice_text_begin(struct ksplice_transaction *t);
void ksplice_text_end(void);
void ksplice_text_step(struct ksplice_transaction *t, int step);
#define KSPLICE_TEXT_STEPS	3	/* int3, tail, first byte */

/* ftrace.c */
int ksplice_ftrace_add(struct ksplice_function *f);
void ksplice_ftrace_switch(struct ksplice_function *f, bool on);
void ksplice_ftrace_settle(struct ksplice_function *f);
void ksplice_ftrace_remove(struct ksplice_function *f);

/* stacks.c */
int ksplice_ranges_make(struct ksplice_transaction *t);
void ksplice_ranges_free(struct ksplice_transaction *t);
bool ksplice_prescan(struct ksplice_transaction *t);
bool ksplice_still_there(const struct ksplice_transaction *t);
void ksplice_scan(struct ksplice_transaction *t);

/* thaw.c */
int ksplice_freeze(struct ksplice_transaction *t, int fd);
void ksplice_thaw(struct ksplice_transaction *t);

/* shadow.c */
struct ksplice_entry;
void ksplice_shadow_init(void);
struct ksplice_entry *ksplice_shadow_prepare(const char *name, unsigned long object, const void *data, size_t size);
bool ksplice_shadow_put(struct ksplice_entry *e);
void ksplice_shadow_discard(struct ksplice_entry *e);
void ksplice_shadow_forget(const struct module *mod);
ssize_t ksplice_shadow_list(char *buf);

/* hooks.c */
extern bool ksplice_hooks_stay;
int ksplice_hooks_veto(struct ksplice_transaction *t, enum ksplice_hook_time time);
void ksplice_hooks_run(struct ksplice_transaction *t, enum ksplice_hook_time time);

/* stop.c */
int ksplice_stop(struct ksplice_transaction *t);

/* commit.c */
int ksplice_commit_thread(void *data);

#endif /* KSPLICE_H */
