// Package initdata decides which changed initialisers can be carried by writing the new value over the old one: those in which nothing
// but plain values and addresses changes. Whether the running kernel still has the old ones is seen when the update is applied.
package initdata

import (
	"context"
	"fmt"
	"strings"

	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

// Plugin implements transform.Transform.
type Plugin struct{ transform.Unimplemented }

var _ transform.Transform = Plugin{}

// Info implements plugin.Base.
func (Plugin) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{
		Kind: plugin.KindTransform, Name: "initdata", Version: "1",
		Description: "Changed initialisers of existing data: the new value where the running one is still the old.",
	}, nil
}

// Plan implements transform.Transform.
func (Plugin) Plan(_ context.Context, req *transform.PlanRequest) (*transform.PlanResponse, error) {
	resp := &transform.PlanResponse{Because: map[string]string{}}
	for i := range req.Items {
		it := &req.Items[i]
		if it.Kind != transform.ItemInitialiser || len(it.Fields) == 0 || stateOf(it.Fields) != "" {
			continue
		}
		resp.Claimed, resp.Rewrites = append(resp.Claimed, it.ID), append(resp.Rewrites, it.ID)
		resp.Because[it.ID] = because(it)
	}
	return resp, nil
}

func because(it *transform.Item) string {
	names := make([]string, len(it.Fields))
	for i, f := range it.Fields {
		names[i] = it.Name + f.Name
	}
	return fmt.Sprintf("%s set where the running kernel still has the old value", strings.Join(names, ", "))
}

// state lists types whose values say what goes on at the moment: links, locks, counts of users, sleepers. An initial value of one is not what
// the running kernel is to have later. Source: include/linux/types.h, spinlock_types.h, rwsem.h, mutex_types.h, wait.h, refcount.h, kref.h,
// rbtree_types.h, workqueue_types.h, timer_types.h, percpu-refcount.h,
// percpu_counter.h, cpumask_types.h.
var state = map[string]bool{
	"list_head": true, "hlist_head": true, "hlist_node": true, "hlist_nulls_head": true, "hlist_nulls_node": true, "llist_head": true,
	"llist_node": true, "plist_head": true, "plist_node": true, "rb_root": true, "rb_node": true, "rb_root_cached": true, "xarray": true, "idr": true,
	"raw_spinlock": true, "spinlock": true, "qspinlock": true, "qrwlock": true, "mutex": true, "rw_semaphore": true, "semaphore": true, "rt_mutex": true,
	"rt_mutex_base": true, "optimistic_spin_queue": true, "seqcount": true, "swait_queue_head": true, "wait_queue_head": true, "completion": true,
	"refcount_struct": true, "kref": true, "kobject": true, "kset": true, "percpu_ref": true, "rcu_head": true, "callback_head": true,
	"work_struct": true, "delayed_work": true, "timer_list": true, "hrtimer": true, "static_key": true, "static_key_true": true,
	"static_key_false": true, "srcu_struct": true, "lockdep_map": true, "lock_class_key": true,
	"atomic_t": true, "atomic64_t": true, "atomic_long_t": true, "local_t": true, "local64_t": true, "refcount_t": true, "rwlock_t": true,
	"seqlock_t": true, "spinlock_t": true, "percpu_counter": true, "nodemask_t": true, "cpumask": true, "ida": true,
}

// stateOf names the first type of fields that no initial value can be written to; "" for none.
func stateOf(fields []transform.Field) string {
	for _, f := range fields {
		for _, t := range []string{f.Within, f.Type} {
			name := strings.TrimPrefix(strings.TrimPrefix(t, "struct "), "union ")
			if state[name] {
				return t
			}
		}
	}
	return ""
}
