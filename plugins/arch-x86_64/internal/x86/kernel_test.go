package x86

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
//	*.mem       memory from 0xffffffff81000000 on of the kernel in some configuration, booted the same way, and beside it
//	*.kprobes   its /sys/kernel/debug/kprobes/list, where it has kprobes
//
// Every function in text that is not discarded must match, with all obligations that can be checked here, and no two
// equations may contradict each other or kallsyms.
func TestKernel(t *testing.T) {
	dirs := os.Getenv("KSPLICE_TEST_MATCH")
	if dirs == "" {
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
	probes map[uint64]bool
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
		name := strings.TrimSuffix(m, ".mem")
		runs = append(runs, run{name: filepath.Base(name), probes: kprobes(t, name+".kprobes"), read: func(a, n uint64) []byte {
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
	mutate(t, p, req, resp, bytes, names, name)
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

// mutate changes one byte in each of some places of every function that matched, outside of the sites: then it must not match,
// or claim something else.
func mutate(t *testing.T, p arch.Arch, req *arch.MatchRequest, resp *arch.MatchResponse, run []byte, names []string, object string) {
	const places = 5
	random := rand.New(rand.NewPCG(1, 2))
	again := *req
	again.Candidates = nil
	var code []byte
	var of []int
	var at []uint64
	for i := range resp.Results {
		x := &resp.Results[i]
		if !x.Matched || x.RunSize == 0 {
			continue
		}
		c := req.Candidates[i]
		for range places {
			k := random.Uint64N(x.RunSize)
			if slices.ContainsFunc(x.Sites, func(s arch.Range) bool { return k >= s.Offset && k-s.Offset < s.Length }) {
				continue
			}
			n := c
			n.RunOffset = uint64(len(code))
			code = append(code, run[c.RunOffset:c.RunOffset+c.RunLength]...)
			code[n.RunOffset+k] ^= byte(1 << random.UintN(8))
			again.Candidates = append(again.Candidates, n)
			of, at = append(of, i), append(at, k)
		}
	}
	again.Run = file(t, code)
	got, err := p.Match(context.Background(), &again)
	if err != nil {
		t.Fatal(err)
	}
	for k := range got.Results {
		a, b := &resp.Results[of[k]], &got.Results[k]
		if b.Matched && cmp.Equal(a.Equations, b.Equations) && cmp.Equal(a.Obligations, b.Obligations) {
			t.Errorf("%s: %s matches with another byte at +%#x", object, names[of[k]], at[k])
		}
	}
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
		case arch.ObligationKprobe:
			if !r.probes[o.Address] {
				return fmt.Sprintf("at +%#x: a kprobe at %#x, which is not registered", o.At, o.Address)
			}
		case arch.ObligationCode:
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
