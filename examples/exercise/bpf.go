package main

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// bpfTracer is a BPF program at a function's entry that adds one to a number in a map.
type bpfTracer struct {
	counts  *ebpf.Map
	program *ebpf.Program
	link    link.Link
}

func fentry(to target) (_ tracer, err error) {
	b := &bpfTracer{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.counts, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "calls", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1,
	}); err != nil {
		return nil, fmt.Errorf("make a map: %w", err)
	}
	b.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:       "count_calls",
		Type:       ebpf.Tracing,
		AttachType: ebpf.AttachTraceFEntry,
		AttachTo:   to.function, // found in the BTF of the kernel proper or of any module
		License:    "GPL",
		Instructions: asm.Instructions{
			// key 0 on the stack
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.RFP, -4, asm.R1, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, b.counts.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("load a program: %w", err)
	}
	if b.link, err = link.AttachTracing(link.TracingOptions{Program: b.program}); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *bpfTracer) count() (n uint64, err error) {
	err = b.counts.Lookup(uint32(0), &n)
	return n, err
}

func (b *bpfTracer) close() error {
	var all error
	if b.link != nil {
		all = b.link.Close()
	}
	if b.program != nil {
		all = errors.Join(all, b.program.Close())
	}
	if b.counts != nil {
		all = errors.Join(all, b.counts.Close())
	}
	return all
}
