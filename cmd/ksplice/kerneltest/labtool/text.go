package main

import (
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"

	"github.com/ksplice/ksplice/core/engine"
	"github.com/ksplice/ksplice/core/kernel"
)

// stretch is one stretch of kernel text.
type stretch struct {
	Name  string
	Start uint64
	Bytes []byte
}

// siteLength covers the longest form of a place that the running kernel rewrites at any time (a jump label, a static call, the
// tracer's call).
const siteLength = 5

// tracerCalls are the calls that ftrace points at whoever traces (arch/x86/kernel/ftrace.c: ftrace_update_ftrace_func).
var tracerCalls = []string{"ftrace_call", "ftrace_regs_call"}

// padLength is the room before a function into which the kernel writes code that counts calls, when something first calls the
// function through a static call (arch/x86/kernel/callthunks.c: callthunks_translate_call_dest; CONFIG_FUNCTION_PADDING_BYTES).
const padLength = 16

func live() (*kernel.Kernel, *engine.Device, error) {
	d, err := engine.Open()
	if err != nil {
		return nil, nil, err
	}
	k, err := kernel.Live(kernel.LiveOptions{Memory: d})
	return k, d, err
}

// bound returns the address of a symbol of the kernel proper that there is one of.
func bound(k *kernel.Kernel, name string) (uint64, error) {
	s := k.Symbols.LookupIn("", name)
	if len(s) != 1 {
		return 0, fmt.Errorf("%d symbols %s", len(s), name)
	}
	return s[0].Address, nil
}

// text returns the text of the kernel proper and of modules.
func text(k *kernel.Kernel, modules []string) ([]stretch, error) {
	start, err := bound(k, "_stext")
	if err != nil {
		return nil, err
	}
	end, err := bound(k, "_etext")
	if err != nil {
		return nil, err
	}
	out := []stretch{{Name: "vmlinux", Start: start, Bytes: make([]byte, end-start)}}
	for _, m := range modules {
		b, err := os.ReadFile("/sys/module/" + m + "/sections/.text")
		if err != nil {
			return nil, err
		}
		s := stretch{Name: m}
		if _, err := fmt.Sscanf(string(b), "0x%x", &s.Start); err != nil {
			return nil, err
		}
		// Up to the end of the last function that begins in the text's last page.
		var functions []kernel.Symbol
		for _, y := range k.Symbols.All() {
			if y.Module == m && strings.IndexByte("tT", y.Type) >= 0 && y.Address >= s.Start {
				functions = append(functions, y)
			}
		}
		if len(functions) == 0 {
			return nil, fmt.Errorf("module %s has no functions", m)
		}
		sort.Slice(functions, func(i, j int) bool { return functions[i].Address < functions[j].Address })
		last := functions[len(functions)-1].Address
		s.Bytes = make([]byte, last&^0xfff+0x1000-s.Start)
		out = append(out, s)
	}
	for i := range out {
		if err := k.Memory.ReadMemory(out[i].Bytes, out[i].Start); err != nil {
			return nil, fmt.Errorf("%s: %w", out[i].Name, err)
		}
	}
	return out, nil
}

func save(file string, modules []string) error {
	k, d, err := live()
	if err != nil {
		return err
	}
	defer d.Close()
	s, err := text(k, modules)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(gob.NewEncoder(f).Encode(s), f.Close())
}

// compare names the functions whose text differs from what was saved. Jump labels, static calls, ftrace's own calls and, where the
// kernel counts calls, the pads before functions do not count.
func compare(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var old []stretch
	if err := gob.NewDecoder(f).Decode(&old); err != nil {
		return err
	}
	k, d, err := live()
	if err != nil {
		return err
	}
	defer d.Close()
	var modules []string
	for _, s := range old[1:] {
		modules = append(modules, s.Name)
	}
	now, err := text(k, modules)
	if err != nil {
		return err
	}
	retbleed, err := os.ReadFile("/sys/devices/system/cpu/vulnerabilities/retbleed")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	thunks := strings.Contains(string(retbleed), "Stuffing")
	differ, total := map[string]bool{}, 0
	for i := range old {
		a, b := &old[i], &now[i]
		if a.Start != b.Start || len(a.Bytes) != len(b.Bytes) {
			return fmt.Errorf("the text of %s has moved", a.Name)
		}
		module := a.Name
		if i == 0 {
			module = ""
		}
		mask := func(at, length uint64) {
			if o := at - a.Start; o < uint64(len(a.Bytes)) {
				e := min(o+length, uint64(len(a.Bytes)))
				clear(a.Bytes[o:e])
				clear(b.Bytes[o:e])
			}
		}
		for _, read := range []func(string) (map[uint64]uint64, error){k.JumpKeys, k.StaticCallKeys} {
			sites, err := read(module)
			if err != nil {
				return err
			}
			for at := range sites {
				mask(at, siteLength)
			}
		}
		for _, name := range tracerCalls {
			for _, y := range k.Symbols.LookupIn("", name) {
				mask(y.Address, siteLength)
			}
		}
		if thunks {
			for _, y := range k.Symbols.All() {
				if strings.HasPrefix(y.Name, "__pfx_") {
					mask(y.Address, padLength)
				}
			}
		}
		for o := range a.Bytes {
			if a.Bytes[o] != b.Bytes[o] {
				name := fmt.Sprintf("%s+%#x", a.Name, o)
				if s, _, ok := k.Symbols.Covering(a.Start + uint64(o)); ok {
					name = s.Name
				}
				differ[name] = true
			}
		}
		total += len(a.Bytes)
	}
	if len(differ) > 0 {
		var names []string
		for n := range differ {
			names = append(names, n)
		}
		sort.Strings(names)
		return fmt.Errorf("the text of %d functions is not what it was: %s", len(names), strings.Join(names, " "))
	}
	fmt.Printf("%d bytes of text are what they were\n", total)
	return nil
}

// peek prints where a function is and its bytes, up to the next symbol.
func peek(args []string) error {
	k, d, err := live()
	if err != nil {
		return err
	}
	defer d.Close()
	s := k.Symbols.LookupIn(args[1], args[0])
	if len(s) != 1 {
		return fmt.Errorf("%d symbols %s in %q", len(s), args[0], args[1])
	}
	all := k.Symbols.All()
	next := sort.Search(len(all), func(i int) bool { return all[i].Address > s[0].Address })
	if next == len(all) || all[next].Address-s[0].Address > 1<<16 {
		return fmt.Errorf("nothing says where %s ends", args[0])
	}
	b := make([]byte, all[next].Address-s[0].Address)
	if err := k.Memory.ReadMemory(b, s[0].Address); err != nil {
		return err
	}
	fmt.Printf("%#x %x\n", s[0].Address, b)
	return nil
}
