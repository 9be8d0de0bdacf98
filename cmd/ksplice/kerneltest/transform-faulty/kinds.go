package main

import (
	"context"
	"fmt"

	"github.com/ksplice/ksplice/sdk/transform"
)

// kind is a walk over a container of the kernel's own that says by itself whether it went right.
type kind struct {
	global, typ string
	steps       []transform.Step
	read        []string
	// right says what is wrong with an object; before is the one found before it.
	right func(o, before *transform.Object) string
}

// kinds are those that no other example walks.
var kinds = map[string]kind{
	// Every process's number is its place in the IDR.
	"idr": {"init_pid_ns", "struct pid", []transform.Step{transform.XArray("idr", "struct pid")}, []string{"numbers[0].nr"}, func(o, _ *transform.Object) string {
		if o.Values[0].Number != o.Index {
			return fmt.Sprintf("process %d is number %d of the IDR", o.Values[0].Number, o.Index)
		}
		return ""
	}},
	// Every user hangs where its number's hash says (kernel/user.c: __uidhashfn), with seven bits of it.
	"hlist": {"uidhash_table", "struct user_struct", []transform.Step{transform.Each("", ""), transform.HList("", "struct user_struct", "uidhash_node")}, []string{"uid.val"},
		func(o, _ *transform.Object) string {
			if uid := o.Values[0].Number; (uid>>7+uid)&127 != o.Index {
				return fmt.Sprintf("user %d hangs in bucket %d", uid, o.Index)
			}
			return ""
		}},
	// Free ranges of addresses do not overlap, and a tree is visited in order.
	"tree": {"free_vmap_area_root", "struct vmap_area", []transform.Step{transform.Tree("", "struct vmap_area", "rb_node")}, []string{"va_start", "va_end"},
		func(o, before *transform.Object) string {
			if o.Values[0].Number >= o.Values[1].Number || before != nil && before.Values[1].Number > o.Values[0].Number {
				return fmt.Sprintf("the range %#x to %#x is none, or lies over the one before", o.Values[0].Number, o.Values[1].Number)
			}
			return ""
		}},
}

// walk does one, and changes nothing.
func (k kind) walk(ctx context.Context, name string, s transform.State) (*transform.TransferResponse, error) {
	found, err := s.Walk(ctx, &transform.Walk{Global: k.global, Steps: k.steps, Read: k.read})
	if err != nil {
		return nil, err
	}
	var before *transform.Object
	for i := range found {
		if why := k.right(&found[i], before); why != "" {
			return nil, fmt.Errorf("%s: %s", name, why)
		}
		before = &found[i]
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: nothing was found", name)
	}
	return &transform.TransferResponse{Note: fmt.Sprintf("%s: all right", name)}, nil
}
