package x86

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ksplice/ksplice/plugins/arch-x86_64/internal/object"
	"github.com/ksplice/ksplice/sdk/arch"
	"github.com/ksplice/ksplice/sdk/plugin"
)

// TestKernel matches whole objects against real kernels. KSPLICE_TEST_MATCH lists directories, separated by colons, each
// of which holds
//
//	config      the kernel's configuration
//	facts.json  the facts, by name
//	kallsyms    /proc/kallsyms of the kernel, booted without address randomisation
//	objects/    pre objects; *.o anywhere below
//	vmlinux     the kernel's image, an ELF file; and, or
//	*.mem       memory from 0xffffffff81000000 on of the kernel in some configuration, booted the same way
//
// Every function in text that is not discarded must match, with all obligations that can be checked here, and no two
// equations may contradict each other or kallsyms.
func TestKernel(t *testing.T) {
	dirs := os.Getenv("KSPLICE_TEST_MATCH")
	if dirs == "" {
		if os.Getenv("KSPLICE_TEST_KERNEL") != "" {
			t.Fatal("missing: KSPLICE_TEST_MATCH (directories with objects and kernels to match, see the test)")
		}
		t.Skip("SKIPPED, missing: KSPLICE_TEST_MATCH (directories with objects and kernels to match, see the test)")
	}
	for _, d := range filepath.SplitList(dirs) {
		t.Run(filepath.Base(d), func(t *testing.T) { matchDirectory(t, d) })
	}
}

// run is one kernel to match against.
type run struct {
	name   string
	image  bool
	read   func(address, n uint64) []byte // fewer where memory ends
	byName map[string][]uint64
	at     map[uint64][]string
}

func matchDirectory(t *testing.T, dir string) {
	target := arch.Target{Machine: uint16(elf.EM_X86_64), Config: config(t, filepath.Join(dir, "config"))}
	b, err := os.ReadFile(filepath.Join(dir, "facts.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &target.Facts); err != nil {
		t.Fatal(err)
	}
	byName, at := kallsyms(t, filepath.Join(dir, "kallsyms"))
	var objects []string
	root, err := filepath.EvalSymlinks(filepath.Join(dir, "objects"))
	if err != nil {
		t.Fatal(err)
	}
	_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".o") {
			objects = append(objects, path)
		}
		return err
	})
	mems, _ := filepath.Glob(filepath.Join(dir, "*.mem"))
	var runs []run
	if _, err := os.Stat(filepath.Join(dir, "vmlinux")); err == nil {
		runs = append(runs, run{name: "image", image: true, read: imageReader(t, filepath.Join(dir, "vmlinux"))})
	}
	for _, m := range mems {
		b, err := os.ReadFile(m)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run{name: strings.TrimSuffix(filepath.Base(m), ".mem"), read: func(a, n uint64) []byte {
			const base = 0xffffffff81000000
			if a < base || a-base >= uint64(len(b)) {
				return nil
			}
			return b[a-base : min(a-base+n, uint64(len(b)))]
		}})
	}
	for _, r := range runs {
		r.byName, r.at = byName, at
		t.Run(r.name, func(t *testing.T) {
			total, matched := 0, 0
			for _, o := range objects {
				rel, _ := filepath.Rel(root, o)
				n, ok := r.object(t, target, rel, o)
				total, matched = total+n, matched+ok
			}
			t.Logf("%d of %d functions of %d objects", matched, total, len(objects))
		})
	}
}

// object matches one object and returns how many functions it has and how many match.
func (r *run) object(t *testing.T, target arch.Target, name, path string) (total, matched int) {
	ctx := context.Background()
	f, err := plugin.NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := client(t)
	start := time.Now()
	desc, err := p.Describe(ctx, &arch.DescribeRequest{Target: target, Objects: []plugin.File{f}})
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	described := time.Since(start)
	o, err := object.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	req := &arch.MatchRequest{Target: target, Object: f, NoSelfModification: r.image}
	var bytes []byte
	var names []string
	for _, fn := range desc.Objects[0].Functions {
		s := o.Sections[fn.Section].Name
		if strings.HasPrefix(s, ".init") || strings.HasPrefix(s, ".exit") || strings.HasPrefix(s, ".head") || strings.HasPrefix(s, ".altinstr") ||
			strings.HasPrefix(s, ".discard") {
			continue
		}
		total++
		if len(r.byName[fn.Name]) == 0 {
			t.Logf("%s: %s: not in kallsyms", name, fn.Name)
		}
		for _, a := range r.byName[fn.Name] {
			const slack = 64
			code := r.read(a, fn.Size+slack)
			req.Candidates = append(req.Candidates, arch.Candidate{Function: fn.Symbol, Address: a, RunOffset: uint64(len(bytes)), RunLength: uint64(len(code))})
			bytes = append(bytes, code...)
			names = append(names, fn.Name)
		}
	}
	tmp := filepath.Join(t.TempDir(), "run")
	if err := os.WriteFile(tmp, bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	if req.Run, err = plugin.NewFile(tmp); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	resp, err := p.Match(ctx, req)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	took := time.Since(start)
	good := map[string]bool{}
	why := map[string]string{}
	solved := map[uint32]uint64{}
	resized := 0
	order := make([]int, len(names)) // functions with one candidate first
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return len(r.byName[names[order[a]]]) < len(r.byName[names[order[b]]]) })
	for _, i := range order {
		x := &resp.Results[i]
		n := names[i]
		if good[n] {
			continue
		}
		if !x.Matched {
			why[n] += fmt.Sprintf("\n  at +%#x: %s: pre %s, run %s", x.Mismatch.PreOffset, x.Mismatch.Reason, x.Mismatch.Pre, x.Mismatch.Run)
			continue
		}
		if bad := r.obligations(x); bad != "" {
			why[n] += "\n  " + bad
			continue
		}
		if bad := r.equations(o, x, solved); bad != "" {
			why[n] += "\n  " + bad
			continue
		}
		if x.Resized {
			resized++
			t.Logf("%s: %s is resized", name, n)
		}
		good[n] = true
	}
	for _, n := range sortedUnique(names) {
		if good[n] {
			matched++
		} else if weak(o, n) {
			total--
		} else {
			t.Errorf("%s: %s:%s", name, n, why[n])
		}
	}
	t.Logf("%s: %d of %d matched, %d resized; described in %v, matched in %v", name, matched, total, resized, described, took)
	return total, matched
}

// weak says that another unit may have overridden a function.
func weak(o *object.File, name string) bool {
	return slices.ContainsFunc(o.Symbols, func(s object.Symbol) bool { return s.Name == name && s.Bind == elf.STB_WEAK })
}

func sortedUnique(s []string) []string {
	s = slices.Clone(s)
	sort.Strings(s)
	return slices.Compact(s)
}

// obligations checks what can be checked without a live kernel.
func (r *run) obligations(x *arch.MatchResult) string {
	for i := range x.Obligations {
		o := &x.Obligations[i]
		switch o.Kind {
		case arch.ObligationBytes, arch.ObligationString:
			if got := r.read(o.Address, uint64(len(o.Bytes))); !bytes.Equal(got, o.Bytes) {
				return fmt.Sprintf("at +%#x: %q at %#x, expected %q", o.At, got, o.Address, o.Bytes)
			}
		case arch.ObligationSymbol:
			if !slices.ContainsFunc(r.at[o.Address], func(n string) bool { return slices.Contains(o.Names, n) }) {
				return fmt.Sprintf("at +%#x: %v at %#x, expected one of %v", o.At, r.at[o.Address], o.Address, o.Names)
			}
		case arch.ObligationJumpKey, arch.ObligationStaticCallKey:
			if bad := r.key(o); bad != "" {
				return bad
			}
		case arch.ObligationKprobe, arch.ObligationCode:
			return fmt.Sprintf("at +%#x: obligation %s at %#x", o.At, o.Kind, o.Address)
		}
	}
	return ""
}

// key looks a site up in run's own table.
func (r *run) key(o *arch.Obligation) string {
	first, end, size := "__start___jump_table", "__stop___jump_table", uint64(16)
	if o.Kind == arch.ObligationStaticCallKey {
		first, end, size = "__start_static_call_sites", "__stop_static_call_sites", 8
	}
	if len(r.byName[first]) != 1 || len(r.byName[end]) != 1 {
		return "no table " + first
	}
	a, b := r.byName[first][0], r.byName[end][0]
	table := r.read(a, b-a)
	for k := uint64(0); k+size <= uint64(len(table)); k += size {
		at := a + k
		if at+uint64(int64(int32(binary.LittleEndian.Uint32(table[k:])))) == o.Address {
			return ""
		}
	}
	return fmt.Sprintf("at +%#x: no %s for %#x in the table at %#x", o.At, o.Kind, o.Address, a)
}

// equations checks that solutions agree with each other and with kallsyms.
func (r *run) equations(o *object.File, x *arch.MatchResult, solved map[uint32]uint64) string {
	for _, e := range x.Equations {
		s := &o.Symbols[e.Symbol]
		if v, ok := solved[e.Symbol]; ok && v != e.Value {
			return fmt.Sprintf("at +%#x: %s is %#x, elsewhere %#x", e.At, s.Name, e.Value, v)
		}
		if known := r.byName[s.Name]; s.Type != elf.STT_SECTION && len(known) > 0 && !slices.Contains(known, e.Value) {
			return fmt.Sprintf("at +%#x: %s is %#x, kallsyms says %#x", e.At, s.Name, e.Value, known)
		}
	}
	for _, e := range x.Equations {
		solved[e.Symbol] = e.Value
	}
	return ""
}

func config(t *testing.T, path string) map[string]string {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if n, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(n, "#") {
			out[n] = strings.Trim(v, `"`)
		}
	}
	return out
}

func kallsyms(t *testing.T, path string) (map[string][]uint64, map[uint64][]string) {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	byName, at := map[string][]uint64{}, map[uint64][]string{}
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) != 3 {
			continue
		}
		a, err := strconv.ParseUint(w[0], 16, 64)
		if err != nil {
			continue
		}
		byName[w[2]] = append(byName[w[2]], a)
		at[a] = append(at[a], w[2])
	}
	return byName, at
}

func imageReader(t *testing.T, path string) func(a, n uint64) []byte {
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	type segment struct {
		at   uint64
		data []byte
	}
	var all []segment
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		all = append(all, segment{p.Vaddr, b})
	}
	return func(a, n uint64) []byte {
		for _, s := range all {
			if a >= s.at && a-s.at < uint64(len(s.data)) {
				return s.data[a-s.at : min(a-s.at+n, uint64(len(s.data)))]
			}
		}
		return nil
	}
}
