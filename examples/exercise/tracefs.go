package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tracing is where tracefs is mounted.
const tracing = "/sys/kernel/tracing"

// mountTracing mounts tracefs if nobody has.
func mountTracing() error {
	if _, err := os.Stat(tracing + "/current_tracer"); err == nil {
		return nil
	}
	if err := unix.Mount("tracefs", tracing, "tracefs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount tracefs on %s: %w", tracing, err)
	}
	return nil
}

// put writes a text to a file of tracefs; add appends it. The kernel takes one command a write.
func put(path, text string) error { return writeTo(path, text, os.O_WRONLY|os.O_TRUNC) }
func add(path, text string) error { return writeTo(path, text, os.O_WRONLY|os.O_APPEND) }

func writeTo(path, text string, flags int) error {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(text + "\n"); err != nil {
		return fmt.Errorf("write %q: %w", text, err)
	}
	return nil
}

// kprobeTracer is a probe event at a function's entry.
type kprobeTracer struct{ group, name string }

func kprobe(to target) (tracer, error) {
	if err := mountTracing(); err != nil {
		return nil, err
	}
	k, err := kprobeNamed(to, fmt.Sprintf("p%d", os.Getpid()))
	if err != nil {
		return nil, err
	}
	return k, nil
}

// kprobeNamed makes a probe event of that name.
func kprobeNamed(to target, name string) (*kprobeTracer, error) {
	k := &kprobeTracer{"exercise", name}
	place := to.function
	if to.module != "" {
		place = to.module + ":" + place
	}
	if err := add(tracing+"/kprobe_events", fmt.Sprintf("p:%s/%s %s", k.group, k.name, place)); err != nil {
		return nil, err
	}
	if err := put(k.enable(), "1"); err != nil {
		return nil, errors.Join(err, k.close())
	}
	return k, nil
}

func (k *kprobeTracer) enable() string {
	return filepath.Join(tracing, "events", k.group, k.name, "enable")
}

// count reads kprobe_profile: lines of name, hits and misses (kernel/trace/trace_kprobe.c:probes_profile_seq_show).
func (k *kprobeTracer) count() (uint64, error) {
	b, err := os.ReadFile(tracing + "/kprobe_profile")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == k.name {
			return strconv.ParseUint(f[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("kprobe_profile has no line for %s", k.name)
}

func (k *kprobeTracer) close() error {
	err := put(k.enable(), "0")
	return errors.Join(err, add(tracing+"/kprobe_events", fmt.Sprintf("-:%s/%s", k.group, k.name)))
}

// bufferTracer counts the events that a tracer writes to a ring buffer.
type bufferTracer struct {
	dir    string // of the buffer
	events uint64 // that one call makes
	own    bool   // dir is an instance of ours
}

func functionTrace(to target) (tracer, error) {
	if err := mountTracing(); err != nil {
		return nil, err
	}
	b := &bufferTracer{dir: fmt.Sprintf("%s/instances/exercise-%d", tracing, os.Getpid()), events: 1, own: true}
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		return nil, err
	}
	return b.start("function", to)
}

// graphTrace uses the top of tracefs: instances have no function-graph tracer before Linux 6.11
// (kernel/trace/trace_functions_graph.c: allow_instances).
func graphTrace(to target) (tracer, error) {
	if err := mountTracing(); err != nil {
		return nil, err
	}
	now, err := os.ReadFile(tracing + "/current_tracer")
	if err != nil {
		return nil, err
	}
	if t := strings.TrimSpace(string(now)); t != "nop" {
		return nil, fmt.Errorf("the tracer %s is in use already", t)
	}
	b := &bufferTracer{dir: tracing, events: 2} // an entry and a return
	return b.start("function_graph", to)
}

func (b *bufferTracer) start(name string, to target) (tracer, error) {
	filter := to.function
	if to.module != "" {
		filter += ":mod:" + to.module
	}
	err := put(b.dir+"/set_ftrace_filter", filter)
	if err == nil {
		err = put(b.dir+"/trace", "")
	}
	if err == nil {
		err = put(b.dir+"/current_tracer", name)
	}
	if err == nil {
		err = put(b.dir+"/tracing_on", "1")
	}
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// count adds up what each CPU's buffer holds and what it has dropped (kernel/trace/trace.c:tracing_stats_read).
func (b *bufferTracer) count() (uint64, error) {
	files, err := filepath.Glob(b.dir + "/per_cpu/cpu*/stats")
	if err != nil {
		return 0, err
	}
	if len(files) == 0 {
		return 0, fmt.Errorf("%s: %w", b.dir+"/per_cpu", fs.ErrNotExist)
	}
	var sum uint64
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if name != "entries" && name != "overrun" {
				continue
			}
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: line %q: %w", path, line, err)
			}
			sum += n
		}
	}
	return sum / b.events, nil
}

func (b *bufferTracer) close() error {
	err := put(b.dir+"/current_tracer", "nop")
	if b.own {
		return errors.Join(err, os.Remove(b.dir))
	}
	return errors.Join(err, put(b.dir+"/set_ftrace_filter", ""), put(b.dir+"/trace", ""))
}
