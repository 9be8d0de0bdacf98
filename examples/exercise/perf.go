package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// address is where a slice's bytes are, for a system call.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// perfPages are the pages of the buffer that samples go to, a power of two.
const perfPages = 8

// sampleChain counts an event ("group/name") of this thread while act runs, and returns the kernel's part of the first sample's
// callchain (include/uapi/linux/perf_event.h: PERF_RECORD_SAMPLE).
func sampleChain(event string, act func() (string, error)) ([]uint64, error) {
	if err := mountTracing(); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(tracing + "/events/" + event + "/id")
	if err != nil {
		return nil, err
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return nil, err
	}
	attr := &unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Sample: 1, Sample_type: unix.PERF_SAMPLE_CALLCHAIN,
		Bits: unix.PerfBitDisabled | unix.PerfBitExcludeCallchainUser}
	attr.Size = uint32(unsafe.Sizeof(*attr))
	fd, err := unix.PerfEventOpen(attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open event %s: %w", event, err)
	}
	defer unix.Close(fd)
	size := (1 + perfPages) * os.Getpagesize()
	ring, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the samples of %s: %w", event, err)
	}
	defer unix.Munmap(ring)
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return nil, err
	}
	if _, err := act(); err != nil {
		return nil, err
	}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_DISABLE, 0); err != nil {
		return nil, err
	}
	return firstChain(ring[os.Getpagesize():])
}

// firstChain reads the first record, which must be a sample.
func firstChain(data []byte) ([]uint64, error) {
	const sample, header = 9, 8 // PERF_RECORD_SAMPLE, struct perf_event_header
	word := func(at int) uint64 { return binary.NativeEndian.Uint64(data[at:]) }
	if kind := binary.NativeEndian.Uint32(data); kind != sample {
		return nil, fmt.Errorf("the event did not happen, or was lost: the first record is of kind %d", kind)
	}
	n := int(word(header))
	if n < 0 || n > (len(data)-2*header)/8 {
		return nil, fmt.Errorf("a callchain of %d entries", n)
	}
	var out []uint64
	for i := range n {
		// Markers of context lie above all addresses (enum perf_callchain_context).
		if a := word(2*header + 8*i); a < ^uint64(0)-4095 {
			out = append(out, a)
		}
	}
	return out, nil
}

// symbolTable are the kernel's functions by address.
type symbolTable []struct {
	address uint64
	name    string
}

func kallsyms() (symbolTable, error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var s symbolTable
	for in := bufio.NewScanner(f); in.Scan(); {
		w := strings.Fields(in.Text())
		if len(w) < 3 || !strings.Contains("tTwW", w[1]) {
			continue
		}
		a, err := strconv.ParseUint(w[0], 16, 64)
		if err != nil {
			return nil, err
		}
		s = append(s, struct {
			address uint64
			name    string
		}{a, strings.Join(w[2:], " ")})
	}
	sort.SliceStable(s, func(i, j int) bool { return s[i].address < s[j].address })
	return s, nil
}

// name is the function that an address lies in, with the module in brackets where it has one.
func (s symbolTable) name(a uint64) string {
	i, found := slices.BinarySearchFunc(s, a, func(x struct {
		address uint64
		name    string
	}, a uint64) int {
		switch {
		case x.address < a:
			return -1
		case x.address > a:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	if i < 0 {
		return fmt.Sprintf("%#x", a)
	}
	for i > 0 && s[i-1].address == s[i].address { // of several names the first, as the kernel has it
		i--
	}
	return s[i].name
}
