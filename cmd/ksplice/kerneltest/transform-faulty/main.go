// Command transform-faulty is a transform plugin for tests. It takes what a patch of drivers/char/random.c asks of it, and at apply does what
// its configuration says: everything that a plugin may do wrong, and some of what it may do.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/ksplice/ksplice/sdk/plugin"
	"github.com/ksplice/ksplice/sdk/transform"
)

func main() { transform.Serve(&faulty{}) }

type faulty struct {
	transform.Unimplemented
	mode  string
	calls atomic.Int32
}

// modes are what it does at apply.
var modes = map[string]func(f *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error){
	"die": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		if _, err := table(ctx, s); err != nil {
			return nil, err
		}
		os.Exit(3)
		return nil, nil
	},
	"panic": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		if _, err := table(ctx, s); err != nil {
			return nil, err
		}
		panic("a test")
	},
	"wild": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		wild := transform.Object{Address: 0xdead000000000000, Type: "struct ctl_table"}
		s.Walk(ctx, &transform.Walk{From: []transform.Object{wild}, Read: []string{"mode"}})
		return &transform.TransferResponse{}, nil // as if nothing had been
	},
	"wild set": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		wild := transform.Object{Address: 0xffffffff81000000, Type: "struct ctl_table"}
		return &transform.TransferResponse{Sets: []transform.Set{{Object: wild, Path: "mode", Number: 1}}}, nil
	},
	"unmapped": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		// A name's letters are no address.
		_, err := s.Walk(ctx, &transform.Walk{Global: "random_table", Read: []string{""}, Steps: []transform.Step{transform.Each("", "1"),
			transform.Follow("procname", "struct ctl_table"), transform.Follow("procname", "")}})
		return nil, err
	},
	"many": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		all, err := table(ctx, s)
		if err != nil {
			return nil, err
		}
		set := transform.Set{Object: all[0], Path: "mode", Number: 1}
		resp := &transform.TransferResponse{Sets: make([]transform.Set, transform.MaxChanges+1)}
		for i := range resp.Sets {
			resp.Sets[i] = set
		}
		return resp, nil
	},
	"overlap": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		all, err := table(ctx, s)
		if err != nil {
			return nil, err
		}
		return &transform.TransferResponse{Sets: []transform.Set{{Object: all[0], Path: "mode", Number: 1}, {Object: all[0], Path: "mode", Number: 2}}}, nil
	},
	"text": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		code, err := s.Walk(ctx, &transform.Walk{Global: "random_table", Steps: []transform.Step{transform.Each("", "1"),
			transform.Follow("proc_handler", "struct list_head")}, Read: []string{"next"}})
		if err != nil {
			return nil, err
		}
		return &transform.TransferResponse{Sets: []transform.Set{{Object: code[0], Path: "next", Number: 0}}}, nil
	},
	"read-only": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		name, err := s.Walk(ctx, &transform.Walk{Global: "random_table", Steps: []transform.Step{transform.Each("", "1"), transform.Follow("procname", "")}, Read: []string{""}})
		if err != nil {
			return nil, err
		}
		return &transform.TransferResponse{Sets: []transform.Set{{Object: name[0], Number: 'P'}}}, nil
	},
	"pointer": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		all, err := table(ctx, s)
		if err != nil {
			return nil, err
		}
		return &transform.TransferResponse{Sets: []transform.Set{{Object: all[0], Path: "data", Number: 0xdead000000000100}}}, nil
	},
	"member": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		_, err := s.Walk(ctx, &transform.Walk{Global: "random_table", Steps: []transform.Step{transform.Each("", "1")}, Read: []string{"no_such"}})
		return nil, err
	},
	"field": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		all, err := table(ctx, s)
		if err != nil {
			return nil, err
		}
		return &transform.TransferResponse{Attaches: []transform.Attach{{Object: all[0], Field: "nobody.has", Data: make([]byte, 8)}}}, nil
	},
	"size": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		all, err := table(ctx, s)
		if err != nil {
			return nil, err
		}
		return &transform.TransferResponse{Attaches: []transform.Attach{{Object: all[0], Field: "random.mark", Data: make([]byte, 16)}}}, nil
	},
	"busy": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		_, err := s.Walk(ctx, &transform.Walk{Global: "jiffies", Read: []string{""}})
		return &transform.TransferResponse{}, err
	},
	"settles": func(f *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		if f.calls.Add(1) > 3 {
			return marks(ctx, s)
		}
		_, err := s.Walk(ctx, &transform.Walk{Global: "jiffies", Read: []string{""}})
		return &transform.TransferResponse{}, err
	},
	"marks": func(_ *faulty, ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
		return marks(ctx, s)
	},
}

// table is all of random_table.
func table(ctx context.Context, s transform.State) ([]transform.Object, error) {
	return s.Walk(ctx, &transform.Walk{Global: "random_table", Steps: []transform.Step{transform.Each("", "")}, Read: []string{"mode", "procname", "data"}})
}

// marks gives every entry of the table that has a handler a shadow field with its number, and reads what lies per CPU.
func marks(ctx context.Context, s transform.State) (*transform.TransferResponse, error) {
	all, err := table(ctx, s)
	if err != nil {
		return nil, err
	}
	cpus, err := s.Walk(ctx, &transform.Walk{Global: "crngs", Steps: []transform.Step{transform.PerCPU("")}, Read: []string{"generation"}})
	if err != nil {
		return nil, err
	}
	var numbers []string
	for _, c := range cpus {
		numbers = append(numbers, fmt.Sprint(c.Index))
	}
	resp := &transform.TransferResponse{Note: fmt.Sprintf("crngs of CPUs %s", strings.Join(numbers, " "))}
	for _, o := range all {
		if o.Values[1].Number != 0 {
			resp.Attaches = append(resp.Attaches, transform.Attach{Object: o, Field: "random.mark", Data: binary.NativeEndian.AppendUint64(nil, 100+o.Index)})
		}
	}
	return resp, nil
}

// Info implements plugin.Base.
func (*faulty) Info(context.Context) (*plugin.Info, error) {
	return &plugin.Info{Name: "faulty", Version: "1", Description: "Does what tests want.", Config: []plugin.ConfigKey{{Name: "mode"}}}, nil
}

// Health implements plugin.Base.
func (*faulty) Health(context.Context) error { return nil }

// Configure implements plugin.Base.
func (f *faulty) Configure(_ context.Context, config map[string]string) error {
	f.mode = config["mode"]
	return plugin.CheckConfig(config, []plugin.ConfigKey{{Name: "mode"}})
}

// Plan implements transform.Transform.
func (*faulty) Plan(_ context.Context, req *transform.PlanRequest) (*transform.PlanResponse, error) {
	resp := &transform.PlanResponse{Because: map[string]string{}, Transfers: map[string]transform.TransferPlan{}}
	for _, i := range req.Items {
		if i.Kind != transform.ItemTransfer {
			continue
		}
		resp.Claimed = append(resp.Claimed, i.ID)
		resp.Because[i.ID] = "a test"
		if k, ok := kinds[i.Name]; ok {
			resp.Transfers[i.ID] = transform.TransferPlan{Globals: []string{k.global}, Types: []string{k.typ}, Data: []byte(i.Name)}
			continue
		}
		resp.Transfers[i.ID] = transform.TransferPlan{Globals: strings.Fields(i.Name), Data: []byte(i.Name),
			Types: []string{"struct list_head", "struct ctl_table", "char"}}
	}
	return resp, nil
}

// Transfer implements transform.Transform. At undo it does nothing.
func (f *faulty) Transfer(ctx context.Context, req *transform.TransferRequest, s transform.State) (*transform.TransferResponse, error) {
	if k, ok := kinds[string(req.Data)]; ok {
		return k.walk(ctx, string(req.Data), s)
	}
	run := modes[f.mode]
	if string(req.Data) != "random_table base_crng crngs jiffies" {
		return nil, plugin.Errorf(plugin.FaultInternal, "", "the plan's data came back as %q", req.Data)
	}
	if req.Undo {
		return &transform.TransferResponse{Note: "gone"}, nil
	}
	if run == nil {
		return nil, plugin.Errorf(plugin.FaultUser, "", "there is no mode %q", f.mode)
	}
	return run(f, ctx, s)
}
