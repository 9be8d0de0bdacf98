package bind

import (
	"fmt"
	"slices"

	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/transfer"
	"github.com/ksplice/ksplice/core/update"
)

// Transfers finds the variables at which the walks of an update's state transfers begin, by the same proofs as slots. It also returns the
// modules that they lie in.
func Transfers(in *Input) (out []transfer.Bound, modules []string, err error) {
	var cpus []kernel.CPU
	if len(in.Manifest.Transfers) > 0 {
		if cpus, err = in.Kernel.CPUs(); err != nil {
			return nil, nil, fmt.Errorf("state transfer: %w", err)
		}
	}
	for i := range in.Manifest.Transfers {
		t := transfer.Bound{Transfer: in.Manifest.Transfers[i], CPUs: cpus}
		t.Globals = slices.Clone(t.Globals)
		for n, g := range t.Globals {
			target := in.Units[t.Unit].Module
			if target == "" {
				target = "vmlinux"
			}
			slot := &update.Slot{Kind: update.SlotSymbol, Name: g.Name, Unit: t.Unit, Symbol: g.Symbol}
			if g.Symbol == 0 {
				slot.Unit = -1
			}
			v, err := in.symbol(&update.Part{Name: "for " + target, Target: target}, slot)
			if err != nil {
				return nil, nil, fmt.Errorf("state transfer %s: %w", t.Item, err)
			}
			// A per-CPU variable that the unit only declares does not tell that it is one: where it lies does.
			t.Globals[n].PerCPU = g.PerCPU || in.perCPU(v)
			t.Addresses = append(t.Addresses, v)
			if n := in.owner(v); n != "" {
				modules = append(modules, n)
			}
		}
		out = append(out, t)
	}
	return out, modules, nil
}

// perCPU says that a value is a per-CPU variable's of the kernel proper (include/asm-generic/sections.h: __per_cpu_start; on x86-64 that is 0
// before Linux 6.15).
func (in *Input) perCPU(v uint64) bool {
	start, end := in.Kernel.Symbols.LookupIn("", "__per_cpu_start"), in.Kernel.Symbols.LookupIn("", "__per_cpu_end")
	return len(start) == 1 && len(end) == 1 && v >= start[0].Address && v < end[0].Address
}
