package kerneltest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ksplice/ksplice/cmd/ksplice/kerneltest/internal/mutation"
	"github.com/ksplice/ksplice/core/kernel"
	"github.com/ksplice/ksplice/core/objfile"
	"github.com/ksplice/ksplice/core/pluginhost"
	"github.com/ksplice/ksplice/core/update"
	"github.com/ksplice/ksplice/core/vmtest"
	"github.com/ksplice/ksplice/sdk/arch"
)

// How many mutations of each kind the kernel module is given: in CI, and with KSPLICE_TEST_ALL=1.
const (
	fewInGuest = 50
	allInGuest = 450
)

// TestMutateGuest gives the kernel module wrong windows, wrong slots and parts whose description is wrong: each is refused, or what is
// in force then is the same as without the mutation. Matching works from the memory of the guest as it runs.
func TestMutateGuest(t *testing.T) {
	eachSeries(t, func(t *testing.T, series string) {
		l := prepare(t, series)
		host := pluginhost.New(pluginhost.Config{Dirs: []string{filepath.Join(l.tools, "libexec", "ksplice", "plugins")}})
		defer host.Close()
		l.boot(t, vmtest.Options{Debug: true})
		dump := filepath.Join(l.share, "core")
		if err := l.DumpMemory(dump); err != nil {
			t.Fatal(err)
		}
		k, err := kernel.Core(dump)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		a, _, err := host.Arch(t.Context(), k.Identity.Machine)
		if err != nil {
			t.Fatal(err)
		}
		same := l.saveText(t)
		count := fewInGuest
		if os.Getenv(allVariable) == "1" {
			count = allInGuest
		}
		for _, name := range mutated {
			s := newSubject(t, l, name, a, k)
			t.Run(name, func(t *testing.T) {
				t.Run("booted byte", func(t *testing.T) { s.bootedBytes(t, count) })
				g := s.guestPlan(t)
				if len(g.plan.Windows) > 0 { // ftrace redirects without one
					t.Run("window", func(t *testing.T) { g.windows(t, l, count/len(mutated)) })
				}
				t.Run("slot", func(t *testing.T) { g.slots(t, l, count/len(mutated)) })
				t.Run("description", func(t *testing.T) { g.descriptions(t, l, count/len(mutated)) })
			})
		}
		same()
		l.clean(t)
	})
}

// bootedBytes changes bytes of functions in the memory of a kernel that has run. What passes must lie where the kernel rewrites
// itself, by the object's own tables.
func (s *subject) bootedBytes(t *testing.T, count int) {
	refused, sites := 0, 0
	for i := range count {
		r := rand.New(rand.NewPCG(seed(t), uint64(i)))
		f := pick(r, s.matchedFunctions())
		at, x := r.Uint64N(f.RunSize), pattern(r)
		road := s.road()
		road.k = flipped(t, s.k, f.Code+at, x)
		got, err := road.judge(t.Context())
		if err != nil {
			refused++
			continue
		}
		y := s.units[f.Unit].File.Symbols[f.Symbol]
		inSite := slices.ContainsFunc(s.units[f.Unit].Desc.Sites, func(p arch.Site) bool {
			return int(p.Section) == y.Section.Index && y.Value+at-p.At < p.Length
		})
		if why := s.same(got); why != "" || !inSite && !f.Resized && !s.byContent(got, f, at) {
			t.Errorf("seed %d, mutation %d: %s+%#x ^ %#x: %v: %s", seed(t), i, f.Name, at, x, errUnproved, why)
		}
		sites++
	}
	t.Logf("booted byte: %d mutations: %d refused, %d other forms of places that the kernel rewrites", count, refused, sites)
}

// guest is a plan for the kernel module and what it is made from.
type guest struct {
	plan    mutation.Plan
	part    *update.Part
	module  []byte
	file    *objfile.File
	checked map[int]bool // slots that the part's description has checked
}

// guestPlan binds the update's only part for the guest.
func (s *subject) guestPlan(t *testing.T) *guest {
	t.Helper()
	p := &s.u.Manifest.Parts[0]
	b := s.base.bindings[0]
	g := &guest{part: p, module: s.u.Files[p.File], checked: map[int]bool{}}
	g.plan = mutation.Plan{ID: s.u.Manifest.ID, Part: p.Name, File: "/share/part.ko", Values: b.Values}
	for i, y := range p.Slots {
		if y.Kind == update.SlotKey && s.k.ReadOnlyAfterInit(b.Values[i]) {
			g.plan.Keys = append(g.plan.Keys, i)
		}
	}
	for _, w := range b.Windows {
		g.plan.Windows = append(g.plan.Windows, mutation.Bytes{Address: w.Address, Bytes: w.Bytes})
	}
	var err error
	if g.file, err = objfile.Read(bytes.NewReader(g.module), int64(len(g.module))); err != nil {
		t.Fatal(err)
	}
	for _, r := range g.file.Section(".ksplice").Relocs {
		if n, ok := strings.CutPrefix(r.Symbol.Name, "ksplice_slot_"); ok {
			var i int
			if _, err := fmt.Sscanf(n, "%x", &i); err != nil {
				t.Fatal(err)
			}
			g.checked[i] = true
		}
	}
	return g
}

// run has the guest take the attempts, after one without a mutation, whose state it returns.
func (g *guest) run(t *testing.T, l *lab, attempts []mutation.Attempt) (base []string, outcomes []mutation.Outcome) {
	t.Helper()
	plan := g.plan
	plan.Attempts = append([]mutation.Attempt{{}}, attempts...)
	raw, err := json.Marshal(&plan)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"part.ko": g.module, "plan.json": raw} {
		if err := os.WriteFile(filepath.Join(l.share, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := l.Run(t.Context(), guestTool, "mutate", "/share/plan.json")
	if err != nil {
		t.Fatal(err)
	}
	in := json.NewDecoder(strings.NewReader(r.Stdout))
	for in.More() {
		var o mutation.Outcome
		if err := in.Decode(&o); err != nil {
			t.Fatal(err)
		}
		outcomes = append(outcomes, o)
	}
	if n := len(outcomes); r.Exit != 0 || n != len(plan.Attempts) {
		t.Fatalf("%d of %d attempts; the next was %+v: exit status %d: %s", n, len(plan.Attempts), plan.Attempts[min(n, len(attempts))], r.Exit, r.Stderr)
	}
	if outcomes[0].Refused != "" || len(outcomes[0].State) < 2 {
		t.Fatalf("without a mutation: %+v", outcomes[0])
	}
	return outcomes[0].State, outcomes[1:]
}

// windows gives wrong bytes, or a wrong address, for what stands under the jump. None may pass.
func (g *guest) windows(t *testing.T, l *lab, count int) {
	var attempts []mutation.Attempt
	for i := range count {
		r := rand.New(rand.NewPCG(seed(t), uint64(i)))
		n := r.IntN(len(g.plan.Windows))
		w := g.plan.Windows[n]
		a := mutation.Attempt{What: mutation.Window, Index: n, At: r.IntN(len(w.Bytes)), Bytes: []byte{pattern(r)}}
		if r.IntN(5) == 0 {
			a = mutation.Attempt{What: mutation.WindowAddress, Index: n, Value: w.Address ^ 1<<r.IntN(64)}
		}
		attempts = append(attempts, a)
	}
	_, outcomes := g.run(t, l, attempts)
	for i, o := range outcomes {
		if o.Refused == "" {
			t.Errorf("seed %d, mutation %d: %+v: %v", seed(t), i, attempts[i], errUnproved)
		}
	}
	t.Logf("window: %d mutations: %s", count, tally(outcomes))
}

// slots gives wrong values for slots that the part's description has checked. The others stand for what only new code names: no
// description can tell, which is why matching must have proved them.
func (g *guest) slots(t *testing.T, l *lab, count int) {
	var attempts []mutation.Attempt
	newOnly := 0
	for i := 0; len(attempts) < count; i++ {
		r := rand.New(rand.NewPCG(seed(t), uint64(i)))
		n := r.IntN(len(g.plan.Values))
		v := g.plan.Values[n]
		switch r.IntN(3) {
		case 0:
			v ^= 1 << r.IntN(64)
		case 1:
			v += uint64(int64(r.IntN(257) - 128))
		default:
			v = pick(r, g.plan.Values)
		}
		switch {
		case v == g.plan.Values[n]:
		case !g.checked[n]:
			newOnly++
		default:
			attempts = append(attempts, mutation.Attempt{What: mutation.Slot, Index: n, Value: v})
		}
	}
	_, outcomes := g.run(t, l, attempts)
	for i, o := range outcomes {
		if o.Refused == "" {
			t.Errorf("seed %d, mutation %d: slot %s has %#x instead of %#x: %v", seed(t), i, g.part.Slots[attempts[i].Index].Name, attempts[i].Value,
				g.plan.Values[attempts[i].Index], errUnproved)
		}
	}
	t.Logf("slot: %d mutations: %s; %d more of slots that only new code names", count, tally(outcomes), newOnly)
}

// descriptions changes bytes of the part's description and what its relocations lead to. What passes must be in force as without.
func (g *guest) descriptions(t *testing.T, l *lab, count int) {
	e, err := elf.NewFile(bytes.NewReader(g.module))
	if err != nil {
		t.Fatal(err)
	}
	var attempts []mutation.Attempt
	var what []string
	for i := range count {
		r := rand.New(rand.NewPCG(seed(t), uint64(i)))
		a, w := g.description(r, e)
		attempts, what = append(attempts, a), append(what, w)
	}
	if a, ok := g.pad(e); ok {
		attempts, what = append(attempts, a), append(what, "the pad before a replacement instead of it")
	}
	base, outcomes := g.run(t, l, attempts)
	for i, o := range outcomes {
		if o.Refused == "" && !slices.Equal(o.State, base) {
			t.Errorf("seed %d, mutation %d: %s: %v: in force is\n%s\ninstead of\n%s", seed(t), i, what[i], errUnproved, strings.Join(o.State, "\n"), strings.Join(base, "\n"))
		}
		if o.Refused == "" {
			t.Logf("the same is in force: %s", what[i])
		}
	}
	t.Logf("description: %d mutations: %s", count, tally(outcomes))
}

// pad has the description name the pad before a replacement, which has its name, too, where the kernel's functions have pads.
func (g *guest) pad(e *elf.File) (mutation.Attempt, bool) {
	const size = 24
	f := g.file.Symbol("ksplice_new_0000")
	pad := slices.IndexFunc(g.file.Symbols, func(y *objfile.Symbol) bool {
		return strings.HasPrefix(y.Name, "__pfx_") && y.Section == f.Section && y.Value+y.Size == f.Value
	})
	if pad < 0 {
		return mutation.Attempt{}, false
	}
	rela := e.Section(".rela.ksplice")
	for n := range rela.Size / size {
		b := bytes.Clone(g.module[rela.Offset+n*size:][:size])
		if binary.LittleEndian.Uint64(b[8:])>>32 == uint64(f.Index) {
			binary.LittleEndian.PutUint64(b[16:], binary.LittleEndian.Uint64(b[16:])-g.file.Symbols[pad].Size)
			return mutation.Attempt{What: mutation.Part, At: int(rela.Offset + n*size), Bytes: b}, true
		}
	}
	return mutation.Attempt{}, false
}

// description changes a byte of the description, more often of its structures than of pre's code in it, or a relocation. Where the
// relocation stands stays: the module loader believes that of every module.
func (g *guest) description(r *rand.Rand, e *elf.File) (mutation.Attempt, string) {
	s, rela := e.Section(".ksplice"), e.Section(".rela.ksplice")
	if r.IntN(3) > 0 {
		at := r.Uint64N(s.Size)
		if r.IntN(2) == 0 {
			at = r.Uint64N(min(s.Size, uint64(128+96*len(g.part.Functions))))
		}
		x := pattern(r)
		return mutation.Attempt{What: mutation.Part, At: int(s.Offset + at), Bytes: []byte{g.module[s.Offset+at] ^ x}}, fmt.Sprintf("byte %#x ^ %#x", at, x)
	}
	const size = 24
	n := r.Uint64N(rela.Size / size)
	b := bytes.Clone(g.module[rela.Offset+n*size:][:size])
	le := binary.LittleEndian
	info := le.Uint64(b[8:])
	what := fmt.Sprintf("relocation at %#x: ", le.Uint64(b))
	switch r.IntN(3) {
	case 0:
		y := 1 + r.IntN(len(g.file.Symbols)-1)
		le.PutUint64(b[8:], uint64(y)<<32|info&0xffffffff)
		what += fmt.Sprintf("symbol %s instead of %s", g.file.Symbols[y], g.file.Symbols[info>>32])
	case 1:
		kind := pick(r, []elf.R_X86_64{elf.R_X86_64_NONE, elf.R_X86_64_32, elf.R_X86_64_32S, elf.R_X86_64_PC32, elf.R_X86_64_PC64})
		le.PutUint64(b[8:], info&^0xffffffff|uint64(kind))
		what += fmt.Sprintf("type %v", kind)
	default:
		addend := le.Uint64(b[16:])
		le.PutUint64(b[16:], addend^1<<r.IntN(16))
		what += fmt.Sprintf("addend %#x instead of %#x", le.Uint64(b[16:]), addend)
	}
	return mutation.Attempt{What: mutation.Part, At: int(rela.Offset + n*size), Bytes: b}, what
}

// tally counts what refused.
func tally(outcomes []mutation.Outcome) string {
	by := map[string]int{}
	for _, o := range outcomes {
		if o.Refused == "" {
			o.Refused = "the same in force"
		}
		by[o.Refused]++
	}
	return fmt.Sprint(by)
}
